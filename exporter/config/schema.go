package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// SchemaFile is the name that editors are told in the first line of a file that Init returns.
const SchemaFile = "kubelogexporter.schema.json"

// Schema returns the JSON Schema (draft 2020-12) of the file. It is looser than Parse where JSON Schema
// has no words; what Parse accepts is valid, unless it has a key without a value.
func Schema() ([]byte, error) {
	s := sectionSchema(reflect.TypeFor[Config]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "KubeLogExporter configuration " + APIVersion
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		return nil, fmt.Errorf("print schema: %w", err)
	}
	return b.Bytes(), nil
}

func sectionSchema(t reflect.Type) map[string]any {
	properties := make(map[string]any)
	var required []string
	for _, f := range fieldsOf(t) {
		properties[f.key] = fieldSchema(f)
		if f.required {
			required = append(required, f.key)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func fieldSchema(f field) map[string]any {
	s := typeSchema(f)
	s["description"] = f.doc
	if f.example != "" && !strings.HasPrefix(f.example, "[") {
		s["examples"] = []string{f.example}
	}
	if f.def == "" {
		return s
	}
	s["default"] = f.def
	switch f.typ.Kind() {
	case reflect.Int:
		s["default"], _ = strconv.Atoi(f.def)
	case reflect.Bool:
		s["default"] = f.def == "true"
	}
	return s
}

func typeSchema(f field) map[string]any {
	switch f.typ {
	case reflect.TypeFor[Size]():
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^(0|[0-9.]+([kMGTPE]|[KMGTPE]i)|[0-9.]+[eE][0-9]+)$`, "maximum": 0, "minimum": 0}
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d|w))+)$`, "maximum": 0, "minimum": 0}
	case reflect.TypeFor[Builtin]():
		return map[string]any{"oneOf": []any{
			map[string]any{"enum": []string{"all", "none"}},
			map[string]any{"type": "array", "items": map[string]any{"type": "string"}, "uniqueItems": true},
		}}
	}
	switch f.typ.Kind() {
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		s := map[string]any{"type": "integer"}
		if n, err := strconv.Atoi(f.min); err == nil {
			s["minimum"] = n
		}
		if n, err := strconv.Atoi(f.max); err == nil {
			s["maximum"] = n
		}
		return s
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	case reflect.Slice:
		item := f
		item.typ, item.doc = f.typ.Elem(), ""
		items := typeSchema(item)
		s := map[string]any{"type": "array", "items": items}
		if f.section() == nil {
			s["uniqueItems"] = true
		} else {
			s["minItems"] = 1
		}
		return s
	case reflect.Pointer, reflect.Struct:
		return sectionSchema(f.section())
	}
	s := map[string]any{"type": "string"}
	if len(f.enum) > 0 {
		s["enum"] = f.enum
	}
	return s
}
