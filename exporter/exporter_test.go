package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
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

// world is a fake cluster, a bucket in a directory, and an exporter between them.
type world struct {
	t      *testing.T
	kube   *kubetest.Server
	bucket *sink.Dir
	spool  string
	log    *bytes.Buffer
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

func newWorld(t *testing.T) *world {
	t.Helper()
	bucket, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, kube: kubetest.New(t), bucket: bucket, spool: t.TempDir(), log: &bytes.Buffer{}}
}

func (w *world) exporter(change func(*Options)) *Exporter {
	w.t.Helper()
	o := Options{
		Kube: w.kube.Config(), Bucket: w.bucket, Spool: w.spool, Cluster: "test", Version: "test", Grace: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: io.MultiWriter(w.log, testWriter{w.t})}, nil)),
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

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// start runs an exporter until stop, or the end of the test.
func (w *world) start(change func(*Options)) *Exporter {
	w.t.Helper()
	e := w.exporter(change)
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
	return e
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
		r, err := bundle.NewLogReader(bytes.NewReader(w.read(o.Key)), bundle.Zstd)
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
	for end := time.Now().Add(15 * time.Second); ; {
		recs := w.records()
		if len(recs) >= n {
			return recs
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d records after 15 s, want %d", len(recs), n)
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

func TestFinishedPodThatStays(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("cart")
	w.kube.SetPod(pod)
	e := w.start(nil)
	for e.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
	c.Print(time.Now(), "one\n")
	for len(w.kube.Requests("limitBytes")) == 0 { // the head probe: without it the head is unproven
		<-time.After(10 * time.Millisecond)
	}
	c.Print(time.Now(), "two\nthree")
	c.Exit()
	exit(pod, 3)
	pod.Status.Phase = corev1.PodFailed
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := w.text(rec); strings.Count(got, "\n") != 2 || !strings.HasSuffix(got, " three") {
		t.Errorf("log %q", got)
	}
	if *rec.State.ExitCode != 3 || rec.Container.RestartCount != 0 || rec.Pod.Phase != "Failed" || !rec.Verdict.Complete {
		t.Errorf("record %+v", rec)
	}
	if strings.Contains(string(rec.PodObject), "hunter2") || !strings.Contains(string(rec.PodObject), "PASSWORD") {
		t.Errorf("pod object %s", rec.PodObject)
	}
	w.stop()
	w.start(nil) // a new start sees the same pod and archives nothing twice
	<-time.After(500 * time.Millisecond)
	if n := len(w.records()); n != 1 {
		t.Errorf("%d records after a restart", n)
	}
}

// Every run that the kubelet still has is archived once, whatever slot it is in.
func TestRestarts(t *testing.T) {
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

// The stream of a dying pod is opened at its deletionTimestamp and sees the last line, which no later
// request can have.
func TestGracefulDeletion(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("dying")
	c.Print(time.Now(), "working\n")
	w.kube.SetPod(pod)
	w.start(nil)
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	for len(w.kube.Requests("follow=true")) == 0 {
		<-time.After(5 * time.Millisecond)
	}
	c.Print(time.Now(), "last words\n")
	c.Remove()
	c.Exit()
	for len(w.kube.Requests("/log?")) < len(w.kube.Requests("follow=true"))+len(w.kube.Requests("limitBytes"))+1 {
		<-time.After(5 * time.Millisecond) // the closing read
	}
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.kube.DeletePod("shop", "dying")
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " last words\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("log %q", got)
	}
	if rec.State.ExitCode == nil || rec.Verdict.Tail.State != bundle.Unproven || rec.Verdict.Complete {
		t.Errorf("state %+v, verdict %+v", rec.State, rec.Verdict)
	}
	if len(rec.Capture.KubeletErrors) == 0 {
		t.Error("the kubelet's error text is not in the record")
	}
}

// A log that is gone gives a record that says so, never an empty log or an error text as one.
func TestLost(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("lost")
	c.Print(time.Now(), "never seen\n")
	c.Exit()
	c.Remove()
	exit(pod, 137)
	w.kube.SetPod(pod)
	w.start(nil)
	rec := w.await(1)[0]
	if len(rec.Objects) != 0 || rec.Lines != 0 || rec.Verdict.Head.State != bundle.Lost || rec.Verdict.Head.Cause != bundle.CauseKubeletError {
		t.Errorf("objects %v, verdict %+v", rec.Objects, rec.Verdict)
	}
	if !strings.Contains(strings.Join(rec.Capture.KubeletErrors, " "), "unable to retrieve") || *rec.State.ExitCode != 137 {
		t.Errorf("capture %+v, state %+v", rec.Capture, rec.State)
	}
}

// An empty log of a run that the kubelet vouches for is complete with no line and no object.
func TestEmptyLog(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("silent")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.start(nil)
	if rec := w.await(1)[0]; rec.Lines != 0 || len(rec.Objects) != 0 || !rec.Verdict.Complete {
		t.Errorf("%+v", rec)
	}
}

// A 403 on pods/log names the missing right and the fix, loses nothing, and ends when it is mended.
func TestForbidden(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("secret")
	c.Print(time.Now(), "line\n")
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.kube.Deny("get", "pods/log", true)
	w.start(func(o *Options) { o.Namespaces = []string{"shop"} })
	for len(w.kube.Requests("/log?")) < 3 {
		<-time.After(10 * time.Millisecond)
	}
	if n := len(w.records()); n != 0 {
		t.Errorf("%d records while logs are forbidden", n)
	}
	w.kube.Deny("get", "pods/log", false)
	w.await(1)
	w.stop()
	for _, want := range []string{"system:serviceaccount:logs:kubelogexporter may not get pods/log in namespace shop", "kubectl create role"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// What is in the spool when the exporter dies is shipped by the next one, and what was half written
// is not.
func TestSpoolSurvives(t *testing.T) {
	w := newWorld(t)
	pod, c := w.pod("kept")
	c.Print(time.Now(), "line\n")
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	broken := &failing{Bucket: w.bucket}
	w.start(func(o *Options) { o.Bucket, o.Grace = broken, time.Millisecond })
	spool, err := sink.OpenDir(w.spool)
	if err != nil {
		t.Fatal(err)
	}
	for {
		n := 0
		for _, err := range spool.List(t.Context(), "", sink.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n == 2 && broken.tried() {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	w.stop()
	w.kube.DeletePod("shop", "kept")
	if err := spool.Put(t.Context(), "orphan.log.zst", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	w.start(nil)
	rec := w.await(1)[0]
	if !strings.HasSuffix(w.text(rec), " line\n") {
		t.Errorf("log %q", w.text(rec))
	}
	w.stop()
	for o := range spool.List(context.Background(), "", sink.ListOptions{}) {
		t.Errorf("%s is left in the spool", o.Key)
	}
}

// failing is a bucket that takes nothing.
type failing struct {
	sink.Bucket
	mu sync.Mutex
	n  int
}

func (f *failing) Put(context.Context, string, io.ReadSeeker) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return errors.New("no such bucket")
}

func (f *failing) tried() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n > 0
}

// A one-off export takes ended runs and what running containers have written so far, and ends.
func TestExport(t *testing.T) {
	w := newWorld(t)
	dead, c := w.pod("dead")
	c.Print(time.Now(), "dead\n")
	c.Exit()
	exit(dead, 1)
	w.kube.SetPod(dead)
	live, c := w.pod("alive")
	c.Print(time.Now(), "alive\n")
	w.kube.SetPod(live)
	other, c := w.pod("unselected")
	c.Print(time.Now(), "no\n")
	w.kube.SetPod(other)
	e := w.exporter(func(o *Options) { o.Pods = []string{"dead", "alive"} })
	defer e.Close() //nolint:errcheck // the test is over
	if err := e.Export(t.Context()); err != nil {
		t.Fatal(err)
	}
	recs := w.records()
	if len(recs) != 2 {
		t.Fatalf("%d records", len(recs))
	}
	for _, rec := range recs {
		if want := " " + rec.Pod.Name + "\n"; !strings.HasSuffix(w.text(rec), want) || rec.State.Running != (rec.Pod.Name == "alive") {
			t.Errorf("%s: running %v, log %q", rec.Pod.Name, rec.State.Running, w.text(rec))
		}
	}
	if p := e.Progress(); p.Pods != 2 || p.Done != 2 || len(p.Failures) != 0 {
		t.Errorf("progress %+v", p)
	}
}
