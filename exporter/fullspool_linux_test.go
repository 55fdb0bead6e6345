package exporter

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	for end := time.Now().Add(3 * time.Minute); len(w.records()) < runs && time.Now().Before(end); {
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

// TestStartOnFullFileSystem: a start on a file system that has no room left ships what is spooled, and forgets
// no run that the ledger knows: one of them vanished meanwhile, and another goes on.
func TestStartOnFullFileSystem(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	w.spool = tmpfs(t, "4m")
	s := &store{Dir: w.bucket}
	s.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
	tune := func(e *Exporter) { e.space.freeBytes = func() (int64, error) { return 1 << 40, nil } }
	change := func(o *Options) { o.Bucket = s }
	gone, _ := w.pod("gone")
	stays, _ := w.pod("stays")
	w.kube.SetPod(gone)
	w.kube.SetPod(stays)
	w.begin(tune, change)
	w.runOf("spooled", "the words\n", 0)
	w.until("it is spooled", func() bool { return strings.Contains(w.said(), "msg=captured") })
	w.stop()
	w.kube.DeletePod(gone.Namespace, gone.Name)
	alive := func() (pods []string) {
		l, entries, _, err := openLedger(w.spool)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close() //nolint:errcheck // a test
		for _, e := range entries {
			pods = append(pods, e.Pod)
		}
		slices.Sort(pods)
		return pods
	}
	if got := alive(); !slices.Equal(got, []string{"gone", "stays"}) {
		t.Fatalf("the ledger knows %q", got)
	}
	fill := filepath.Join(w.spool, "cluster=filler")
	f, err := os.Create(fill) //nolint:gosec // a test
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ledger, err := os.ReadFile(filepath.Join(w.spool, ledgerName))
	if err != nil {
		t.Fatal(err)
	}
	e := w.begin(tune, change)
	w.until("it is ready", func() bool { return e.Ready() == nil })
	if now, err := os.ReadFile(filepath.Join(w.spool, ledgerName)); err != nil || !bytes.HasPrefix(now, ledger) {
		t.Errorf("the ledger had %d bytes and has %d, %v", len(ledger), len(now), err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.set(nil)
	causes := make(map[string]bundle.Cause)
	for _, rec := range w.await(2) {
		causes[rec.Pod.Name] = rec.Verdict.Head.Cause
	}
	if _, ok := causes["spooled"]; !ok || causes["gone"] != bundle.CauseVanishedWhileDown {
		t.Errorf("records and their causes: %v", causes)
	}
	w.stop()
	if got := alive(); !slices.Equal(got, []string{"stays"}) {
		t.Errorf("the ledger knows %q", got)
	}
}
