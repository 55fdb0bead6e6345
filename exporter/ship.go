package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// shipper carries committed captures from the spool to the bucket: the log objects, then the record;
// then it removes them from the spool, the record last. A crash between any two steps is mended by
// doing it again. There is no last try: a full, forbidden or missing bucket is mended by people, and
// the spool keeps everything until then.
type shipper struct {
	e *Exporter

	open  inFlight // captures in the spool
	tasks sync.WaitGroup
	wake  chan struct{} // has room for one: something changed

	mu    sync.Mutex
	known map[string]*parcel // by key
	line  line
	gate  gate
	// placed are the segments of logs that go on, by what they were called in the spool: the records to
	// come name them again.
	placed map[string]placed
}

func newShipper(e *Exporter, uploads int) *shipper {
	return &shipper{e: e, wake: make(chan struct{}, 1), known: make(map[string]*parcel), placed: make(map[string]placed), line: newLine(uploads)}
}

func (s *shipper) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run ships until ctx ends and every upload that was begun has returned.
func (s *shipper) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(s.dispatch(ctx))
		select {
		case <-ctx.Done():
			s.tasks.Wait()
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// dispatch starts what may start now and returns how long nothing more will become due.
func (s *shipper) dispatch(ctx context.Context) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for {
		if wait := s.gate.wait(now, s.line.uploading()); wait > 0 {
			return wait
		}
		p := s.line.next(now)
		if p == nil {
			return s.line.wait(now)
		}
		began := now
		p.again = false // what is there by now is taken
		s.tasks.Go(func() {
			release := s.e.places.hold(p.key)
			err := s.one(ctx, p.key)
			release()
			if ctx.Err() == nil {
				s.done(p, began, err)
			}
		})
		if s.gate.shut {
			s.gate.trying = true
		}
	}
}

// done decides what comes of an upload.
func (s *shipper) done(p *parcel, began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.poke()
	now := time.Now()
	s.line.free(p)
	m := s.e.metrics
	var local *spoolError
	class := sink.ClassOf(err)
	switch {
	case err == nil:
	case errors.Is(err, errLeft): // and the store was not asked
		s.gate.trying = false
		s.leave(p)
		return
	case errors.As(err, &local), class == sink.ClassItem, errors.Is(err, errRefused), // this capture's own fault
		class == sink.ClassHold && s.gate.failing == nil && p.tries > lonelyTries:
		m.uploadErrors.Inc()
		s.refuse(p, err)
		s.line.later(p, now.Add(itemBackoff(p.tries)))
		s.gate.trying = false
		return
	default:
		m.uploadErrors.Inc()
		if errors.Is(err, sink.ErrMismatch) {
			m.mismatches.Inc()
		}
		if class == sink.ClassSlow || class == sink.ClassRetry && sink.Answered(err) {
			s.line.slower(began, now, sink.RetryAfter(err))
		}
		was := s.gate.reason
		if s.gate.fail(now, class, err) {
			s.e.log.Warn("cannot upload, will go on trying; the spool keeps everything", "err", err, "fix", sink.Hint(err), "pending", len(s.known))
			m.held.DeleteLabelValues(was)
			m.held.WithLabelValues(s.gate.reason).Set(1)
		}
		at := now.Add(max(fullJitter(shipBackoff, maxShipBackoff, p.tries), sink.RetryAfter(err)))
		switch {
		case s.gate.shut && !s.line.others():
			at = s.gate.next
		case s.gate.shut && at.Before(s.gate.next):
			at = s.gate.next.Add(time.Millisecond) // the next try is another's
		}
		s.line.later(p, at)
		m.concurrency.Set(float64(s.line.concurrency()))
		return
	}
	if reason, shut := s.gate.succeed(); shut {
		s.e.log.Info("uploads work again", "pending", len(s.known))
		m.held.WithLabelValues(reason).Set(0)
		s.line.restart()
	}
	s.line.faster()
	m.concurrency.Set(float64(s.line.concurrency()))
	s.leave(p)
}

// refuse tells once of a capture that cannot be shipped while others can.
func (s *shipper) refuse(p *parcel, err error) {
	p.err = err
	if p.refused {
		return
	}
	p.refused = true
	s.e.metrics.refused.Inc()
	s.e.log.Warn("cannot upload this capture, will try it again now and then; it stays in the spool", "key", p.key, "err", err)
}

// down says whether uploads fail now.
func (s *shipper) down() bool { return s.outageSince(0) != nil }

