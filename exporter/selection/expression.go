package selection

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

const (
	// maxExpression bounds the text, in bytes.
	maxExpression = 4096
	// costLimit bounds one evaluation, in CEL's units: some milliseconds at worst. A comparison costs one
	// or two, a string or a regular expression something per ten bytes. Kubernetes' own limit for one
	// expression of a policy is ten times as much.
	costLimit = 1_000_000
)

// Variable is a name that an expression may use.
type Variable struct {
	Name, Type, Doc string
	AtEnd           bool // known only when the run has ended
}

// Variables are the names that an expression may use.
func Variables() []Variable {
	return []Variable{
		{Name: "pod.namespace", Type: "string", Doc: "the pod's namespace"},
		{Name: "pod.name", Type: "string", Doc: "the pod's name"},
		{Name: "pod.uid", Type: "string", Doc: "the pod's UID"},
		{Name: "pod.node", Type: "string", Doc: "the name of its node"},
		{Name: "pod.serviceAccount", Type: "string", Doc: "the name of its service account"},
		{Name: "pod.labels", Type: "map(string, string)", Doc: "its labels, such as pod.labels['app']; 'app' in pod.labels asks whether there is one"},
		{Name: "pod.owner.kind", Type: "string", Doc: "the kind of its controller, such as ReplicaSet; '' if it has none"},
		{Name: "pod.owner.name", Type: "string", Doc: "the name of its controller"},
		{Name: "pod.phase", Type: "string", Doc: "its phase", AtEnd: true},
		{Name: "container.name", Type: "string", Doc: "the container's name"},
		{Name: "container.kind", Type: "string", Doc: "container, initContainer, sidecar or ephemeralContainer"},
		{Name: "container.image", Type: "string", Doc: "the image, as the pod's status names it"},
		{Name: "container.restart", Type: "int", Doc: "the number of the run, 0 for the first"},
		{Name: "container.startedAt", Type: "timestamp", Doc: "when the run started"},
		{Name: "container.exitCode", Type: "int", Doc: "the exit code", AtEnd: true},
		{Name: "container.signal", Type: "int", Doc: "the signal that ended the run, 0 for none", AtEnd: true},
		{Name: "container.reason", Type: "string", Doc: "why it ended, such as Completed, Error or OOMKilled", AtEnd: true},
		{Name: "container.finishedAt", Type: "timestamp", Doc: "when the run ended", AtEnd: true},
	}
}

// expression is a compiled CEL expression.
type expression struct {
	program cel.Program
	atEnd   []*cel.AttributePatternType // unknown while the run goes on
}

func (c *compiler) expression(text string) *expression {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	e, problems := compileExpression(text)
	for _, p := range problems {
		c.add("expression", 0, p)
	}
	return e
}

func compileExpression(text string) (*expression, []*Problem) {
	if len(text) > maxExpression {
		return nil, []*Problem{{Text: fmt.Sprintf("the expression has %d bytes", len(text)), Allowed: fmt.Sprintf("%d bytes at most", maxExpression)}}
	}
	e := &expression{}
	options := []cel.EnvOption{cel.ParserRecursionLimit(50)}
	for _, v := range Variables() {
		kind := map[string]*cel.Type{"string": cel.StringType, "int": cel.IntType, "timestamp": cel.TimestampType}[v.Type]
		if kind == nil {
			kind = cel.MapType(cel.StringType, cel.StringType)
		}
		options = append(options, cel.Variable(v.Name, kind))
		if v.AtEnd {
			e.atEnd = append(e.atEnd, cel.AttributePattern(v.Name))
		}
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, []*Problem{{Text: err.Error()}}
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, located(text, issues)
	}
	if unknown := unknownNames(text, parsed.NativeRep()); len(unknown) > 0 {
		return nil, unknown
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, located(text, issues)
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, []*Problem{{Text: fmt.Sprintf("the expression gives %s", t), Allowed: "one that gives bool: a comparison, such as container.exitCode != 0"}}
	}
	e.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize|cel.OptPartialEval), cel.CostLimit(costLimit))
	if err != nil { // such as a regular expression that is none
		return nil, []*Problem{{Text: strings.Join(strings.Fields(err.Error()), " ")}}
	}
	return e, nil
}

