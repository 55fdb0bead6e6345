package selection_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

func running() *selection.Subject {
	return &selection.Subject{
		Namespace: "prod-shop", Pod: "cart-7c5d-x2x", UID: "u-1", Node: "node-1", OwnerKind: "ReplicaSet", OwnerName: "cart-7c5d",
		Labels: selection.Labels{"app", "cart", "tier", "web"}, ServiceAccount: "cart", Phase: "Running",
		Container: "app", ContainerKind: "container", Image: "shop/cart:1.2", Restart: 3, StartedAt: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC),
	}
}

func ended(code int32, reason string) *selection.Subject {
	s := running()
	s.Ended, s.ExitCode, s.Reason, s.FinishedAt = true, code, reason, s.StartedAt.Add(10*time.Minute)
	return s
}

func compile(t testing.TB, spec selection.Spec) *selection.Selection {
	t.Helper()
	s, problems := selection.Compile(spec)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return s
}

func TestMatch(t *testing.T) {
	const yes, maybe, no = selection.Yes, selection.Maybe, selection.No
	type spec = selection.Spec
	for name, c := range map[string]struct {
		spec           spec
		running, ended selection.Decision
	}{
		"everything":           {spec{}, yes, yes},
		"glob":                 {spec{Namespaces: []string{"test", "prod-*"}}, yes, yes},
		"other namespaces":     {spec{Namespaces: []string{"test", "prod?"}}, no, no},
		"excluded":             {spec{ExcludeNamespaces: []string{"*-shop"}}, no, no},
		"taken and excluded":   {spec{Namespaces: []string{"prod-*"}, ExcludeNamespaces: []string{"prod-shop"}}, no, no},
		"not excluded":         {spec{ExcludeNamespaces: []string{"kube-*"}}, yes, yes},
		"pod":                  {spec{Pods: []string{"cart-*"}}, yes, yes},
		"excluded pod":         {spec{ExcludePods: []string{"cart-*"}}, no, no},
		"container":            {spec{Containers: []string{"app"}}, yes, yes},
		"other container":      {spec{Containers: []string{"sidecar"}}, no, no},
		"kind":                 {spec{ContainerKinds: []string{"initContainer", "container"}}, yes, yes},
		"other kind":           {spec{ContainerKinds: []string{"initContainer"}}, no, no},
		"owner":                {spec{OwnerKinds: []string{"Job", "ReplicaSet"}}, yes, yes},
		"no owner":             {spec{OwnerKinds: []string{"None"}}, no, no},
		"labels":               {spec{Labels: "app in (cart,pay),tier!=cache,!canary"}, yes, yes},
		"other labels":         {spec{Labels: "app=cart,tier=cache"}, no, no},
		"fields":               {spec{Fields: "spec.nodeName=node-1,metadata.name!=x"}, yes, yes},
		"other fields":         {spec{Fields: "spec.nodeName!=node-1"}, no, no},
		"phase":                {spec{Fields: "status.phase=Running"}, maybe, yes},
		"other phase":          {spec{Fields: "status.phase=Failed"}, maybe, no},
		"phase, and true":      {spec{Fields: "status.phase=Running", Expression: "pod.name != ''"}, maybe, yes},
		"field before phase":   {spec{Fields: "status.phase=Failed,spec.nodeName=node-9"}, no, no},
		"known from the start": {spec{Expression: "pod.namespace.startsWith('prod') && pod.labels['app'] == 'cart'"}, yes, yes},
		"exit code":            {spec{Expression: "container.exitCode != 0"}, maybe, yes},
		"other exit code":      {spec{Expression: "container.exitCode == 0"}, maybe, no},
		"false whatever comes": {spec{Expression: "container.exitCode != 0 && pod.namespace == 'test'"}, no, no},
		"true whatever comes":  {spec{Expression: "container.exitCode != 0 || pod.namespace == 'prod-shop'"}, yes, yes},
		"long runs":            {spec{Expression: "container.finishedAt - container.startedAt > duration('9m')"}, maybe, yes},
		"short runs":           {spec{Expression: "container.finishedAt - container.startedAt < duration('9m')"}, maybe, no},
		"pod.phase":            {spec{Expression: "pod.phase == 'Running'"}, maybe, yes},
		"owner and restart":    {spec{Expression: "pod.owner.kind == 'ReplicaSet' && container.restart > 2 && container.kind == 'container' && container.image.contains('cart')"}, yes, yes},
		"label as a field":     {spec{Expression: "pod.labels.app == 'cart' && has(pod.labels.tier) && !has(pod.labels.canary) && !('canary' in pod.labels)"}, yes, yes},
		"all labels":           {spec{Expression: "pod.labels.exists(k, k.startsWith('ti')) && pod.labels.size() == 2"}, yes, yes},
		"reason":               {spec{Expression: "container.reason in ['OOMKilled', 'Error'] && container.signal == 0"}, maybe, yes},
	} {
		t.Run(name, func(t *testing.T) {
			s := compile(t, c.spec)
			for _, at := range []struct {
				sub  *selection.Subject
				want selection.Decision
			}{{running(), c.running}, {ended(137, "OOMKilled"), c.ended}} {
				d, err := s.Match(at.sub)
				if d != at.want || err != nil {
					t.Errorf("ended %t: %v, %v, want %v", at.sub.Ended, d, err, at.want)
				}
				if e, reasons := s.Explain(at.sub); e != d || len(reasons) == 0 {
					t.Errorf("ended %t: explained as %v %v, decided %v", at.sub.Ended, e, reasons, d)
				}
			}
		})
	}
}

