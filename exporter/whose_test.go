package exporter

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const otherUID = "0b54cd8c-0000-4000-8000-ffffffffffff"

// another puts another pod in a pod's place and tells nobody: its log is served from now on. Its container
// has not printed anything.
func (w *world) another(pod *corev1.Pod) (*corev1.Pod, *kubetest.Container) {
	w.t.Helper()
	next := pod.DeepCopy()
	c := kubetest.NewContainer(func(int) string { return "containerd://" + strings.Repeat("f", 64) })
	next.UID, next.DeletionTimestamp = otherUID, nil
	next.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	status := &next.Status.ContainerStatuses[0]
	status.ContainerID = c.ID(0)
	status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: next.CreationTimestamp}}
	w.kube.DeletePodQuietly(pod.Namespace, pod.Name)
	w.kube.SetPodQuietly(next)
	w.kube.Log(pod.Namespace, pod.Name, "app", c.Serve)
	return next, c
}

// of returns the records of a pod, snapshots among them.
func (w *world) of(uid string) (recs []*bundle.Record) {
	w.t.Helper()
	for _, rec := range w.records() {
		if rec.Pod.UID == uid {
			recs = append(recs, rec)
		}
	}
	return recs
}

// finals returns those of them that are of a run's end.
func finals(recs []*bundle.Record) (ended []*bundle.Record) {
	for _, rec := range recs {
		if !rec.State.Running {
			ended = append(ended, rec)
		}
	}
	return ended
}

// A watch breaks, a pod is deleted and made anew under its name, and a list shows only the new one. The old
// one has its record, and nothing of what the new one has written.
func TestNameTakenBetweenTwoLists(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		capture Capture
		words   string // of the old pod
		dying   bool
	}{
		"final":       {capture: CaptureFinal, words: "mine\n"},
		"live":        {capture: CaptureLive, words: "mine\n"},
		"live silent": {capture: CaptureLive},
		"dying":       {capture: CaptureFinal, words: "mine\n", dying: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &trapped{world: newWorld(t), metrics: prometheus.NewRegistry()}
			pod, c := w.pod("web-0")
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(time.Now().Add(-time.Minute).Truncate(time.Second))
			if tt.dying {
				now := metav1.Now()
				pod.DeletionTimestamp = &now
			}
			c.Print(time.Now().Add(-30*time.Second), tt.words)
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, func(o *Options) { o.Capture, o.Metrics = tt.capture, w.metrics })
			w.until("the run is known", func() bool { return e.Ready() == nil && len(w.kube.Requests("/log?")) > 0 })
			if tt.capture == CaptureLive || tt.dying {
				w.until("a stream", func() bool { return c.Following() > 0 })
			}
			_, other := w.another(pod)
			other.Print(time.Now(), "another pod's\n")
			c.Exit()
			<-time.After(3 * time.Second)
			w.kube.ExpireWatches()
			w.until("the old pod's record", func() bool { return len(finals(w.of(string(pod.UID)))) > 0 })
			recs := w.of(string(pod.UID))
			for _, rec := range recs {
				if got := w.text(rec); strings.Contains(got, "another") || rec.Verdict.Complete {
					t.Errorf("log %q, running %v, verdict %+v", got, rec.State.Running, rec.Verdict)
				}
			}
			got := w.text(finals(recs)[0])
			if want := name != "final" && tt.words != ""; strings.HasSuffix(got, " mine\n") != want {
				t.Errorf("log %q, verdict %+v", got, finals(recs)[0].Verdict)
			}
			w.account()
		})
	}
}

