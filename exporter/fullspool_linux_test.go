package exporter

import (
	"encoding/base64"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// tmpfs mounts a file system in memory.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a file system can be mounted by root only")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// randomLines makes text that cannot be made much smaller.
func randomLines(size int) string {
	rnd := rand.NewChaCha8([32]byte{1})
	raw := make([]byte, 96)
	var b strings.Builder
	for b.Len() < size {
		_, _ = rnd.Read(raw) // never fails
		b.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	}
	return b.String()
}

// TestSpoolOnFullFileSystem: the store is away, and the spool's file system, whose free space is told wrong, is
// really full. What is committed stays, and the logs of pods that stay are read again until there is room.
func TestSpoolOnFullFileSystem(t *testing.T) {
	t.Parallel()
	const runs = 8
	w := newTrapped(t, nil)
	w.spool = tmpfs(t, "4m")
	s := &store{Dir: w.bucket}
	s.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
	e := w.begin(func(e *Exporter) { e.space.freeBytes = func() (int64, error) { return 1 << 40, nil } }, func(o *Options) {
		o.Bucket, o.Metrics = s, w.metrics
	})
	w.until("it is ready", func() bool { return e.Ready() == nil })
	text := randomLines(1200 << 10)
	for n := 1; n <= runs; n++ {
		w.runOf(strings.Repeat("s", n), text, 0)
	}
	w.until("the file system is full", func() bool { return strings.Contains(w.said(), syscall.ENOSPC.Error()) })
	<-time.After(time.Second)
	if w.until("some are committed", func() bool { return strings.Contains(w.said(), "msg=captured") }); len(w.records()) > 0 {
		t.Errorf("%d records in a store that is away", len(w.records()))
	}
	s.set(nil)
	for end := time.Now().Add(60 * time.Second); len(w.records()) < runs && time.Now().Before(end); {
		<-time.After(50 * time.Millisecond)
	}
	w.account()
	recs := w.records()
	if len(recs) != runs {
		t.Errorf("%d records, want %d", len(recs), runs)
	}
	for _, rec := range recs {
		v := rec.Verdict
		if v.Middle.State != bundle.Proven || v.Tail.State != bundle.Proven || withoutStamps(w.text(rec)) != text {
			t.Errorf("%s: %d bytes, verdict %+v", rec.Pod.Name, rec.RawBytes, v)
		}
	}
	if files, err := os.ReadDir(w.spool); err == nil {
		for _, f := range files {
			if strings.HasPrefix(f.Name(), "cluster=") {
				t.Errorf("%s is left in the spool", f.Name())
			}
		}
	}
}

func withoutStamps(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		_, n, _ := bundle.ParseStamp([]byte(line))
		b.WriteString(line[n:])
	}
	return b.String()
}
