package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"sort"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// maxShipBackoff bounds the wait between two tries of one upload. There is no last try: a full,
// forbidden or missing bucket is mended by people, and the spool keeps everything until then.
const maxShipBackoff = time.Minute

// shipper carries committed captures from the spool to the bucket: the log objects, then the record,
// then it removes them from the spool, the record first. A crash between any two steps is mended by
// doing it again.
type shipper struct {
	e     *Exporter
	queue *queue

	open inFlight // captures in the spool

	mu      sync.Mutex
	failing error     // the last upload's
	since   time.Time // when failing began
}

func newShipper(e *Exporter, uploads int) *shipper {
	return &shipper{e: e, queue: newQueue(0, 0, uploads)}
}

// recover takes up what an earlier process left in the spool, the oldest first, and removes log
// objects that no record names: their captures were not committed.
func (s *shipper) recover(ctx context.Context) error {
	var records []sink.Object
	var logs []string
	named := make(map[string]bool)      // log objects that a record names
	unreadable := make(map[string]bool) // folders with a record that tells us nothing
	for o, err := range s.e.spool.List(ctx, "", sink.ListOptions{}) {
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		_, kind, _, _, err := bundle.ParseKey(o.Key)
		switch {
		case err != nil:
			s.e.log.Warn("a file in the spool is none of ours, left alone", "key", o.Key)
			continue
		case kind == bundle.KindLog:
			logs = append(logs, o.Key)
			continue
		}
		rec, err := s.load(ctx, o.Key)
		if err != nil {
			s.e.log.Error("a record in the spool cannot be read; it and the logs beside it are left alone", "key", o.Key, "err", err)
			unreadable[path.Dir(o.Key)] = true
			continue
		}
		for _, obj := range rec.Objects {
			named[obj.Key] = true
		}
		records = append(records, o)
	}
	for _, key := range logs {
		if !named[key] && !unreadable[path.Dir(key)] {
			if err := s.e.spool.Remove(key); err != nil {
				return fmt.Errorf("clean spool: %w", err)
			}
		}
	}
	sort.SliceStable(records, func(i, j int) bool { return records[i].ModTime.Before(records[j].ModTime) })
	for _, o := range records {
		s.add(o.Key)
	}
	if len(records) > 0 {
		s.e.log.Info("taking up what was spooled before", "pending", len(records))
	}
	return nil
}

// add takes a committed capture, by its record's key.
func (s *shipper) add(key string) {
	s.open.begin()
	if s.counts(key) {
		s.e.metrics.pending.Inc()
	}
	s.schedule(key, 0)
}

// counts says whether a record stands for a run in the account of metrics.go. The snapshot of a run that
// goes on does not.
func (s *shipper) counts(key string) bool {
	k, _, _, _, err := bundle.ParseKey(key)
	return s.e.once || err != nil || k.Snapshot.IsZero()
}

func (s *shipper) schedule(key string, tries int) {
	at := time.Now()
	if tries > 0 {
		d := min(time.Second<<min(tries-1, 10), maxShipBackoff)
		at = at.Add(d/2 + rand.N(d/2)) // spread, so that a store that comes back is not hit by all at once
	}
	s.queue.add(prioFinished, at, func(ctx context.Context) {
		err := s.one(ctx, key)
		if ctx.Err() != nil {
			return
		}
		s.outage(err)
		if err != nil {
			s.schedule(key, tries+1)
			return
		}
		if s.counts(key) {
			s.e.metrics.pending.Dec()
		}
		s.open.end()
	})
}

// outage tells once when uploads begin to fail and once when they work again.
func (s *shipper) outage(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.e.metrics.uploadErrors.Inc()
		if s.failing == nil {
			s.since = time.Now()
			s.e.log.Warn("cannot upload, will go on trying; the spool keeps everything", "err", err, "fix", sink.Hint(err))
		}
	case s.failing != nil:
		s.e.log.Info("uploads work again")
	}
	s.failing = err
}

// down says whether the last upload failed.
func (s *shipper) down() bool { return s.outageSince(0) != nil }

// outageSince returns the last upload's error if uploads have failed for d or longer.
func (s *shipper) outageSince(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing == nil || time.Since(s.since) < d {
		return nil
	}
	return s.failing
}

func (s *shipper) load(ctx context.Context, key string) (*bundle.Record, error) {
	f, err := s.e.spool.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return bundle.Decode(data)
}

