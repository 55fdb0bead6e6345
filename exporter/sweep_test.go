package exporter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// synced starts an exporter and waits until it knows the cluster.
func (w *world) synced(change func(*Options)) *Exporter {
	w.t.Helper()
	e := w.start(change)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	return e
}

// A sweep that is asked for while another one has read a log, and not stored it yet, stores what was written since.
func TestSweepDuringASweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("chatty")
	w.kube.SetPod(pod)
	c.Print(time.Now(), "one\n")
	e := w.synced(nil)
	read, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.kube.Log("shop", "chatty", "app", func(rw http.ResponseWriter, r *http.Request) {
		c.Serve(rw, r)
		once.Do(func() {
			close(read)
			<-goOn
		})
	})
	results := make(chan error, 2)
	sweep := func() { results <- e.Sweep(context.Background(), "all") }
	go sweep()
	<-read
	c.Print(time.Now(), "two\n")
	go sweep()
	select {
	case err := <-results:
		t.Errorf("a sweep is done before the log is stored: %v", err)
		results <- err
	case <-time.After(200 * time.Millisecond):
	}
	close(goOn)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	w.until("what both have stored", func() bool { return len(w.records()) == 2 })
}

// A sweep stores what was written since the last one, across restarts of the exporter, and the run's own
// record names all of it, each line once.
func TestSweeps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("chatty")
	w.kube.SetPod(pod)
	var want []string
	say := func(n int) {
		for range n {
			word := fmt.Sprint(len(want))
			c.Print(time.Now(), word+"\n")
			want = append(want, word)
		}
	}
	for range 3 {
		e := w.synced(nil)
		for range 2 {
			say(2)
			if err := e.Sweep(context.Background(), "all"); err != nil {
				t.Fatal(err)
			}
		}
		w.stop()
		say(1) // while no exporter runs
	}
	w.synced(nil)
	w.until("the snapshots to be shipped", func() bool { return len(w.records()) == 6 })
	for _, rec := range w.records() {
		if !rec.State.Running || rec.Capture.Policy != policySweep || rec.Verdict.Head.State != bundle.Proven {
			t.Errorf("record %+v", rec)
		}
	}
	endAfter("end\n")(w, pod, c)
	rec := w.final(0)
	if got := w.words(rec); got != strings.Join(want, " ")+" end" || !rec.Verdict.Complete || len(rec.Objects) != 7 {
		t.Errorf("log %q in %d objects, verdict %+v", got, len(rec.Objects), rec.Verdict)
	}
}

// A sweep that meets the end of a run, a restart or the deletion of its pod under its read becomes the
// run's capture.
func TestSweepMeetsTheEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, pod *corev1.Pod, c *kubetest.Container){
		"exit": endAfter("two\n"),
		"restart": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			endAfter("two\n")(w, pod, c)
			c.Restart()
			restart(pod, c)
			c.Print(time.Now(), "another\n")
			w.kube.SetPod(pod)
		},
		"deletion": func(w *world, pod *corev1.Pod, c *kubetest.Container) {
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			go func() {
				<-time.After(300 * time.Millisecond)
				endAfter("two\n")(w, pod, c)
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("ending")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
				return func(rw http.ResponseWriter, r *http.Request) {
					h(rw, r)
					end(w.world, pod, c)
					<-time.After(100 * time.Millisecond)
				}
			})
			if err := e.Sweep(context.Background(), "all"); err != nil {
				t.Fatal(err)
			}
			rec := w.final(0)
			if got := w.words(rec); got != "one two" || !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
			w.account()
		})
	}
}

// An export of a container that runs is continued by the next one, and says so if there is nothing new.
func TestExportGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("asked")
	w.kube.SetPod(pod)
	for n, words := range []string{"", "one", "two three", "", "four"} {
		for _, word := range strings.Fields(words) {
			c.Print(time.Now(), word+"\n")
		}
		w.spool = t.TempDir() // as of a CronJob's pod
		e := w.exporter(nil)
		if err := e.Export(context.Background()); err != nil {
			t.Fatal(err)
		}
		p := e.Progress()
		if got := p.Already; (got == 1) != (n == 3) || len(p.Failures) > 0 || p.Done != 1 {
			t.Errorf("export %d: %+v", n, p)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	last := ""
	for _, rec := range w.records() {
		last = w.words(rec)
	}
	if got := len(w.records()); got != 4 || last != "one two three four" {
		t.Errorf("%d records, the last with the log %q", got, last)
	}
}

// A stop in the middle of a sweep leaves the account as it was, and the next process sweeps again.
func TestSweepMeetsTheStop(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("stopped")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	e := w.run(func(o *Options) { o.Grace = 100 * time.Millisecond })
	w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
	held := make(chan struct{})
	w.kube.NextLogs(func(kubetest.LogHandler) kubetest.LogHandler {
		return func(_ http.ResponseWriter, r *http.Request) {
			close(held)
			<-r.Context().Done()
		}
	})
	swept := make(chan error, 1)
	go func() { swept <- e.Sweep(context.Background(), "all") }()
	<-held
	w.stop()
	if err := <-swept; err == nil {
		t.Error("the sweep says that it is done")
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); name == "kubelogexporter_runs_open" && f.GetMetric()[0].GetGauge().GetValue() != 0 {
			t.Errorf("%s is %v", name, f.GetMetric())
		}
	}
	e = w.synced(nil)
	if err := e.Sweep(context.Background(), "all"); err != nil {
		t.Fatal(err)
	}
	w.until("the snapshot", func() bool { return len(w.records()) == 1 })
}

// A sweep that is asked for before the exporter knows the cluster, such as one that is caught up at the start,
// waits until it does; one that nobody waits for any more does not.
func TestSweepBeforeReady(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("early")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	e := w.exporter(nil)
	gaveUp, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := e.Sweep(gaveUp, "all"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the sweep of a cluster that is not known: %v", err)
	}
	swept := make(chan error, 1)
	go func() { swept <- e.Sweep(context.Background(), "all") }()
	<-time.After(50 * time.Millisecond)
	w.world.run(e)
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	w.until("the snapshot", func() bool { return len(w.records()) == 1 })
}
