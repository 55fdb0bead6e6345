package config_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/kubelogexporter/kubelogexporter/exporter/config"
)

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// Whoever writes by the schema and whoever writes by Parse agree.
func TestSchemaAcceptsWhatParseAccepts(t *testing.T) {
	s := compiledSchema(t)
	for name, text := range examples(t) {
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		printed, err := parse(t, text, config.Options{}).Print(true)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, string(printed)); err != nil {
			t.Errorf("%s, printed: %v\n%s", name, err, printed)
		}
	}
	for _, text := range []string{
		"cluster: 5", "clustre: a", "sink: {s3: {}}", "sink: {s3: {bucket: b, pathStyle: maybe}}", "spool: {maxSize: 500}", "spool: {maxSize: 64MB}",
		"limits: {grace: 2 days}", "limits: {reads: 0}", "exports: []", "exports: [{}]", "exports: [{name: a, capture: life}]",
		"exports: [{name: a, selection: {namespaces: prod}}]", "exports: [{name: a, selection: {containerKinds: [x]}}]", "exports: [{name: a, redact: {builtin: some}}]",
		"kubelets: {insecureSkipVerify: 'yes'}", "exports: [{name: a, schedule: {timeZone: UTC}}]",
	} {
		if validate(t, s, head+text) == nil {
			t.Errorf("the schema accepts %s", text)
		}
		if _, err := config.Parse([]byte(head+text), config.Options{}); err == nil {
			t.Errorf("Parse accepts %s", text)
		}
	}
	for _, text := range []string{"limits: {readRate: 0, grace: 0}", "limits: {readRate: '0'}", "spool: {maxSize: 1.5Gi}", "limits: {grace: 1h30m}", "exports: [{name: a, redact: {builtin: [jwt]}}]"} {
		if err := validate(t, s, head+text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		parse(t, head+text, config.Options{})
	}
}

// Each key of the structs is in the schema, and nothing else.
func TestSchemaIsTheStructs(t *testing.T) {
	var compare func(path string, typ reflect.Type, s *jsonschema.Schema)
	compare = func(path string, typ reflect.Type, s *jsonschema.Schema) {
		keys := 0
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := f.Tag.Get("key")
			if key == "" {
				continue
			}
			keys++
			sub := s.Properties[key]
			if sub == nil || sub.Description != f.Tag.Get("doc") {
				t.Errorf("%s.%s is not in the schema as it should be", path, key)
				continue
			}
			next := f.Type
			for next.Kind() == reflect.Pointer || next.Kind() == reflect.Slice {
				if next.Kind() == reflect.Slice {
					sub = sub.Items2020
				}
				next = next.Elem()
			}
			if next.Kind() == reflect.Struct && next != reflect.TypeFor[config.Builtin]() {
				compare(strings.TrimPrefix(path+"."+key, "."), next, sub)
			}
		}
		if keys != len(s.Properties) || s.AdditionalProperties != false {
			t.Errorf("%s: %d keys, %d properties, others %v", path, keys, len(s.Properties), s.AdditionalProperties)
		}
	}
	compare("", reflect.TypeFor[config.Config](), compiledSchema(t))
}
