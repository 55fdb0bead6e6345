package exporter

import (
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A log of one line without a newline, or of one that is longer than what is read at a time, begins with
// the line that it has.
func TestHeadOfOneLine(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{"no newline": "hi", "a long line": strings.Repeat("x", 40<<10) + "\n"} {
		for _, probed := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newTrapped(t, nil)
				pod, c := w.pod("one-line")
				c.Print(time.Now(), line)
				if probed {
					w.kube.SetPod(pod)
					w.run(nil)
					w.until("a look at the first line", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
					<-time.After(50 * time.Millisecond)
				}
				c.Exit()
				exit(pod, 0)
				w.kube.SetPod(pod)
				if !probed {
					w.run(nil)
				}
				if rec := w.await(1)[0]; !rec.Verdict.Complete {
					t.Errorf("%d lines, verdict %+v", rec.Lines, rec.Verdict)
				}
				w.account()
			})
		}
	}
}

// The first look at a log brings its first bytes, which may end in the middle of its second line, or of its first
// stamp. Of a log that it has seen, what is rotated away later is known to be lost; of one that it has seen empty, what
// comes soon after is known to be its beginning.
func TestFirstLookIsCut(t *testing.T) {
	t.Parallel()
	looked := func(w *trapped, n int) {
		w.until("a first look", func() bool { return len(w.kube.Requests("limitBytes=")) >= n })
		<-time.After(100 * time.Millisecond)
	}
	for name, traps := range map[string][]kubetest.Trap{
		"in the second line": nil, "in the stamp": {kubetest.EndAfter(20, "")}, "in the stamp, and it breaks": {kubetest.BreakAfter(20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			w.kube.NextLogs(traps...)
			pod, c := w.pod("rotated")
			at := time.Now()
			c.Print(at, "boot\nnext\n")
			w.kube.SetPod(pod)
			w.run(nil)
			looked(w, 1)
			c.Rotate(at.Add(200*time.Millisecond), "")
			if traps == nil {
				c.Print(at.Add(300*time.Millisecond), "end\n")
			}
			c.Exit()
			exit(pod, 0)
			w.kube.SetPod(pod)
			if rec := w.await(1)[0]; rec.Verdict.Complete || traps == nil && rec.Verdict.Head.State != bundle.Lost {
				t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
			}
		})
	}
	t.Run("of an empty log", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, c := w.pod("late")
		running := pod.Status.ContainerStatuses[0].State.Running
		running.StartedAt.Time = running.StartedAt.Add(-3 * time.Second)
		w.kube.SetPod(pod)
		w.run(nil)
		looked(w, 1)
		c.Print(time.Now(), "boot\nnext\n")
		looked(w, 2)
		c.Exit()
		exit(pod, 0)
		w.kube.SetPod(pod)
		if rec := w.await(1)[0]; !rec.Verdict.Complete {
			t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
		}
	})
}

// A container that writes so fast that it has filled a file soon after its start has lost its first lines,
// and is known by its speed: what is fast depends on how large a file may grow.
func TestHeadOfASmallFile(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("steady")
	start := pod.Status.ContainerStatuses[0].State.Running.StartedAt.Add(-20 * time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = start
	c.Print(start.Add(10*time.Millisecond), "rotated away\n")
	c.Rotate(start.Add(1700*time.Millisecond), "")
	for at := start.Add(1800 * time.Millisecond); at.Before(start.Add(4 * time.Second)); at = at.Add(100 * time.Millisecond) {
		c.Print(at, strings.Repeat(strings.Repeat("x", 1000)+"\n", 60))
	}
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.run(func(o *Options) { o.RotateAt = 1 << 20 })
	if rec := w.await(1)[0]; rec.Verdict.Head.State != bundle.Unproven || rec.Verdict.Complete {
		t.Errorf("verdict %+v", rec.Verdict)
	}
	w.account()
}

// A container is silent for some seconds, then writes its only lines and crashes at once, before anybody looks at them
// while it runs. Its log was seen empty before, or streamed from then on.
func TestHeadOfALateFirstLine(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		capture Capture
		head    bundle.PartState
		lines   string
	}{
		"final":         {CaptureFinal, bundle.Proven, "panic\nstack\n"},
		"live":          {CaptureLive, bundle.Proven, "panic\nstack\n"},
		"final, faster": {CaptureFinal, bundle.Unproven, strings.Repeat(strings.Repeat("x", 1000)+"\n", 300)},
		"live, faster":  {CaptureLive, bundle.Unproven, strings.Repeat(strings.Repeat("x", 1000)+"\n", 300)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("late")
			w.kube.SetPod(pod)
			w.run(func(o *Options) { o.Capture, o.RotateAt = tt.capture, 256<<10 })
			w.until("a look", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 || c.Following() > 0 })
			<-time.After(nearStart + time.Second)
			c.Print(time.Now(), tt.lines)
			c.Exit()
			exit(pod, 1)
			w.kube.SetPod(pod)
			if rec := w.await(1)[0]; rec.Verdict.Head.State != tt.head || rec.Verdict.Complete != (tt.head == bundle.Proven) {
				t.Errorf("%d lines, verdict %+v, reads %+v", rec.Lines, rec.Verdict, rec.Capture.Reads)
			}
			w.account()
		})
	}
}
