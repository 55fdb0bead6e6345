package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// sweepPoll is how often it is looked whether a sweep can begin, and whether it is done.
const sweepPoll = 20 * time.Millisecond

// sweep stores what the running containers that take says yes to have written since they were last looked
// at, and returns when it is in the spool, or cannot be had now. Runs that have ended need no sweep: they are captured anyway.
func (e *Exporter) sweep(ctx context.Context, x *Export, take func(*run) bool) error {
	var mine, others []*capture
	for _, r := range e.tracker.running() {
		if !take(r) {
			continue
		}
		switch c, ours := e.look(r, x); {
		case ours:
			mine = append(mine, c)
		case c != nil: // another sweep, which may have read the log already
			others = append(others, c)
		}
	}
	for _, other := range others {
		if err := e.swept(ctx, other); err != nil {
			return err
		}
		if c, _ := e.look(other.run, x); c != nil { // ours, or that of another sweep that has begun since
			mine = append(mine, c)
		}
	}
	failed, first := 0, error(nil)
	for _, c := range mine {
		if err := e.swept(ctx, c); err != nil {
			return err
		}
		if c.failed != nil {
			failed++
			first = cmp.Or(first, c.failed)
		}
	}
	if failed > 0 {
		return fmt.Errorf("sweep %q: %d of %d logs were not stored, the next sweep tries again: %w", x.Name, failed, len(mine), first)
	}
	return nil
}

// swept waits until a sweep's capture has stored what there is so far, or has failed.
func (e *Exporter) swept(ctx context.Context, c *capture) error {
	tick := time.NewTicker(sweepPoll)
	defer tick.Stop()
	for c.sweeping.Load() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.stopped:
			return errStopping
		}
	}
	return nil
}

// awaitSeen waits until every pod has been seen. A namespace that cannot be watched yet, although new exports
// name it, must not hold up the sweeps of the others.
func (e *Exporter) awaitSeen(ctx context.Context) error {
	tick := time.NewTicker(sweepPoll)
	defer tick.Stop()
	for {
		err := e.seen()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-e.stopped:
			return errStopping
		}
	}
}

// look begins a capture that only stores what there is so far. If another sweep has one under way it returns that one;
// nil if the run is being captured to its end already.
func (e *Exporter) look(r *run, x *Export) (c *capture, ours bool) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	switch other := r.capture; {
	case r.begun || r.done || r.tracker.closed:
		return nil, false
	case other != nil && other.sweeping.Load():
		return other, false
	case other != nil:
		return nil, false
	}
	c = &capture{steps: steps{queue: e.queue}, e: e, run: r, export: x}
	c.sweeping.Store(true)
	r.capture = c
	e.captures.begin()
	c.next(prioFinished, time.Now(), c.snapshot)
	return c, true
}

// snapshot reads what a running container has written since it was last read, and stores it.
func (c *capture) snapshot(ctx context.Context) {
	switch m := c.run.now(); {
	case m.ended(), m.dying && !c.e.once:
		c.over(ctx)
		return
	case c.undecided: // whether it is wanted is known at its end
		c.discard()
		return
	}
	switch m := c.run.now(); {
	case !c.sweeping.Load():
		if c.parked(c.snapshot) {
			return
		}
	case !m.podGone && !c.e.nodes.admit(m.pod.node, false): // a sweep does not wait for a node that is away
		c.nodeAway = true
		c.refused++
		c.snapshotAgain(ctx)
		return
	}
	if !c.takeUp(ctx) {
		c.again(c.snapshot)
		return
	}
	c.asked = slotCurrent
	var req podlog.Request
	if c.earlier != nil {
		req.Since = c.further()
	}
	_, ok := c.take(ctx, "get", req)
	switch {
	case ctx.Err() != nil:
		c.abandon()
	case ok:
		c.storeSnapshot(ctx)
	case c.gone && c.e.once:
		c.seal(ctx)
	case c.gone:
		c.over(ctx)
	default:
		c.snapshotAgain(ctx)
	}
}

