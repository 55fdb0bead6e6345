package exporter

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// setBack prints to a log while the node's clock is set back by ten seconds, and once more when it has caught up.
func setBack(c *kubetest.Container, now time.Time) {
	c.Print(now.Add(-10*time.Second), "hidden\n")
	c.Print(now.Add(time.Second), "last\n")
}

// No read with sinceTime brings what was written after the node's clock was set back. However a log was put
// together, it is not complete without those lines.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]func(w *world, pod *corev1.Pod, c *kubetest.Container){
		"polled": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			w.begin(func(e *Exporter) { e.nodes.live = 0 }, live)
			w.until("a poll", func() bool { return len(w.kube.Requests("/log?")) > 0 })
			<-time.After(50 * time.Millisecond)
			setBack(c, time.Now())
			ends(w, pod, c)
		},
		"resumed": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			w.start(live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			<-time.After(50 * time.Millisecond)
			w.stop()
			setBack(c, time.Now())
			w.start(live)
			w.until("a further stream", func() bool { return c.Following() > 0 })
			<-time.After(50 * time.Millisecond)
			ends(w, pod, c)
		},
		"resumed at its end": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			w.start(live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			<-time.After(50 * time.Millisecond)
			w.stop()
			setBack(c, time.Now())
			ends(w, pod, c)
			w.start(live)
		},
		"a stream of a dying pod broke": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			w.kube.NextLogs(kubetest.EndAfter(len(kubetest.Stamp(time.Now())+" first\n"), ""))
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.start(nil)
			w.until("the first stream to break", func() bool { return w.kube.Traps() == 0 })
			setBack(c, time.Now())
			ends(w, pod, c)
		},
		"a read was cut": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			setBack(c, time.Now())
			w.kube.NextLogs(kubetest.EndAfter(len(kubetest.Stamp(time.Now())+" first\n"), ""))
			ends(w, pod, c)
			w.start(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("clock")
			c.Print(time.Now(), "first\n")
			w.kube.SetPod(pod)
			tt(w, pod, c)
			rec := w.final(0)
			if got := w.words(rec); rec.Verdict.Complete && got != "first hidden last" {
				t.Errorf("complete, and the log is %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

func ends(w *world, pod *corev1.Pod, c *kubetest.Container) {
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
}

// A long log that goes on in another process is complete, and is not if the clock was set back meanwhile: it is
// counted, because only its end is known line by line.
func TestClockSetBackInALongLog(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"not set": false, "set back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("clock")
			now := time.Now()
			c.Print(now, "first\n")
			w.kube.SetPod(pod)
			big := func(o *Options) { live(o); o.RotateAt = 10 << 20 }
			w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, big)
			for i := range 8 {
				w.until("a segment", func() bool { return len(w.records()) > i })
				c.Print(now.Add(time.Duration(2+i)*time.Second), strings.Repeat(strings.Repeat("x", 999)+"\n", 200))
			}
			w.until("a segment", func() bool { return len(w.records()) > 8 })
			w.stop()
			if back {
				c.Print(now, "hidden\n")
			}
			w.start(big)
			w.until("a further stream", func() bool { return c.Following() > 0 })
			c.Print(now.Add(20*time.Second), "last\n")
			ends(w, pod, c)
			rec := w.final(0)
			want := bundle.Proven
			if back {
				want = bundle.Unproven
			}
			if counted := rec.Capture.Reads[len(rec.Capture.Reads)-1].Method == "recount"; !counted || rec.Verdict.Middle.State != want || rec.RawBytes < wholeAlways {
				t.Errorf("%d bytes, verdict %+v, reads %+v", rec.RawBytes, rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}
