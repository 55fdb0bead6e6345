package exporter

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A container whose end the kubelet has not seen has no time of its end. It has one record all the same, however
// often an exporter starts, and on whatever day.
func TestEndWithoutATime(t *testing.T) {
	t.Parallel()
	soon := func(e *Exporter) { e.lostAfter = time.Second }
	for name, lines := range map[string]bool{"with a log": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("unknown")
			created := time.Now().AddDate(0, 0, -5).Truncate(time.Second)
			pod.CreationTimestamp = metav1.NewTime(created)
			pod.Status.Phase = corev1.PodFailed
			want := created
			if lines {
				want = created.AddDate(0, 0, 2)
				c.Print(want, "words\n")
			} else {
				c.Remove()
			}
			c.Exit()
			status := &pod.Status.ContainerStatuses[0]
			status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}
			w.kube.SetPod(pod)
			w.begin(soon, nil)
			rec := w.await(1)[0]
			if end := rec.State.FinishedAt; !rec.State.FinishedAtEstimated || !end.Equal(want) {
				t.Errorf("end %v, want %v", end, want)
			}
			w.stop()
			c.Remove()
			w.begin(soon, nil)
			<-time.After(2500 * time.Millisecond)
			if n := len(w.records()); n != 1 {
				t.Errorf("%d records after another start", n)
			}
		})
	}
}

// The end of a container that was quiet for days has one record, of the day of its end, whoever sees it, and how.
func TestEndOfAQuietRun(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		forced bool // deletion, of which no end is told; otherwise the status tells of it late
		two    bool // exporters, of which one follows
		down   bool // one of them is, at the end
	}{
		"status is late": {}, "forced, two exporters": {forced: true, two: true}, "forced, and one was down": {forced: true, two: true, down: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("quiet")
			begin := time.Now().Add(-80 * time.Hour).Truncate(time.Second)
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(begin)
			c.Print(begin.Add(time.Second), "only line\n")
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.statusWait = 300 * time.Millisecond }, map[bool]func(*Options){true: live}[tt.two])
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			if tt.two {
				w.until("a stream", func() bool { return c.Following() > 0 })
				w.spool = t.TempDir()
				e := w.synced(nil)
				w.until("the run to be known", func() bool { return len(e.tracker.running()) == 1 })
			}
			if tt.down {
				w.stop()
			}
			if tt.forced {
				w.kube.DeletePod(pod.Namespace, pod.Name)
				c.Exit()
			} else {
				w.dies(pod)
				w.until("a stream", func() bool { return c.Following() > 0 })
				c.Exit()
			}
			rec := w.final(0)
			if !tt.forced {
				exit(pod, 0)
				w.kube.SetPod(pod)
				w.stop()
			}
			if !tt.two || tt.down {
				w.synced(nil)
			}
			<-time.After(2 * time.Second)
			if all := finals(w.records()); len(all) != 1 || time.Since(*rec.State.FinishedAt) > time.Minute {
				t.Errorf("%d records of one run, which ended at %v", len(all), rec.State.FinishedAt)
			}
		})
	}
}

// The end of a container that nobody told is noticed after midnight, and is told after that: it was before.
func TestEndToldAfterMidnight(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"it is stored": false, "it is in the spool": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			store := &absent{Bucket: w.bucket}
			use := func(o *Options) { o.Bucket, o.Grace = store, time.Second }
			pod, c := w.pod("midnight")
			midnight := time.Now().UTC().Truncate(24 * time.Hour) // now stands for right after it
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(midnight.Add(-time.Hour))
			c.Print(midnight.Add(-2*time.Second), "last words\n")
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.statusWait = 300 * time.Millisecond }, use)
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			store.away.Store(away)
			w.dies(pod)
			w.until("a stream", func() bool { return c.Following() > 0 })
			c.Exit()
			w.until("it is captured", func() bool { return strings.Contains(w.said(), "msg=captured") })
			exit(pod, 0)
			pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(midnight.Add(-time.Second))
			w.kube.SetPod(pod)
			w.stop()
			w.synced(use)
			<-time.After(time.Second)
			store.away.Store(false)
			w.until("a record", func() bool { return len(finals(w.records())) > 0 })
			<-time.After(500 * time.Millisecond)
			if n := len(finals(w.records())); n != 1 {
				t.Errorf("%d records of one run", n)
			}
		})
	}
}

// No end is before the last line, by whatever clock that was stamped, or its record would come before its snapshots.
func TestEndBeforeTheLastLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("ahead")
	w.kube.SetPod(pod)
	e := w.begin(func(e *Exporter) { e.segmentEvery = 50 * time.Millisecond }, live)
	w.until("a stream", func() bool { return e.Ready() == nil && c.Following() > 0 })
	c.Print(time.Now().Add(24*time.Hour), "words\n")
	w.until("a snapshot", func() bool { return len(w.records()) > 0 })
	w.kube.DeletePod(pod.Namespace, pod.Name)
	c.Exit()
	if rec := w.final(0); rec.State.FinishedAt.Before(*rec.LastStamp) {
		t.Errorf("ended %v, last line %v", rec.State.FinishedAt, rec.LastStamp)
	}
}

// knownBefore makes a pod whose run is in the ledger of a process that has ended.
func (w *world) knownBefore(name string) (*corev1.Pod, *kubetest.Container) {
	w.t.Helper()
	pod, c := w.pod(name)
	w.kube.SetPod(pod)
	e := w.start(nil)
	w.until("the run to be known", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes")) > 0 })
	w.stop()
	return pod, c
}

// An earlier process has recorded a run whose end nobody told, and was killed while it read more of it. The next one
// starts on another day.
func TestEndNoticedByAnEarlierProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.knownBefore("twice")
	then := time.Now().AddDate(0, 0, -2)
	text := lines(then, 5)
	w.partial(pod, c, then.Add(time.Millisecond), lines(then, 2))
	<-time.After(20 * time.Millisecond)
	unfinishedCapture(t, w.spool, aboutPod(pod, c), text, nil)
	if err := os.Chtimes(filepath.Join(w.spool, ledgerName), then, then); err != nil {
		t.Fatal(err)
	}
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.start(nil)
	w.until("the longer log", func() bool {
		return slices.ContainsFunc(finals(w.records()), func(rec *bundle.Record) bool { return w.text(rec) == text })
	})
	if n := len(finals(w.records())); n != 1 {
		t.Errorf("%d records of one run", n)
	}
}

// What an earlier process has read is stored also where the run has a record that is damaged.
func TestEndOfADamagedRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.knownBefore("twice")
	rec := aboutPod(pod, c)
	now := time.Now().UTC()
	rec.State = bundle.State{FinishedAt: &now}
	key, err := bundle.KeyOf(rec)
	if err := errors.Join(err, w.bucket.Put(t.Context(), key.Record(), strings.NewReader("{"))); err != nil {
		t.Fatal(err)
	}
	unfinishedCapture(t, w.spool, aboutPod(pod, c), lines(time.Now(), 5), nil)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.start(nil)
	w.until("it is captured", func() bool { return strings.Contains(w.said(), "msg=captured") })
}
