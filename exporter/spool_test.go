package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// unfinishedCapture leaves in the spool what a process leaves that is killed while it reads.
func unfinishedCapture(t *testing.T, spool string, about *bundle.Record, text string, before func(*output)) {
	t.Helper()
	dir, err := sink.OpenDir(spool)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSpool(spool); err != nil {
		if err := os.WriteFile(filepath.Join(spool, spoolMark), nil, 0o644); err != nil { //nolint:gosec // a test
			t.Fatal(err)
		}
	}
	data, err := bundle.Encode(about)
	if err != nil {
		t.Fatal(err)
	}
	out, err := newOutput(dir, bundle.NewEncoders(1), bundle.Zstd, data)
	if err != nil {
		t.Fatal(err)
	}
	out.w = bundle.NewLogWriter(bundle.LogOptions{Encoders: bundle.NewEncoders(1), Scratch: out.scratch, Next: out.next, FrameSize: 64 << 10})
	if _, err := io.WriteString(out, text); err != nil {
		t.Fatal(err)
	}
	if before != nil {
		before(out)
	}
	out.flush()
}

// lines makes n lines of a log that began at a time.
func lines(at time.Time, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s line %d\n", at.Add(time.Duration(i)*time.Millisecond).UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), i)
	}
	return b.String()
}

func aboutPod(pod *corev1.Pod, c *kubetest.Container) *bundle.Record {
	start := pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time
	part := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	return &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: "test", Namespace: "shop",
		Pod:       bundle.Pod{Name: pod.Name, UID: string(pod.UID), NodeName: "node"},
		Container: bundle.Container{Name: "app", Type: bundle.TypeContainer, ContainerID: c.ID(0)},
		State:     bundle.State{Running: true, StartedAt: &start}, Objects: []bundle.Object{},
		Verdict: bundle.Verdict{Head: part, Middle: part, Tail: part}, Capture: bundle.Capture{Policy: "final"},
	}
}

// TestResumeVanished: the process is killed while it follows a dying pod, and the pod is gone at the next
// start. What was read is in the run's record, up to its last line, and the record says that the end is not
// proven.
func TestResumeVanished(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"in memory": 3, "frames": 20_000} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			pod, c := w.pod("gone")
			w.kube.SetPod(pod)
			e := w.start(nil)
			w.until("the run is in the ledger", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes")) > 0 })
			w.stop()
			text := lines(time.Now(), n)
			unfinishedCapture(t, w.spool, aboutPod(pod, c), text, nil)
			w.kube.DeletePod(pod.Namespace, pod.Name)
			w.start(nil)
			rec := w.await(1)[0]
			if got := w.text(rec); got != text {
				t.Errorf("%d bytes of %d", len(got), len(text))
			}
			if rec.Verdict.Complete || rec.Verdict.Tail.State == bundle.Proven || rec.Verdict.Middle.State == bundle.Lost {
				t.Errorf("verdict %+v", rec.Verdict)
			}
			w.stop()
			if left := w.inTemp(); left != 0 {
				t.Errorf("%d files are left", left)
			}
			if n := len(w.records()); n != 1 {
				t.Errorf("%d records", n)
			}
		})
	}
}

func (w *world) inTemp() int {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.spool, ".tmp"))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(entries)
}

// TestResumeStays: the source still has the log. It is read again, and joined with what was held.
func TestResumeStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("stays")
	start := time.Now()
	text := lines(start, 5)
	for i, line := range strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n") {
		_, words, _ := strings.Cut(line, " ")
		c.Print(start.Add(time.Duration(i)*time.Millisecond), strings.TrimSuffix(words, "\n")+"\n")
	}
	unfinishedCapture(t, w.spool, aboutPod(pod, c), strings.Join(strings.SplitAfter(text, "\n")[:3], ""), nil)
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.start(nil)
	rec := w.await(1)[0]
	if got := w.text(rec); got != text {
		t.Errorf("log %q, want %q", got, text)
	}
	if rec.Verdict.Middle.State != bundle.Proven || rec.Verdict.Tail.State != bundle.Proven {
		t.Errorf("verdict %+v", rec.Verdict)
	}
	w.stop()
	if n := len(w.records()); n != 1 || w.inTemp() != 0 {
		t.Errorf("%d records, %d files", n, w.inTemp())
	}
}

