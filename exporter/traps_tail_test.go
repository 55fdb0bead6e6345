package exporter

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// honest checks that a record that calls itself complete holds all of a log.
func (w *trapped) honest(log string) {
	w.t.Helper()
	rec := w.await(1)[0]
	if got := w.text(rec); rec.Verdict.Complete && got != log {
		w.t.Errorf("complete, and the log is %q, want %q: %+v", got, log, rec.Verdict)
	}
	w.account()
}

// Two reads in a row are cut cleanly, the second one later than the first: it joins exactly, brings more,
// and proves nothing about the end. Only a read that brings nothing new does.
func TestTrapTwoCutReads(t *testing.T) {
	for how, ends := range map[string][2]int{"the second brings more": {2, 3}, "the first brings nothing": {0, 2}} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, log := w.dead("cut", 5)
			size := len(log) / 5
			w.kube.NextLogs(kubetest.EndAfter(ends[0]*size, ""), kubetest.EndAfter(ends[1]*size, ""))
			w.kube.SetPod(pod)
			w.run(nil)
			w.honest(log)
		})
	}
}

// stdout and stderr are stamped apart: the very last line can carry a stamp from the second before. A
// closing read with the last stamp's second as sinceTime never sees it.
func TestTrapLateLineOfTheSecondBefore(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("two-streams")
	start := time.Now().Add(-20 * time.Second).Truncate(time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
	at := start.Add(time.Second)
	c.Print(at, "from stdout\n")
	seen := len(kubetest.Stamp(at) + " from stdout\n")
	c.Print(at.Add(-time.Microsecond), "from stderr\n")
	c.Exit()
	exit(pod, 0)
	w.kube.NextLogs(kubetest.EndAfter(seen, "")) // the last bytes are still on their way to the file
	w.kube.SetPod(pod)
	w.run(nil)
	w.honest(strings.Join([]string{
		kubetest.Stamp(at) + " from stdout\n", kubetest.Stamp(at.Add(-time.Microsecond)) + " from stderr\n",
	}, ""))
}