// What cannot be computed is taken, and told.
func TestErrorsKeepTheLog(t *testing.T) {
	for _, text := range []string{
		"pod.labels['nothing'] == 'x'",
		"container.restart / 0 == 1",
		"pod.labels.all(a, pod.labels.all(b, pod.labels.all(c, pod.labels.all(d, (a+b+c+d).matches('(x*)*y') == false))))",
	} {
		s := compile(t, selection.Spec{Expression: text})
		sub := ended(0, "Completed")
		if strings.Contains(text, "matches") {
			for i := range 60 {
				sub.Labels = append(sub.Labels, fmt.Sprintf("label-%d", i), "x")
			}
		}
		began := time.Now()
		if d, err := s.Match(sub); d != selection.Yes || err == nil {
			t.Errorf("%s: %v, %v", text, d, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %s", text, took)
		}
		if d, reasons := s.Explain(sub); d != selection.Yes || !strings.Contains(reasons[0].Text, "failed") {
			t.Errorf("%s: explained as %v %v", text, d, reasons)
		}
	}
}

func TestProblems(t *testing.T) {
	type spec = selection.Spec
	for _, c := range []struct {
		spec        spec
		field, want string // of the first problem
		offset      int
	}{
		{spec{Namespaces: []string{"ok", "Prod-*"}}, "namespaces", "did you mean prod-*", 0},
		{spec{Namespaces: []string{"a/b"}}, "namespaces", "can match no name", 1},
		{spec{Namespaces: []string{"prod.*"}}, "namespaces", "did you mean prod*", 4},
		{spec{Namespaces: []string{"[a"}}, "namespaces", "not closed", 0},
		{spec{Namespaces: []string{"[!a]"}}, "namespaces", "did you mean [^a]", 0},
		{spec{Namespaces: []string{"{a,b}"}}, "namespaces", "one entry for each", 0},
		{spec{Namespaces: []string{"!a"}}, "namespaces", "exclude", 0},
		{spec{Namespaces: []string{""}}, "namespaces", "empty", 0},
		{spec{ExcludeNamespaces: []string{"a", "*"}}, "excludeNamespaces", "nothing is ever selected", 0},
		{spec{Namespaces: []string{"a", "b*"}, ExcludeNamespaces: []string{"b*", "?"}}, "excludeNamespaces", "nothing is ever selected", 0},
		{spec{Pods: []string{"a_b"}}, "pods", "can match no name", 1},
		{spec{Containers: []string{"a.b"}}, "containers", "can match no name", 1},
		{spec{Labels: "a in"}, "labels", "no label selector", 0},
		{spec{Labels: "app=cart,app=pay"}, "labels", "did you mean app in (cart,pay)", 0},
		{spec{Labels: "app,!app"}, "labels", "contradicts itself", 0},
		{spec{Labels: "app in (a,b),app notin (a,b)"}, "labels", "contradicts itself", 0},
		{spec{Fields: "metadata.nmae=x"}, "fields", "did you mean metadata.name", 0},
		{spec{Fields: "spec.nodeName=a,status.podIP=1"}, "fields", "no field that runs", 16},
		{spec{Fields: "metadata.labels.app=x"}, "fields", "the key labels", 0},
		{spec{Fields: "spec.nodeName"}, "fields", "no field selector", 0},
		{spec{Fields: "spec.nodeName=a,spec.nodeName=b"}, "fields", "cannot be a and b", 0},
		{spec{Fields: "status.phase=Faild"}, "fields", "did you mean Failed", 0},
		{spec{OwnerKinds: []string{"Deployment"}}, "ownerKinds", "did you mean ReplicaSet", 0},
		{spec{OwnerKinds: []string{"job"}}, "ownerKinds", "did you mean Job", 0},
		{spec{ContainerKinds: []string{"init"}}, "containerKinds", "did you mean initContainer", 0},
		{spec{ContainerKinds: []string{"sidecars"}}, "containerKinds", "did you mean sidecar", 0},
		{spec{Expression: "pod.nmespace == 'a'"}, "expression", "did you mean pod.namespace", 0},
		{spec{Expression: "true && pod.metadata.labels['a'] == 'a'"}, "expression", "did you mean pod.labels", 8},
		{spec{Expression: "container.terminated.exitCode == 0"}, "expression", "did you mean container.exitCode", 0},
		{spec{Expression: "pod.spec.nodeName == 'a'"}, "expression", "did you mean pod.node", 0},
		{spec{Expression: "container.exitCode = 0"}, "expression", "did you mean ==", -1},
		{spec{Expression: "container.exitCode"}, "expression", "gives int", 0},
		{spec{Expression: "container.exitCode == '0'"}, "expression", "no matching overload", 19},
		{spec{Expression: "pod.name.matches('(')"}, "expression", "missing closing )", 0},
		{spec{Expression: "  'é' == 'é' && nothing"}, "expression", "undeclared reference to 'nothing'", 18},
		{spec{Expression: "true || " + strings.Repeat("x", 5000)}, "expression", "4096 bytes at most", 0},
		{spec{Expression: strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300)}, "expression", "", -1},
	} {
		s, problems := selection.Compile(c.spec)
		if len(problems) == 0 || s != nil {
			t.Errorf("%+v: no problem", c.spec)
			continue
		}
		p := problems[0]
		if !strings.Contains(p.Error(), c.want) || p.Field != c.field || c.offset >= 0 && p.Offset != c.offset {
			t.Errorf("%+v: %s at %d, want %q in %s at %d", c.spec, p, p.Offset, c.want, c.field, c.offset)
		}
	}
	_, problems := selection.Compile(spec{Namespaces: []string{"A", "B"}, Labels: "a in", Expression: "pod.nam == pod.nod", ContainerKinds: []string{"x"}})
	if len(problems) != 6 || problems[1].Index != 1 {
		t.Errorf("not every problem at once: %v", problems)
	}
}

