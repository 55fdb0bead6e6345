package exporter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// away makes a store that takes nothing until it is back.
func (w *world) away() (s *store, back func()) {
	s = &store{Dir: w.bucket}
	s.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
	return s, func() { s.set(nil) }
}

// dies begins the deletion of a pod.
func (w *world) dies(pod *corev1.Pod) {
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
}

// clean checks that nothing is left in the spool, and that nothing was set aside.
func (w *world) clean() {
	w.t.Helper()
	w.stop()
	for o, err := range w.exporterSpool().List(w.t.Context(), "", sink.ListOptions{}) {
		w.t.Errorf("left in the spool: %s, %v", o.Key, err)
	}
	if n := w.inTemp(); n > 0 {
		w.t.Errorf("%d drafts are left", n)
	}
	if aside, err := os.ReadDir(filepath.Join(w.spool, ".set-aside")); err == nil {
		w.t.Errorf("set aside: %v", aside)
	}
}

// TestStopWhileDying: the store is away, and the exporter is stopped while it follows a dying pod, whose end
// the next process sees. The log is whole and proven.
func TestStopWhileDying(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	s, back := w.away()
	change := func(o *Options) { o.Bucket, o.Grace, o.Metrics = s, 300*time.Millisecond, w.metrics }
	pod, c := w.pod("dying")
	start := time.Now()
	c.Print(start, "one\n")
	w.kube.SetPod(pod)
	e := w.start(func(o *Options) { change(o); o.Metrics = nil })
	w.until("it is ready", func() bool { return e.Ready() == nil })
	w.dies(pod)
	w.until("it is followed", func() bool { return c.Following() > 0 })
	w.stop()
	c.Print(time.Now(), "two\n")
	w.start(change)
	w.until("it is followed again", func() bool { return c.Following() > 0 })
	c.Print(time.Now(), "three\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.until("it is spooled", func() bool { return strings.Contains(w.said(), "msg=captured") })
	back()
	rec := w.await(1)[0]
	if got := withoutStamps(w.text(rec)); got != "one\ntwo\nthree\n" || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
	w.account()
	w.clean()
}

// partial puts a record into the spool of a run whose end was not seen, with its log so far.
func (w *world) partial(pod *corev1.Pod, c *kubetest.Container, finished time.Time, text string) {
	w.t.Helper()
	rec := aboutPod(pod, c)
	unproven := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven}
	rec.State.Running, rec.State.FinishedAt, rec.State.FinishedAtEstimated = false, &finished, true
	rec.Verdict = bundle.Verdict{Head: unproven, Middle: unproven, Tail: unproven}
	about, err := bundle.Encode(rec)
	if err != nil {
		w.t.Fatal(err)
	}
	dir := w.exporterSpool()
	out, err := newOutput(dir, bundle.NewEncoders(1), bundle.Zstd, about)
	if err != nil {
		w.t.Fatal(err)
	}
	defer out.abort()
	_, err = io.WriteString(out, text)
	run, kerr := bundle.KeyOf(rec)
	if err := errors.Join(err, kerr, out.seal(rec), out.publish(rec), putRecord(dir, run.Record(), rec), os.WriteFile(filepath.Join(w.spool, spoolMark), nil, 0o644)); err != nil { //nolint:gosec // a test
		w.t.Fatal(err)
	}
}

// TestSpooledPartially: a record in the spool tells of less than what can be read now, or of more.
func TestSpooledPartially(t *testing.T) {
	t.Parallel()
	for _, more := range []bool{true, false} {
		t.Run(fmt.Sprintf("more can be read: %t", more), func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			s, back := w.away()
			pod, c := w.pod("partial")
			start := pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time
			text := lines(start, 5)
			spooled := text
			if more {
				spooled = lines(start, 2)
			}
			w.partial(pod, c, time.Now().Truncate(time.Second), spooled)
			for i := range 5 {
				if more {
					c.Print(start.Add(time.Duration(i)*time.Millisecond), fmt.Sprintf("line %d\n", i))
				}
			}
			c.Exit()
			exit(pod, 0)
			w.kube.SetPod(pod)
			if !more {
				w.kube.NextLogs(kubetest.PodNotFound())
			}
			w.start(func(o *Options) { o.Bucket, o.Metrics = s, w.metrics })
			if more {
				w.until("it is replaced", func() bool { return strings.Contains(w.said(), "replaced a spooled record") })
			} else {
				w.until("it was asked for", func() bool { return w.kube.Traps() == 0 })
			}
			back()
			rec := w.await(1)[0]
			if got := w.text(rec); got != text || more != (rec.Verdict.Tail.State == bundle.Proven) {
				t.Errorf("log %q, want %q, verdict %+v", got, text, rec.Verdict)
			}
			w.account()
			w.clean()
		})
	}
}

// TestSpooledAndUnfinished: a process is killed while it reads more of a run than an earlier one had recorded, and
// the pod is gone at the next start.
func TestSpooledAndUnfinished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("twice")
	w.kube.SetPod(pod)
	e := w.start(nil)
	w.until("the run is in the ledger", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes")) > 0 })
	w.stop()
	start := time.Now()
	text := lines(start, 5)
	w.partial(pod, c, start.Add(time.Millisecond), lines(start, 2))
	<-time.After(20 * time.Millisecond) // the clock of a file system has its ticks
	unfinishedCapture(t, w.spool, aboutPod(pod, c), text, nil)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.start(nil)
	w.until("the longer log is archived", func() bool {
		for _, rec := range w.records() {
			if !rec.State.Running && w.text(rec) == text {
				return true
			}
		}
		return false
	})
	w.clean()
}

// TestShipReplaced: while a record is being shipped, one that tells of more is committed. It is shipped too.
func TestShipReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		underWay := make(chan struct{})
		s.store.set(func(string) error {
			<-underWay
			return nil
		})
		s.run()
		s.fill(1)
		synctest.Wait()
		rec := s.record(0)
		key := make(chan string, 1)
		go func() {
			run, err := bundle.KeyOf(rec)
			if err != nil {
				t.Error(err)
			}
			release := s.e.places.hold(run.Record())
			s.commit(rec, stampedLine+"one\n"+stampedLine+"two\n")
			release()
			s.e.ship.add(run.Record(), rec)
			key <- run.Record()
		}()
		synctest.Wait()
		if len(key) > 0 {
			t.Error("it was committed while the other was being shipped")
		}
		close(underWay)
		<-key
		s.drained(time.Minute)
		if rec := s.check(1)["pod-0000"]; rec.Lines != 2 {
			t.Errorf("%d lines", rec.Lines)
		}
		s.stop()
	})
}
