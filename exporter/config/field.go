package config

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// field is one key of the file, as the tags of a struct's field describe it.
type field struct {
	index              int
	typ                reflect.Type
	key, doc, example  string
	def, flag, check   string
	part               string // a flag that says it among other things
	min, max           string
	enum               []string
	required, env, raw bool
	zero               bool // 0 is allowed below min
}

// fieldsOf lists the keys of a struct in their order.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		get := f.Tag.Get
		if get("key") == "" {
			continue // not of the file
		}
		one := field{
			index: i, typ: f.Type, key: get("key"), doc: get("doc"), example: get("example"), def: get("default"), flag: get("flag"), part: get("part"),
			check: get("check"), min: get("min"), max: get("max"), required: get("required") != "", env: get("env") != "", raw: get("raw") != "", zero: get("zero") != "",
		}
		if list := get("enum"); list != "" {
			one.enum = strings.Split(list, ",")
		}
		all = append(all, one)
	}
	return all
}

// section returns the struct below a field, nil if it has none.
func (f field) section() reflect.Type {
	t := f.typ
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[Builtin]() {
		return nil
	}
	return t
}

// walk calls visit for every key there can be, with its path as a[].b, sections before what is in them.
func walk(t reflect.Type, path string, visit func(path string, f field)) {
	for _, f := range fieldsOf(t) {
		at := join(path, f.key)
		if f.typ.Kind() == reflect.Slice && f.section() != nil {
			at += "[]"
		}
		visit(at, f)
		if s := f.section(); s != nil {
			walk(s, at, visit)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Flags returns where a command's flags stand in the file: the flag's name and the key's path.
func Flags() map[string]string {
	flags := map[string]string{"sink": "sink"} // one flag for what are two keys
	walk(reflect.TypeFor[Config](), "", func(path string, f field) {
		if f.flag != "" {
			flags[f.flag] = path
		}
	})
	return flags
}

// expandable lists the paths that may hold an environment reference.
func expandable() (paths []string) {
	walk(reflect.TypeFor[Config](), "", func(path string, f field) {
		if f.env {
			paths = append(paths, path)
		}
	})
	return paths
}

// whereElse finds a key, or one that looks like it, in other sections.
func whereElse(key string) string {
	var near, same []string
	names := make(map[string][]string)
	walk(reflect.TypeFor[Config](), "", func(path string, f field) {
		names[f.key] = append(names[f.key], path)
		near = append(near, f.key)
	})
	slices.Sort(near)
	same = names[cmp.Or(key, "-")]
	if len(same) == 0 {
		same = names[selection.Nearest(key, slices.Compact(near))]
	}
	if len(same) != 1 {
		return ""
	}
	return same[0]
}