func TestCovers(t *testing.T) {
	type spec = selection.Spec
	for _, c := range []struct {
		first, second spec
		want          bool
	}{
		{spec{}, spec{Namespaces: []string{"a"}}, true},
		{spec{Namespaces: []string{"*"}}, spec{Expression: "true"}, true},
		{spec{Namespaces: []string{"a"}}, spec{}, false},
		{spec{Namespaces: []string{"a*"}}, spec{Namespaces: []string{"ab", "a*"}}, true},
		{spec{Namespaces: []string{"a*"}}, spec{Namespaces: []string{"ab*"}}, false}, // it does, but that is not seen
		{spec{ExcludeNamespaces: []string{"b"}}, spec{Namespaces: []string{"a"}}, true},
		{spec{ExcludeNamespaces: []string{"b"}}, spec{Namespaces: []string{"?"}}, false},
		{spec{ExcludeNamespaces: []string{"b"}}, spec{}, false},
		{spec{ExcludeNamespaces: []string{"b"}}, spec{ExcludeNamespaces: []string{"b", "c"}}, true},
		{spec{Labels: "a=b"}, spec{Labels: "c=d, a=b"}, true},
		{spec{Labels: "a=b,c=d"}, spec{Labels: "a=b"}, false},
		{spec{Fields: "spec.nodeName=a"}, spec{Fields: "spec.nodeName=a,status.phase=Failed"}, true},
		{spec{Fields: "spec.nodeName=a"}, spec{Fields: "spec.nodeName!=a"}, false},
		{spec{OwnerKinds: []string{"Job", "Node"}}, spec{OwnerKinds: []string{"Job"}}, true},
		{spec{OwnerKinds: []string{"Job"}}, spec{}, false},
		{spec{Expression: "true"}, spec{Expression: " true"}, true},
		{spec{Expression: "true"}, spec{}, false},
	} {
		first, second := compile(t, c.first), compile(t, c.second)
		if got := first.Covers(second); got != c.want {
			t.Errorf("%+v covers %+v: %t", c.first, c.second, got)
		}
		if !first.Covers(first) { //nolint:gocritic // on purpose
			t.Errorf("%+v does not cover itself", c.first)
		}
	}
}

