package selection

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Exports are the selections of several exports, in the order of the configuration.
type Exports []*Selection

// Namespaces returns the namespaces that can hold a selected run, if they are all named.
func (e Exports) Namespaces() (list []string, ok bool) {
	for _, s := range e {
		some, ok := s.Namespaces()
		if !ok {
			return nil, false
		}
		list = append(list, some...)
	}
	slices.Sort(list)
	return slices.Compact(list), true
}

// Reason is what one part of a selection says about a run.
type Reason struct {
	Field    string // as the configuration spells it
	Decision Decision
	Text     string
}

// String returns the reason in one line.
func (r Reason) String() string { return r.Field + ": " + r.Text }

// Explain decides like Match and gives the reason of every part that is not empty.
func (s *Selection) Explain(sub *Subject) (Decision, []Reason) {
	var reasons []Reason
	add := func(field string, d Decision, text string) { reasons = append(reasons, Reason{field, d, text}) }
	yes := func(ok bool) Decision {
		if ok {
			return Yes
		}
		return No
	}
	for _, part := range []struct {
		field string
		names names
		name  string
	}{{"namespaces", s.namespaces, sub.Namespace}, {"pods", s.pods, sub.Pod}, {"containers", s.containers, sub.Container}} {
		if len(part.names.include)+len(part.names.exclude) > 0 {
			add(part.field, yes(part.names.match(part.name)), part.names.why(part.name))
		}
	}
	if len(s.spec.ContainerKinds) > 0 {
		add("containerKinds", yes(s.kind(sub)), oneOf(sub.ContainerKind, s.kind(sub), s.spec.ContainerKinds))
	}
	if len(s.spec.OwnerKinds) > 0 {
		add("ownerKinds", yes(s.owner(sub)), oneOf(cmp.Or(sub.OwnerKind, NoOwner), s.owner(sub), s.spec.OwnerKinds))
	}
	if s.labels != nil {
		ok := s.labels.Matches(sub.Labels)
		add("labels", yes(ok), whether(ok, "the pod's labels", s.spec.Labels))
	}
	if len(s.fields) > 0 {
		switch d := s.matchFields(sub); d {
		case Maybe:
			add("fields", d, "the pod's phase counts at the run's end")
		default:
			add("fields", d, whether(d == Yes, "the pod's fields", s.spec.Fields))
		}
	}
	if s.expr != nil {
		switch d, err := s.expr.eval(sub); {
		case err != nil:
			add("expression", d, "failed, so the log is kept: "+err.Error())
		case d == Maybe:
			add("expression", d, "will be known at the run's end")
		default:
			add("expression", d, fmt.Sprintf("gives %t", d == Yes))
		}
	}
	if len(reasons) == 0 {
		add("selection", Yes, "takes everything")
	}
	d := Yes
	for _, r := range reasons {
		d = min(d, r.Decision)
	}
	return d, reasons
}

func oneOf(what string, ok bool, list []string) string {
	if ok {
		return what + " is one of " + strings.Join(list, ", ")
	}
	return what + " is none of " + strings.Join(list, ", ")
}

func whether(ok bool, what, selector string) string {
	if ok {
		return what + " match " + selector
	}
	return what + " do not match " + selector
}
