package exporter

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
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

// readLedger takes up the ledger that an earlier process has left. One that cannot be read or written is no
// reason not to capture, nor to keep from the bucket what is spooled.
func (e *Exporter) readLedger() {
	l, entries, written, err := openLedger(e.opts.Spool)
	if err != nil {
		e.log.Warn("cannot use the ledger of the runs that go on as it should be; those that end while no exporter runs may get no record", "err", err)
	}
	e.ledger, e.known = l, written
	for _, entry := range entries {
		pod, run := entry.run()
		e.tracker.remember(pod, run, entry.Snapshot)
	}
	l.counted.each(func(c ledgerEntry) {
		e.tracker.rememberCount(&podInfo{namespace: c.Namespace, name: c.Pod, uid: c.UID, mirror: c.Mirror}, c.Container, c.RestartCount)
	})
	e.tracker.dropped = e.podGone
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

// noteDead notes a run that had ended when it was first seen, or was never seen: this process may end before it has a
// record, and the pod be gone when the next one starts.
func (e *Exporter) noteDead(r *run, m moment) {
	if e.ledger == nil || !r.firstSeenDead && !r.unseen {
		return
	}
	if err := e.ledger.add(entryOf(r, m.pod)); err != nil {
		e.log.Warn("cannot note a run that has ended; if its pod vanishes while no exporter runs it may get no record",
			"namespace", m.pod.namespace, "pod", m.pod.name, "container", r.id.container, "restart", r.restart, "err", err)
	}
}

// podGone is the tracker's word that a pod is gone and nothing more is to be done for it.
func (e *Exporter) podGone(pod podKey) {
	if err := e.ledger.gone(pod); err != nil {
		e.log.Warn("cannot note the pods that are gone; the next start looks for them", "err", err)
	}
}

// hasRecord is the tracker's word that a run has its record.
func (e *Exporter) hasRecord(r *run) {
	if e.ledger == nil {
		return
	}
	err := error(nil)
	if m := r.moment(); countable(r, m) {
		err = e.ledger.count(ledgerEntry{
			UID: r.id.podUID, Container: r.id.container, ContainerID: r.id.containerID, Namespace: m.pod.namespace, Pod: m.pod.name, Mirror: m.pod.mirror, RestartCount: r.restart,
		})
	} else {
		err = e.ledger.done(r.id)
	}
	if err != nil {
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
	// probeTakes is how long a look may take at most.
	probeTakes = 10 * time.Second
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
	if m := r.now(); m.ended() || m.dying || e.firstLook(ctx, r) {
		return
	}
	if wait < lastProbe {
		e.queue.add(prioProbe, time.Now().Add(wait), func(ctx context.Context) { e.probe(ctx, r, 2*wait) })
	}
}

// firstLook says whether a log has begun, and notes its first line. It takes no longer than a read may be silent:
// on a node that hangs, those of all its containers would hold the places of all others.
func (e *Exporter) firstLook(ctx context.Context, r *run) (begun bool) {
	node := r.now().pod.node
	if !e.nodes.admit(node, false) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTakes)
	defer cancel()
	c := &capture{run: r}
	answered := e.nodes.ask(node)
	body, err := e.source.Open(ctx, c.request(podlog.Request{LimitBytes: 64}))
	answered(err)
	if err != nil {
		return false
	}
	defer body.Close() //nolint:errcheck // a look only
	l := podlog.New(io.Discard, r.id.containerID)
	res, err := l.Read(body)
	switch first := l.First(); {
	case res.Text != "":
		return false
	case !first.IsZero():
		return r.witnessHead(first)
	case res.Join == podlog.JoinShort:
		r.speaks()
		return false
	case err != nil:
		return false
	}
	return r.witnessHead(time.Time{})
}

// maxLookBack bounds the days that are searched for the record of a run that vanished.
const maxLookBack = 31

// foundSince searches spool and archive for a record of a run whose end has no time, so that its record may
// lie on any day since it began. A bucket that cannot answer now does not hold up a capture.
func (e *Exporter) foundSince(ctx context.Context, r *run, from time.Time) bool {
	key, today := e.keyOf(r), time.Now().UTC()
	for day, n := today.AddDate(0, 0, 1), 0; !day.Before(from.UTC().AddDate(0, 0, -1)) && n < 12*maxLookBack; day, n = day.AddDate(0, 0, -1), n+1 {
		key.Date = day.Format(time.DateOnly)
		if _, err := e.spool.Stat(ctx, key.Record()); err == nil {
			return true
		}
	}
	if e.ship.down() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	days, err := e.daysSince(ctx, key, from)
	if err != nil {
		return false
	}
	for _, key.Date = range days {
		if _, err := e.bucket.Stat(ctx, key.Record()); err == nil {
			return true
		}
	}
	return false
}

// found searches spool and archive for a record of a run that an earlier process knew and that has vanished:
// the record may have been written right before that process ended, and its date is the run's end. It returns the
// record's key, "" if there is none.
func (e *Exporter) found(ctx context.Context, r *run) (string, error) {
	key := e.keyOf(r)
	for key.Date = range e.daysSinceKnown() {
		for _, b := range []sink.Bucket{e.spool, e.bucket} {
			switch _, err := b.Stat(ctx, key.Record()); {
			case err == nil:
				return key.Record(), nil
			case !errors.Is(err, sink.ErrNotFound):
				return "", err
			}
		}
	}
	return "", nil
}

// foundCount does so for a run of which only the restart count is known, because no exporter ran, or the last lines
// of the ledger were lost with the machine's power: another exporter may have seen it, or this one. A count is no
// identity, so the record must be of an end after the ledger's last word. A bucket that cannot answer now does not hold
// up the record.
func (e *Exporter) foundCount(ctx context.Context, r *run) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	key, since := e.keyOf(r), e.known.Add(-time.Minute) // by another clock
	for _, b := range []sink.Bucket{e.spool, e.bucket} {
		for key.Date = range e.daysSinceKnown() {
			prefix := strings.TrimSuffix(key.Record(), key.ID12+".json")
			for o, err := range b.List(ctx, prefix, sink.ListOptions{}) {
				if err != nil {
					return false
				}
				if e.endedAfter(ctx, o.Key, since) {
					return true
				}
			}
		}
	}
	return false
}

// endedAfter says whether a key is that of a readable record of an end, after a time.
func (e *Exporter) endedAfter(ctx context.Context, key string, t time.Time) bool {
	k, kind, _, _, err := bundle.ParseKey(key)
	if err != nil || kind != bundle.KindRecord || !k.Snapshot.IsZero() {
		return false
	}
	rec, err := e.loadStored(ctx, key)
	return err == nil && rec.State.FinishedAt != nil && rec.State.FinishedAt.After(t)
}

// daysSinceKnown are the days on which a run may have ended that was in the ledger of an earlier process, or came
// after that, and a day more on either side for clocks that differ.
func (e *Exporter) daysSinceKnown() iter.Seq[string] {
	return func(yield func(string) bool) {
		last := time.Now().UTC().AddDate(0, 0, 1)
		for day, n := e.known.UTC().AddDate(0, 0, -1), 0; !day.After(last) && n < maxLookBack; day, n = day.AddDate(0, 0, 1), n+1 {
			if !yield(day.Format(time.DateOnly)) {
				return
			}
		}
	}
}
