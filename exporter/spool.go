package exporter

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// found is what a start finds in the spool.
type found struct {
	records []sink.Object
	recs    map[string]*bundle.Record // of records, by key
	logs    map[string]bool           // log objects by key, and whether a record names them
}

// recover takes up what an earlier process left in the spool: committed captures, the oldest first, and
// captures that it had not finished. What cannot be used is set aside.
func (s *shipper) recover(ctx context.Context) error {
	f, err := s.find(ctx)
	if err != nil {
		return err
	}
	s.e.snapshots = make(map[runID]string)
	for key, rec := range f.recs {
		if id := idOf(rec); rec.State.Running && snapshotTime(key).After(snapshotTime(s.e.snapshots[id])) {
			s.e.snapshots[id] = key
		}
	}
	if err := s.takeDrafts(f); err != nil {
		return err
	}
	for key, named := range f.logs {
		if named {
			continue
		}
		to, err := s.e.spool.SetAside(key, "no record names this log, and nothing tells of its capture")
		if err != nil {
			return fmt.Errorf("clean spool: %w", err)
		}
		s.e.metrics.setAside.WithLabelValues("log").Inc()
		s.e.log.Warn("a log in the spool belongs to no record, set aside", "key", key, "file", to)
	}
	sort.SliceStable(f.records, func(i, j int) bool { return f.records[i].ModTime.Before(f.records[j].ModTime) })
	for _, o := range f.records {
		s.add(o.Key, f.recs[o.Key])
	}
	if len(f.records) > 0 {
		s.e.log.Info("taking up what was spooled before", "pending", len(f.records), "bytes", s.e.spool.Used())
	}
	return nil
}

// find lists the spool.
func (s *shipper) find(ctx context.Context) (*found, error) {
	f := &found{recs: make(map[string]*bundle.Record), logs: make(map[string]bool)}
	var unreadable []string
	for o, err := range s.e.spool.List(ctx, "", sink.ListOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("read spool: %w", err)
		}
		_, kind, _, _, err := bundle.ParseKey(o.Key)
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
			return nil, fmt.Errorf("read spool: %w", err)
		}
		rec, err := bundle.Decode(data)
		if err != nil {
			unreadable = append(unreadable, o.Key)
			continue
		}
		for _, obj := range rec.Objects {
			f.logs[obj.Key] = true
		}
		f.records, f.recs[o.Key] = append(f.records, o), rec
	}
	for _, key := range unreadable {
		if err := s.setAsideRecord(key, errors.New("it cannot be read")); err != nil {
			return nil, err
		}
	}
	for key := range f.logs {
		if _, err := s.e.spool.Stat(ctx, key); errors.Is(err, sink.ErrNotFound) {
			delete(f.logs, key) // shipped, or set aside with its record
		}
	}
	return f, nil
}

// setAsideRecord moves a record that cannot be read out of the way, with the logs that must be its.
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
	for _, k := range append(keys, key) { // the record last: with it goes the knowledge of this
		to, err := s.e.spool.SetAside(k, "the record "+key+": "+why.Error())
		if err != nil {
			return local(err)
		}
		s.e.log.Error("a record in the spool cannot be read, set aside", "key", k, "file", to, "err", why)
	}
	s.e.metrics.setAside.WithLabelValues("record").Inc()
	return nil
}
