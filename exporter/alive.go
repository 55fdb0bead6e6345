package exporter

import (
	"context"
	"errors"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// stopping says whether Run's context has ended.
func (e *Exporter) stopping() bool {
	select {
	case <-e.stopped:
		return true
	default:
		return false
	}
}

// recall takes up the ledger that an earlier process has left.
func (e *Exporter) recall() error {
	l, entries, written, err := openLedger(e.opts.Spool)
	if err != nil {
		return err
	}
	e.ledger, e.known = l, written
	for _, entry := range entries {
		pod, run := entry.run()
		e.tracker.remember(pod, run, entry.Snapshot)
	}
	return nil
}

// seenAlive is the tracker's word that a run was first seen alive.
func (e *Exporter) seenAlive(r *run) {
	x, d := e.decide(e.exports.Load(), r, r.moment(), time.Time{})
	if d == selection.No {
		return
	}
	if err := e.ledger.add(entryOf(r, r.pod.pod)); err != nil {
		e.log.Warn("cannot note the runs that go on; those that end while no exporter runs may get no record", "err", err)
	}
	if x.live() {
		e.beginLive(r, x, d == selection.Maybe)
		return
	}
	e.probeHead(r)
}

// hasRecord is the tracker's word that a run which was seen alive has its record.
func (e *Exporter) hasRecord(id runID) {
	if e.ledger == nil {
		return
	}
	if err := e.ledger.done(id); err != nil {
		e.log.Warn("cannot note the runs that have ended; they are looked up in the archive at the next start", "err", err)
	}
}

// hasSnapshot is the tracker's word that a run's log was stored so far.
func (e *Exporter) hasSnapshot(r *run) {
	if e.ledger == nil {
		return
	}
	if err := e.ledger.stored(r.id, r.stored); err != nil {
		e.log.Warn("cannot note what was stored of a log; a new start may begin it anew", "err", err)
	}
}

// probeHead reads the first stamp of a running container's log, so that a later rotation shows.
func (e *Exporter) probeHead(r *run) {
	wait := 2 * time.Second
	var probe func(context.Context)
	probe = func(ctx context.Context) {
		m := r.now()
		if m.ended() || m.dying {
			return
		}
		c := &capture{run: r}
		body, err := e.source.Open(ctx, c.request(podlog.Request{LimitBytes: 64}))
		if err == nil {
			l := podlog.New(discard{}, r.id.containerID)
			res, rerr := l.Read(body)
			_ = body.Close()
			if rerr == nil && res.Text == "" && r.witnessHead(l.First()) {
				return
			}
		}
		if wait *= 2; wait < 10*time.Minute {
			e.queue.add(prioProbe, time.Now().Add(wait), probe)
		}
	}
	e.queue.add(prioProbe, time.Now(), probe)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// maxLookBack bounds the days that are searched for the record of a run that vanished.
const maxLookBack = 31

// found searches the archive for a record of a run that an earlier process knew and that has vanished:
// the record may have been written right before that process ended, and its date is the run's end.
func (e *Exporter) found(ctx context.Context, r *run) (bool, error) {
	key := e.keyOf(r)
	now := time.Now().UTC()
	for day, n := e.known.UTC().AddDate(0, 0, -1), 0; !day.After(now.AddDate(0, 0, 1)) && n < maxLookBack; day, n = day.AddDate(0, 0, 1), n+1 {
		key.Date = day.Format(time.DateOnly)
		for _, b := range []interface {
			Stat(context.Context, string) (sink.Object, error)
		}{e.spool, e.bucket} {
			switch _, err := b.Stat(ctx, key.Record()); {
			case err == nil:
				return true, nil
			case !errors.Is(err, sink.ErrNotFound):
				return false, err
			}
		}
	}
	return false, nil
}
