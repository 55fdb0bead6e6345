package exporter

import (
	"context"
	"time"
)

// leastBackOff is the least that a kubelet may wait before a container's third run.
const leastBackOff = time.Second

// checkPrevious makes sure that what was just read as the container's previous log is this run's. If its
// successor has died too and the status does not tell yet, the kubelet calls that one's log the previous one.
// While nothing has started after that, it gives the same log without previous; then this run's is gone.
// Otherwise the beginning tells, if it lies before the successor's start.
func (c *capture) checkPrevious(ctx context.Context, m moment) bool {
	next, ok := m.successor(c.run.id)
	if !ok || c.own {
		return true
	}
	first := c.log.First()
	c.nextRuns = first.IsZero() || !first.Before(next.startedAt) || !m.endedLongAgo() && c.run.nextMayHave(first)
	current := c.glimpse(ctx, false).first
	switch {
	case current.IsZero(): // or it is not known
	case current.Equal(first):
		c.reset()
		c.gone = true
		return false
	default:
		// A third run starts after a back-off of a second at least (crashLoopBackOff.maxContainerRestartPeriod), so what
		// begins sooner after what is held is the second one's.
		c.nextRuns = c.nextRuns && current.Sub(c.log.Last()) >= leastBackOff
	}
	if c.beforeNext(m) {
		c.doubt()
	}
	return true
}

// beforeNext says whether nothing but the lag of a start speaks for what was read by the run's name being its successor's.
func (c *capture) beforeNext(m moment) bool {
	next, ok := m.successor(c.run.id)
	first := c.log.First()
	return ok && c.nextRuns && !c.own && c.asked == slotPrevious && m.slot == slotPrevious && !first.IsZero() && first.Before(next.startedAt)
}

// awaitsNext puts the record off until the status would have told that the successor has ended, too.
func (c *capture) awaitsNext() bool {
	left := c.e.statusWait - time.Since(c.unsure)
	if left <= 0 || c.e.once || c.e.stopping() || !c.beforeNext(c.run.now()) {
		return false
	}
	c.next(prioClosing, time.Now().Add(left), c.outwaited)
	return true
}

// outwaited ends a capture whose record was put off. Its pod may have begun to be deleted meanwhile: then it is early.
func (c *capture) outwaited(ctx context.Context) {
	c.seePod(ctx)
	if c.podError() == nil && time.Since(c.unsure) >= c.e.statusWait && c.beforeNext(c.run.now()) {
		c.nextRuns = false // for no status is late for so long
	}
	c.seal(ctx)
}

// successor returns the container's run that the status shows as the current one, if that is another.
func (m moment) successor(id runID) (view, bool) {
	for _, v := range m.pod.runs {
		if v.id.container == id.container && v.id.containerID != id.containerID && v.slot == slotCurrent {
			return v, true
		}
	}
	return view{}, false
}

// successorMayBegin says whether a stamp can be that of a successor's first line: it does not lie before the second in
// which the run ended. One that lies before what is held cannot be, as it was seen when the run went on.
func (m moment) successorMayBegin(at, first time.Time) bool {
	if m.term == nil || m.term.FinishedAt.IsZero() || !m.restartable() {
		return false
	}
	if first.IsZero() {
		return m.endedBefore(at)
	}
	return at.After(first) && !at.Before(m.term.FinishedAt.Time)
}
