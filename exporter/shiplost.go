package exporter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// errGone says that a log object is neither in the spool nor in the bucket. It leaves the spool only when it is in
// the bucket with a record that names it, or when it is set aside.
var errGone = errors.New("it was stored before and is no longer there")

// reachable asks the store for something, be it there or not.
func (s *shipper) reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	_, err := s.e.bucket.Stat(ctx, "reachable")
	return err == nil || errors.Is(err, sink.ErrNotFound)
}

// placed is where a segment was stored that a snapshot named.
type placed struct {
	bundle.Object
	gone bool // from there too
}

// lose enters into a verdict that the i-th of n objects is lost.
func lose(v *bundle.Verdict, i, n int, lost bundle.Part) {
	part := &v.Middle
	switch i {
	case 0:
		part = &v.Head
	case n - 1:
		part = &v.Tail
	}
	if part.State == bundle.Lost {
		lost.Cause, lost.Evidence = part.Cause, append(slices.Clone(part.Evidence), lost.Evidence...)
	}
	v.Complete, *part = false, lost
	if n == 1 {
		v.Middle, v.Tail = lost, lost
	}
}

// loseStored enters into a record that a segment of it, which was stored while the log went on, is no longer in the
// bucket: a rule of the store's has removed it, say. What is there of the log is stored all the same. The record
// goes on naming the segment, as any does whose objects expire before it.
func loseStored(rec *bundle.Record, i int) {
	lose(&rec.Verdict, i, len(rec.Objects), bundle.Part{
		State: bundle.Lost, Cause: bundle.CauseJoinFailed, After: rec.Objects[i].FirstStamp, Before: rec.Objects[i].LastStamp,
		Evidence: []string{rec.Objects[i].Key + ": " + errGone.Error()},
	})
}

// dropDamaged takes a log object out of a record, and tells of the loss.
func dropDamaged(rec *bundle.Record, i int, why error) {
	lost := bundle.Part{State: bundle.Lost, Cause: bundle.CauseSpoolDamaged, Evidence: []string{why.Error()}}
	if i > 0 {
		lost.After = rec.Objects[i-1].LastStamp
	}
	rest := int64(0) // lines behind it
	for _, o := range rec.Objects[i+1:] {
		rest += o.Lines
		if lost.Before == nil {
			lost.Before = o.FirstStamp
		}
	}
	lose(&rec.Verdict, i, len(rec.Objects), lost)
	rec.LastLines = rec.LastLines[max(0, len(rec.LastLines)-int(min(rest, bundle.MaxLastLines))):]
	rec.Objects = slices.Delete(rec.Objects, i, i+1)
	rec.Lines, rec.RawBytes, rec.FirstStamp, rec.LastStamp = 0, 0, nil, nil
	for _, o := range rec.Objects {
		rec.Lines += o.Lines
		rec.RawBytes += o.RawBytes
		if rec.FirstStamp == nil {
			rec.FirstStamp = o.FirstStamp
		}
		if o.LastStamp != nil {
			rec.LastStamp = o.LastStamp
		}
	}
}

// replaceDamaged sets a log object aside whose bytes have changed on the disk, and puts a record in the place
// of the old one that tells of the loss and names the objects that are sound.
func (s *shipper) replaceDamaged(ctx context.Context, key, log string, why error) error {
	old, err := s.e.spool.Stat(ctx, key)
	if err != nil {
		return local(err)
	}
	data, err := s.read(ctx, key)
	if err != nil {
		return local(err)
	}
	rec, err := bundle.Decode(data)
	if err != nil {
		return local(err)
	}
	var bad []string
	for i := slices.IndexFunc(rec.Objects, func(o bundle.Object) bool { return o.Key == log }); i >= 0; {
		bad = append(bad, rec.Objects[i].Key)
		dropDamaged(rec, i, why)
		if i, err = s.sumUp(ctx, rec); err != nil && i < 0 {
			return err
		}
		why = err
	}
	to, err := s.putInstead(ctx, key, old, rec)
	if err != nil {
		return local(err)
	}
	for _, k := range bad {
		if _, err := s.e.spool.SetAside(k, "its record is "+to); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return local(err)
		}
		s.e.metrics.setAside.WithLabelValues("log").Inc()
		s.e.log.Error("log lost: it was damaged in the spool; its file is set aside", "key", k, "record", to)
	}
	if to != key {
		return errLeft // it is another capture now
	}
	return s.one(ctx, key)
}

