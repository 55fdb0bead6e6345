package exporter

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// mountOver lets what a file shows, or whether it can be removed, be another file's.
func mountOver(t *testing.T, file, by string) (undo func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a file can be mounted by root only")
	}
	if err := syscall.Mount(by, file, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	mounted := true
	undo = func() {
		if mounted {
			mounted = false
			if err := syscall.Unmount(file, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(undo)
	return undo
}

// TestRecoverReadError: the disk cannot read one record. The others are shipped, its logs stay, and it is shipped
// when it can be read again.
func TestRecoverReadError(t *testing.T) {
	t.Parallel()
	s := newShipping(t, nil)
	keys := s.fill(3)
	readable := mountOver(t, filepath.Join(s.spool, keys[1]), "/proc/self/mem") // EIO at offset 0
	if err := s.e.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(nil)
	s.run()
	for end := time.Now().Add(10 * time.Second); s.metric("archived_total") < 2 && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	for end := time.Now().Add(10 * time.Second); s.metric("captures_refused") < 1 && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	if s.metric("archived_total") != 2 || s.metric("captures_refused") != 1 {
		t.Errorf("%v archived, %v refused", s.metric("archived_total"), s.metric("captures_refused"))
	}
	s.account()
	readable()
	s.stop()
	s.open(nil)
	s.run()
	s.drained(10 * time.Second)
	if rec := s.check(3)["pod-0001"]; !rec.Verdict.Complete {
		t.Errorf("record %+v", rec)
	}
}

// TestShipNotCleaned: a capture is in the bucket and cannot be taken out of the spool. It counts once.
func TestShipNotCleaned(t *testing.T) {
	t.Parallel()
	s := newShipping(t, nil)
	keys := s.fill(1)
	if err := s.e.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(nil)
	removable := mountOver(t, filepath.Join(s.spool, keys[0]), filepath.Join(s.spool, keys[0])) // EBUSY
	s.run()
	for end := time.Now().Add(10 * time.Second); s.metric("captures_refused") < 1 && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	s.account()
	removable()
	s.drained(2 * holdBackoff)
	s.check(1)
	if s.metric("archived_total") != 1 || s.metric("already_archived_total") != 0 {
		t.Errorf("%v archived, %v already archived", s.metric("archived_total"), s.metric("already_archived_total"))
	}
}