// outageSince returns the error of uploads that have failed for d or longer, or of captures that are
// refused if nothing else is left.
func (s *shipper) outageSince(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.failing != nil {
		if time.Since(s.gate.since) >= d {
			return s.gate.failing
		}
		return nil
	}
	if d == 0 {
		return nil
	}
	var refused error
	for _, p := range s.known {
		if !p.refused {
			return nil
		}
		refused = p.err
	}
	return refused
}

// spoolError is a failure of the spool's own disk. The store has nothing to do with it.
type spoolError struct{ error }

func (e *spoolError) Unwrap() error { return e.error }

// local marks an error as the spool's own.
func local(err error) error {
	if err == nil {
		return nil
	}
	return &spoolError{err}
}

// errRefused says that a capture must not be put where its place is taken.
var errRefused = errors.New("its place in the bucket is taken")

// errLeft says that a capture is not in the spool any more: it was shipped before, or set aside.
var errLeft = errors.New("not in the spool any more")

// one ships one capture.
func (s *shipper) one(ctx context.Context, key string) error {
	data, err := s.read(ctx, key)
	if errors.Is(err, sink.ErrNotFound) {
		return errLeft
	}
	if err != nil {
		return local(err)
	}
	rec, err := bundle.Decode(data)
	if err != nil {
		if err := s.setAsideRecord(key, err); err != nil {
			return err
		}
		return s.one(ctx, key) // what is in its place now
	}
	spooled := make([]string, 0, len(rec.Objects))
	changed := false
	named, gone := slices.Clone(rec.Objects), make([]bool, len(rec.Objects))
	for i := range rec.Objects {
		o := &rec.Objects[i]
		spooled = append(spooled, o.Key)
		moved, err := s.putLog(ctx, o, !rec.State.Running)
		switch {
		case errors.Is(err, sink.ErrDamaged), errors.Is(err, errGone) && s.e.spool.IsSetAside(spooled[i]):
			return s.replaceDamaged(ctx, key, spooled[i], err)
		case errors.Is(err, errGone):
			loseStored(rec, i)
			moved, gone[i] = true, true
		case err != nil:
			return err
		}
		changed = changed || moved
	}
	if changed {
		if data, err = bundle.Encode(rec); err != nil {
			return err
		}
	}
	if err := s.putRecord(ctx, key, rec, data); err != nil {
		return err
	}
	s.notePlaces(named, rec, gone)
	return local(s.clean(key, spooled))
}

// wasPlaced returns where this process has stored a segment before.
func (s *shipper) wasPlaced(o *bundle.Object) (at placed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok = s.placed[o.Key]
	return at, ok && at.StoredSHA256 == o.StoredSHA256
}

// notePlaces notes under which keys the objects were stored that a snapshot named: the records to come name
// them again. After the run's own record nobody does.
func (s *shipper) notePlaces(named []bundle.Object, rec *bundle.Record, gone []bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range named {
		if gone[i] && !s.placed[o.Key].gone {
			s.e.log.Error("a part of a log that was stored before is no longer in the bucket; the rest of it is stored", "key", rec.Objects[i].Key)
		}
		if rec.State.Running {
			s.placed[o.Key] = placed{Object: rec.Objects[i], gone: gone[i]}
		} else {
			delete(s.placed, o.Key)
		}
	}
}

func (s *shipper) read(ctx context.Context, key string) ([]byte, error) {
	return readAll(ctx, s.e.spool, key)
}

// readAll reads a record.
func readAll(ctx context.Context, b interface {
	Open(context.Context, string, int64, int64) (io.ReadCloser, error)
}, key string) ([]byte, error) {
	f, err := b.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, bundle.MaxRecordSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}

// clean takes a capture that is in the bucket out of the spool. The record goes last: an object that no
// record names is one that may not be in the bucket.
func (s *shipper) clean(key string, logs []string) error {
	for _, k := range append(logs, key) {
		if err := s.e.spool.Remove(k); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return fmt.Errorf("clean spool: %w", err)
		}
	}
	return nil
}

