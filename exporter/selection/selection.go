package selection

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// Decision is whether an export takes a run.
type Decision int

// The decisions.
const (
	// No: the export does not take the run.
	No Decision = iota
	// Maybe: the run has not ended, and the selection asks for what is known only at its end. The log must
	// be captured, and the decision made again with what is known then.
	Maybe
	// Yes: the export takes the run.
	Yes
)

// String returns no, maybe or yes.
func (d Decision) String() string { return [...]string{"no", "maybe", "yes"}[d] }

// Spec is a selection as a user writes it. What is empty selects everything; a run must meet all that is
// not empty.
type Spec struct {
	// Globs as path.Match has them.
	Namespaces, ExcludeNamespaces []string
	Pods, ExcludePods             []string
	Containers, ExcludeContainers []string
	Labels                        string   // a label selector, such as app=cart,tier!=cache
	Fields                        string   // a field selector on one of FieldNames
	OwnerKinds                    []string // the kinds of a pod's controller, or None
	ContainerKinds                []string // of Kinds
	Expression                    string   // CEL, see Variables
}

// NoOwner among the owner kinds stands for pods without a controller.
const NoOwner = "None"

// FieldNames are the fields that a field selector may ask for: those that the API server can select pods
// by, without the ones that change or that say nothing about the pod itself.
func FieldNames() []string {
	return []string{"metadata.name", "metadata.namespace", "spec.nodeName", "spec.serviceAccountName", "status.phase"}
}

// Problem is one mistake in a Spec.
type Problem struct {
	Field   string // as the configuration spells it, such as excludeNamespaces
	Index   int    // of the entry, in a list
	Offset  int    // bytes from the beginning of the text to the mistake
	Length  int    // of the mistake in bytes, 0 if it is not known
	Text    string // what is wrong
	Allowed string // what would be right; may be empty
	Hint    string // what was likely meant; may be empty
}

// Error returns the problem in one line.
func (p *Problem) Error() string {
	s := p.Field + ": " + p.Text
	if p.Allowed != "" {
		s += "; " + p.Allowed
	}
	if p.Hint != "" {
		s += "; did you mean " + p.Hint
	}
	return s
}

// Selection is a compiled Spec. It may be used by several goroutines at once.
type Selection struct {
	spec                         Spec
	namespaces, pods, containers names
	labels                       labels.Selector // nil for all
	fields                       fields.Requirements
	expr                         *expression // nil for none
}

// All returns the selection that takes every run.
func All() *Selection { return &Selection{} }