func TestNamespaces(t *testing.T) {
	for _, c := range []struct {
		spec selection.Spec
		want []string
		ok   bool
	}{
		{selection.Spec{}, nil, false},
		{selection.Spec{Namespaces: []string{"a", "b*"}}, nil, false},
		{selection.Spec{Namespaces: []string{"b", "a", "b"}}, []string{"a", "b"}, true},
		{selection.Spec{Namespaces: []string{"b", "a"}, ExcludeNamespaces: []string{"b?", "b"}}, []string{"a"}, true},
		{selection.Spec{Fields: "metadata.namespace=x"}, []string{"x"}, true},
		{selection.Spec{Fields: "metadata.namespace!=x"}, nil, false},
	} {
		s := compile(t, c.spec)
		if got, ok := s.Namespaces(); ok != c.ok || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v %t", c.spec, got, ok)
		}
	}
	both := selection.Exports{compile(t, selection.Spec{Namespaces: []string{"b"}}), compile(t, selection.Spec{Namespaces: []string{"a", "b"}})}
	if got, ok := both.Namespaces(); !ok || !slices.Equal(got, []string{"a", "b"}) {
		t.Error(got, ok)
	}
	if _, ok := append(both, selection.All()).Namespaces(); ok {
		t.Error("a watch of two namespaces is not enough for an export that takes everything")
	}
}

func TestLabels(t *testing.T) {
	l := selection.Labels{"a", "1", "b", ""}
	if v, ok := l.Lookup("b"); !ok || v != "" || l.Get("a") != "1" || l.Has("c") {
		t.Error(l)
	}
}

// Whatever a user writes, nothing panics, and a run that has ended gets a clear answer.
func FuzzSelection(f *testing.F) {
	f.Add("prod-*", "kube-*", "app=cart", "spec.nodeName=a", "container.exitCode != 0", "app", "cart", int32(1))
	f.Add("[a-", "{a}", "a in (b", "x", "pod.labels['x'].matches(pod.name)", "", "", int32(0))
	f.Add("", "", "", "", "pod.labels.map(k, k + pod.labels[k]).exists(x, x == 'a') ? container.exitCode > 0 : pod.nmae", "a", "b", int32(-1))
	f.Fuzz(func(t *testing.T, include, exclude, labels, fields, expr, key, value string, code int32) {
		spec := selection.Spec{Namespaces: []string{include}, ExcludeNamespaces: []string{exclude}, Labels: labels, Fields: fields, Expression: expr}
		sel, problems := selection.Compile(spec)
		for _, p := range problems {
			if p.Field == "" || p.Text == "" || p.Offset < 0 || p.Error() == "" {
				t.Errorf("%+v", p)
			}
		}
		if (sel == nil) != (len(problems) > 0) {
			t.Error(sel, problems)
		}
		if sel == nil {
			return
		}
		sub := running()
		sub.Namespace, sub.Labels = value, selection.Labels{key, value}
		before, _ := sel.Match(sub)
		sub.Ended, sub.ExitCode = true, code
		d, err := sel.Match(sub)
		if d == selection.Maybe || err != nil && d != selection.Yes {
			t.Error(d, err)
		}
		if e, _ := sel.Explain(sub); e != d {
			t.Errorf("decided %v, explained %v", d, e)
		}
		if before != selection.Maybe && before != d && err == nil {
			t.Errorf("before the end %v, after it %v", before, d)
		}
	})
}

func TestProblemIsAnError(t *testing.T) {
	var err error = &selection.Problem{Field: "labels", Text: "wrong"}
	if p := (*selection.Problem)(nil); !errors.As(err, &p) || err.Error() != "labels: wrong" {
		t.Error(err)
	}
}
