package exporter

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// The pod was replaced by another one of its name before the first read, which the watch does not tell yet: that one has
// no previous log either.
func TestNamesakeAtTheFirstRead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		phase corev1.PodPhase
		words string
	}{
		"running": {corev1.PodRunning, "another's\n"}, "running, silent": {corev1.PodRunning, ""},
		"failed": {corev1.PodFailed, "another's\n"}, "failed, silent": {corev1.PodFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if rec := w.namesake(tt.phase, tt.words, func() {}); rec.Verdict.Complete || w.text(rec) != "" {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// namesake lets a pod be replaced when its log is asked for first, by one whose log has these words, and returns the
// record of the first one.
func (w *world) namesake(phase corev1.PodPhase, words string, replaced func()) *bundle.Record {
	w.t.Helper()
	pod, c := w.pod("web-0")
	end := time.Now().Truncate(time.Second).Add(-time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	pod.Status.Phase = phase
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), end, end)
	var once sync.Once
	var other *kubetest.Container
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		once.Do(func() {
			replaced()
			_, other = w.another(pod)
			other.Print(end.Add(700*time.Millisecond), words)
		})
		other.Serve(rw, r)
	})
	w.kube.SetPod(pod)
	w.start(nil)
	w.until("the record", func() bool { return len(finals(w.of(string(pod.UID)))) > 0 })
	return finals(w.of(string(pod.UID)))[0]
}

// hasFirst checks that the record of the first run has its words.
func (w *world) hasFirst(restart int32) {
	w.t.Helper()
	if rec := w.final(restart); !strings.HasSuffix(w.text(rec), firstWords) {
		w.t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The first run's log was read in its back-off. The status comes late and tells of the second run's at once.
func TestStatusLateByABackOffAndARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	end := time.Now().Truncate(time.Second).Add(-time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	s := &pod.Status.ContainerStatuses[0]
	s.State = crashed(c.ID(0), end, end)
	w.kube.Log("shop", pod.Name, "app", inBackOff(c))
	w.kube.SetPod(pod)
	time.AfterFunc(4*time.Second, func() {
		c.Restart()
		c.Print(time.Now(), "another's\n")
		c.Exit()
		nextBacksOff(c, time.Now())(s)
		w.kube.SetPod(pod)
	})
	w.start(nil)
	w.hasFirst(0)
}

// The run's log was read by name, and read to its end; after that the next run, silent, ends and takes its place.
func TestReadByNameIsEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	end := time.Now().Truncate(time.Second).Add(-2 * time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	s := &pod.Status.ContainerStatuses[0]
	s.State = crashed(c.ID(0), end, end)
	restart(pod, c)
	s.State.Running.StartedAt = metav1.NewTime(end)
	var reads atomic.Int64
	var over atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if over.Load() {
			inBackOff(c)(rw, r)
			return
		}
		c.Serve(rw, r)
		if q := r.URL.Query(); q.Get("previous") == "true" && !q.Has("limitBytes") && reads.Add(1) == 2 {
			over.Store(true)
		}
	})
	w.kube.SetPod(pod)
	w.start(nil)
	w.hasFirst(0)
}

// What was read is the second run's. The status tells of that one after it was waited for, when a third one has begun.
func TestOtherLogProvesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	end := time.Now().Truncate(time.Second).Add(-3 * time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	c.Print(end.Add(700*time.Millisecond), "another's\n")
	c.Exit()
	s := &pod.Status.ContainerStatuses[0]
	s.State = crashed(c.ID(0), end, end)
	var reads atomic.Int64
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("previous") != "true" && !q.Has("limitBytes") && reads.Add(1) == 2 {
			c.Restart()
			c.Print(time.Now(), "a third one's\n")
			w.kube.Log("shop", pod.Name, "app", c.Serve)
			w.late(300*time.Millisecond, pod, func(s *corev1.ContainerStatus) {
				restart(pod, c)
				s.State.Running.StartedAt = metav1.NewTime(end)
			})
			c.Serve(rw, r)
			return
		}
		inBackOff(c)(rw, r)
	})
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.statusWait = time.Second }, nil)
	w.ofFirst(0)
}

// The second run's log is the previous one, the third one has begun and is silent, and the status tells late.
func TestSilentAfterAShortRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	id := before(pod, c, 1)
	end := time.Now().Truncate(time.Second).Add(-3 * time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	pod.Status.ContainerStatuses[0].State = crashed(id, end, end)
	w.kube.SetPod(pod)
	w.late(4*time.Second, pod, func(s *corev1.ContainerStatus) {
		restart(pod, c)
		s.State.Running.StartedAt = metav1.NewTime(end.Add(2 * time.Second))
	})
	w.start(nil)
	w.hasFirst(1)
}

// A container has ended an hour ago, silent as the run before it: no status is late for so long.
func TestExportOfASilentRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("silent")
	c.Exit()
	c.Restart()
	c.Exit()
	long := time.Now().Add(-time.Hour)
	s := &pod.Status.ContainerStatuses[0]
	s.RestartCount, s.ContainerID = 1, c.ID(1)
	s.LastTerminationState = crashed(c.ID(0), long, long)
	s.State = crashed(c.ID(1), long, long)
	w.kube.SetPod(pod)
	e := w.exporter(nil)
	defer e.Close() //nolint:errcheck // the end of the test
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	begun := time.Now()
	if err := e.Export(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > e.statusWait/2 {
		t.Errorf("the export took %s", took)
	}
}

// As in TestStatusLateUnderAStreamOfTheNextRun, but the status that tells of the next run comes after the closing read.
func TestStreamOfTheNextRun(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		refused bool // the kubelet cannot be asked after the closing read, and the pod shows the next run's back-off
	}{"told late": {}, "refused": {true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("late")
			s := &pod.Status.ContainerStatuses[0]
			start := justStarted(pod)
			w.kube.SetPod(pod)
			c.Print(start.Add(300*time.Millisecond), firstWords)
			c.Exit()
			c.Restart()
			c.Print(start.Add(700*time.Millisecond), "another's\n")
			w.begin(func(e *Exporter) {
				if tt.refused {
					e.statusWait = time.Second
				}
			}, live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			waits := nextBacksOff(c, start)
			var closed atomic.Bool
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); tt.refused && closed.Load() {
					unreachable(rw, r)
				} else if inBackOff(c)(rw, r); tt.refused && !q.Has("follow") && !q.Has("limitBytes") && !closed.Swap(true) {
					waits(s)
					w.kube.SetPodQuietly(pod)
				}
			})
			s.State = crashed(c.ID(0), start, start)
			w.kube.SetPod(pod)
			c.Exit()
			if !tt.refused {
				w.late(3*time.Second, pod, waits)
			}
			w.ofFirst(0)
		})
	}
}
