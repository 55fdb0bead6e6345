package exporter

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func TestFinishedPodThatStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("cart")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	e := w.start(nil)
	for e.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
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
	if keys := e.Progress().Keys; len(keys) > 0 {
		t.Errorf("an exporter that runs on keeps the keys %q", keys)
	}
	w.stop()
	w.start(nil) // a new start sees the same pod and archives nothing twice
	<-time.After(500 * time.Millisecond)
	if n := len(w.records()); n != 1 {
		t.Errorf("%d records after a restart", n)
	}
}

// The stream of a dying pod is opened at its deletionTimestamp and sees the last line, which no later
// request can have.
func TestGracefulDeletion(t *testing.T) {
	t.Parallel()
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
	c.Exit()
	for len(w.kube.Requests("follow=true")) < 3 {
		<-time.After(5 * time.Millisecond) // the second stream, which proves the end
	}
	c.Remove() // some tenths of a second after the exit, on a real node
	for n := len(w.kube.Requests("follow=true")); len(w.kube.Requests("follow=true")) == n; {
		<-time.After(5 * time.Millisecond)
	}
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.kube.DeletePod("shop", "dying")
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasSuffix(got, " last words\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("log %q", got)
	}
	if rec.State.ExitCode == nil || !rec.Verdict.Complete {
		t.Errorf("state %+v, verdict %+v", rec.State, rec.Verdict)
	}
	if len(rec.Capture.KubeletErrors) == 0 {
		t.Error("the kubelet's error text is not in the record")
	}
}

// A log that is gone gives a record that says so, never an empty log or an error text as one.
func TestLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("lost")
	c.Print(time.Now(), "never seen\n")
	c.Exit()
	c.Remove()
	exit(pod, 137)
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.lostAfter = time.Second }, nil)
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	const orphan = "cluster=test/namespace=shop/date=2026-11-23/x/0b54cd8c-0000-4000-8000-000000000000/app.0.0123456789ab.log.zst"
	for _, key := range []string{orphan, "thesis.txt"} {
		if err := spool.Put(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	w.start(nil)
	rec := w.await(1)[0]
	if !strings.HasSuffix(w.text(rec), " line\n") {
		t.Errorf("log %q", w.text(rec))
	}
	w.stop()
	var left []string
	for o := range spool.List(context.Background(), "", sink.ListOptions{}) {
		left = append(left, o.Key)
	}
	if len(left) != 1 || left[0] != "thesis.txt" {
		t.Errorf("left in the spool: %q; want only what is none of ours", left)
	}
}

// A directory with other things in it is not taken for a spool: what is shipped leaves the spool.
func TestForeignDirectoryIsNoSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.bucket.Put(t.Context(), "thesis.txt", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	_, err := New(Options{Kube: w.kube.Config(), Bucket: w.bucket, Spool: w.bucket.Path(), Cluster: "test", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "is no spool") {
		t.Errorf("err %v", err)
	}
}

// A spool that fails after the log was read, and a pod that is gone by the time it works again: the
// record says that the log is lost, not that it was empty.
func TestSpoolFailsThenPodGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("unlucky")
	c.Print(time.Now(), "precious\n")
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	e := w.exporter(nil)
	r := &run{tracker: e.tracker, pod: &podState{pod: infoOf(pod)}, view: views(pod)[0]}
	cap1 := &capture{steps: steps{queue: e.queue}, e: e, run: r, export: &Export{Name: "all", Capture: CaptureFinal}}
	if _, ok := cap1.take(t.Context(), "get", podlog.Request{}); !ok {
		t.Fatal("the log could not be read")
	}
	_ = cap1.readEnd(t.Context())
	cap1.reset() // what a failed commit does with a log that its source has
	r.pod.gone = true
	cap1.take(t.Context(), "get", podlog.Request{})
	if v := cap1.judge(r.now()); v.Complete || v.Head.State != bundle.Lost {
		t.Errorf("verdict %+v", v)
	}
	cap1.reset()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// The stream of a dying pod is refused for a while, and then the run has ended: its log is read.
func TestRefusedStreamThenEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("slow")
	c.Print(time.Now(), "words\n")
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	var mu sync.Mutex
	refuse := true
	w.kube.Log("shop", "slow", "app", func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if refuse {
			kubetest.Status(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError, "", "dial tcp: connection refused")
			return
		}
		c.Serve(rw, r)
	})
	w.kube.SetPod(pod)
	w.start(nil)
	for len(w.kube.Requests("follow=true")) < 2 {
		<-time.After(5 * time.Millisecond)
	}
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	mu.Lock()
	refuse = false
	mu.Unlock()
	if got := w.text(w.await(1)[0]); !strings.HasSuffix(got, " words\n") {
		t.Errorf("log %q", got)
	}
}

// The name of a deleted pod belongs to another pod by the time its log is read: the new pod's log is
// not stored as the old one's.
func TestNameOfAnotherPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("db-0")
	c.Exit()
	exit(pod, 1)
	pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(time.Now().Add(-10 * time.Second).Truncate(time.Second))
	pod.Status.ContainerStatuses[0].State.Terminated.StartedAt = metav1.NewTime(time.Now().Add(-20 * time.Second).Truncate(time.Second))
	var once sync.Once
	w.kube.Log("shop", "db-0", "app", func(rw http.ResponseWriter, _ *http.Request) {
		once.Do(func() { // between the request's arrival and its answer the pod is replaced
			next := pod.DeepCopy()
			next.UID = "0b54cd8c-0000-4000-8000-ffffffffffff"
			next.Status.ContainerStatuses[0].ContainerID = "containerd://" + strings.Repeat("f", 64)
			next.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
			w.kube.DeletePod("shop", "db-0")
			w.kube.SetPod(next)
		})
		_, _ = io.WriteString(rw, kubetest.Stamp(time.Now())+" the new pod's line\n")
	})
	w.kube.SetPod(pod)
	w.start(nil)
	rec := w.await(1)[0]
	if len(rec.Objects) != 0 || rec.Verdict.Head.State != bundle.Lost {
		t.Errorf("%s: %d lines, verdict %+v", rec.Pod.UID, rec.Lines, rec.Verdict)
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
	t.Parallel()
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