// TestResumeRotated: the source has lost the lines that an earlier process had read.
func TestResumeRotated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("rotated")
	start := time.Now()
	text := lines(start, 5)
	c.Print(start.Add(3*time.Millisecond), "line 3\n")
	c.Print(start.Add(4*time.Millisecond), "line 4\n")
	unfinishedCapture(t, w.spool, aboutPod(pod, c), strings.Join(strings.SplitAfter(text, "\n")[:4], ""), nil)
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.start(nil)
	if got := w.text(w.await(1)[0]); got != text {
		t.Errorf("log %q, want %q", got, text)
	}
}

// TestResumePublished: the process is killed between the log's last object and its record.
func TestResumePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("published")
	about := aboutPod(pod, c)
	text := lines(time.Now(), 3000)
	unfinishedCapture(t, w.spool, about, text, func(o *output) {
		rec := *about
		finished := time.Now().UTC()
		rec.State = bundle.State{FinishedAt: &finished}
		if err := errors.Join(o.seal(&rec), o.publish(&rec)); err != nil {
			t.Fatal(err)
		}
	})
	w.kube.SetPod(pod)
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	w.start(nil)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	rec := w.await(1)[0]
	if got := w.text(rec); got != text {
		t.Errorf("%d bytes of %d", len(got), len(text))
	}
	w.stop()
	for o := range w.exporterSpool().List(context.Background(), "", sink.ListOptions{}) {
		t.Errorf("left: %s", o.Key)
	}
}

func (w *world) exporterSpool() *sink.Dir {
	w.t.Helper()
	d, err := sink.OpenDir(w.spool)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// TestResumeUnknown: nobody knows the run any more. What was read of it becomes a snapshot.
func TestResumeUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := lines(time.Now(), 3)
	unfinishedCapture(t, w.spool, aboutPod(w.pod("unknown")), text, nil)
	w.start(nil)
	rec := w.await(1)[0]
	if w.text(rec) != text || !rec.State.Running || rec.Verdict.Complete {
		t.Errorf("record %+v", rec)
	}
}

// TestResumeOverlap: a part of the text is in both of the files.
func TestResumeOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := lines(time.Now(), 6000) // several frames of 64 KiB
	about := aboutPod(w.pod("overlap"))
	unfinishedCapture(t, w.spool, about, text, nil)
	// The process ended after a frame was written and before its text left the scratch file.
	d := w.exporterSpool()
	drafts, err := d.Drafts()
	if err != nil || len(drafts) != 1 {
		t.Fatal(drafts, err)
	}
	files, err := drafts[0].Files()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	r := &decoded{r: files[1]}
	stored, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	scratch, _ := io.ReadAll(files[0])
	last := stored[len(stored)-50_000:]
	last = last[strings.IndexByte(string(last), '\n')+1:]
	names, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*", "1"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if err := os.WriteFile(names[0], append(last, scratch...), 0o644); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	w.start(nil)
	if got := w.text(w.await(1)[0]); got != text {
		t.Errorf("%d bytes of %d", len(got), len(text))
	}
}

// TestDraftWithoutAbout: after a power cut nothing says whose bytes these are. They are kept for people.
func TestDraftWithoutAbout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unfinishedCapture(t, w.spool, aboutPod(w.pod("torn")), lines(time.Now(), 3), nil)
	names, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*", "about"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if err := os.Truncate(names[0], 10); err != nil {
		t.Fatal(err)
	}
	e := w.start(nil)
	w.until("it is ready", func() bool { return e.Ready() == nil })
	if aside, err := filepath.Glob(filepath.Join(w.spool, ".set-aside", "*", "1")); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %q, %v", aside, err)
	}
}

// fullSpool is a world whose spool has as much room as the test says.
func fullSpool(t *testing.T, away bool) (w *world, e *Exporter, room func(int64), back func()) {
	w = newWorld(t)
	s := &store{Dir: w.bucket}
	if away {
		s.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
	}
	e = w.exporter(func(o *Options) { o.Bucket = s })
	var mu sync.Mutex
	free := int64(0)
	e.space.freeBytes = func() (int64, error) {
		mu.Lock()
		defer mu.Unlock()
		return free, nil
	}
	w.run(e)
	w.until("it is ready", func() bool { return e.Ready() == nil })
	if away { // let it find out
		first, c := w.pod("zzz")
		c.Exit()
		exit(first, 0)
		mu.Lock()
		free = 1 << 40
		mu.Unlock()
		w.kube.SetPod(first)
		w.until("uploads fail", e.ship.down)
	}
	room = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		free = n
	}
	return w, e, room, func() { s.set(nil) }
}