// putLog stores a log object. If other bytes lie under its key, left by a capture that never got as
// far as its record or by another exporter, they stay, and the object gets the next free segment
// number, which the record then names. Where this process has stored it before, the store is asked whether it still is
// there for the last record only: each snapshot names all segments so far.
func (s *shipper) putLog(ctx context.Context, o *bundle.Object, last bool) (moved bool, err error) {
	from := o.Key
	if at, ok := s.wasPlaced(o); ok {
		o.Key = at.Key
		if !at.gone && last {
			_, err = s.e.bucket.Stat(ctx, at.Key)
		}
		if at.gone || errors.Is(err, sink.ErrNotFound) {
			return false, fmt.Errorf("store %s: %w", o.Key, errGone)
		}
		return at.Key != from, err
	}
	_, err = s.e.spool.Stat(ctx, from)
	shipped := errors.Is(err, sink.ErrNotFound) // by an earlier try, or with an earlier record that names it
	if err != nil && !shipped {
		return false, local(err)
	}
	moved, err = s.place(ctx, o, func(to string) error {
		if shipped {
			return sink.ErrExists
		}
		return s.put(ctx, from, to, o)
	})
	if shipped && errors.Is(err, sink.ErrNotFound) {
		return false, fmt.Errorf("store %s: %w", o.Key, errGone)
	}
	return moved, err
}

// place stores a log object under its key, or under the next one that is free if other bytes are there.
func (s *shipper) place(ctx context.Context, o *bundle.Object, put func(to string) error) (moved bool, err error) {
	run, _, _, compression, err := bundle.ParseKey(o.Key)
	if err != nil {
		return false, err
	}
	for seg := 1001; ; seg++ {
		if err := put(o.Key); !errors.Is(err, sink.ErrExists) {
			return moved, err
		}
		if same, err := s.same(ctx, o); same || err != nil {
			return moved, err
		}
		o.Key, moved = run.Log(seg, compression), true
	}
}

// put sends a spooled object, if its bytes are still those that were written.
func (s *shipper) put(ctx context.Context, from, to string, o *bundle.Object) error {
	f, err := s.e.spool.File(from)
	if err != nil {
		return local(err)
	}
	defer f.Close() //nolint:errcheck // read only
	return s.e.bucket.Put(ctx, to, sink.Whole{Content: f, SHA256: o.StoredSHA256, MD5: o.StoredMD5})
}

// same says whether the object that is already stored is the one we would store. It is read only if the store does
// not tell: there may be thousands of segments.
func (s *shipper) same(ctx context.Context, o *bundle.Object) (bool, error) {
	switch info, err := s.e.bucket.Stat(ctx, o.Key); {
	case err != nil:
		return false, err
	case info.Size != o.StoredBytes:
		return false, nil
	case info.ETag != "" && info.ETag == o.StoredMD5:
		return true, nil
	}
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

// putRecord stores the record. If the run has one, the more complete of the two stays.
func (s *shipper) putRecord(ctx context.Context, key string, rec *bundle.Record, data []byte) error {
	err := s.e.bucket.Put(ctx, key, bytes.NewReader(data))
	for range 3 {
		if !errors.Is(err, sink.ErrExists) && !errors.Is(err, sink.ErrChanged) {
			break
		}
		var old sink.Object
		var stored []byte
		if old, stored, err = s.stored(ctx, key); err != nil {
			return err
		}
		if bytes.Equal(stored, data) { // by a try whose answer was lost, or by a process that has told nobody
			s.tell(key, rec, data)
			return nil
		}
		switch more, err := tellsMore(key, rec, stored); {
		case err != nil:
			return err
		case !more:
			return nil
		}
		r, ok := s.e.bucket.(sink.Replacer)
		if !ok {
			return fmt.Errorf("replace %s: %w by a record that tells of less", key, errRefused)
		}
		if err = r.Replace(ctx, key, bytes.NewReader(data), old); err == nil {
			s.e.log.Info("replaced a record by one that tells of more of the log", "key", key)
		}
	}
	if err != nil {
		return err
	}
	s.e.sample.archived(key)
	if !s.counts(key) {
		s.e.metrics.snapshots.Inc()
		return nil
	}
	s.noteStored(key)
	s.tell(key, rec, data)
	if t := rec.State.FinishedAt; t != nil && !rec.State.FinishedAtEstimated {
		s.e.metrics.lag.Observe(time.Since(*t).Seconds())
	}
	return nil
}

// tell tells of an archived run. It may do so again: an event's ID is that of the record.
func (s *shipper) tell(key string, rec *bundle.Record, data []byte) {
	if tell := s.e.opts.Archived; tell != nil && !rec.State.Running {
		tell(key, data)
	}
}

// stored reads the record that the run has.
func (s *shipper) stored(ctx context.Context, key string) (old sink.Object, data []byte, err error) {
	if old, err = s.e.bucket.Stat(ctx, key); err == nil {
		data, err = readAll(ctx, s.e.bucket, key)
	}
	return old, data, err
}
