package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// wanted says what a field takes.
func wanted(f field) string {
	if len(f.enum) > 0 {
		return strings.Join(f.enum, ", ")
	}
	switch f.typ {
	case reflect.TypeFor[Size]():
		return sizes
	case reflect.TypeFor[Duration]():
		return durations
	}
	switch f.typ.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "text"
}

// text fills a field from a text. tag is YAML's of the value, "" if it does not come from the file.
func (d *decoder) text(f field, at source, text, tag string, v reflect.Value, path string) {
	var m *mistake
	switch {
	case f.typ == reflect.TypeFor[Size]():
		var s Size
		if s, m = parseSize(text); m == nil {
			m = bounds(f, s, parseSize)
		}
		v.SetInt(int64(s))
	case f.typ == reflect.TypeFor[Duration]():
		var t Duration
		if t, m = parseDuration(text); m == nil {
			m = bounds(f, t, parseDuration)
		}
		v.SetInt(int64(t))
	case f.typ == reflect.TypeFor[Builtin]():
		v.Set(reflect.ValueOf(Builtin{All: text == "all"}))
	case f.typ.Kind() == reflect.Bool:
		m = setBool(v, text, tag)
	case f.typ.Kind() == reflect.Int:
		var i int
		if i, m = parseInt(text, tag); m == nil {
			m = bounds(f, i, func(s string) (int, *mistake) { return parseInt(s, "") })
		}
		v.SetInt(int64(i))
	case f.typ.Kind() == reflect.String:
		m = d.setString(f, v, text, tag, at)
	default:
		m = &mistake{text: "it cannot be set here", allowed: "in the file only"}
	}
	if m != nil {
		if m.allowed == "" {
			m.allowed = wanted(f)
		}
		d.fail(at, path, *m)
	}
}

func setBool(v reflect.Value, text, tag string) *mistake {
	switch {
	case tag == "!!str" || text != "true" && text != "false":
		m := &mistake{text: fmt.Sprintf("%q is neither true nor false", text)}
		switch strings.ToLower(text) {
		case "true", "yes", "on", "y", "1":
			m.hint = "true"
		case "false", "no", "off", "n", "0":
			m.hint = "false"
		}
		return m
	}
	v.SetBool(text == "true")
	return nil
}

func parseInt(text, tag string) (int, *mistake) {
	i, err := strconv.ParseInt(text, 10, 32)
	if err != nil || tag == "!!str" || len(text) > 1 && text[0] == '0' {
		m := &mistake{text: fmt.Sprintf("%q is no whole number", text)}
		if err == nil {
			m.hint = strconv.FormatInt(i, 10) + ", without quotes and leading zeros"
		}
		return 0, m
	}
	return int(i), nil
}

// bounds compares a value with a field's min and max.
func bounds[T int | Size | Duration](f field, value T, parse func(string) (T, *mistake)) *mistake {
	if f.zero && value == 0 {
		return nil
	}
	if least, _ := parse(f.min); f.min != "" && value < least {
		m := &mistake{text: fmt.Sprintf("%v is too small", value), allowed: f.min + " or more"}
		if f.zero {
			m.allowed += ", or 0"
		}
		return m
	}
	if most, _ := parse(f.max); f.max != "" && value > most {
		return &mistake{text: fmt.Sprintf("%v is too large", value), allowed: f.max + " at most"}
	}
	return nil
}

func (d *decoder) setString(f field, v reflect.Value, text, tag string, at source) *mistake {
	if tag != "" && tag != "!!str" && (tag != "!!int" && tag != "!!float" && tag != "!!bool" || len(f.enum) == 0) {
		m := &mistake{text: fmt.Sprintf("%s is no text", text), hint: strconv.Quote(text), allowed: "text; a number, a date, true and null need quotes"}
		if f.check == "listen" && tag == "!!int" {
			m.hint = strconv.Quote(":" + text)
		}
		return m
	}
	if spelt := map[string]string{"true": "on", "false": "off"}[text]; tag == "!!bool" && slices.Contains(f.enum, spelt) {
		return &mistake{text: text + " is none of these, perhaps because " + spelt + " without quotes is a boolean in YAML 1.1", hint: strconv.Quote(spelt)}
	}
	switch {
	case at.node == nil: // of a flag or the environment, or a default
	case f.env:
		expanded, m := expand(text, d.o.Lookup)
		if m != nil {
			return m
		}
		if expanded != text {
			if m := checkText(f, expanded, true); m != nil { // what the environment holds may be a secret, so it is not told
				return &mistake{text: fmt.Sprintf("with the environment put in, %s is not valid", text), allowed: m.allowed}
			}
		}
		text = expanded
	case !f.raw && strings.Contains(text, "${"):
		return noReference(text)
	}
	if m := checkText(f, text, at.node != nil); m != nil {
		return m
	}
	v.SetString(text)
	return nil
}

// noReference is the mistake of a reference where none is put in.
func noReference(text string) *mistake {
	return &mistake{text: "an environment reference is not possible here", allowed: "in " + strings.Join(expandable(), ", "), offset: strings.Index(text, "${")}
}

// checkText compares a text with what a field allows. given says that it stands in the file.
func checkText(f field, text string, given bool) *mistake {
	if len(f.enum) > 0 && !slices.Contains(f.enum, text) && (text != "" || f.required || given) {
		return &mistake{text: fmt.Sprintf("%q is none of these", text), hint: selection.Nearest(text, f.enum)}
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 && !f.raw {
		return &mistake{text: "the value holds a control character or a line break", allowed: "text in one line"}
	}
	if m := checkString(f.check, text); m != nil && text != "" {
		return m
	}
	if text == "" && f.required {
		return &mistake{text: "the value is empty", allowed: allowedFor(f)}
	}
	return nil
}

// expand puts the environment in the place of ${VAR}, ${VAR:-default} and ${VAR:?message}; $$ is a "$".
func expand(text string, lookup func(string) (string, bool)) (string, *mistake) {
	var b strings.Builder
	name := regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:[-?])([^}]*))?\}`)
	for i := 0; i < len(text); {
		rest := text[i:]
		switch {
		case rest[0] != '$':
			b.WriteByte(rest[0])
			i++
			continue
		case strings.HasPrefix(rest, "$$"):
			b.WriteByte('$')
			i += 2
			continue
		}
		m := name.FindStringSubmatch(rest)
		if m == nil {
			return "", &mistake{text: "\"$\" begins no environment reference here", allowed: "${VAR}, ${VAR:-default}, ${VAR:?message}, or $$ for a \"$\"", offset: i}
		}
		value, ok := "", false
		if lookup != nil {
			value, ok = lookup(m[1])
		}
		switch {
		case m[2] == ":-" && value == "":
			value = m[3]
		case m[2] == ":?" && value == "":
			return "", &mistake{text: fmt.Sprintf("environment variable %s is not set: %s", m[1], m[3]), allowed: "a value that is not empty", offset: i}
		case !ok && m[2] == "":
			return "", &mistake{text: fmt.Sprintf("environment variable %s is not set", m[1]), allowed: "${" + m[1] + ":-default} where it may be missing", offset: i}
		}
		if strings.ContainsAny(value, "\n\r\x00") {
			return "", &mistake{text: fmt.Sprintf("environment variable %s holds a line break", m[1]), allowed: "text in one line", offset: i}
		}
		b.WriteString(value)
		i += len(m[0])
	}
	return b.String(), nil
}
