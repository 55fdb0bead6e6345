package exporter

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func TestSubjects(t *testing.T) {
	yes := true
	start, end := metav1.NewTime(time.Unix(100, 0)), metav1.NewTime(time.Unix(200, 0))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cart", UID: "u", Labels: map[string]string{"app": "cart"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ConfigMap", Name: "settings"}, {Kind: "Job", Name: "nightly", Controller: &yes}},
		},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "robot"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "app", ContainerID: "containerd://2", Image: "i", RestartCount: 1,
			State:                corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: end}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://1", ExitCode: 137, Signal: 9, Reason: "OOMKilled", StartedAt: start, FinishedAt: end}},
		}}},
	}
	both := selection.Subject{
		Namespace: "shop", Pod: "cart", UID: "u", Node: "n1", OwnerKind: "Job", OwnerName: "nightly", ServiceAccount: "robot",
		Labels: selection.Labels{"app", "cart"}, Phase: "Running", Container: "app", ContainerKind: "container", Image: "i",
	}
	now, before := both, both
	now.Restart, now.StartedAt = 1, end.Time
	before.StartedAt, before.Ended, before.ExitCode, before.Signal, before.Reason, before.FinishedAt = start.Time, true, 137, 9, "OOMKilled", end.Time
	if diff := cmp.Diff([]selection.Subject{now, before}, Subjects(pod)); diff != "" {
		t.Error(diff)
	}
	pod.OwnerReferences = pod.OwnerReferences[:1] // which is no controller
	now.OwnerKind, now.OwnerName, before.OwnerKind, before.OwnerName = "", "", "", ""
	if diff := cmp.Diff([]selection.Subject{now, before}, Subjects(pod)); diff != "" {
		t.Error(diff)
	}
	p := infoOf(pod)
	known, v := entryOf(&run{view: p.runs[0], pod: &podState{pod: p}}, p).run() // by the next process
	if s := subjectOf(known, v); s.OwnerKind != "" {
		t.Errorf("the ledger says that %s %s is the controller", s.OwnerKind, s.OwnerName)
	}
}

// Selections and records have the same words for the kinds of containers.
func TestKindsAreTheRecords(t *testing.T) {
	for _, kind := range []bundle.ContainerType{bundle.TypeContainer, bundle.TypeInit, bundle.TypeSidecar, bundle.TypeEphemeral} {
		if !slices.Contains(selection.Kinds(), string(kind)) {
			t.Error(kind)
		}
	}
}

// The first export that does not say No decides, also one that cannot say yet: until the run's end its log is read as
// that one wants.
func TestFirstExportDecides(t *testing.T) {
	t.Parallel()
	e := newWorld(t).exporter(nil)
	defer e.Close() //nolint:errcheck // nothing is in the spool
	crashes := Export{Name: "crashes", Select: selects(t, selection.Spec{Expression: "container.exitCode != 0"})}
	shop := Export{Name: "shop", Select: selects(t, selection.Spec{Namespaces: []string{"shop"}})}
	other := Export{Name: "other", Select: selects(t, selection.Spec{Namespaces: []string{"other"}})}
	broken := Export{Name: "broken", Select: selects(t, selection.Spec{Expression: "pod.labels['nothing'] == ''"})}
	running := moment{pod: &podInfo{namespace: "shop", name: "cart"}}
	good, bad := running, running
	good.term, bad.term = &corev1.ContainerStateTerminated{}, &corev1.ContainerStateTerminated{ExitCode: 1}
	for _, c := range []struct {
		exports []Export
		m       moment
		want    string
		d       selection.Decision
	}{
		{nil, running, "", selection.No},
		{[]Export{other}, running, "", selection.No},
		{[]Export{other, shop, {Name: "all"}}, running, "shop", selection.Yes},
		{[]Export{crashes, shop}, running, "crashes", selection.Maybe}, // although shop says yes
		{[]Export{crashes, shop}, bad, "crashes", selection.Yes},
		{[]Export{crashes, shop}, good, "shop", selection.Yes},
		{[]Export{crashes, other}, good, "", selection.No},
		{[]Export{other, broken, shop}, running, "broken", selection.Yes},
	} {
		list, err := newExports(c.exports)
		if err != nil {
			t.Fatal(err)
		}
		x, d := e.decide(list, &run{}, c.m, func(*Export) selection.Decision { return selection.Yes })
		if d != c.d || (x == nil) != (c.want == "") || x != nil && x.Name != c.want {
			t.Errorf("%v: %v %s, want %s %s", c.exports, x, d, c.want, c.d)
		}
	}
}
