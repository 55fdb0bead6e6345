package exporter

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// fillUp leaves some bytes on the spool's file system, until the returned function is called.
func (w *world) fillUp(leave int64) (free func()) {
	w.t.Helper()
	name := filepath.Join(w.spool, ".filler")
	f, err := os.Create(name)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			w.t.Fatal(err)
		}
		err = nil
	}
	info, err := f.Stat()
	if err == nil {
		err = errors.Join(f.Truncate(info.Size()-leave), f.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			w.t.Error(err)
		}
	}
}

// unaware starts an exporter that is told of more room than its spool's file system has.
func (w *world) unaware(change func(*Options)) *Exporter {
	w.t.Helper()
	e := w.begin(func(e *Exporter) { e.space.freeBytes = func() (int64, error) { return 1 << 40, nil } }, change)
	w.until("it is ready", func() bool { return e.Ready() == nil })
	return e
}

// printAll prints lines to a log.
func printAll(c *kubetest.Container, text string) {
	for line := range strings.Lines(text) {
		c.Print(time.Now(), line)
	}
}

// The spool's file system is full when a dying pod's log, of which every byte was read, is to be sealed, and when
// it has room again the pod is gone. What is held is all there is of it, so it waits.
func TestSealWaitsForTheSpool(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"plain": nil, "redacted": redacting(t, Export{})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.spool = tmpfs(t, "4m")
			w.unaware(func(o *Options) {
				o.RotateAt = 1 << 30
				if change != nil {
					change(o)
				}
			})
			pod, c := w.pod("dying")
			text := randomLines(600 << 10) // less than a burst
			first := strings.IndexByte(text, '\n') + 1
			c.Print(time.Now(), text[:first])
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return c.Following() > 0 })
			printAll(c, text[first:])
			<-time.After(500 * time.Millisecond)
			free := w.fillUp(0)
			c.Exit()
			exit(pod, 0)
			w.kube.SetPod(pod)
			<-time.After(300 * time.Millisecond)
			w.kube.DeletePod(pod.Namespace, pod.Name)
			w.until("a failure", func() bool { return strings.Contains(w.said(), "cannot spool") })
			free()
			rec := w.final(0)
			if got := withoutStamps(w.text(rec)); got != text || !rec.Verdict.Complete {
				t.Errorf("%d bytes of %d, verdict %+v, reads %+v", len(got), len(text), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// The file system becomes full in the middle of a dying pod's log. The stream waits, and goes on when there is
// room: no line is missing, and none is there twice.
func TestStreamWaitsForTheSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.spool = tmpfs(t, "4m")
	w.unaware(func(o *Options) { o.RotateAt = 1 << 30 })
	pod, c := w.pod("dying")
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	w.until("a stream", func() bool { return c.Following() > 0 })
	text := randomLines(600 << 10)
	half := strings.Index(text[len(text)/2:], "\n") + 1 + len(text)/2
	printAll(c, text[:half])
	<-time.After(300 * time.Millisecond)
	free := w.fillUp(0)
	printAll(c, text[half:])
	<-time.After(time.Second)
	free()
	<-time.After(time.Second)
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	<-time.After(300 * time.Millisecond)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	rec := w.final(0)
	if got := withoutStamps(w.text(rec)); got != text || !rec.Verdict.Complete {
		t.Errorf("%d bytes of %d, verdict %+v, reads %+v", len(got), len(text), rec.Verdict, rec.Capture.Reads)
	}
}

// What an earlier process has read of a pod that is gone is on disk until it is committed: it is neither taken into
// memory, nor thrown away because it cannot be written again.
func TestLeftoverWaitsForTheSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.spool = tmpfs(t, "4m")
	pod, c := w.pod("gone")
	w.kube.SetPod(pod)
	e := w.start(nil)
	w.until("the run is in the ledger", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes")) > 0 })
	w.stop()
	text := randomLines(1 << 20)
	at, n := time.Now(), 0
	var stamped strings.Builder
	for line := range strings.Lines(text) {
		_, _ = io.WriteString(&stamped, at.Add(time.Duration(n)*time.Microsecond).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")+" "+line)
		n++
	}
	unfinishedCapture(t, w.spool, aboutPod(pod, c), stamped.String(), nil)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	free := w.fillUp(64 << 10)
	e = w.exporter(nil)
	e.space.freeBytes = func() (int64, error) { return 1 << 40, nil }
	w.run(e)
	<-time.After(2 * time.Second)
	if n := len(w.records()); n > 0 {
		t.Errorf("%d records before there is room", n)
	}
	free()
	rec := w.final(0)
	if got := w.text(rec); got != stamped.String() || rec.Verdict.Tail.State != bundle.Lost {
		t.Errorf("%d bytes of %d, verdict %+v", len(got), stamped.Len(), rec.Verdict)
	}
	w.stop()
	if left := w.inTemp(); left != 0 {
		t.Errorf("%d files are left", left)
	}
}
