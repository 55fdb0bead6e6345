package exporter

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func id(n string) string { return "containerd://" + n + "00112233445566778899aabbccddeeff" }

func terminated(containerID string) *corev1.ContainerStateTerminated {
	end := metav1.NewTime(time.Now().Truncate(time.Second))
	return &corev1.ContainerStateTerminated{ContainerID: id(containerID), ExitCode: 1, Reason: "Error",
		StartedAt: metav1.NewTime(end.Add(-time.Second)), FinishedAt: end}
}

// The rules of kubelet_pods.go validateContainerLogStatus, one status each.
func TestViews(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	backOff := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	type want struct {
		id      string
		restart int32
		slot    slot
		ended   bool
	}
	tests := map[string]struct {
		status corev1.ContainerStatus
		want   []want
	}{
		"never started": {corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}, nil},
		"running":       {corev1.ContainerStatus{State: running, ContainerID: id("a")}, []want{{"a", 0, slotCurrent, false}}},
		"finished":      {corev1.ContainerStatus{State: corev1.ContainerState{Terminated: terminated("a")}, ContainerID: id("a")}, []want{{"a", 0, slotCurrent, true}}},
		"restarted": {corev1.ContainerStatus{State: running, ContainerID: id("b"), RestartCount: 3,
			LastTerminationState: corev1.ContainerState{Terminated: terminated("a")}},
			[]want{{"b", 3, slotCurrent, false}, {"a", 2, slotPrevious, true}}},
		"back-off: the count is the dead run's own": {corev1.ContainerStatus{State: backOff, ContainerID: id("a"), RestartCount: 3,
			LastTerminationState: corev1.ContainerState{Terminated: terminated("a")}},
			[]want{{"a", 3, slotPrevious, true}}},
		"died again": {corev1.ContainerStatus{State: corev1.ContainerState{Terminated: terminated("b")}, ContainerID: id("b"), RestartCount: 1,
			LastTerminationState: corev1.ContainerState{Terminated: terminated("a")}},
			[]want{{"b", 1, slotCurrent, true}, {"a", 0, slotPrevious, true}}},
		"never ran: terminated without an ID": {corev1.ContainerStatus{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.status.Name = "app"
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{tt.status}}}
			got := views(pod)
			if len(got) != len(tt.want) {
				t.Fatalf("%d views: %+v", len(got), got)
			}
			for i, w := range tt.want {
				if g := got[i]; g.id != (runID{"u", "app", id(w.id)}) || g.restart != w.restart || g.slot != w.slot || (g.term != nil) != w.ended {
					t.Errorf("view %d: %+v, want %+v", i, g, w)
				}
			}
		})
	}
}

func TestContainerTypes(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	status := func(name, cid string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: name, ContainerID: id(cid), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "setup"}, {Name: "proxy", RestartPolicy: &always}}},
		Status: corev1.PodStatus{
			InitContainerStatuses:      append(status("setup", "a"), status("proxy", "b")...),
			ContainerStatuses:          status("app", "c"),
			EphemeralContainerStatuses: status("debug", "d"),
		},
	}
	small, err := slim(pod)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bundle.ContainerType{"setup": bundle.TypeInit, "proxy": bundle.TypeSidecar, "app": bundle.TypeContainer, "debug": bundle.TypeEphemeral}
	got := small.(*podInfo).runs //nolint:forcetypeassert // slim of a pod is a podInfo
	if len(got) != len(want) {
		t.Fatalf("%d views", len(got))
	}
	for _, v := range got {
		if v.kind != want[v.id.container] {
			t.Errorf("%s is a %s", v.id.container, v.kind)
		}
	}
}
