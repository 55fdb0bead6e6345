package exporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// patience is how long what must come is waited for: a busy machine is slow.
const patience = 40 * time.Second

// world is a fake cluster, a bucket in a directory, and an exporter between them.
type world struct {
	t      *testing.T
	kube   *kubetest.Server
	bucket *sink.Dir
	spool  string
	log    *bytes.Buffer
	writer *lockedWriter
	stop   func()
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// newWorld starts with an empty cluster.
func newWorld(t *testing.T) *world {
	t.Helper()
	bucket, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	return &world{t: t, kube: kubetest.New(t), bucket: bucket, spool: t.TempDir(), log: log, writer: &lockedWriter{w: io.MultiWriter(log, testWriter{t})}}
}

func (w *world) exporter(change func(*Options)) *Exporter {
	w.t.Helper()
	o := Options{
		Kube: w.kube.Config(), Bucket: w.bucket, Spool: w.spool, Cluster: "test", Version: "test", Grace: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(w.writer, nil)),
	}
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// said returns what was logged so far.
func (w *world) said() string {
	w.writer.mu.Lock()
	defer w.writer.mu.Unlock()
	return w.log.String()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// start runs an exporter until stop, or the end of the test.
func (w *world) start(change func(*Options)) *Exporter {
	w.t.Helper()
	return w.begin(func(*Exporter) {}, change)
}

// begin is start with a change to the exporter itself.
func (w *world) begin(tune func(*Exporter), change func(*Options)) *Exporter {
	w.t.Helper()
	e := w.exporter(change)
	tune(e)
	w.run(e)
	return e
}

// run runs an exporter until stop, or the end of the test.
func (w *world) run(e *Exporter) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("run: %v", err)
			}
			if err := e.Close(); err != nil {
				w.t.Errorf("close: %v", err)
			}
		})
	}
	w.t.Cleanup(w.stop)
}

// records reads the archive.
func (w *world) records() []*bundle.Record {
	w.t.Helper()
	var recs []*bundle.Record
	for o, err := range w.bucket.List(context.Background(), "", sink.ListOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.HasSuffix(o.Key, ".json") {
			rec, err := bundle.DecodeStrict(w.read(o.Key))
			if err != nil {
				w.t.Fatal(err)
			}
			if err := rec.Validate(); err != nil {
				w.t.Errorf("%s: %v", o.Key, err)
			}
			for _, p := range []bundle.Part{rec.Verdict.Head, rec.Verdict.Middle, rec.Verdict.Tail} {
				if p.State == bundle.Unproven && p.Cause != bundle.CauseStillRunning && len(p.Evidence) == 0 && rec.Capture.ExporterVersion == "test" {
					w.t.Errorf("%s: nothing says why a part is unproven: %+v", o.Key, rec.Verdict)
				}
			}
			recs = append(recs, rec)
		}
	}
	return recs
}

func (w *world) read(key string) []byte {
	w.t.Helper()
	r, err := w.bucket.Open(context.Background(), key, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// text returns a record's log.
func (w *world) text(rec *bundle.Record) string {
	w.t.Helper()
	var b strings.Builder
	for _, o := range rec.Objects {
		_, _, _, compression, err := bundle.ParseKey(o.Key)
		if err != nil {
			w.t.Fatal(err)
		}
		r, err := bundle.NewLogReader(bytes.NewReader(w.read(o.Key)), compression)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := io.Copy(&b, r); err != nil {
			w.t.Fatal(err)
		}
	}
	return b.String()
}

// await waits for a number of records.
func (w *world) await(n int) []*bundle.Record {
	w.t.Helper()
	for end := time.Now().Add(patience); ; {
		recs := w.records()
		if len(recs) >= n {
			return recs
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d records after %s, want %d", len(recs), patience, n)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// pod makes a pod with one container, app, whose runs have IDs of their own.
func (w *world) pod(name string) (*corev1.Pod, *kubetest.Container) {
	runID := func(run int) string { return fmt.Sprintf("containerd://%012x%052x", len(name)*1000+run, run) }
	c := kubetest.NewContainer(runID)
	w.kube.Log("shop", name, "app", c.Serve)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(fmt.Sprintf("0b54cd8c-0000-4000-8000-%012x", len(name))), Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "app", Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "hunter2"}}}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", ContainerID: runID(0),
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Truncate(time.Second))}}}}
	return pod, c
}

// exit ends the current run in the pod's status.
func exit(pod *corev1.Pod, code int32) {
	s := &pod.Status.ContainerStatuses[0]
	s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: s.ContainerID, ExitCode: code, Reason: "Error",
		StartedAt: s.State.Running.StartedAt, FinishedAt: metav1.NewTime(time.Now().Truncate(time.Second))}}
}

// restart begins a new run in the pod's status.
func restart(pod *corev1.Pod, c *kubetest.Container) {
	s := &pod.Status.ContainerStatuses[0]
	s.LastTerminationState = s.State
	s.RestartCount++
	s.ContainerID = c.ID(int(s.RestartCount))
	s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Truncate(time.Second))}}
}

// byPod returns the record of a pod, or an empty one.
func byPod(recs []*bundle.Record, name string) *bundle.Record {
	for _, rec := range recs {
		if rec.Pod.Name == name {
			return rec
		}
	}
	return &bundle.Record{}
}