// putInstead puts a record in the place of another in the spool. A snapshot that ends earlier by it has another
// key. Should the process end in between, the damaged log is found to belong to no record, or damaged once more.
func (s *shipper) putInstead(ctx context.Context, key string, old sink.Object, rec *bundle.Record) (to string, err error) {
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return "", err
	}
	if to = run.Record(); to != key {
		if err := putRecord(s.e.spool, to, rec); err != nil && !errors.Is(err, sink.ErrExists) {
			return "", err
		}
		s.add(to, rec)
		return to, s.e.spool.Remove(key)
	}
	data, err := bundle.Encode(rec)
	if err != nil {
		return "", err
	}
	return to, s.e.spool.Replace(ctx, key, bytes.NewReader(data), old)
}

// sumUp makes the hash of the text that a record names, of which some is gone. If one more object is not what it
// should be, it returns which; the error then says why.
func (s *shipper) sumUp(ctx context.Context, rec *bundle.Record) (bad int, err error) {
	whole := sha256.New()
	for i, o := range rec.Objects {
		err := s.readText(ctx, o, whole)
		if damaged := (*bundle.DamagedError)(nil); errors.As(err, &damaged) {
			return i, err
		} else if err != nil {
			return -1, err
		}
	}
	rec.RawSHA256, rec.RawSHA256State = "", nil
	if len(rec.Objects) == 0 {
		return -1, nil
	}
	rec.RawSHA256 = hex.EncodeToString(whole.Sum(nil))
	if rec.State.Running {
		rec.RawSHA256State, err = whole.(encoding.BinaryMarshaler).MarshalBinary()
	}
	return -1, err
}

// readText reads the text of a log object, wherever that is. Its error is a *bundle.DamagedError if it is not what
// was written.
func (s *shipper) readText(ctx context.Context, o bundle.Object, to io.Writer) error {
	damaged := func(err error) error { return &bundle.DamagedError{Key: o.Key, Err: err} }
	_, _, _, compression, err := bundle.ParseKey(o.Key)
	if err != nil {
		return damaged(err)
	}
	body, err := s.openText(ctx, o)
	switch {
	case errors.Is(err, errGone):
		return damaged(err)
	case err != nil:
		return err
	}
	defer body.Close() //nolint:errcheck // read only
	stored := sha256.New()
	text, err := bundle.NewLogReader(io.TeeReader(body, stored), compression)
	if err == nil {
		_, err = io.Copy(to, text)
		_ = text.Close()
	}
	if _, rest := io.Copy(stored, body); rest != nil {
		return fmt.Errorf("read %s: %w", o.Key, rest)
	}
	if hex.EncodeToString(stored.Sum(nil)) != o.StoredSHA256 {
		return damaged(errors.Join(errors.New("its bytes have changed"), err))
	}
	return err
}

// openText opens a log object in the spool or, if it was shipped, in the bucket.
func (s *shipper) openText(ctx context.Context, o bundle.Object) (io.ReadCloser, error) {
	body, err := s.e.spool.Open(ctx, o.Key, 0, -1)
	if err == nil || !errors.Is(err, sink.ErrNotFound) {
		return body, local(err)
	}
	if _, err := s.putLog(ctx, &o, false); err != nil { // it finds where
		return nil, err
	}
	return s.e.bucket.Open(ctx, o.Key, 0, -1)
}

// tellsMore says whether our record tells of more than the one that is stored.
func tellsMore(key string, ours *bundle.Record, stored []byte) (bool, error) {
	if !json.Valid(stored) {
		return true, nil // cut short on its way, by whoever stored it
	}
	theirs, err := bundle.Decode(stored)
	if errors.Is(err, bundle.ErrDigest) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare %s: %w by what this program cannot read: %w", key, errRefused, err)
	}
	return fuller(ours, theirs), nil
}
