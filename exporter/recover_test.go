package exporter

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// TestRecoverNotAside: what can neither be read nor set aside stays, and holds up nothing else. It is set
// aside as soon as that can be done.
func TestRecoverNotAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		keys := s.fill(4)
		if err := os.Truncate(filepath.Join(s.spool, keys[0]), 20); err != nil {
			t.Fatal(err)
		}
		orphan := "cluster=test/namespace=shop/date=2026-03-01/lone/u/app.0.0123456789ab.log.zst"
		if err := s.e.spool.Put(t.Context(), orphan, strings.NewReader("whose?")); err != nil {
			t.Fatal(err)
		}
		unfinishedCapture(t, s.spool, &bundle.Record{FormatVersion: bundle.FormatVersion}, "", nil)
		about, err := filepath.Glob(filepath.Join(s.spool, ".tmp", "*", "about"))
		if err != nil || len(about) != 1 {
			t.Fatal(about, err)
		}
		if err := os.WriteFile(about[0], []byte("{"), 0o644); err != nil { //nolint:gosec // a test
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(about[0]), "1"), []byte("text"), 0o644); err != nil { //nolint:gosec // a test
			t.Fatal(err)
		}
		aside := filepath.Join(s.spool, ".set-aside")
		if err := os.WriteFile(aside, nil, 0o644); err != nil { //nolint:gosec // in the way of the folder
			t.Fatal(err)
		}
		if err := s.e.Close(); err != nil {
			t.Fatal(err)
		}
		s.open(nil)
		s.run()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.e.ship.open.count(); n != 1 || s.metric("archived_total") != 3 {
			t.Errorf("%d captures are left, %v archived", n, s.metric("archived_total"))
		}
		s.account()
		for _, key := range []string{keys[0], orphan} {
			if _, err := os.Stat(filepath.Join(s.spool, key)); err != nil {
				t.Error(err)
			}
		}
		if err := os.Remove(aside); err != nil {
			t.Fatal(err)
		}
		time.Sleep(maxItemBackoff)
		synctest.Wait()
		s.stop()
		s.open(nil)
		s.run()
		synctest.Wait()
		if rec := s.check(4)["pod-0000"]; rec.Verdict.Head.Cause != bundle.CauseSpoolDamaged {
			t.Errorf("record %+v", rec)
		}
		if n := len(s.setAside()); n != 4 { // the record and its log, the log of nobody, the draft's text
			t.Errorf("%d files are set aside: %q", n, s.setAside())
		}
		s.stop()
	})
}

// setAside returns what was set aside.
func (s *shipping) setAside() (files []string) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.spool, ".set-aside"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.HasSuffix(path, ".reason.txt") && e.Name() != "about" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// TestRecoverLarge: a start on a full spool holds little of each record.
func TestRecoverLarge(t *testing.T) {
	s := newShipping(t, nil)
	const records, size = 100, 64 << 10
	for i := range records {
		rec := s.record(i)
		rec.PodObject = json.RawMessage(`"` + strings.Repeat("x", size) + `"`)
		s.commit(rec, stampedLine+"\n")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f, err := s.e.ship.find(t.Context())
	if err != nil || len(f.records) != records {
		t.Fatal(len(f.records), err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > records*size/10 { //nolint:gosec // far below the limit
		t.Errorf("%d bytes are held of %d records of %d bytes", held, records, size)
	}
	runtime.KeepAlive(f)
}

// TestShipRotten: a record rots after the start has read it. What takes its place is shipped, and counted.
func TestShipRotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		s.store.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
		s.run()
		keys := s.fill(3)
		time.Sleep(time.Second)
		synctest.Wait()
		if err := os.Truncate(filepath.Join(s.spool, keys[1]), 20); err != nil {
			t.Fatal(err)
		}
		s.store.set(nil)
		time.Sleep(maxHoldBackoff)
		synctest.Wait()
		if rec := s.check(3)["pod-0001"]; rec.Verdict.Head.Cause != bundle.CauseSpoolDamaged {
			t.Errorf("record %+v", rec)
		}
		s.stop()
	})
}

// TestShipGone: captures that are not in the spool any more say nothing about the store.
func TestShipGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		s.store.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
		s.run()
		keys := s.fill(5)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, key := range keys[:4] {
			if err := os.RemoveAll(filepath.Join(s.spool, filepath.Dir(key))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * maxHoldBackoff)
		synctest.Wait()
		if s.said("uploads work again") > 0 || s.metric("ship_held") != 1 || s.e.ship.open.count() != 1 {
			t.Errorf("%d left, held %v, said:\n%s", s.e.ship.open.count(), s.metric("ship_held"), s.log.String())
		}
		s.account()
		s.store.set(nil)
		time.Sleep(maxHoldBackoff)
		synctest.Wait()
		s.check(1)
		s.stop()
	})
}
