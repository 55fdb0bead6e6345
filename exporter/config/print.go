package config

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Print returns the configuration as a file that says the same, with all defaults. What may be secret is
// left out: the query of a URL. With origins, each value says where it comes from.
func (c *Config) Print(origins bool) ([]byte, error) {
	p := &printer{c: c, origins: origins}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(p.section(reflect.ValueOf(c).Elem(), "")); err != nil {
		return nil, fmt.Errorf("print config: %w", err)
	}
	return b.Bytes(), nil
}

type printer struct {
	c       *Config
	origins bool
}

func (p *printer) section(v reflect.Value, path string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(v.Type()) {
		at, value := join(path, f.key), v.Field(f.index)
		child := p.value(f, value, at)
		if child == nil {
			continue
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: f.key}
		if o := p.c.origins[at]; p.origins && o.Kind != 0 {
			if child.Kind == yaml.ScalarNode {
				child.LineComment = o.String()
			} else if child.Style != yaml.FlowStyle {
				key.LineComment = o.String()
			}
		}
		n.Content = append(n.Content, key, child)
	}
	return n
}

// value returns nil for what is empty and has no default: to write it down would mean something else.
func (p *printer) value(f field, v reflect.Value, path string) *yaml.Node {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil(), v.Kind() == reflect.Slice && v.Len() == 0, v.Kind() == reflect.Map && v.Len() == 0:
		return nil
	case v.Kind() == reflect.Pointer:
		return p.section(v.Elem(), path)
	case v.Type() == reflect.TypeFor[Builtin]():
		return builtinNode(v.Interface().(Builtin))
	case v.Kind() == reflect.Struct:
		if n := p.section(v, path); len(n.Content) > 0 {
			return n
		}
		return nil
	case v.Kind() == reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		item := f
		item.typ = f.typ.Elem()
		for i := range v.Len() {
			if item.section() != nil {
				n.Content = append(n.Content, p.section(v.Index(i), fmt.Sprintf("%s[%d]", path, i)))
			} else {
				n.Content = append(n.Content, text(v.Index(i).String()))
			}
		}
		return n
	case v.Kind() == reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		m := v.Interface().(map[string]string)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			n.Content = append(n.Content, text(k), text(m[k]))
		}
		return n
	case v.Kind() == reflect.String:
		return p.text(f, v.String())
	case v.Kind() == reflect.Int:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatInt(v.Int(), 10)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
}

func (p *printer) text(f field, s string) *yaml.Node {
	if s == "" {
		return nil
	}
	if f.check == "url" {
		if u, err := url.Parse(s); err == nil && u.RawQuery != "" {
			u.RawQuery = "REDACTED"
			s = u.String()
		}
	}
	if f.env {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	return text(s)
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	switch strings.ToLower(s) {
	case "on", "off", "yes", "no", "y", "n": // booleans to readers of YAML 1.1, such as Helm
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func builtinNode(b Builtin) *yaml.Node {
	switch {
	case b.All:
		return text("all")
	case len(b.Names) == 0:
		return text("none")
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, name := range b.Names {
		n.Content = append(n.Content, text(name))
	}
	return n
}
