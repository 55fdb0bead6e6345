package exporter

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Cases that TestLifecycles came upon.

// A pod that somebody else has seen before Run has read the ledger panics nobody.
func TestObservedBeforeTheLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("early")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	e := w.exporter(live)
	defer e.Close() //nolint:errcheck // a test
	if err := e.ObservePod(t.Context(), pod, false); err != nil {
		t.Error(err)
	}
	if err := e.Look(t.Context(), pod.Namespace, pod.Name, false); err == nil {
		t.Error("a look before that is no error")
	}
}

// A stream that is certain to go on, after a hole, and is refused from then on is not asked for without a pause, and
// ends when the exporter stops.
func TestCertainStreamIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("hole")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	<-time.After(200 * time.Millisecond)
	_, later := w.pod("later") // its log does not continue what is held
	later.Print(time.Now().Add(time.Second), "later\n")
	var away atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case away.Load():
			kubetest.Unreachable()(nil)(rw, r)
		case r.URL.Query().Get("previous") == "true":
			away.Store(true)
			kubetest.Status(rw, http.StatusBadRequest, "BadRequest", "", `previous terminated container "app" in pod not found`)
		default:
			later.Serve(rw, r)
		}
	})
	before := len(w.kube.Requests("follow=true"))
	c.Exit()
	w.until("it to be certain", away.Load)
	<-time.After(2 * time.Second)
	if n := len(w.kube.Requests("follow=true")) - before; n > 30 {
		t.Errorf("%d streams were asked for in 2 s", n)
	}
}

// The container restarts at once, the status tells of it late, and the look at the previous log breaks: what was read is
// the next run's.
func TestStatusLateAndNoGlimpse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	end := time.Now().Truncate(time.Second).Add(-3 * time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), end, end)
	c.Restart()
	c.Print(end.Add(700*time.Millisecond), "another's\n")
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("previous") == "true" && q.Get("limitBytes") != "" {
			kubetest.BreakAfter(10)(c.Serve)(rw, r)
			return
		}
		c.Serve(rw, r)
	})
	w.kube.SetPod(pod)
	w.late(6*time.Second, pod, func(*corev1.ContainerStatus) { restart(pod, c) })
	w.start(nil)
	w.ofFirst(0)
}

// A log that was cut, for the spool was full, is not complete by being put through the rules of the export that its end
// has shown.
func TestCutThenRewritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var full atomic.Bool
	pod, c := w.pod("cut")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	w.begin(withRoom(&full), redacting(t, Export{Capture: CaptureLive, Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})}))
	w.until("a stream", func() bool { return c.Following() > 0 })
	w.endWithoutRoom(&full, pod, c)
	w.notCut()
}

// Nor by being put behind what is stored.
func TestCutThenRejoined(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var full atomic.Bool
	pod, c := w.pod("cut")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	<-time.After(100 * time.Millisecond)
	w.stop()
	w.await(1)
	store := &absent{Bucket: w.bucket}
	store.away.Store(true)
	w.begin(withRoom(&full), func(o *Options) { live(o); o.Bucket = store })
	w.until("another stream", func() bool { return c.Following() > 0 })
	w.endWithoutRoom(&full, pod, c)
	<-time.After(2 * time.Second)
	full.Store(false)
	store.away.Store(false)
	w.notCut()
}

// endWithoutRoom lets a container write its second line, and end, when there is no room for more.
func (w *world) endWithoutRoom(full *atomic.Bool, pod *corev1.Pod, c *kubetest.Container) {
	<-time.After(100 * time.Millisecond)
	full.Store(true)
	<-time.After(2 * askFree)
	c.Print(time.Now(), "two\n")
	c.Exit()
	exit(pod, 3)
	w.kube.SetPod(pod)
}

// notCut checks that the record does not call a log complete that was cut.
func (w *world) notCut() {
	w.t.Helper()
	if rec := w.final(0); w.words(rec) != "one two" && rec.Verdict.Complete {
		w.t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
	}
}

func withRoom(full *atomic.Bool) func(*Exporter) {
	return func(e *Exporter) {
		e.space.freeBytes = func() (int64, error) {
			if full.Load() {
				return 0, nil
			}
			return 1 << 40, nil
		}
	}
}

// A run that had ended when it was first seen is not forgotten: the exporter stops before it could be read, and the pod
// is gone before the next one starts.
func TestSeenDeadThenVanished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("dead")
	c.Print(time.Now(), "one\n")
	c.Exit()
	exit(pod, 1)
	w.kube.Log("shop", pod.Name, "app", kubetest.Unreachable()(nil))
	w.kube.SetPod(pod)
	w.start(func(o *Options) { o.Grace = 10 * time.Millisecond })
	w.until("a request", func() bool { return len(w.kube.Requests("/log?")) > 0 })
	<-time.After(200 * time.Millisecond)
	w.stop()
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.start(nil)
	if rec := w.await(1)[0]; rec.Verdict.Head.State != bundle.Lost {
		t.Errorf("verdict %+v", rec.Verdict)
	}
}

// A one-off export that goes on with what was stored, and for which the spool becomes full in the middle, ends when it
// is told to.
func TestExportEndsWhileTheSpoolIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("p")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	e := w.synced(nil)
	if err := e.Sweep(t.Context(), "all"); err != nil {
		t.Fatal(err)
	}
	w.await(1)
	w.stop()
	var full atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		full.Store(true)
		<-time.After(2 * askFree)
		c.Serve(rw, r)
	})
	c.Print(time.Now(), "two\n")
	e = w.exporter(nil)
	withRoom(&full)(e)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = e.Export(ctx); close(done) }()
	w.until("the log is asked for", full.Load)
	<-time.After(4 * askFree)
	cancel()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it goes on 5 s after it was told to end")
		full.Store(false)
		<-done
	}
	_ = e.Close()
}

// A sweep is served the next run's log, for the status tells late of a restart, and once more restarts the container
// before that is told: what the kubelet calls the previous log goes on where the snapshot ends, and is not this run's.
func TestSweepOfTheNextRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	end := time.Now().Truncate(time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = end
	c.Print(end.Add(200*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	c.Print(end.Add(700*time.Millisecond), "another's\n")
	w.kube.SetPod(pod)
	e := w.synced(nil)
	if err := e.Sweep(t.Context(), "all"); err != nil {
		t.Fatal(err)
	}
	for _, rec := range w.records() {
		t.Errorf("a snapshot of restart %d: log %q", rec.Container.RestartCount, w.text(rec))
	}
	c.Exit()
	c.Restart()
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), end, end)
	restart(pod, c)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = end
	w.kube.SetPod(pod)
	w.ofFirst(0)
}

// A pod begins to die while a step runs that has chosen already when the next one is due.
func TestHurriedWhileAStepRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, _ := w.pod("late")
	w.kube.SetPod(pod)
	e := w.synced(nil)
	var r *run
	w.until("the run to be known", func() bool {
		runs := e.tracker.running()
		if len(runs) > 0 {
			r = runs[0]
		}
		return r != nil
	})
	c, ran := &capture{steps: steps{queue: e.queue, busy: true}, e: e, run: r}, make(chan struct{})
	c.hurry(prioDying)
	c.next(prioLive, time.Now().Add(time.Hour), func(context.Context) { close(ran) })
	select {
	case <-ran:
	case <-time.After(20 * time.Second):
		t.Error("the next step waits")
	}
}
