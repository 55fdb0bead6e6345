package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A pod that is being deleted is exported like any other: its log is about to vanish.
func TestExportOfADyingPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("dying")
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	c.Print(time.Now(), "precious\n")
	w.kube.SetPod(pod)
	e := w.exporter(nil)
	defer e.Close() //nolint:errcheck // the end of the test
	if err := e.Export(t.Context()); err != nil {
		t.Error(err)
	}
	if recs := w.records(); len(recs) != 1 || recs[0].Lines != 1 {
		t.Errorf("%d records, %+v", len(recs), e.Progress())
	}
}

// The log of a crash loop's last run but one is being removed: first its file, then, it may take a while, the container.
// That is no failure of the export, which has a record of the loss.
func TestExportOfALogThatIsRemoved(t *testing.T) {
	t.Parallel()
	for _, files := range []int64{2, 4, oneShotTries} { // so often only the file is missed
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			exit(pod, 1)
			restart(pod, c)
			exit(pod, 1)
			c.Print(time.Now(), "first\n")
			c.Exit()
			c.Restart()
			c.Print(time.Now(), "second\n")
			c.Exit()
			var asked atomic.Int64
			w.kube.Log(pod.Namespace, pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Query().Get("previous") != "true":
					c.Serve(rw, r)
				case !r.URL.Query().Has("limitBytes") && asked.Add(1) <= files:
					_, _ = io.WriteString(rw, `failed to try resolving symlinks in path "/var/log/pods/shop_loop/app/0.log": lstat /var/log/pods/shop_loop/app/0.log: no such file or directory`)
				default:
					_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
				}
			})
			w.kube.SetPod(pod)
			e := w.exporter(nil)
			defer e.Close() //nolint:errcheck // the end of the test
			if err := e.Export(t.Context()); err != nil || len(e.Progress().Failures) > 0 {
				t.Errorf("%v, failures %v", err, e.Progress().Failures)
			}
			said := make(map[int32]string)
			for _, rec := range w.records() {
				said[rec.Container.RestartCount] = w.words(rec) + string(rec.Verdict.Head.Cause)
			}
			if len(said) != 2 || said[0] != string(bundle.CauseReplacedBeforeRead) || said[1] != "second" {
				t.Errorf("records %v", said)
			}
		})
	}
}

// What a running container has written waits in the spool while the store cannot tell what it has of that. Nobody is
// told that it is stored; the next export stores it.
func TestExportWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("running")
	c.Print(time.Now(), "precious\n")
	w.kube.SetPod(pod)
	store := &absent{Bucket: w.bucket}
	store.away.Store(true)
	use := func(o *Options) { o.Bucket = store }
	e := w.exporter(use)
	away := (*StorageError)(nil)
	if err := e.Export(t.Context()); !errors.As(err, &away) || away.Captures != 1 || e.Progress().Already != 0 {
		t.Errorf("%v, %+v", err, e.Progress())
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	store.away.Store(false)
	e = w.exporter(use)
	defer e.Close() //nolint:errcheck // the end of the test
	if err := e.Export(t.Context()); err != nil || len(w.records()) != 1 {
		t.Errorf("%v, %d records", err, len(w.records()))
	}
}

// A sweep says so too.
func TestSweepWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("running")
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = time.Now().Add(-time.Minute) // before the exporter
	c.Print(time.Now(), "precious\n")
	w.kube.SetPod(pod)
	store := &absent{Bucket: w.bucket}
	store.away.Store(true)
	e := w.synced(func(o *Options) { o.Bucket, o.Grace = store, time.Second })
	if err := e.Sweep(t.Context(), "all"); err == nil || !strings.Contains(err.Error(), "1 of 1 logs were not stored") {
		t.Errorf("%v", err)
	}
	store.away.Store(false)
	w.until("the next sweep", func() bool { return e.Sweep(t.Context(), "all") == nil })
}

// A sweep does not wait for a node that is away, however many of its logs are asked for.
func TestSweepOfANodeThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 12 {
		pod, _ := w.pod(strings.Repeat("x", i+1))
		pod.Spec.NodeName = "away"
		w.kube.SetPod(pod)
		w.kube.Log("shop", pod.Name, "app", kubetest.Unreachable()(nil))
	}
	e := w.synced(nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := e.Sweep(ctx, "all"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Error(fmt.Errorf("it goes on: %w", err))
	}
}
