package exporter

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
)

// A request names a pod and a container, never a run. Here it is found out whose log has come.

// clocksApart is more than the clocks of a cluster's nodes and API servers differ by.
const clocksApart = 5 * time.Second

// glimpse is what the beginning of one of the container's logs tells.
type glimpse struct {
	none  bool      // the kubelet has no such log
	own   bool      // it named this run, whose log it cannot find
	past  bool      // it named one before this
	empty bool      // it served an empty one
	first time.Time // the stamp of its first line; zero if that is not known
}

// glimpse asks for the beginning of the container's current log, or of what the kubelet calls the previous one.
func (c *capture) glimpse(ctx context.Context, previous bool) glimpse {
	ctx, cancel := context.WithTimeout(ctx, probeTakes)
	defer cancel()
	answered := c.e.nodes.ask(c.run.now().pod.node)
	body, err := c.e.source.Open(ctx, c.request(podlog.Request{Previous: previous, LimitBytes: 64}))
	answered(err)
	if err != nil {
		return glimpse{none: podlog.Classify(err) == podlog.RefusedNotThere}
	}
	probe := podlog.New(io.Discard, c.run.id.containerID)
	res, err := probe.Read(body)
	_ = body.Close()
	if err != nil || res.TextKind != podlog.TextNone {
		return glimpse{own: res.Own, past: c.namesPast(res.Text)}
	}
	return glimpse{empty: res.Bytes == 0, first: probe.First()}
}

// namesPast says whether a text of the kubelet's names one of the container's runs before this one.
func (c *capture) namesPast(text string) bool {
	return slices.ContainsFunc(c.run.now().pod.runs, func(v view) bool {
		return v.id.container == c.run.id.container && v.restart < c.run.restart && podlog.Names(text, v.id.containerID)
	})
}

// checkCurrent makes sure that what was read as the container's current log is this run's. A run may be
// followed by the next one without any back-off, and the status that tells of it comes later. The kubelet
// never goes back, so it is enough to look what it now calls the previous log: if there is none, or that of a run
// before this one, the current one was ours. It was too if it is this very log, unless the status, which is
// waited for, tells of no back-off: then two runs may have ended. If it is a log of this run's own time, and older
// than what is held, that one is ours. If it is this run's, and cannot be found, the current one has become the
// successor's, and so was ours if it begins otherwise now. What begins before this run's end needs no look: its
// successor comes after that.
func (c *capture) checkCurrent(ctx context.Context) bool {
	if c.own {
		return true
	}
	first, t := c.log.First(), c.run.now().term
	if !first.IsZero() && t != nil && first.Before(t.FinishedAt.Time) {
		return true
	}
	switch b := c.glimpse(ctx, true); {
	case b.none && c.run.now().pod.restartsAll:
		c.nextRuns = true // the kubelet may have removed this run, and its status may never tell
	case c.precedesOurs(b):
		if c.seePod(ctx); c.podError() != nil {
			c.doubt() // that look may have been at another pod's
			break
		}
		c.own = true
	case b.none: // undecided
	case b.own && !first.IsZero():
		switch now := c.glimpse(ctx, false).first; {
		case now.After(first):
			c.own = !first.After(endOf(c.run.now()).Add(time.Second)) // what came before that was ours
		case now.Equal(first):
			c.replaced = true
			c.reset()
			return false
		default:
			c.doubt()
		}
	case !b.first.IsZero() && b.first.Equal(first), b.empty && first.IsZero(), // the kubelet waits to start the next run, or the one after it
		b.first.IsZero() && !b.empty, b.empty && c.run.restart > 0: // undecided
		c.doubt()
	case c.run.restart > 0 && b.first.Before(c.run.startedAt.Add(time.Second)): // a run that ended within a second may have been the one before
		if first.IsZero() || lived(c.run, c.run.now()) >= nearStart || !first.Before(endOf(c.run.now()).Add(leastBackOff)) {
			c.doubt() // otherwise nothing but this run can have written that: the next one starts after a back-off
		}
	case !first.IsZero() && first.Before(b.first): // what is held is older, so it is rather this run's
		c.doubt()
	default:
		return c.takePrevious(ctx, b.first)
	}
	return true
}

// precedesOurs says whether the previous log, or that there is none, shows that the current one is this run's.
func (c *capture) precedesOurs(b glimpse) bool {
	if b.none {
		m, first := c.run.now(), c.log.First()
		return !m.pod.restartsAll && (m.term == nil || !first.After(m.term.FinishedAt.Add(time.Second)))
	}
	return b.past || c.run.follows(b.first)
}

// takePrevious reads what the kubelet calls the previous log, whose first stamp was seen, as this run's.
func (c *capture) takePrevious(ctx context.Context, seen time.Time) bool {
	c.reset()
	c.asked = slotPrevious
	if _, ok := c.take(ctx, "previous", podlog.Request{Previous: true}); !ok {
		return false
	}
	first, t := c.log.First(), c.run.now().term
	c.own = !first.IsZero() && first.Equal(seen) && t != nil && first.Before(t.FinishedAt.Time)
	if !c.own { // or two runs have begun since
		c.doubt()
	}
	return true
}

