package bundle

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestFormatIsDocumented: FORMAT.md names every field, cause and type that a record can have.
func TestFormatIsDocumented(t *testing.T) {
	b, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{string(TypeContainer), string(TypeInit), string(TypeSidecar), string(TypeEphemeral), string(Proven), string(Unproven), string(Lost), FormatVersion}
	for _, c := range Causes() {
		names = append(names, string(c))
	}
	names = append(names, fieldNames(reflect.TypeFor[Record]())...)
	if len(names) < 60 {
		t.Fatalf("only %d names", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("FORMAT.md does not say what %q is", name)
		}
	}
}

func fieldNames(typ reflect.Type) []string {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		return fieldNames(typ.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var names []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" {
			names = append(names, tag)
			names = append(names, fieldNames(f.Type)...)
		}
	}
	return names
}