// Compile checks a Spec and returns every mistake in it. With one the selection is nil.
func Compile(s Spec) (*Selection, []*Problem) {
	c := &compiler{}
	sel := &Selection{
		spec:       s,
		namespaces: c.names("namespaces", "excludeNamespaces", s.Namespaces, s.ExcludeNamespaces, false),
		pods:       c.names("pods", "excludePods", s.Pods, s.ExcludePods, true),
		containers: c.names("containers", "excludeContainers", s.Containers, s.ExcludeContainers, false),
		labels:     c.labels(s.Labels),
		fields:     c.fields(s.Fields),
		expr:       c.expression(s.Expression),
	}
	c.ownerKinds(s.OwnerKinds)
	for i, kind := range s.ContainerKinds {
		if !slices.Contains(Kinds(), kind) {
			c.add("containerKinds", i, &Problem{Text: fmt.Sprintf("%q is no kind of container", kind), Allowed: "one of " + strings.Join(Kinds(), ", "), Hint: Nearest(kind, Kinds())})
		}
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	return sel, nil
}

// Match decides about a run. An error says that the expression could not be computed for this run; it
// counts as true then, for no log is to be lost for that. A run that has ended never gets Maybe.
func (s *Selection) Match(sub *Subject) (Decision, error) {
	if !s.namespaces.match(sub.Namespace) || !s.pods.match(sub.Pod) || !s.containers.match(sub.Container) ||
		!s.kind(sub) || !s.owner(sub) || s.labels != nil && !s.labels.Matches(sub.Labels) {
		return No, nil
	}
	d := s.matchFields(sub)
	if d == No || s.expr == nil {
		return d, nil
	}
	e, err := s.expr.eval(sub)
	return min(d, e), err
}

func (s *Selection) kind(sub *Subject) bool {
	return len(s.spec.ContainerKinds) == 0 || slices.Contains(s.spec.ContainerKinds, sub.ContainerKind)
}

func (s *Selection) owner(sub *Subject) bool {
	return len(s.spec.OwnerKinds) == 0 || slices.Contains(s.spec.OwnerKinds, cmp.Or(sub.OwnerKind, NoOwner))
}

func (s *Selection) matchFields(sub *Subject) Decision {
	d := Yes
	for _, r := range s.fields {
		value := ""
		switch r.Field {
		case "metadata.name":
			value = sub.Pod
		case "metadata.namespace":
			value = sub.Namespace
		case "spec.nodeName":
			value = sub.Node
		case "spec.serviceAccountName":
			value = sub.ServiceAccount
		case "status.phase":
			if !sub.Ended { // a pod's phase changes as its containers end
				d = Maybe
				continue
			}
			value = sub.Phase
		}
		if (value == r.Value) != equal(r) {
			return No
		}
	}
	return d
}

func equal(r fields.Requirement) bool { return r.Operator != "!=" }

// Everything says whether every run is taken.
func (s *Selection) Everything() bool {
	return s.namespaces.all() && s.pods.all() && s.containers.all() && s.labels == nil && len(s.fields) == 0 &&
		len(s.spec.OwnerKinds) == 0 && len(s.spec.ContainerKinds) == 0 && s.expr == nil
}

// Covers says whether s surely takes every run that other takes, so that other gets none after s. False
// means that this cannot be told from the specs alone.
func (s *Selection) Covers(other *Selection) bool {
	return s.namespaces.covers(other.namespaces) && s.pods.covers(other.pods) && s.containers.covers(other.containers) &&
		(s.labels == nil || narrower(other.spec.Labels, s.spec.Labels)) && covered(fieldTexts(s.fields), fieldTexts(other.fields)) &&
		wider(s.spec.OwnerKinds, other.spec.OwnerKinds) && wider(s.spec.ContainerKinds, other.spec.ContainerKinds) &&
		(s.expr == nil || other.expr != nil && strings.TrimSpace(s.spec.Expression) == strings.TrimSpace(other.spec.Expression))
}

// narrower says whether a label selector asks for all that another one does, and perhaps more.
func narrower(narrow, wide string) bool {
	texts := func(s string) (list []string) {
		reqs, _ := labels.ParseToRequirements(s)
		for _, r := range reqs {
			list = append(list, r.String())
		}
		return list
	}
	return covered(texts(wide), texts(narrow))
}

func fieldTexts(reqs fields.Requirements) (list []string) {
	for _, r := range reqs {
		list = append(list, fmt.Sprint(r.Field, equal(r), r.Value))
	}
	return list
}

func covered(wide, narrow []string) bool {
	return !slices.ContainsFunc(wide, func(t string) bool { return !slices.Contains(narrow, t) })
}

func wider(wide, narrow []string) bool {
	return len(wide) == 0 || len(narrow) > 0 && covered(narrow, wide)
}

// Namespaces returns the namespaces that can hold a selected run, if they are all named; then a watch of
// these is enough. Otherwise ok is false and the runs may be anywhere.
func (s *Selection) Namespaces() (list []string, ok bool) {
	for _, r := range s.fields {
		if r.Field == "metadata.namespace" && equal(r) {
			return s.taken([]string{r.Value}), true
		}
	}
	if len(s.namespaces.include) == 0 || slices.ContainsFunc(s.namespaces.include, func(p string) bool { return !literal(p) }) {
		return nil, false
	}
	return s.taken(s.namespaces.include), true
}

func (s *Selection) taken(list []string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(name string) bool { return !s.namespaces.match(name) })
	slices.Sort(list)
	return slices.Compact(list)
}
