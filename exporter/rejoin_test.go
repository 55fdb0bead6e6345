package exporter

import (
	"context"
	"io"
	"iter"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// absent is a bucket that cannot be reached for a while.
type absent struct {
	sink.Bucket
	away atomic.Bool
}

func (a *absent) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if a.away.Load() {
		return refusal(0, "", 0)
	}
	return a.Bucket.Put(ctx, key, body)
}

func (a *absent) Replace(ctx context.Context, key string, body io.ReadSeeker, old sink.Object) error {
	if a.away.Load() {
		return refusal(0, "", 0)
	}
	return a.Bucket.(sink.Replacer).Replace(ctx, key, body, old)
}

func (a *absent) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if a.away.Load() {
		return nil, refusal(0, "", 0)
	}
	return a.Bucket.Open(ctx, key, offset, length)
}

func (a *absent) Stat(ctx context.Context, key string) (sink.Object, error) {
	if a.away.Load() {
		return sink.Object{}, refusal(0, "", 0)
	}
	return a.Bucket.Stat(ctx, key)
}

func (a *absent) List(ctx context.Context, prefix string, o sink.ListOptions) iter.Seq2[sink.Object, error] {
	if a.away.Load() {
		return func(yield func(sink.Object, error) bool) { yield(sink.Object{}, refusal(0, "", 0)) }
	}
	return a.Bucket.List(ctx, prefix, o)
}

// The store is away when an exporter starts that goes on with logs of which a part is stored there. What it reads
// meanwhile is put behind that when the store is back, each line once: whether the run has ended by then, the
// exporter has restarted once more, or the log is redacted.
func TestRejoin(t *testing.T) {
	t.Parallel()
	back := func(w *world, store *absent) { store.away.Store(false) }
	for name, tt := range map[string]struct {
		redacted  bool
		rotated   bool
		while     func(w *world, e *Exporter, pod *corev1.Pod, c *kubetest.Container)
		want      string
		complete  bool
		snapshots int // before the end
	}{
		"it runs on": {want: "one two three four last", complete: true, snapshots: 2},
		"it ended": {while: func(w *world, _ *Exporter, pod *corev1.Pod, c *kubetest.Container) {
			endAfter("last\n")(w, pod, c)
			<-time.After(3 * time.Second)
		}, want: "one two three four last", complete: true},
		"it stopped": {while: func(w *world, _ *Exporter, _ *corev1.Pod, c *kubetest.Container) {
			w.stop()
			c.Rotate(time.Now(), "")
		}, want: "one two three four last"},
		"it was killed": {while: func(w *world, e *Exporter, _ *corev1.Pod, c *kubetest.Container) {
			w.killedNow(e)
			c.Rotate(time.Now(), "")
		}, want: "one two three four last"},
		"its log was rotated":       {rotated: true, want: "one two four last"},
		"redacted":                  {redacted: true, want: "one two three four last", complete: true, snapshots: 2},
		"redacted, it was killed":   {redacted: true, while: func(w *world, e *Exporter, _ *corev1.Pod, _ *kubetest.Container) { w.killedNow(e) }, want: "one two three four last"},
		"redacted, and was rotated": {redacted: true, rotated: true, want: "one two four last"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := live
			if tt.redacted {
				change = redacting(t, Export{Capture: CaptureLive})
			}
			pod, c := w.pod("rejoined")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			w.start(change)
			w.until("a stream", func() bool { return c.Following() > 0 })
			c.Print(time.Now(), "two\n")
			<-time.After(100 * time.Millisecond)
			w.stop()
			w.await(1)
			c.Print(time.Now(), "three\n")
			if tt.rotated {
				c.Rotate(time.Now(), "")
			}
			store := &absent{Bucket: w.bucket}
			store.away.Store(true)
			away := func(o *Options) {
				change(o)
				o.Bucket, o.Grace = store, time.Second
			}
			fast := func(e *Exporter) { e.segmentEvery = 50 * time.Millisecond }
			e := w.begin(fast, away)
			w.until("another stream", func() bool { return c.Following() > 0 })
			c.Print(time.Now(), "four\n")
			<-time.After(300 * time.Millisecond)
			if tt.while != nil {
				tt.while(w, e, pod, c)
			}
			back(w, store)
			if strings.Contains(name, "stopped") || strings.Contains(name, "killed") {
				w.begin(fast, away)
				w.until("a third stream", func() bool { return c.Following() > 0 })
			}
			if tt.snapshots > 0 {
				w.until("a segment", func() bool { return len(w.records()) >= tt.snapshots })
			}
			if name != "it ended" {
				endAfter("last\n")(w, pod, c)
			}
			rec := w.final(0)
			if got := w.words(rec); got != tt.want || tt.complete != rec.Verdict.Complete && tt.complete {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
			if tt.rotated && rec.Verdict.Middle.State != bundle.Lost {
				t.Errorf("verdict %+v", rec.Verdict)
			}
		})
	}
}

// A part of the log is stored. While the store is away the pod begins to die, and the stream that is opened then brings
// the next run's log, for the status tells late of a restart. The exporter stops, and another one comes to know of that run,
// and is killed. What the first one has left is not put behind what is stored.
func TestRejoinNotTheNextRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("late")
	start := justStarted(pod)
	c.Print(start.Add(300*time.Millisecond), firstWords)
	w.kube.SetPod(pod)
	store := &absent{Bucket: w.bucket}
	stored := func(o *Options) { o.Bucket, o.Grace = store, 10*time.Millisecond }
	e := w.synced(stored)
	if err := e.Sweep(t.Context(), "all"); err != nil {
		t.Fatal(err)
	}
	w.await(1)
	store.away.Store(true)
	c.Exit()
	c.Restart()
	c.Print(start.Add(1500*time.Millisecond), "another's\n")
	w.dies(pod)
	w.until("a stream", func() bool { return c.Following() > 0 })
	w.arrived(e)
	w.stop()
	if drafts, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*")); err != nil || len(drafts) == 0 {
		t.Fatalf("nothing is left of the stream: %v", err)
	}
	w.kube.Log("shop", pod.Name, "app", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start.Add(time.Second))
	restart(pod, c)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start.Add(time.Second))
	w.kube.SetPod(pod)
	e = w.start(stored)
	w.until("the next run to be known", func() bool { return knownRuns(e, pod) == 2 })
	w.killedNow(e)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	store.away.Store(false)
	w.start(stored)
	w.hasFirst(0)
}
