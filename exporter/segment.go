package exporter

import (
	"context"
	"errors"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// segmentSize is after how many bytes of text a running container's log is stored so far. It is
	// the most that the loss of the exporter's own pod can cost, beside what segmentEvery allows.
	segmentSize = 64 << 20
	// segmentEvery is how long fresh lines wait at most before they are stored; both grow with the log.
	segmentEvery = 5 * time.Minute
	// segmentsToDouble is after how many objects of a log the waits and the sizes above double. A record names all
	// objects of its log and is bounded, so they must not come at one pace for ever: in ten years it is some 3,000.
	segmentsToDouble = 256
	// maxNamed bounds what the names of a log's objects may take of a record, in bytes; objectRoom is what one takes
	// beside its key.
	maxNamed   = 3 << 20
	objectRoom = 450
	// segmentLook is how often it is looked whether a segment is due.
	segmentLook = 5 * time.Second
)

// segments stores what a stream has brought, from time to time, until ctx ends. While it is not known what the store
// has of the log nothing is stored: the stream is renewed when the store is there again, and then it is looked up.
func (c *capture) segments(ctx context.Context, renew func()) {
	tick := time.NewTicker(min(segmentLook, c.e.segmentEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			switch {
			case !c.apart:
				c.segment(ctx)
			case c.e.ship.reachable(ctx):
				renew()
				return
			}
		}
	}
}

// segment stores what has been read of a running container's log, if that is due: a log object, and a
// snapshot record that names it and all before it. The run's own record will name them too.
func (c *capture) segment(ctx context.Context) {
	pace := c.e.pace(c.out.named())
	if c.out.due(c.e.segmentEvery*time.Duration(pace), segmentSize*pace) && c.surely(ctx) {
		_, _, _ = c.storeSoFar() // tried again when it is due again
	}
}

// pace is how much longer the next segment of a log may be, and may wait, which has n objects.
func (e *Exporter) pace(n int) int64 { return 1 << min(n/e.segmentsToDouble, 16) }

// mostObjects is how many objects of a run's log its record can name.
func (e *Exporter) mostObjects(r *run, compression bundle.Compression) int {
	key := e.keyOf(r)
	key.Date = time.DateOnly
	return e.maxNamed / (len(key.Log(1, compression)) + objectRoom)
}

// early says whether a sweep comes too soon for one more segment of a log that has very many.
func (c *capture) early() bool {
	if !c.sweeping.Load() || c.earlier == nil || c.earlier.LastStamp == nil || c.out.draft == nil {
		return false
	}
	pace := c.e.pace(len(c.earlier.Objects))
	return pace > 1 && c.log.Bytes()-c.earlier.RawBytes < segmentSize && time.Since(*c.earlier.LastStamp) < c.e.segmentEvery*time.Duration(pace)
}

// putBack leaves what was read on disk for the next look at the run, as an earlier process would.
func (c *capture) putBack() error {
	if err := c.out.kept(); err != nil {
		return err
	}
	c.putDown()
	return nil
}

// putDown leaves what was read on disk, as far as it can be written there.
func (c *capture) putDown() {
	rec := c.aboutDraft(c.decided(), c.apart)
	c.e.outputs.remove(c.out)
	c.e.metrics.redacted(c.out.newMatches())
	c.out.leave()
	c.e.leftovers.add(c.run.id, &leftover{about: rec, draft: c.out.draft})
	c.held = held{}
}

// storeSoFar stores the whole lines that have been read and not stored yet, and says whether there were any. It
// may be called beside a stream.
func (c *capture) storeSoFar() (key string, fresh bool, err error) {
	m := c.run.now()
	rec := c.record(m, true)
	first, firstSecond := c.out.beginning()
	part := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	rec.Verdict = bundle.Verdict{Head: c.judgeHeadOf(m, beginning{first: first, burst: firstSecond}), Middle: part, Tail: part}
	if c.middle.State != bundle.Proven {
		rec.Verdict.Middle = c.middle
	}
	fresh, err = c.out.segment(rec)
	if err == nil && fresh {
		key, err = c.spoolSnapshot(rec)
	}
	if err != nil {
		c.e.log.Warn("cannot spool a segment, will try again", c.attrs("err", err)...)
		return "", false, err
	}
	if fresh {
		c.out.stored(rec.RawBytes)
	}
	c.e.metrics.redacted(c.out.newMatches())
	return key, fresh, nil
}

func (c *capture) spoolSnapshot(rec *bundle.Record) (string, error) {
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return "", err
	}
	key := run.Record()
	if err := putRecord(c.e.spool, key, rec); err != nil && !errors.Is(err, sink.ErrExists) {
		return "", err
	}
	c.run.storeUnder(key)
	if err := c.e.ledger.sync(); err != nil { // before it leaves the spool, where the next process would find it
		c.e.log.Warn("cannot note what was stored of a log; a new start may begin it anew", "err", err)
	}
	c.e.ship.add(key, rec)
	return key, nil
}
