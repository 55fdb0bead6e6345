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
	// segmentEvery is how long fresh lines wait at most before they are stored.
	segmentEvery = 5 * time.Minute
	// segmentLook is how often it is looked whether a segment is due.
	segmentLook = 5 * time.Second
)

// segments stores what a stream has brought, from time to time, until ctx ends.
func (c *capture) segments(ctx context.Context) {
	tick := time.NewTicker(min(segmentLook, c.e.segmentEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.segment()
		}
	}
}

// segment stores what has been read of a running container's log, if that is due: a log object, and a
// snapshot record that names it and all before it. The run's own record will name them too.
func (c *capture) segment() {
	if c.out.due(c.e.segmentEvery, segmentSize) {
		_, _, _ = c.storeSoFar() // tried again when it is due again
	}
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
	c.e.metrics.redacted(c.out.found())
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