// doubt says that what is held may be the log of one of the next runs, and that the status will tell.
func (c *capture) doubt() {
	c.nextRuns = true
	if c.unsure.IsZero() {
		c.unsure = time.Now()
	}
}

// awaitsStatus puts the closing read off for as long as only the status can tell whose log was read, and has not yet:
// a busy node reports late. Meanwhile the kubelet may show it after all; one that was restarted goes by the status for
// a moment, so it must serve what is held, too.
func (c *capture) awaitsStatus(ctx context.Context) bool {
	waited, m := time.Since(c.unsure), c.run.now()
	if !c.nextRuns || c.own || waited > c.e.statusWait || m.endedLongAgo() || m.slot != slotCurrent || !m.restartable() || c.e.stopping() {
		return false
	}
	shown := c.asked == slotCurrent && c.e.nodes.admit(m.pod.node, false) && c.precedesOurs(c.glimpse(ctx, true))
	if shown {
		now := c.glimpse(ctx, false)
		shown = now.first.Equal(c.log.First()) && now.empty == now.first.IsZero()
	}
	if shown || c.e.once { // which watches nothing
		c.seePod(ctx) // after these looks, which may have been at another pod's
	}
	err := c.podError()
	switch {
	case ctx.Err() != nil, errors.Is(err, errOtherPod), apierrors.IsNotFound(err):
		return false
	case shown && err == nil:
		c.own, c.nextRuns, c.unsure = true, false, time.Time{}
		return false
	}
	c.next(prioClosing, time.Now().Add(min(max(statusLook, waited/4), endWait)), c.closing)
	return true
}

// otherLog handles a closing read that does not continue what is held. The file of a container that has
// ended is not rotated any more, so this is a later run's log, and what is held came before it. Only a
// stream may have missed a rotation right before the end.
func (c *capture) otherLog(ctx context.Context, asked moment, res podlog.Result) (more int64) {
	c.awaitMove(ctx)
	c.seePod(ctx)
	if c.run.now().slot == slotPrevious && asked.slot == slotCurrent && c.asked == slotCurrent {
		c.own = !c.nextRuns
		return c.readEnd(ctx) // by name now
	}
	if !c.followed || c.nextRuns || asked.endedBefore(res.HoleBefore) {
		c.tail.Evidence = []string{"the container restarted before the closing read"}
		return 0
	}
	if c.run.nextMayHave(res.HoleBefore) {
		c.tail.Evidence = []string{"what the kubelet serves by the run's name does not continue what is held, and may be the next run's"}
		return 0
	}
	if c.certain = c.podError() == nil; !c.certain {
		c.tail.Evidence = []string{"the closing read may have been another pod's"}
		return 0
	}
	return c.readEnd(ctx)
}

// emptied handles a closing read that brings nothing of what is held. The file of a container that has ended is not
// emptied any more, so this is the next run's log.
func (c *capture) emptied(ctx context.Context) (more int64) {
	c.awaitMove(ctx)
	c.seePod(ctx)
	if c.run.now().slot == slotPrevious {
		c.own = !c.nextRuns
		return c.readEnd(ctx) // by name now
	}
	c.tail.Evidence = []string{"the closing read ended before what is held"}
	return 0
}