// optionalRoom is too little for captures that can wait, and enough for those that cannot.
const optionalRoom = defaultMinFree + 3*recordRoom

// TestSpoolFullDirect: when the spool is full and the store is there, a log goes through memory.
func TestSpoolFullDirect(t *testing.T) {
	t.Parallel()
	w, e, room, _ := fullSpool(t, false)
	room(defaultMinFree)
	for _, name := range []string{"a", "bb", "ccc"} {
		pod, c := w.pod(name)
		c.Print(time.Now(), name+"\n")
		c.Exit()
		exit(pod, 0)
		w.kube.SetPod(pod)
	}
	for _, rec := range w.await(3) {
		if !strings.HasSuffix(w.text(rec), " "+rec.Pod.Name+"\n") || rec.Verdict.Tail.State != bundle.Proven {
			t.Errorf("%s: %q, %+v", rec.Pod.Name, w.text(rec), rec.Verdict)
		}
	}
	if e.spool.Used() > 10_000 {
		t.Errorf("%d bytes in the spool", e.spool.Used())
	}
}

// TestSpoolFullAway: the spool is full and the store is away. A pod that stays keeps its log until there is
// room; dying pods have room that others have not; and when there is none at all, a record says so.
func TestSpoolFullAway(t *testing.T) {
	t.Parallel()
	w, _, room, back := fullSpool(t, true)
	dying := func(name string) {
		pod, c := w.pod(name)
		c.Print(time.Now(), name+"\n")
		now := metav1.Now()
		pod.DeletionTimestamp = &now
		w.kube.SetPod(pod)
		w.until("its log is asked for, or its room", func() bool { return c.Following() > 0 || strings.Contains(w.said(), "captures=all") })
		c.Exit()
		exit(pod, 0)
		w.kube.SetPod(pod)
		<-time.After(300 * time.Millisecond)
		w.kube.DeletePod(pod.Namespace, pod.Name)
	}
	room(optionalRoom)
	stays, c := w.pod("stays")
	c.Print(time.Now(), "stays\n")
	c.Exit()
	exit(stays, 0)
	stays.Status.Phase = "Succeeded"
	w.kube.SetPod(stays)
	w.until("it is told", func() bool { return strings.Contains(w.said(), "captures=optional") })
	<-time.After(1500 * time.Millisecond) // as long as a capture takes
	dying("d")
	if names, err := filepath.Glob(filepath.Join(w.spool, "cluster=*", "*", "*", "stays")); err != nil || len(names) > 0 {
		t.Errorf("it took the room of dying pods: %q, %v", names, err)
	}
	room(defaultMinFree)
	<-time.After(2 * askFree)
	dying("dd")
	<-time.After(2 * time.Second)
	room(1 << 40)
	back()
	recs := make(map[string]*bundle.Record)
	w.until("every run has its record", func() bool {
		for _, rec := range w.records() {
			recs[rec.Pod.Name] = rec
		}
		return len(recs) == 4
	})
	for _, name := range []string{"stays", "d"} {
		if rec := recs[name]; !strings.HasSuffix(w.text(rec), " "+name+"\n") {
			t.Errorf("%s: %q, %+v", name, w.text(rec), rec.Verdict)
		}
	}
	if rec := recs["dd"]; rec.Verdict.Head.Cause != bundle.CauseSpoolFull || rec.Lines != 0 {
		t.Errorf("without any room: %+v", rec)
	}
	if strings.Count(w.said(), "the spool is full") > 2 || strings.Contains(w.said(), "cannot spool") {
		t.Errorf("said too much")
	}
}

// TestSpoolFullForAWhile: the room ends in the middle of a dying pod's log, and is there again before the pod has
// ended. The stream waits for it, and nothing is cut.
func TestSpoolFullForAWhile(t *testing.T) {
	t.Parallel()
	w, _, room, _ := fullSpool(t, false)
	room(1 << 40)
	pod, c := w.pod("patient")
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Print(time.Now(), "one\n")
	<-time.After(2 * askFree)
	room(defaultMinFree)
	<-time.After(2 * askFree)
	c.Print(time.Now(), "two\n")
	w.until("it is told", func() bool { return strings.Contains(w.said(), "captures=all") })
	<-time.After(2 * roomLook)
	room(1 << 40)
	c.Print(time.Now(), "three\n")
	<-time.After(2 * askFree)
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	<-time.After(300 * time.Millisecond)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if rec := w.final(0); w.words(rec) != "one two three" || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
	}
}
