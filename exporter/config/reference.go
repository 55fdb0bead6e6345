package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

const referenceHead = `# The configuration file

<!-- Made from the code of package config by "UPDATE_GOLDEN=1 go test ./exporter/config"; a test fails when it is stale. -->

No file is needed: without one there is one export that takes everything, and flags and environment
variables say where to. With a file the order is: flag, environment variable, file, default. ` + "`kubelogexporter config\nprint`" + ` shows where each value comes from, ` + "`config check`" + ` names every mistake with its place, ` + "`config init`" + `
writes a file to begin with, ` + "`config explain POD --config FILE`" + ` says which export takes a pod's runs and why.

- A key that is not known or that is given twice is a mistake. Merge keys (<<) are not supported; anchors are.
- A size is a Kubernetes quantity, such as 64Mi. A duration is Go's, with d for 24 hours and w for 7 days.
  Neither is ever a bare number, except 0.
- ` + "`${VAR}`, `${VAR:-default}` and `${VAR:?message}`" + ` are taken from the environment where a key says "environment",
  and only there; ` + "`$$`" + ` is a "$" there. A variable that is not set is a mistake.
- Secrets never stand in the file. They come from files that it names, or from the environment.
- The first export whose selection matches a run decides for it. What no export selects is not read.
- Of a file that changes under a running exporter only ` + "`exports`" + ` is taken over. All else takes effect at the next
  start; the log names it.
`

// Reference returns the description of every key in Markdown.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	referenceSection(&b, reflect.TypeFor[Config](), "", "The top level")
	b.WriteString("\n## Expressions\n\n")
	b.WriteString("`selection.expression` is a CEL expression that gives a bool. These names may stand in it. Those known at the\n" +
		"end only keep the decision open until then: the log is captured, and stored if the answer is yes. A label that\n" +
		"is not there is an error, and with an error the run is taken: ask `'app' in pod.labels` first.\n\n" +
		"| name | type | meaning |\n|---|---|---|\n")
	for _, v := range selection.Variables() {
		doc := v.Doc
		if v.AtEnd {
			doc += "; known at the end only"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, v.Type, doc)
	}
	return b.Bytes()
}

func referenceSection(b *bytes.Buffer, t reflect.Type, path, title string) {
	fmt.Fprintf(b, "\n## %s\n\n| key | value | meaning |\n|---|---|---|\n", title)
	for _, f := range fieldsOf(t) {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.key, cell(referenceType(f)), cell(referenceDoc(f)))
	}
	for _, f := range fieldsOf(t) {
		if s := f.section(); s != nil {
			at := join(path, f.key)
			if f.typ.Kind() == reflect.Slice {
				at += "[]"
			}
			referenceSection(b, s, at, "`"+at+"`")
		}
	}
}

func referenceType(f field) string {
	switch {
	case f.typ == reflect.TypeFor[Builtin]():
		return "all, none or a list"
	case f.typ == reflect.TypeFor[Size]():
		return "size"
	case f.typ == reflect.TypeFor[Duration]():
		return "duration"
	case f.typ.Kind() == reflect.Slice && f.section() != nil:
		return "list of sections"
	case f.typ.Kind() == reflect.Slice && len(f.enum) > 0:
		return "list of " + strings.Join(f.enum, ", ")
	case f.typ.Kind() == reflect.Slice:
		return "list"
	case f.typ.Kind() == reflect.Map:
		return "names and texts"
	case f.section() != nil:
		return "section"
	case len(f.enum) > 0:
		return strings.Join(f.enum, ", ")
	case f.typ.Kind() == reflect.Bool:
		return "true, false"
	case f.typ.Kind() == reflect.Int:
		return "number"
	}
	return "text"
}

func referenceDoc(f field) string {
	doc := []string{f.doc}
	if f.required {
		doc = append(doc, "Required.")
	}
	if f.def != "" && !slices.Contains([]string{"0", "0s", "false"}, f.def) {
		doc = append(doc, "Default: `"+f.def+"`.")
	}
	if f.min != "" && f.min != "0s" {
		doc = append(doc, "At least `"+f.min+"`.")
	}
	if f.max != "" {
		doc = append(doc, "At most `"+f.max+"`.")
	}
	if f.example != "" {
		doc = append(doc, "Such as `"+f.example+"`.")
	}
	if f.flag != "" {
		doc = append(doc, "Flag `--"+f.flag+"`.")
	}
	if f.part != "" {
		doc = append(doc, "Set by the flag `--"+f.part+"` too.")
	}
	if f.env {
		doc = append(doc, "Environment.")
	}
	return strings.Join(doc, " ")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
