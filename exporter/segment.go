package exporter

import (
	"context"
	"time"

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
	if !c.out.due(c.e.segmentEvery, segmentSize) {
		return
	}
	rec := c.record(c.run.now(), true)
	part := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	rec.Verdict = bundle.Verdict{Head: part, Middle: part, Tail: part}
	fresh, err := c.out.segment(rec)
	if err == nil && fresh {
		err = c.spoolSnapshot(rec)
	}
	if err != nil {
		c.e.log.Warn("cannot spool a segment, will try again", c.attrs("err", err)...)
	}
}

func (c *capture) spoolSnapshot(rec *bundle.Record) error {
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return err
	}
	if err := putRecord(c.e.spool, run.Record(), rec); err != nil {
		return err
	}
	c.e.ship.add(run.Record(), rec)
	return nil
}
