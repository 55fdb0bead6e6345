package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

const (
	// maxFile is far above any sensible file; a ConfigMap holds 1 MiB.
	maxFile = 1 << 20
	// maxNodes keeps aliases of aliases from filling the memory.
	maxNodes = 50_000
	// maxExports keeps the comparison of each with each other short.
	maxExports = 1000
	// maxErrors is where a reader has long stopped reading.
	maxErrors = 1000
)

// decoder reads one file and collects its mistakes.
type decoder struct {
	o       Options
	lines   []string
	errs    Errors
	warned  Errors
	nodes   map[string]*yaml.Node // the value at each path of the file
	origins map[string]origin
	count   int
	failed  map[string]bool // the paths with a mistake
	partial bool            // a section that is not in the file lacks nothing
}

// source is where a value comes from. One of the two is set; with neither it is a default.
type source struct {
	node  *yaml.Node
	place string // a flag or an environment variable
}

// fail notes a mistake at a node.
func (d *decoder) fail(at source, path string, m mistake) { _ = d.note(at, path, m) }

// note notes a mistake at a node, offset bytes into its value.
func (d *decoder) note(at source, path string, m mistake) *Error {
	e := &Error{File: d.o.File, Path: path, Place: at.place, Message: hideSecrets(m.text), Allowed: m.allowed, Hint: m.hint, width: 1}
	if at.node != nil {
		e.Line, e.Column = d.position(at.node, m.offset)
		if m.offset == 0 && at.node.Kind == yaml.ScalarNode {
			e.width = utf8.RuneCountInString(at.node.Value)
		}
		if e.Line > len(d.lines) { // an empty value stands behind the end
			e.Line, e.Column = len(d.lines), 1
		}
		if e.Line > 0 {
			e.source = oneLine(hideSecrets(d.lines[e.Line-1]))
		}
	}
	d.failed[path] = true
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, e)
	}
	return e
}

func (d *decoder) failf(at source, path, format string, args ...any) {
	_ = d.note(at, path, mistake{text: fmt.Sprintf(format, args...)})
}

// position finds a byte of a scalar's value in the file. In folded text and behind escapes it can be told
// roughly only: then it is the beginning.
func (d *decoder) position(n *yaml.Node, offset int) (line, column int) {
	line, column = n.Line, n.Column
	if offset <= 0 || n.Kind != yaml.ScalarNode || offset > len(n.Value) {
		return line, column
	}
	before := n.Value[:offset]
	switch n.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle:
		line += 1 + strings.Count(before, "\n")
		if line > len(d.lines) {
			return n.Line, n.Column
		}
		text := d.lines[line-1]
		indent := len(text) - len(strings.TrimLeft(text, " "))
		return line, indent + 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	case yaml.FoldedStyle:
		return line, column
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		column++
	}
	if line < 1 || line > len(d.lines) || strings.Contains(n.Value, "\n") {
		return n.Line, n.Column
	}
	runes := []rune(d.lines[line-1])
	if column-1 > len(runes) || !strings.HasPrefix(string(runes[column-1:]), before) {
		return n.Line, n.Column
	}
	return line, column + utf8.RuneCountInString(before)
}

// tree parses the text. A text that is no YAML has one mistake only: nothing can be told of the rest.
func (d *decoder) tree(text []byte) (root *yaml.Node) {
	d.lines = regexp.MustCompile(`\r\n|[\r\n\x{85}\x{2028}\x{2029}]`).Split(string(text), -1) // what YAML 1.1 takes for line breaks
	defer func() {
		if r := recover(); r != nil {
			d.failf(source{}, "", "the file is no YAML: %v", r)
			root = nil
		}
	}()
	switch {
	case len(text) > maxFile:
		d.failf(source{}, "", "the file has %d bytes, more than %d", len(text), maxFile)
		return nil
	case !utf8.Valid(text):
		line := 1 + bytes.Count(text[:invalid(text)], []byte("\n"))
		d.failf(source{node: &yaml.Node{Line: line, Column: 1}}, "", "the line is not valid UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.fail(source{}, "", mistake{text: "the file is empty", allowed: "a configuration; \"config init\" writes one"})
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		d.failf(source{node: &second}, "", "a second document begins here: a file holds one configuration")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

func invalid(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

// syntax words the parser's error, which names a line only.
func (d *decoder) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := source{}
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		text = strings.TrimPrefix(text, m[0])
		line, _ := strconv.Atoi(m[1])
		line = max(1, min(line, len(d.lines)))
		column := 1 + len(d.lines[line-1]) - len(strings.TrimLeft(d.lines[line-1], " \t"))
		at.node = &yaml.Node{Line: line, Column: column}
		if strings.Contains(d.lines[line-1], "\t") {
			text += " (YAML is indented by spaces, never by tabs)"
		}
	}
	d.failf(at, "", "no YAML: %s", text)
}

