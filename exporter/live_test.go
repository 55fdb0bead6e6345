package exporter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func live(o *Options) { o.Capture = CaptureLive }

// until waits for a condition, and fails the test if it does not come true.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			w.t.Fatalf("%s did not come true in %s", what, patience)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// A log that is followed from the start survives a force deletion whole.
func TestLiveForceDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("forced")
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "one\n")
	w.kube.DeletePod(pod.Namespace, pod.Name)
	c.Print(time.Now(), "two\n")
	c.Exit()
	rec := w.await(1)[0]
	if got := w.text(rec); strings.Count(got, "\n") != 2 {
		t.Errorf("log %q", got)
	}
	if rec.Capture.Policy != "live" || rec.Verdict.Tail.State == bundle.Proven {
		t.Errorf("record %+v", rec)
	}
}

// A container that restarts is followed run by run, and each run's log is its own.
func TestLiveRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	w.kube.SetPod(pod)
	w.start(live)
	for run := range 3 {
		w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > run })
		c.Print(time.Now(), fmt.Sprintf("run %d\nmore\n", run))
		c.Exit()
		exit(pod, 1)
		w.kube.SetPod(pod)
		w.await(run + 1)
		c.Restart()
		restart(pod, c)
		w.kube.SetPod(pod)
	}
	for _, rec := range w.await(3) {
		if want := fmt.Sprintf(" run %d\n", rec.Container.RestartCount); !strings.Contains(w.text(rec), want) || rec.Lines != 2 {
			t.Errorf("restart %d has the log %q", rec.Container.RestartCount, w.text(rec))
		}
		if !rec.Verdict.Complete {
			t.Errorf("restart %d: verdict %+v, reads %+v", rec.Container.RestartCount, rec.Verdict, rec.Capture.Reads)
		}
	}
}

// A long run is stored in segments while it goes on; its record names them all, and no line is missing
// or doubled.
func TestLiveSegments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("long")
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, live)
	for n := range 4 {
		c.Print(time.Now(), fmt.Sprintf("line %d\nhalf", n))
		w.until("a segment", func() bool { return len(w.records()) > n })
		c.Print(time.Now(), " of a line\n")
	}
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	var final *bundle.Record
	w.until("the run's record", func() bool {
		for _, rec := range w.records() {
			if !rec.State.Running {
				final = rec
			}
		}
		return final != nil
	})
	text := w.text(final)
	for n := range 4 {
		if strings.Count(text, fmt.Sprintf(" line %d\n", n)) != 1 {
			t.Errorf("line %d is not there once in %q", n, text)
		}
	}
	if len(final.Objects) < 4 || !final.Verdict.Complete {
		t.Errorf("%d objects, verdict %+v", len(final.Objects), final.Verdict)
	}
}

// What was followed is kept when the exporter stops while the container goes on.
func TestLiveStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("stopped")
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "before\n")
	<-time.After(100 * time.Millisecond)
	begin := time.Now()
	w.stop()
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it took %s to stop", d)
	}
	rec := w.await(1)[0]
	if !rec.State.Running || rec.Lines != 1 || rec.Verdict.Tail.Cause != bundle.CauseStillRunning {
		t.Errorf("record %+v", rec)
	}
}

// Beyond the streams that a node may serve, logs are read every now and then, and nothing is missing.
func TestLiveBeyondTheNodesLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pods := make(map[string]*corev1.Pod)
	var logs []*kubetest.Container
	for _, name := range []string{"a", "bb", "ccc"} {
		pod, c := w.pod(name)
		c.Print(time.Now(), "first\n")
		w.kube.SetPod(pod)
		pods[name], logs = pod, append(logs, c)
	}
	w.start(func(o *Options) { live(o); o.NodeFollows = 2 })
	w.until("three reads", func() bool { return len(w.kube.Requests("/log?")) >= 3 })
	if n := len(w.kube.Requests("follow=true")); n != 2 {
		t.Errorf("%d streams on one node", n)
	}
	for _, c := range logs {
		c.Exit()
	}
	for _, pod := range pods {
		exit(pod, 0)
		w.kube.SetPod(pod)
	}
	for _, rec := range w.await(3) {
		if rec.Lines != 1 {
			t.Errorf("%s: %d lines", rec.Pod.Name, rec.Lines)
		}
	}
}

// The status tells of a restart only after the stream was opened again, and brought the successor's
// log: nothing of it gets into the log of the run before.
func TestLiveLateStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("late")
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "mine\n")
	c.Exit()
	exit(pod, 1)
	<-time.After(1200 * time.Millisecond) // the successor begins in a later second than this run ended
	c.Restart()
	restart(pod, c)
	c.Print(time.Now(), "my successor's\n")
	w.until("a second stream", func() bool { return len(w.kube.Requests("follow=true")) > 1 })
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " mine\n") || rec.Lines != 1 || rec.Verdict.Middle.State != bundle.Proven {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
}

// The kubelet ends every stream after four hours, so streams are renewed before; no line is missing or
// doubled where they meet, and none is cut.
func TestLiveRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("eternal")
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.renewAfter = 30 * time.Millisecond }, live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	for n := range 60 {
		c.Print(time.Now(), fmt.Sprintf("line %d.\n", n))
		<-time.After(5 * time.Millisecond)
	}
	w.until("five streams, however busy the machine is", func() bool { return len(w.kube.Requests("follow=true")) >= 5 })
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	for n := range 60 {
		if strings.Count(w.text(rec), fmt.Sprintf(" line %d.\n", n)) != 1 {
			t.Errorf("line %d is not there once", n)
		}
	}
	if rec.Lines != 60 || !rec.Verdict.Complete {
		t.Errorf("%d lines, verdict %+v", rec.Lines, rec.Verdict)
	}
}