// A stream has brought the whole log of a pod that was deleted by force, and a controller has made the pod
// anew before the capture is sealed. What came before the new pod was made is the old one's.
func TestHeldWhenTheNameIsTaken(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("web-0")
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(time.Now().Add(-time.Minute).Truncate(time.Second))
	c.Print(time.Now().Add(-30*time.Second), "one\n")
	w.kube.SetPod(pod)
	w.run(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	w.kube.DeletePod(pod.Namespace, pod.Name)
	c.Print(time.Now(), "two\n")
	w.until("the last line is read", func() bool { return c.Following() > 0 })
	next, _ := w.another(pod)
	w.kube.SetPod(next)
	c.Exit()
	w.until("the record", func() bool { return len(w.of(string(pod.UID))) > 0 })
	rec := w.of(string(pod.UID))[0]
	if got := w.text(rec); strings.Count(got, "\n") != 2 || rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
	w.account()
}

// The status tells of a restart many seconds after it: what the kubelet serves meanwhile is the next run's.
// The kubelet still has the log of the run before, and serves it by that name.
func TestLiveVeryLateStatus(t *testing.T) {
	t.Parallel()
	for name, words := range map[string]string{"words": "mine\n", "silent": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("late")
			w.kube.SetPod(pod)
			w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, func(o *Options) { live(o); o.Metrics = w.metrics })
			w.until("a stream", func() bool { return c.Following() > 0 })
			c.Print(time.Now(), words)
			w.until("the line is read", func() bool { return c.Following() > 0 })
			w.kube.NextLogs(func(kubetest.LogHandler) kubetest.LogHandler { return unreachable }) // and is away for a moment
			c.Exit()
			exit(pod, 1)
			<-time.After(1200 * time.Millisecond) // the successor begins in a later second than this run ended
			c.Restart()
			restart(pod, c)
			c.Print(time.Now(), "my successor's\n")
			<-time.After(7 * time.Second)
			w.kube.SetPod(pod)
			w.until("the run's record", func() bool { return len(finals(w.records())) > 0 })
			for _, rec := range w.records() {
				if rec.Container.RestartCount > 0 {
					continue
				}
				if got := w.text(rec); strings.Contains(got, "successor") || words != "" && (!strings.HasSuffix(got, " mine\n") || rec.Verdict.Middle.State == bundle.Lost) {
					t.Errorf("log %q, running %v, verdict %+v, reads %+v", got, rec.State.Running, rec.Verdict, rec.Capture.Reads)
				}
			}
			w.account()
		})
	}
}

// The same for a log that is read when its run has ended: a container that has run for long restarts at once,
// however often it did before.
func TestSuccessorOfALaterRun(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("late")
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	c.Print(start.Add(-time.Hour), "my predecessor's\n")
	c.Exit()
	c.Restart()
	pod.Status.ContainerStatuses[0].RestartCount = 1
	pod.Status.ContainerStatuses[0].ContainerID = c.ID(1)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
	c.Print(start.Add(time.Second), "mine\n")
	w.kube.SetPod(pod)
	w.run(nil)
	w.until("the run is known", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
	c.Exit()
	exit(pod, 1)
	c.Restart()
	c.Print(time.Now(), "my successor's\n")
	var told atomic.Bool
	w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, r *http.Request) {
			h(rw, r)
			told.Store(true)
		}
	})
	w.kube.SetPod(pod)
	w.until("the first read", told.Load)
	rec := w.final(1)
	if got := w.text(rec); !strings.HasSuffix(got, " mine\n") || rec.Lines != 1 {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
	w.account()
}

// nextGoesOn shows that the first run has ended, as was told before, and that the next one goes on.
func nextGoesOn(c *kubetest.Container, start time.Time) func(*corev1.ContainerStatus) {
	return func(s *corev1.ContainerStatus) {
		s.LastTerminationState = s.State
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(start.Truncate(time.Second))}}
		s.RestartCount, s.ContainerID = 1, c.ID(1)
	}
}

