package exporter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// segmented puts snapshots of a log into the spool, each with one segment more than the one before, and in the end
// the record of the run. It returns their keys and the texts of the segments.
func (s *shipping) segmented(n, segments int) (keys, texts []string) {
	s.t.Helper()
	about, err := bundle.Encode(s.record(n))
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := newOutput(s.e.spool, s.e.encoders, bundle.Zstd, about)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.abort()
	begin := time.Date(2026, 3, 1, 10, 0, 0, 1, time.UTC)
	for i := range segments {
		text := fmt.Sprintf("%s segment %d\n", begin.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), i)
		if _, err := out.Write([]byte(text)); err != nil {
			s.t.Fatal(err)
		}
		rec := s.record(n)
		running := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
		if i < segments-1 {
			rec.State = bundle.State{Running: true, StartedAt: &begin}
			rec.Verdict = bundle.Verdict{Head: bundle.Part{State: bundle.Proven}, Middle: running, Tail: running}
			_, err = out.segment(rec)
		} else if err = out.seal(rec); err == nil {
			err = out.publish(rec)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		run, err := bundle.KeyOf(rec)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := putRecord(s.e.spool, run.Record(), rec); err != nil {
			s.t.Fatal(err)
		}
		keys, texts = append(keys, run.Record()), append(texts, text)
	}
	return keys, texts
}

// reopened is a new process on the same spool.
func (s *shipping) reopened() {
	s.t.Helper()
	if err := s.e.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open(nil)
	s.run()
	s.drained(10 * time.Second)
}

// stored reads a record from the bucket.
func (s *shipping) stored(key string) *bundle.Record {
	s.t.Helper()
	data, err := readAll(s.t.Context(), s.bucket, key)
	if err != nil {
		s.t.Fatal(err)
	}
	rec, err := bundle.CheckRecord(key, data)
	if err != nil {
		s.t.Fatal(err)
	}
	return rec
}

// A segment that was stored is removed from the bucket, by a lifecycle rule, say, while its run goes on, and the
// exporter restarts: what comes after it is stored all the same, and the run's record does not call the log complete.
func TestShipSegmentExpired(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"restarted": true, "one process": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shipExpired(t, restart)
		})
	}
}

func shipExpired(t *testing.T, restart bool) {
	s := newShipping(t, nil)
	keys, _ := s.segmented(0, 4)
	aside := memoryDir(t)
	for i, key := range keys[2:] { // they come later
		if err := os.Rename(filepath.Join(s.spool, key), filepath.Join(aside, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	held := func(name string) string { return filepath.Join(s.spool, filepath.Dir(keys[0]), name) }
	logs, err := filepath.Glob(held("*.log.zst"))
	if err != nil || len(logs) != 4 {
		t.Fatal(logs, err)
	}
	for i, log := range logs[2:] {
		if err := os.Rename(log, filepath.Join(aside, fmt.Sprint("log", i))); err != nil {
			t.Fatal(err)
		}
	}
	s.reopened()
	if restart {
		s.stop()
	}
	rec := s.stored(keys[1])
	if err := s.store.Remove(rec.Objects[0].Key); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(logs[2]), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := os.Rename(filepath.Join(aside, fmt.Sprint("log", i)), logs[2+i]); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(aside, fmt.Sprint(i)), filepath.Join(s.spool, keys[2+i])); err != nil {
			t.Fatal(err)
		}
	}
	told := keys[2:]
	if restart {
		s.open(nil)
		s.run()
	} else {
		told = keys[3:] // the store is asked for the last record only
		for _, key := range keys[2:] {
			rec, err := s.e.spooled(key)
			if err != nil {
				t.Fatal(err)
			}
			s.e.ship.add(key, rec)
		}
	}
	s.drained(10 * time.Second)
	for _, key := range told {
		rec := s.stored(key)
		if v := rec.Verdict; v.Complete || v.Head.State != bundle.Lost || v.Head.Cause != bundle.CauseJoinFailed {
			t.Errorf("%s: verdict %+v", key, v)
		}
	}
	rec = s.stored(keys[3])
	for _, o := range rec.Objects[1:] {
		if same, err := s.e.ship.same(t.Context(), &o); err != nil || !same {
			t.Errorf("%s: %t, %v", o.Key, same, err)
		}
	}
	if s.said("level=WARN") != 0 || s.said("level=ERROR") == 0 {
		t.Errorf("said:\n%s", s.log.String())
	}
}

// One bit of one segment has changed in the spool. Every record that names it tells of that part only, and goes on
// naming what is sound.
func TestShipDamagedSegment(t *testing.T) {
	t.Parallel()
	for bad, want := range []string{"1 2", "0 2", "0 1"} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			s := newShipping(t, nil)
			keys, texts := s.segmented(0, 3)
			logs, err := filepath.Glob(filepath.Join(s.spool, filepath.Dir(keys[0]), "*.log.zst"))
			if err != nil || len(logs) != 3 {
				t.Fatal(logs, err)
			}
			data, err := os.ReadFile(logs[bad])
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 4
			if err := os.WriteFile(logs[bad], data, 0o644); err != nil { //nolint:gosec // a test
				t.Fatal(err)
			}
			s.reopened()
			recs := s.check(1)
			rec := s.stored(keys[2])
			text := ""
			for i := range strings.FieldsSeq(want) {
				text += texts[i[0]-'0']
			}
			sum := sha256.Sum256([]byte(text))
			parts := []bundle.Part{rec.Verdict.Head, rec.Verdict.Middle, rec.Verdict.Tail}
			for i, part := range parts {
				if (part.State == bundle.Lost && part.Cause == bundle.CauseSpoolDamaged) != (i == bad) {
					t.Errorf("part %d: %+v", i, part)
				}
			}
			if rec.Verdict.Complete || len(rec.Objects) != 2 || rec.Lines != 2 || rec.RawSHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("record %+v", rec)
			}
			if _, ok := recs["pod-0000"]; !ok {
				t.Error("no record")
			}
			if !s.e.spool.IsSetAside(strings.TrimPrefix(logs[bad], s.spool+"/")) {
				t.Error("it was not set aside")
			}
		})
	}
}

// A record in the bucket that was changed after it was written, by whatever, gives way to the one in the spool.
func TestShipOverAChangedRecord(t *testing.T) {
	t.Parallel()
	s := newShipping(t, nil)
	key := s.commit(s.record(0), stampedLine+"line\n")
	data, err := readAll(t.Context(), s.e.spool, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Dir.Put(t.Context(), key, bytes.NewReader(bytes.Replace(data, []byte(`"lines": 1`), []byte(`"lines": 7`), 1))); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.drained(10 * time.Second)
	if data, err = readAll(t.Context(), s.store, key); err == nil {
		_, err = bundle.CheckRecord(key, data)
	}
	if err != nil {
		t.Error(err)
	}
}