// one ships one capture.
func (s *shipper) one(ctx context.Context, key string) error {
	rec, err := s.load(ctx, key)
	if errors.Is(err, sink.ErrNotFound) {
		return nil // shipped already: it was handed over twice
	}
	if err != nil {
		return err
	}
	spooled := make([]string, 0, len(rec.Objects))
	moved := false
	for i := range rec.Objects {
		o := &rec.Objects[i]
		spooled = append(spooled, o.Key)
		m, err := s.putLog(ctx, o)
		if err != nil {
			return err
		}
		moved = moved || m
	}
	err = s.putRecord(ctx, key, rec, moved)
	switch {
	case errors.Is(err, sink.ErrExists):
		if err := s.asGood(ctx, key, rec); err != nil {
			return err
		}
		if s.counts(key) {
			s.e.metrics.already.Inc()
		}
	case err != nil:
		return err
	case !s.counts(key):
		s.e.metrics.snapshots.Inc()
	default:
		s.e.metrics.archived.Inc()
		if t := rec.State.FinishedAt; t != nil && !rec.State.FinishedAtEstimated {
			s.e.metrics.lag.Observe(time.Since(*t).Seconds())
		}
	}
	// The record first: an object without one is nobody's, a record without objects would be wrong.
	if err := s.e.spool.Remove(key); err != nil {
		return fmt.Errorf("clean spool: %w", err)
	}
	for _, key := range spooled {
		if err := s.e.spool.Remove(key); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return fmt.Errorf("clean spool: %w", err)
		}
	}
	return nil
}

// putLog stores a log object. If other bytes lie under its key, left by a capture that never got as
// far as its record, they stay, and the object gets the next free segment number, which the record
// then names.
func (s *shipper) putLog(ctx context.Context, o *bundle.Object) (moved bool, err error) {
	from := o.Key
	_, err = s.e.spool.Stat(ctx, from)
	shipped := errors.Is(err, sink.ErrNotFound) // with an earlier record that names it
	if err != nil && !shipped {
		return false, err
	}
	for seg := 1001; ; seg++ {
		err := sink.ErrExists
		if !shipped {
			err = s.put(ctx, from, o.Key)
		}
		if !errors.Is(err, sink.ErrExists) {
			return moved, err
		}
		if same, err := s.same(ctx, o); same || err != nil {
			return moved, err
		}
		run, _, _, compression, err := bundle.ParseKey(from)
		if err != nil {
			return moved, err
		}
		o.Key, moved = run.Log(seg, compression), true
	}
}

func (s *shipper) put(ctx context.Context, from, to string) error {
	f, err := s.e.spool.File(from)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	return s.e.bucket.Put(ctx, to, f)
}

// putRecord stores the record: the spooled bytes, unless an object has moved.
func (s *shipper) putRecord(ctx context.Context, key string, rec *bundle.Record, moved bool) error {
	if !moved {
		return s.put(ctx, key, key)
	}
	data, err := bundle.Encode(rec)
	if err != nil {
		return err
	}
	return s.e.bucket.Put(ctx, key, bytes.NewReader(data))
}

// asGood returns nil if the record that is stored already tells of the same log as ours, or of more.
// Otherwise ours stays in the spool.
func (s *shipper) asGood(ctx context.Context, key string, ours *bundle.Record) error {
	r, err := s.e.bucket.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("compare %s: %w", key, err)
	}
	theirs, err := bundle.Decode(data)
	if err != nil {
		return fmt.Errorf("the record that is stored under %s is damaged: %w", key, err)
	}
	if theirs.RawSHA256 != ours.RawSHA256 && (theirs.RawBytes < ours.RawBytes || ours.Verdict.Complete && !theirs.Verdict.Complete) {
		return fmt.Errorf("the record that is stored under %s tells of less of the log than ours", key)
	}
	return nil
}

// same says whether the object that is already stored is the one we would store.
func (s *shipper) same(ctx context.Context, o *bundle.Object) (bool, error) {
	r, err := s.e.bucket.Open(ctx, o.Key, 0, -1)
	if err != nil {
		return false, err
	}
	defer r.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return false, fmt.Errorf("compare %s: %w", o.Key, err)
	}
	return hex.EncodeToString(h.Sum(nil)) == o.StoredSHA256, nil
}
