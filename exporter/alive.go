package exporter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
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
	list, sure := e.candidates(e.exports.Load(), r, r.moment())
	if len(list) == 0 {
		return
	}
	if err := e.ledger.add(entryOf(r, r.pod.pod)); err != nil {
		e.log.Warn("cannot note the runs that go on; those that end while no exporter runs may get no record", "err", err)
	}
	if x := list[len(list)-1]; x.live() { // only the last has no windows
		e.beginLive(r, x, !sure)
		return
	}
	if !r.probed { // it is offered again whenever the exports are replaced
		r.probed = true
		e.probeHead(r)
	}
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
	if err := e.ledger.snapshot(r.id, r.stored); err != nil {
		e.log.Warn("cannot note what was stored of a log; a new start may begin it anew", "err", err)
	}
}

const (
	// probesAtATime is how many first looks are on the queue: a large cluster shows all its runs at once.
	probesAtATime = 64
	// firstProbe and lastProbe bound the wait before a log that was empty is looked at again.
	firstProbe = 4 * time.Second
	lastProbe  = 10 * time.Minute
)

// probes are the runs whose logs are to be looked at for the first time.
type probes struct {
	mu      sync.Mutex
	waiting []*run
	busy    int // how many tasks take from them
}

// take returns the next run, nil if there is none; then the task that asked is over.
func (p *probes) take() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.waiting = nil
		p.busy--
		return nil
	}
	r := p.waiting[len(p.waiting)-1] // the youngest: its beginning is still there
	p.waiting[len(p.waiting)-1] = nil
	p.waiting = p.waiting[:len(p.waiting)-1]
	return r
}

// probeHead lets the first stamp of a running container's log be read, so that a later rotation shows.
func (e *Exporter) probeHead(r *run) {
	e.probes.mu.Lock()
	defer e.probes.mu.Unlock()
	e.probes.waiting = append(e.probes.waiting, r)
	if e.probes.busy < probesAtATime {
		e.probes.busy++
		e.queue.add(prioProbe, time.Now(), e.nextProbe)
	}
}

func (e *Exporter) nextProbe(ctx context.Context) {
	r := e.probes.take()
	if r == nil {
		return
	}
	e.probe(ctx, r, firstProbe)
	e.queue.add(prioProbe, time.Now(), e.nextProbe)
}

// probe looks at the beginning of a log, and again after some time if there is nothing yet.
func (e *Exporter) probe(ctx context.Context, r *run, wait time.Duration) {
	if m := r.now(); m.ended() || m.dying {
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
	if wait < lastProbe {
		e.queue.add(prioProbe, time.Now().Add(wait), func(ctx context.Context) { e.probe(ctx, r, 2*wait) })
	}
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