// located turns CEL's errors into problems. Its columns count characters, ours bytes.
func located(text string, issues *cel.Issues) []*Problem {
	var all []*Problem
	for _, e := range issues.Errors() {
		msg, _, _ := strings.Cut(e.Message, " (in container '')")
		msg = strings.TrimPrefix(msg, "Syntax error: ")
		p := &Problem{Text: strings.Join(strings.Fields(msg), " "), Offset: offset(text, e.Location.Line(), e.Location.Column())}
		if strings.Contains(msg, "expecting <EOF>") && strings.Contains(text, "=") && !strings.Contains(text, "==") || strings.Contains(msg, "token recognition error at: '= '") {
			p.Hint = "== for a comparison"
		}
		all = append(all, p)
		if len(all) == 5 {
			break // one slip of the pen gives many
		}
	}
	return all
}

func offset(text string, line, column int) int {
	at := 0
	for n := 1; n < line; n++ {
		i := strings.IndexByte(text[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
	}
	for i := range text[at:] {
		if column <= 0 {
			return at + i
		}
		column--
	}
	return len(text)
}

// unknownNames finds what begins like a variable and is none. CEL's own error would name the first part.
func unknownNames(text string, tree *ast.AST) []*Problem {
	var names []string
	for _, v := range Variables() {
		names = append(names, v.Name)
	}
	inner := make(map[int64]bool)
	var all []*Problem
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if inner[e.ID()] {
			return
		}
		name, root := dotted(e, inner)
		if first, _, _ := strings.Cut(name, "."); first != "pod" && first != "container" {
			return
		}
		if slices.ContainsFunc(names, func(known string) bool {
			return name == known || known == "pod.labels" && strings.HasPrefix(name, known+".")
		}) {
			return
		}
		at := tree.SourceInfo().GetStartLocation(root.ID())
		p := &Problem{Text: fmt.Sprintf("there is no %s", name), Length: len(name), Offset: offset(text, at.Line(), at.Column()), Hint: meant(name, names)}
		if p.Hint == "" {
			p.Allowed = "one of " + strings.Join(names, ", ")
		}
		all = append(all, p)
	}))
	return all
}

// dotted returns a chain of selections as it is written, and its first part; "" for anything else. The
// parts are noted in inner.
func dotted(e ast.Expr, inner map[int64]bool) (string, ast.Expr) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), e
	case ast.SelectKind:
		inner[e.AsSelect().Operand().ID()] = true
		name, root := dotted(e.AsSelect().Operand(), inner)
		if name == "" {
			return "", e
		}
		return name + "." + e.AsSelect().FieldName(), root
	default:
		delete(inner, e.ID()) // a call or an index, to be looked into
		return "", e
	}
}

// meant finds the variable behind a pod's field in the API's spelling, or behind a slip of the pen.
func meant(name string, names []string) string {
	api := map[string]string{
		"pod.spec.nodeName": "pod.node", "pod.nodeName": "pod.node", "pod.spec.serviceAccountName": "pod.serviceAccount",
		"pod.serviceAccountName": "pod.serviceAccount", "pod.status.phase": "pod.phase", "container.restartCount": "container.restart",
		"container.type": "container.kind", "pod.ownerReferences": "pod.owner.kind", "pod.metadata.ownerReferences": "pod.owner.kind", "pod.owner": "pod.owner.kind",
	}
	if to := api[name]; to != "" {
		return to
	}
	short := strings.Replace(name, ".metadata.", ".", 1)
	short = strings.Replace(strings.Replace(short, ".state.terminated.", ".", 1), ".terminated.", ".", 1)
	if slices.Contains(names, short) || strings.HasPrefix(short, "pod.labels.") {
		return short
	}
	return Nearest(short, names)
}

