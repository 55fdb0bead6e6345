package exporter

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A container whose end the kubelet has not seen has no time of its end. It has one record all the same, however
// often an exporter starts, and on whatever day.
func TestEndWithoutATime(t *testing.T) {
	t.Parallel()
	soon := func(e *Exporter) { e.lostAfter = time.Second }
	for name, lines := range map[string]bool{"with a log": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("unknown")
			created := time.Now().AddDate(0, 0, -5).Truncate(time.Second)
			pod.CreationTimestamp = metav1.NewTime(created)
			pod.Status.Phase = corev1.PodFailed
			want := created
			if lines {
				want = created.AddDate(0, 0, 2)
				c.Print(want, "words\n")
			} else {
				c.Remove()
			}
			c.Exit()
			status := &pod.Status.ContainerStatuses[0]
			status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}
			w.kube.SetPod(pod)
			w.begin(soon, nil)
			rec := w.await(1)[0]
			if end := rec.State.FinishedAt; !rec.State.FinishedAtEstimated || !end.Equal(want) {
				t.Errorf("end %v, want %v", end, want)
			}
			w.stop()
			c.Remove()
			w.begin(soon, nil)
			<-time.After(2500 * time.Millisecond)
			if n := len(w.records()); n != 1 {
				t.Errorf("%d records after another start", n)
			}
		})
	}
}