// A busy runtime notes a container's start when that has written its first line already, or has ended. The next run has
// begun, and the status does not tell yet: what the kubelet calls the previous log is this run's, not that of one before it.
func TestFirstLineBeforeTheStart(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]time.Duration{"long after its end": 6 * time.Second, "at once": 1900 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			began := time.Now().Add(-10 * time.Second).Truncate(time.Second)
			start := began.Add(time.Second)
			c.Print(began.Add(800*time.Millisecond), firstWords)
			c.Exit()
			c.Restart()
			c.Print(began.Add(next), "another's\n")
			pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start)
			w.kube.SetPod(pod)
			w.late(3*time.Second, pod, nextGoesOn(c, began.Add(next)))
			w.start(nil)
			if rec := w.final(0); !strings.HasSuffix(w.text(rec), firstWords) || rec.Lines != 1 {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// The runtime has noted the next run's start after that had written its first line. What the kubelet calls the previous
// log begins before it, and is this run's, if no status tells in time that the next run has ended too, or that one's.
func TestNextStartsBeforeItsStart(t *testing.T) {
	t.Parallel()
	for name, third := range map[string]bool{"the next run goes on": false, "the next run has ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			end := time.Now().Add(-10 * time.Second).Truncate(time.Second)
			next := end.Add(time.Second) // began in the second before
			c.Print(end.Add(300*time.Millisecond), firstWords)
			c.Exit()
			c.Restart()
			if third {
				c.Print(end.Add(900*time.Millisecond), "another's\n")
				c.Exit()
				c.Restart()
			}
			s := &pod.Status.ContainerStatuses[0]
			s.RestartCount, s.ContainerID, s.LastTerminationState = 1, c.ID(1), crashed(c.ID(0), end, end)
			s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(next)}}
			w.kube.SetPod(pod)
			if third {
				w.late(1500*time.Millisecond, pod, func(s *corev1.ContainerStatus) {
					s.LastTerminationState = crashed(c.ID(1), next, next)
					s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(end.Add(8 * time.Second))}}
					s.RestartCount, s.ContainerID = 2, c.ID(2)
				})
			}
			w.begin(func(e *Exporter) { e.statusWait = 3 * time.Second }, nil)
			rec := w.final(0)
			if got := w.text(rec); strings.HasSuffix(got, firstWords) == third || rec.Verdict.Complete == third || strings.Contains(got, "another") {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// A container was restarted, which the status does not tell, and then its pod begins to be deleted. What was streamed is
// the first run's, and the kubelet calls it the previous log: what it serves as the current one is not taken for the rest.
func TestDyingAfterARestartThatWasNotTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c, start := w.firstStreamed()
	c.Exit()
	c.Restart()
	c.Print(start.Add(1500*time.Millisecond), "another's\n")
	w.dies(pod)
	<-time.After(time.Second)
	c.Exit()
	s := &pod.Status.ContainerStatuses[0]
	s.LastTerminationState = crashed(c.ID(0), start, start)
	s.State = crashed(c.ID(1), start.Add(time.Second), time.Now())
	s.RestartCount, s.ContainerID = 1, c.ID(1)
	w.kube.SetPod(pod)
	<-time.After(500 * time.Millisecond)
	c.Remove()
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if rec := w.final(0); !strings.HasSuffix(w.text(rec), firstWords) || rec.Lines != 1 {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The log was read whole, and before the closing read the next run has begun, which is silent. The status tells of it late;
// then the run's log is read to its end by its name.
func TestSilentNextRunBeforeClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	start := justStarted(pod)
	c.Print(start.Add(300*time.Millisecond), firstWords)
	c.Exit()
	next := start.Add(time.Second)
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, next)
	var reads atomic.Int32
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if !r.URL.Query().Has("limitBytes") && reads.Add(1) == 2 {
			c.Restart()
			w.late(1500*time.Millisecond, pod, nextGoesOn(c, next))
		}
		c.Serve(rw, r)
	})
	w.kube.SetPod(pod)
	w.start(nil)
	if rec := w.final(0); !rec.Verdict.Complete || !strings.HasSuffix(w.text(rec), firstWords) {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// A container was restarted, which the status does not tell, and its pod begins to be deleted while the node is away: no
// stream is ever opened. The log that is served then is empty, and the next run's: it proves nothing of the first one's.
func TestDyingWithoutAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("dying")
	start := justStarted(pod)
	c.Print(start.Add(300*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	w.kube.Log("shop", pod.Name, "app", unreachable)
	w.kube.SetPod(pod)
	w.start(nil)
	w.dies(pod)
	w.until("a stream is asked for", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("follow") {
			unreachable(rw, r)
			return
		}
		c.Serve(rw, r)
	})
	c.Exit()
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start.Add(time.Second))
	w.kube.SetPod(pod)
	if rec := w.final(0); rec.Verdict.Complete && !strings.HasSuffix(w.text(rec), firstWords) {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}
