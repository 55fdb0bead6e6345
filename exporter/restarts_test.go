package exporter

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Every run that the kubelet still has is archived once, whatever slot it is in.
func TestRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("crash")
	w.start(nil)
	for run := range 4 {
		c.Print(time.Now(), fmt.Sprintf("run %d\n", run))
		c.Exit()
		exit(pod, 1)
		w.kube.SetPod(pod)
		w.await(run + 1)
		c.Restart()
		restart(pod, c)
		w.kube.SetPod(pod)
	}
	recs := w.await(4)
	for _, rec := range recs {
		if want := fmt.Sprintf("run %d\n", rec.Container.RestartCount); !strings.HasSuffix(w.text(rec), want) {
			t.Errorf("restart %d has the log %q", rec.Container.RestartCount, w.text(rec))
		}
	}
	if len(recs) != 4 {
		t.Errorf("%d records", len(recs))
	}
}

// A run that restarted before it was read is read with previous, not mistaken for its successor.
func TestRestartedBeforeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("quick")
	c.Print(time.Now(), "first\n")
	c.Exit()
	exit(pod, 1)
	c.Restart()
	c.Print(time.Now(), "second\n")
	restart(pod, c)
	w.kube.SetPod(pod)
	w.start(nil)
	rec := w.await(1)[0]
	if !strings.HasSuffix(w.text(rec), " first\n") || rec.Container.RestartCount != 0 {
		t.Errorf("restart %d: %q", rec.Container.RestartCount, w.text(rec))
	}
}

// The container restarts between the request and the look at the status: what came is the
// successor's log and must not be stored as the dead run's.
func TestRestartWhileReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("swap")
	c.Print(time.Now(), "first\n")
	c.Exit()
	exit(pod, 1)
	c.Restart()
	c.Print(time.Now().Add(5*time.Second), "second\n")
	w.kube.SetPod(pod) // the status still shows the dead run as current
	var once sync.Once
	w.kube.Log("shop", "swap", "app", func(rw http.ResponseWriter, r *http.Request) {
		c.Serve(rw, r)
		once.Do(func() {
			restart(pod, c)
			w.kube.SetPod(pod)
		})
	})
	w.start(nil)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " first\n") || strings.Contains(got, "second") {
		t.Errorf("log %q", got)
	}
}

// The first crash is followed by the second at once, and the kubelet removes the first one's log between
// the read and the closing read. The kubelet's own sentence says whose log it was, so it is kept.
func TestRemovedBeforeClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("instant")
	start := time.Now()
	var mu sync.Mutex
	reads := 0
	w.kube.Log("shop", "instant", "app", func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Query().Get("previous") == "true" && reads < 2 {
			kubetest.Status(rw, http.StatusInternalServerError, "InternalError", "", "not now") // so that it decides nothing
			return
		}
		if reads++; reads == 1 {
			_, _ = io.WriteString(rw, kubetest.Stamp(start)+" boot\n")
			return
		}
		if reads == 2 {
			restart(pod, c)
			w.kube.SetPod(pod)
		}
		_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
	})
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.statusWait = time.Second }, nil)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " boot\n") || rec.Container.RestartCount != 0 {
		t.Errorf("restart %d, log %q, verdict %+v", rec.Container.RestartCount, got, rec.Verdict)
	}
	if rec.Verdict.Complete {
		t.Errorf("complete without a closing read: %+v", rec.Verdict)
	}
}

// The kubelet has started the second run before its status tells of the first one's end: the first
// read is the second run's, and the first one's log is the previous one.
func TestSuccessorAnswersFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("ahead")
	c.Print(time.Now(), "first\n")
	exit(pod, 1)
	w.kube.SetPod(pod)
	c.Exit()
	c.Restart()
	c.Print(time.Now(), "second\n")
	w.start(nil)
	w.until("the probe", func() bool { return len(w.kube.Requests("previous=true")) > 0 })
	restart(pod, c)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " first\n") || rec.Lines != 1 || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
}

// The closing read already brings the successor's log, and the first one's is gone by then: what the
// first read brought is kept, because it came before.
func TestSuccessorAnswersClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("quick")
	start := time.Now()
	var mu sync.Mutex
	reads := 0
	w.kube.Log("shop", "quick", "app", func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch reads++; {
		case r.URL.Query().Get("previous") == "true":
			_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
		case reads == 1:
			_, _ = io.WriteString(rw, kubetest.Stamp(start)+" first\n")
		default:
			_, _ = io.WriteString(rw, kubetest.Stamp(start.Add(time.Millisecond))+" second\n")
			if reads == 3 { // the second one looked for the previous log
				time.AfterFunc(200*time.Millisecond, func() { // the status comes later
					restart(pod, c)
					w.kube.SetPod(pod)
				})
			}
		}
	})
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.start(nil)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " first\n") || rec.Lines != 1 || rec.Container.RestartCount != 0 || rec.Verdict.Complete {
		t.Errorf("restart %d, log %q, verdict %+v", rec.Container.RestartCount, got, rec.Verdict)
	}
}

// The kubelet names the run that it has removed, and then answers with the successor's log: that the
// first sentence named this run says nothing of what comes later.
func TestNamedThenSucceeded(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]time.Duration{"at once": 0, "after the closing read": 800 * time.Millisecond} {
		t.Run(name, func(t *testing.T) { testNamedThenSucceeded(t, late) })
	}
}

func testNamedThenSucceeded(t *testing.T, late time.Duration) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("named")
	var mu sync.Mutex
	reads, second := 0, ""
	w.kube.Log("shop", "named", "app", func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch reads++; {
		case reads == 1 || r.URL.Query().Get("previous") == "true":
			_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
		default:
			if second == "" {
				second = kubetest.Stamp(time.Now()) + " second\n"
				time.AfterFunc(late, func() { // the status comes later
					restart(pod, c)
					w.kube.SetPod(pod)
				})
			}
			_, _ = io.WriteString(rw, second)
		}
	})
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.lostAfter = time.Second }, nil)
	rec := w.await(1)[0]
	if rec.Lines != 0 || rec.Verdict.Head.State != bundle.Lost || rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
		t.Errorf("log %q, verdict %+v", w.text(rec), rec.Verdict)
	}
}