// awaitMove gives the status the time to tell that the run's container has restarted.
func (c *capture) awaitMove(ctx context.Context) {
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	for {
		m, changed := c.run.watch()
		if m.podGone || m.slot != slotCurrent {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// makeCertain looks whether the run still has the slot that is asked for, after a read that did not
// continue what is held. If the container has restarted, the status will say so in a moment, or, on a busy
// cluster, later; then the kubelet calls this run's log the previous one. If another pod has the name, the
// pod says so. Only if it was ours after all are lines missing, and the next read may leave a hole.
func (c *capture) makeCertain(ctx context.Context, refused podlog.Result) {
	if !c.run.now().dying { // of a dying pod no container restarts, and its log will not wait
		c.awaitEnd(ctx, endWait)
	}
	c.seePod(ctx)
	if c.doubted.IsZero() {
		c.doubted = time.Now()
	}
	m, told := c.run.now(), time.Since(c.doubted) > c.e.statusWait // for no status is late for so long
	switch {
	case m.podGone, m.slot == slotNone, c.podError() != nil, c.replaced:
		return
	case m.slot == slotPrevious: // the next read is by name, but the kubelet may be a run further than that
		c.certain = told || !c.run.nextMayHave(refused.HoleBefore)
		return
	}
	b := c.glimpse(ctx, true)
	if m.dying && b == (glimpse{}) { // it was not answered
		b = c.glimpse(ctx, true)
	}
	switch {
	case b.none && !m.pod.restartsAll, !b.first.IsZero() && b.first.Before(c.log.First()):
		c.certain = true
	case b.own, !b.first.IsZero() && !b.first.After(c.log.Last()):
		c.replaced = true
	default: // it cannot be told, and the log of a dying pod will not wait, unless it shows that it is a later run's
		c.certain = told || m.dying && b.first.IsZero() && !m.endedBefore(refused.HoleBefore)
	}
}

// readBefore reads what is left of a run that has been replaced, as the kubelet says and the status does not yet.
func (c *capture) readBefore(ctx context.Context) {
	c.asked = slotPrevious
	c.take(ctx, "previous", podlog.Request{Previous: true, Since: c.since()})
	if ctx.Err() != nil {
		c.stop(ctx)
		return
	}
	c.next(c.priority(), time.Now().Add(endWait), c.follow)
}

// surely says whether a log whose first line came after a stream of it had ended in silence is this run's:
// what came then may be that of another pod, or of the next run. It may be called beside a stream.
func (c *capture) surely(ctx context.Context) bool {
	if !c.late {
		return true
	}
	c.seePod(ctx)
	if c.podError() != nil || c.run.now().ended() {
		return false
	}
	b := c.glimpse(ctx, true)
	first, _ := c.out.beginning()
	return b.none && (!c.run.now().pod.restartsAll || time.Since(first) > c.e.statusWait) || c.run.follows(b.first)
}

// foreign says whether what was read may be another run's, so that it must not be stored as this
// one's: the name or the slot that was asked for had moved on by the end of the reading. Then only
// the kubelet's naming of the container, the name of its files or stamps can vouch for the bytes: a log that
// begins before the second in which this run ended, or before the pod was made that has the name now, cannot
// be its successor's. Without such a move stamps say nothing: a busy runtime stamps a line some seconds after
// its container's end. A stream was opened before the status told of the move, but maybe after it, and then
// the log begins later than that. An empty log that was not streamed may be another pod's; one that was is not
// proven, see unnamed.
func (c *capture) foreign(m moment) bool {
	switch {
	case c.log == nil, c.node != nil:
		return false
	case c.log.Bytes() == 0:
		return !c.resumed && !c.followed && errors.Is(c.podError(), errOtherPod)
	case c.own:
		return false
	}
	first := c.log.First()
	from := func(t time.Time) bool { return t.IsZero() || first.IsZero() || !first.Before(t) }
	end := m.overAt(c.run)
	if errors.Is(c.podError(), errOtherPod) && from(end) && from(c.otherSince()) {
		return true
	}
	streamed := c.followed && !c.late && (end.IsZero() || !first.After(end.Add(time.Second)))
	return !streamed && !m.podGone && c.asked != m.slot && from(m.laterFrom(c.run))
}

// resetOthers throws away what is held if it may be another run's, unless it is older than what the kubelet has.
func (c *capture) resetOthers(ctx context.Context, m moment) {
	if c.foreign(m) && !c.isOlder(ctx) || c.isNext(ctx, m) {
		c.reset()
	}
}

// isNext looks whether what is held is a later run's: it begins as what a later one holds, or as a later one may and this
// one did not, of which an earlier line was seen, or as the log that the kubelet serves of a later run by now. That can be
// so only if no line of it is from before the second in which this run ended. If the status shows later runs only, both
// logs that are served are theirs. No answer says nothing: see maySucceed.
func (c *capture) isNext(ctx context.Context, m moment) bool {
	if c.log == nil || c.own || c.node != nil {
		return false
	}
	first, from := c.log.First(), m.laterFrom(c.run)
	switch {
	case first.Before(from):
		return false
	case c.run.laterHolds(first), c.run.beganBefore(first) && m.endedBefore(first) && c.run.nextMayHave(first):
		return true
	case ctx.Err() != nil || from.IsZero():
		return false
	}
	same := func(previous bool) bool { return c.glimpse(ctx, previous).first.Equal(first) }
	if m.slot == slotNone {
		return same(false) || same(true)
	}
	_, told := m.successor(c.run.id)
	return told && same(false)
}

// isOlder looks whether what is held, and may be a later run's log, is older than the current one. Then it is kept,
// unproven: nobody has it any more.
func (c *capture) isOlder(ctx context.Context) bool {
	if !c.nextRuns || c.podError() != nil || ctx.Err() != nil {
		return false
	}
	b := c.glimpse(ctx, false)
	return b.empty || b.first.After(c.log.First())
}

// otherSince returns a time before which the pod that has the name now cannot have written anything; zero if
// that is not known.
func (c *capture) otherSince() time.Time {
	c.noting.Lock()
	defer c.noting.Unlock()
	if c.other.IsZero() {
		return c.other
	}
	return c.other.Add(-clocksApart)
}