// snapshotAgain tries once more to read and store what there is so far. A sweep does not try for ever.
func (c *capture) snapshotAgain(ctx context.Context) {
	if !c.sweeping.Load() || c.refused < oneShotTries {
		c.again(c.snapshot)
		return
	}
	c.e.log.Warn("cannot store what a container has written so far, the next sweep tries again", c.attrs("err", c.lastError())...)
	c.failed = c.failure()
	c.over(ctx)
}

// superseded says whether what the kubelet calls the previous log is this run's, so that what it has served is the next
// run's, which the status does not tell yet. A log that begins in the second in which this run began may be that of the
// one before, unless there was none, or this run's first line was seen.
func (c *capture) superseded(ctx context.Context) bool {
	previous := c.glimpse(ctx, true)
	if previous.first.IsZero() {
		return previous.own || previous.empty && c.run.restart == 0
	}
	witness, _ := c.run.witnessedHead()
	return previous.first.Equal(witness) || c.run.restart == 0 || !previous.first.Before(c.run.startedAt.Add(time.Second))
}

// storeSnapshot stores what was read of a run that goes on.
func (c *capture) storeSnapshot(ctx context.Context) {
	c.seePod(ctx)
	vanished := apierrors.IsNotFound(c.podError())
	switch m := c.run.now(); {
	case ctx.Err() != nil:
		c.abandon()
		return
	case m.ended() || m.slot != slotCurrent || errors.Is(c.podError(), errOtherPod), vanished && c.e.once:
		c.over(ctx) // the name may have moved on under the read
		return
	}
	if c.earlier == nil && !c.e.once && c.superseded(ctx) {
		c.reset()
		c.over(ctx)
		return
	}
	if away := !c.rejoin(ctx); (away || c.early()) && c.putBack() == nil {
		c.e.tally.add(func(t *tally) {
			if !away {
				t.already++
				return
			}
			t.waiting, t.away = t.waiting+1, c.stuck
		})
		if away && c.sweeping.Load() {
			c.failed = c.failure()
		}
		c.over(ctx)
		return
	}
	before := int64(0)
	if c.earlier != nil {
		before = c.earlier.RawBytes
	}
	key, fresh, err := c.storeSoFar()
	switch {
	case err != nil:
		if c.atSource() {
			c.reset()
		}
		c.unspooled(err)
		c.snapshotAgain(ctx)
		return
	case fresh:
		c.e.stored(c.log.Bytes()-before, key)
	case c.earlier == nil && c.e.once: // people want to see that there is nothing yet
		c.running = true
		c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
		c.seal(ctx)
		return
	default:
		c.e.tally.add(func(t *tally) { t.already++ })
	}
	c.reset()
	c.over(ctx)
}

// over ends a look at a run that goes on. If the run has ended meanwhile, it is captured, with what was
// read so far.
func (c *capture) over(ctx context.Context) {
	m := c.run.now()
	switch {
	case c.e.once && !m.ended() && c.had(): // its pod has vanished under the read
		c.seal(ctx)
		return
	case c.e.once && !m.ended():
		c.finish()
		return
	case c.e.once:
		c.ended(ctx)
		return
	}
	if !c.run.handedOut() {
		c.leave() // before the run is given back: its next capture takes that up
		if c.run.release() {
			c.sweeping.Store(false)
			c.e.captures.end()
			return
		}
	}
	c.failed = nil // it has its own record to come
	c.sweeping.Store(false)
	c.count()
	switch x, d := c.e.takes(c.run, m, c.e.endOf(m)); { // its end decides, and not who has asked for the sweep
	case d == selection.No:
		c.discard()
		return
	case x != c.export, d == selection.Maybe:
		c.reset()
		c.export, c.undecided = x, d == selection.Maybe
	}
	c.next(c.priority(), time.Now(), c.follow)
}
