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