// deref follows an alias, and bounds how many nodes are looked at in all.
func (d *decoder) deref(n *yaml.Node) *yaml.Node {
	if d.count++; d.count > maxNodes {
		return nil
	}
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 10; i++ {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// section fills a struct from a mapping. Without one, from defaults and overrides.
func (d *decoder) section(n *yaml.Node, v reflect.Value, path string) {
	n = d.deref(n)
	fields := fieldsOf(v.Type())
	values := make(map[string]*yaml.Node)
	whole := n
	if isNull(n) {
		n = nil
	} else if n.Kind != yaml.MappingNode {
		d.fail(source{node: n}, path, mistake{text: "this is " + kindOf(n), allowed: "a mapping with the keys " + strings.Join(keysOf(fields), ", "), hint: sectionHint(path, n)})
		return
	}
	if n != nil {
		d.keys(n, fields, values, path)
	}
	for _, f := range fields {
		at := join(path, f.key)
		d.nodes[at] = values[f.key]
		d.value(f, values[f.key], v.Field(f.index), at)
		if f.required && isNull(d.deref(values[f.key])) && d.origins[at].Kind <= fromDefault && !d.partial && (path != "" || !d.o.absent) {
			place := source{node: whole}
			if whole == nil {
				place.node = &yaml.Node{Line: 1, Column: 1}
			}
			if e := d.note(place, path, mistake{text: f.key + " is missing", allowed: allowedFor(f)}); whole != nil {
				e.width = 1
			}
		}
	}
}

// keys notes the values of the keys that there are, and complains of all others.
func (d *decoder) keys(n *yaml.Node, fields []field, values map[string]*yaml.Node, path string) {
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := source{node: key}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.failf(at, path, "a key must be a word")
			continue
		case key.ShortTag() == "!!merge":
			d.failf(at, path, "merge keys (<<) are not supported: repeat what is needed")
			continue
		case first[key.Value] > 0:
			d.failf(at, path, "the key %s is given twice; it stands in line %d already", key.Value, first[key.Value])
			continue
		}
		first[key.Value] = key.Line
		if slices.Contains(keysOf(fields), key.Value) {
			values[key.Value] = value
			continue
		}
		d.unknown(at, key.Value, fields, path)
	}
}

func (d *decoder) unknown(at source, key string, fields []field, path string) {
	m := mistake{text: fmt.Sprintf("there is no key %s", quoteKey(key)), hint: selection.Nearest(key, keysOf(fields))}
	m.allowed = strings.Join(keysOf(fields), ", ")
	if elsewhere := whereElse(key); m.hint == "" && elsewhere != "" && elsewhere != join(path, key) {
		m.hint = elsewhere
	}
	if soundsSecret(key) {
		m.text += ", and secrets never stand in the file"
		m.hint = ""
		if file := selection.Nearest(key+"File", keysOf(fields)); file != "" {
			m.hint = file
		}
	}
	d.fail(at, path, m)
}

func quoteKey(key string) string {
	if regexp.MustCompile(`^[\w-]{1,64}$`).MatchString(key) {
		return key
	}
	return strconv.Quote(key[:min(len(key), 64)])
}

