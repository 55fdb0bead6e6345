package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// spoolContents is what a start finds in the spool. There may be many thousands of records, so that no more is kept
// of each than is needed.
type spoolContents struct {
	records  []spooledRecord
	recorded map[runID]time.Time    // the runs that have ended, and when their records were committed
	logs     map[string]bool        // log objects by key, and whether a record names them
	unread   map[bundle.RunKey]bool // runs of which a record cannot be read now: their logs may be named by it
}

// spooledRecord is a committed capture.
type spooledRecord struct {
	key  string
	at   time.Time // when it was committed
	size int64     // of its log objects
}

// recover takes up what an earlier process left in the spool: committed captures, the oldest first, and
// captures that it had not finished. What cannot be used is set aside. An entry for which that fails, or that
// cannot be read, stays, and holds up no other.
func (s *shipper) recover(ctx context.Context) error {
	f, err := s.find(ctx)
	if err != nil {
		return err
	}
	if err := s.takeDrafts(f); err != nil {
		return err
	}
	s.setAsideLogs(f)
	slices.SortStableFunc(f.records, func(a, b spooledRecord) int { return a.at.Compare(b.at) })
	for _, r := range f.records {
		if s.counts(r.key) {
			s.e.metrics.observed.Inc()
		}
		s.take(r.key, r.size)
	}
	if len(f.records) > 0 {
		s.e.log.Info("taking up what was spooled before", "pending", len(f.records), "bytes", s.e.spool.Used())
	}
	return nil
}

// setAsideLogs sets the logs aside that belong to nothing.
func (s *shipper) setAsideLogs(f *spoolContents) {
	for key, named := range f.logs {
		if named {
			continue
		}
		to, err := s.e.spool.SetAside(key, "no record names this log, and nothing tells of its capture")
		if err != nil {
			s.e.log.Warn("cannot set aside a log in the spool that belongs to no record; the next start tries again", "key", key, "err", err)
			continue
		}
		s.e.metrics.setAside.WithLabelValues("log").Inc()
		s.e.log.Warn("a log in the spool belongs to no record, set aside", "key", key, "file", to)
	}
}

// find lists the spool.
func (s *shipper) find(ctx context.Context) (*spoolContents, error) {
	f := &spoolContents{recorded: make(map[runID]time.Time), logs: make(map[string]bool), unread: make(map[bundle.RunKey]bool)}
	s.e.snapshots = make(map[runID]string)
	damaged := make(map[string]error)
	for o, err := range s.e.spool.List(ctx, "", sink.ListOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("read spool: %w", err)
		}
		run, kind, _, _, err := bundle.ParseKey(o.Key)
		switch {
		case err != nil:
			s.e.log.Warn("a file in the spool is none of ours, left alone", "key", o.Key)
			continue
		case kind == bundle.KindLog:
			if _, named := f.logs[o.Key]; !named {
				f.logs[o.Key] = false
			}
			continue
		}
		data, err := s.read(ctx, o.Key)
		if err != nil {
			s.e.log.Warn("cannot read a record in the spool, will try again", "key", o.Key, "err", err)
			f.unread[anyDay(run)] = true
			f.records = append(f.records, spooledRecord{key: o.Key, at: o.ModTime})
			continue
		}
		rec, err := bundle.Decode(data)
		if err != nil {
			damaged[o.Key] = err
			continue
		}
		s.note(f, o, rec)
	}
	for key, why := range damaged {
		s.replaceUnreadable(ctx, f, key, why)
	}
	for key, named := range f.logs {
		run, _, _, _, _ := bundle.ParseKey(key) //nolint:dogsled // it was parsed before
		f.logs[key] = named || f.unread[anyDay(run)]
		if _, err := s.e.spool.Stat(ctx, key); errors.Is(err, sink.ErrNotFound) {
			delete(f.logs, key) // shipped, or set aside with its record
		}
	}
	return f, nil
}

// note keeps what is needed of a record.
func (s *shipper) note(f *spoolContents, o sink.Object, rec *bundle.Record) {
	for _, obj := range rec.Objects {
		f.logs[obj.Key] = true
	}
	f.records = append(f.records, spooledRecord{key: o.Key, at: o.ModTime, size: storedSize(rec)})
	id := idOf(rec)
	if !rec.State.Running {
		f.recorded[id] = o.ModTime
	} else if snapshotTime(o.Key).After(snapshotTime(s.e.snapshots[id])) {
		s.e.snapshots[id] = o.Key
	}
}