// eval computes the expression. It gives Yes with every error.
func (e *expression) eval(sub *Subject) (Decision, error) {
	v := &values{sub: sub}
	if !sub.Ended {
		v.unknown = e.atEnd
	}
	out, _, err := e.program.Eval(v)
	switch {
	case err != nil:
		return Yes, fmt.Errorf("compute expression for %s/%s container %s: %w", sub.Namespace, sub.Pod, sub.Container, err)
	case out == types.True:
		return Yes, nil
	case out == types.False:
		return No, nil
	case types.IsUnknown(out) && !sub.Ended:
		return Maybe, nil
	}
	return Yes, fmt.Errorf("compute expression for %s/%s container %s: it gives a %s", sub.Namespace, sub.Pod, sub.Container, out.Type().TypeName())
}

// values are the variables of one run. It implements cel.PartialActivation.
type values struct {
	sub     *Subject
	unknown []*cel.AttributePatternType
}

// Parent implements cel.Activation.
func (v *values) Parent() cel.Activation { return nil }

// UnknownAttributePatterns implements cel.PartialActivation.
func (v *values) UnknownAttributePatterns() []*cel.AttributePatternType { return v.unknown }

// AsPartialActivation lets CEL find the unknown variables.
func (v *values) AsPartialActivation() (cel.PartialActivation, bool) { return v, true }

// ResolveName implements cel.Activation.
func (v *values) ResolveName(name string) (any, bool) {
	switch s := v.sub; name {
	case "pod.namespace":
		return types.String(s.Namespace), true
	case "pod.name":
		return types.String(s.Pod), true
	case "pod.uid":
		return types.String(s.UID), true
	case "pod.node":
		return types.String(s.Node), true
	case "pod.serviceAccount":
		return types.String(s.ServiceAccount), true
	case "pod.labels":
		return labelMap{s.Labels}, true
	case "pod.owner.kind":
		return types.String(s.OwnerKind), true
	case "pod.owner.name":
		return types.String(s.OwnerName), true
	case "pod.phase":
		return types.String(s.Phase), true
	case "container.name":
		return types.String(s.Container), true
	case "container.kind":
		return types.String(s.ContainerKind), true
	case "container.image":
		return types.String(s.Image), true
	case "container.restart":
		return types.Int(s.Restart), true
	case "container.startedAt":
		return types.Timestamp{Time: s.StartedAt}, true
	case "container.exitCode":
		return types.Int(s.ExitCode), true
	case "container.signal":
		return types.Int(s.Signal), true
	case "container.reason":
		return types.String(s.Reason), true
	case "container.finishedAt":
		return types.Timestamp{Time: s.FinishedAt}, true
	}
	return nil, false
}

// labelMap shows labels to CEL as a map. Only what a look-up needs is its own: the rest, such as
// iteration, is rare and goes to a real map.
type labelMap struct{ labels Labels }

var _ traits.Mapper = labelMap{}

func (m labelMap) real() traits.Mapper {
	return types.NewStringStringMap(types.DefaultTypeAdapter, m.labels.asMap())
}

// Find implements traits.Mapper.
func (m labelMap) Find(key ref.Val) (ref.Val, bool) {
	k, ok := key.(types.String)
	if !ok {
		return m.real().Find(key)
	}
	v, ok := m.labels.Lookup(string(k))
	if !ok {
		return nil, false
	}
	return types.String(v), true
}

// Get implements traits.Indexer.
func (m labelMap) Get(key ref.Val) ref.Val {
	if v, ok := m.Find(key); ok {
		return v
	}
	return m.real().Get(key)
}

// Contains implements traits.Container.
func (m labelMap) Contains(key ref.Val) ref.Val { return m.real().Contains(key) }

// Iterator implements traits.Iterable.
func (m labelMap) Iterator() traits.Iterator { return m.real().Iterator() }

// Size implements traits.Sizer.
func (m labelMap) Size() ref.Val { return types.Int(len(m.labels) / 2) }