func keysOf(fields []field) (keys []string) {
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	return keys
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// sectionHint guesses what a single value in a section's place was to be.
func sectionHint(path string, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	value := hideSecrets(n.Value)
	switch key := path[strings.LastIndexByte(path, '.')+1:]; {
	case key == "schedule":
		return "cron: " + strconv.Quote(value)
	case key == "sink" && strings.HasPrefix(value, "s3://"):
		return "s3: {bucket: " + strings.TrimPrefix(value, "s3://") + "}"
	case key == "sink":
		return "dir: " + strings.TrimPrefix(value, "dir:")
	case key == "spool":
		return "path: " + value
	case key == "http":
		return "listen: " + strconv.Quote(value)
	case key == "cloudEvents":
		return "sink: " + value
	}
	return ""
}

func allowedFor(f field) string {
	switch {
	case len(f.enum) > 0:
		return strings.Join(f.enum, ", ")
	case f.example != "":
		return "such as " + f.example
	}
	return ""
}

// value fills one field.
func (d *decoder) value(f field, n *yaml.Node, v reflect.Value, path string) {
	if text, from, place := d.override(f.flag); place != "" {
		d.text(f, source{place: place}, text, "", v, path)
		d.origins[path] = from
		return
	}
	n = d.deref(n)
	switch {
	case v.Kind() == reflect.Pointer:
		if n != nil {
			v.Set(reflect.New(v.Type().Elem()))
			d.section(n, v.Elem(), path)
		}
	case f.section() != nil && v.Kind() == reflect.Struct:
		d.section(n, v, path)
	case isNull(n):
		if f.def != "" {
			d.text(f, source{}, f.def, "", v, path)
		}
		d.origins[path] = origin{Kind: fromDefault}
	case v.Type() == reflect.TypeFor[Builtin]():
		d.builtin(n, v.Addr().Interface().(*Builtin), path)
	case v.Kind() == reflect.Slice:
		d.list(f, n, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path)
	case n.Kind != yaml.ScalarNode:
		d.fail(source{node: n}, path, mistake{text: "this is " + kindOf(n), allowed: wanted(f)})
	default:
		d.origins[path] = origin{Kind: fromFile, Name: d.o.File, Line: n.Line}
		d.text(f, source{node: n}, n.Value, n.ShortTag(), v, path)
	}
}

func (d *decoder) list(f field, n *yaml.Node, v reflect.Value, path string) {
	d.origins[path] = origin{Kind: fromFile, Name: d.o.File, Line: n.Line}
	if n.Kind != yaml.SequenceNode {
		m := mistake{text: "this is " + kindOf(n), allowed: "a list"}
		if n.Kind == yaml.ScalarNode && len(n.Value) < 200 {
			m.hint = "[" + hideSecrets(n.Value) + "]"
		}
		d.fail(source{node: n}, path, m)
		return
	}
	if len(n.Content) == 0 && path == "exports" {
		d.fail(source{node: n}, path, mistake{text: "the list is empty, so nothing would be exported", hint: "no key exports at all, which takes everything"})
	}
	seen := make(map[string]bool)
	item := f
	item.typ = f.typ.Elem()
	for i, c := range n.Content {
		if c = d.deref(c); c == nil {
			return
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.nodes[at] = c
		v.Set(reflect.Append(v, reflect.Zero(item.typ)))
		to := v.Index(v.Len() - 1)
		switch {
		case item.section() != nil:
			d.section(c, to, at)
		case c.Kind != yaml.ScalarNode || isNull(c):
			d.fail(source{node: c}, at, mistake{text: "this is " + kindOf(c), allowed: "text"})
		case seen[c.Value]:
			d.failf(source{node: c}, at, "%q is in the list twice", c.Value)
		default:
			seen[c.Value] = true
			d.text(item, source{node: c}, c.Value, c.ShortTag(), to, at)
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	d.origins[path] = origin{Kind: fromFile, Name: d.o.File, Line: n.Line}
	if n.Kind != yaml.MappingNode {
		d.fail(source{node: n}, path, mistake{text: "this is " + kindOf(n), allowed: "a mapping of names to values"})
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := d.deref(n.Content[i]), d.deref(n.Content[i+1])
		switch {
		case key == nil || value == nil:
			return
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			d.failf(source{node: key}, path, "a key must be a word")
		case v.MapIndex(reflect.ValueOf(key.Value)).IsValid():
			d.failf(source{node: key}, path, "the key %s is given twice", quoteKey(key.Value))
		case value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str":
			d.fail(source{node: value}, join(path, key.Value), mistake{text: "this is no text", allowed: "text; a number, a date, true and null need quotes"})
		case strings.Contains(value.Value, "${"):
			d.fail(source{node: value}, join(path, key.Value), *noReference(value.Value))
		default:
			d.nodes[join(path, key.Value)] = value
			v.SetMapIndex(reflect.ValueOf(key.Value), reflect.ValueOf(value.Value))
		}
	}
}

func (d *decoder) builtin(n *yaml.Node, b *Builtin, path string) {
	d.origins[path] = origin{Kind: fromFile, Name: d.o.File, Line: n.Line}
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "all":
		b.All = true
	case n.Kind == yaml.ScalarNode && n.Value == "none":
	case n.Kind == yaml.SequenceNode:
		d.list(field{typ: reflect.TypeFor[[]string]()}, n, reflect.ValueOf(&b.Names).Elem(), path)
	default:
		m := mistake{text: fmt.Sprintf("this is %s", kindOf(n)), allowed: "all, none, or a list of names"}
		if n.Kind == yaml.ScalarNode {
			m.text = fmt.Sprintf("%q is neither all nor none", n.Value)
			if m.hint = selection.Nearest(n.Value, []string{"all", "none"}); m.hint == "" {
				m.hint = "[" + n.Value + "]"
			}
		}
		d.fail(source{node: n}, path, m)
	}
}