// replaceUnreadable sets a record aside that cannot be read. If that fails the shipper tries again.
func (s *shipper) replaceUnreadable(ctx context.Context, f *spoolContents, key string, why error) {
	at := time.Now()
	err := s.setAsideRecord(key, why)
	if err != nil {
		run, _, _, _, _ := bundle.ParseKey(key) //nolint:dogsled // it was parsed before
		f.unread[anyDay(run)] = true
		s.e.log.Warn("cannot set aside a record in the spool that cannot be read, will try again", "key", key, "err", err)
	}
	if _, serr := s.e.spool.Stat(ctx, key); serr == nil { // the old one, or the one in its place
		f.records = append(f.records, spooledRecord{key: key, at: at})
	}
}

// anyDay leaves out of a key what may differ between a record and the log objects of its run.
func anyDay(k bundle.RunKey) bundle.RunKey {
	k = k.Final()
	k.Date = ""
	return k
}

// setAsideRecord moves a record that cannot be read out of the way, with the logs that must be its. Of a run
// that has ended another takes its place, which tells of the loss: every run has a record.
func (s *shipper) setAsideRecord(key string, why error) error {
	run, _, _, _, err := bundle.ParseKey(key)
	if err != nil {
		return local(err)
	}
	ctx := context.Background()
	var keys []string
	for o, err := range s.e.spool.List(ctx, run.Prefix(), sink.ListOptions{}) {
		if err != nil {
			return local(err)
		}
		other, kind, _, _, err := bundle.ParseKey(o.Key)
		if err == nil && kind == bundle.KindLog && other == run {
			keys = append(keys, o.Key)
		}
	}
	reason := "the record " + key + ": " + why.Error()
	for _, k := range keys {
		to, err := s.e.spool.SetAside(k, reason)
		if err != nil {
			return local(err)
		}
		s.e.log.Error("a record in the spool cannot be read, its log is set aside", "key", k, "file", to, "err", why)
	}
	// The record last: with it goes the knowledge of this.
	var to string
	if run.Snapshot.IsZero() {
		to, err = s.putUnreadable(ctx, run, reason)
	} else {
		to, err = s.e.spool.SetAside(key, reason) // the run's own record is to come
	}
	if err != nil {
		return local(err)
	}
	s.e.log.Error("a record in the spool cannot be read, set aside", "key", key, "file", to, "err", why)
	s.e.metrics.setAside.WithLabelValues("record").Inc()
	return nil
}

// putUnreadable sets a record aside and puts one in its place that is made from its key.
func (s *shipper) putUnreadable(ctx context.Context, run bundle.RunKey, why string) (setAside string, err error) {
	old, err := s.e.spool.Stat(ctx, run.Record())
	if err != nil {
		return "", err
	}
	rec, err := unreadableRecord(run, old.ModTime)
	if err != nil {
		return "", err
	}
	rec.Capture.ExporterVersion = s.e.version
	data, err := bundle.Encode(rec)
	if err != nil {
		return "", err
	}
	return s.e.spool.SetAsideFor(ctx, run.Record(), why, bytes.NewReader(data))
}

// unreadableRecord tells of a run whose record cannot be read what its key tells, and that its log is lost.
// The run ended on the key's day, and before the record was committed.
func unreadableRecord(run bundle.RunKey, committed time.Time) (*bundle.Record, error) {
	day, err := time.Parse(time.DateOnly, run.Date)
	if err != nil {
		return nil, fmt.Errorf("read date of %s: %w", run, err)
	}
	end := committed.UTC()
	if last := day.AddDate(0, 0, 1).Add(-time.Second); end.After(last) {
		end = last
	} else if end.Before(day) {
		end = day
	}
	id := run.ID12
	if bundle.ID12("") == id {
		id = ""
	}
	lost := bundle.Part{State: bundle.Lost, Cause: bundle.CauseSpoolDamaged, Evidence: []string{
		"the run's record was damaged in the spool, and is set aside there; this one is made from its key",
	}}
	return &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: run.Cluster, Namespace: run.Namespace,
		Pod:       bundle.Pod{Name: run.Pod, UID: run.UID},
		Container: bundle.Container{Name: run.Container, Type: bundle.TypeContainer, ContainerID: id, RestartCount: run.Restart},
		State:     bundle.State{FinishedAt: &end, FinishedAtEstimated: true},
		Verdict:   bundle.Verdict{Head: lost, Middle: lost, Tail: lost},
		Objects:   []bundle.Object{},
		Capture:   bundle.Capture{Policy: string(CaptureFinal)},
	}, nil
}
