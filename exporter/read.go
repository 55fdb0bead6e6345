package exporter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// settle is how long after a run was seen dead its last bytes may still be on their way to the file.
	// containerd waits for what comes from the container before it reports the exit (client/task.go Delete), but
	// not for its own writer of log files, which is a few KiB behind. That report itself was seen late, by up to
	// a second: the kubelet looks at its containers once a second.
	settle = 500 * time.Millisecond
	// longAgo is more than any two clocks of a cluster are apart.
	longAgo = time.Minute
	// maxClosings bounds the closing reads that bring more: a log that has ended has an end.
	maxClosings = 10
	// wholeAgain is up to which size at least a log that was streamed, or put together, is read once more as a
	// whole, to see that no line is missing in its middle; wholeAlways up to which size every further read is one
	// of the whole: it takes a tenth of a second.
	wholeAgain  = 32 << 20
	wholeAlways = 1 << 20
)

// read takes the whole log of a run that has ended.
func (c *capture) read(ctx context.Context) {
	m := c.run.now()
	recorded, err := c.recorded(ctx, m)
	switch {
	case err != nil:
		c.refused++
		c.again(c.read) // only the store can tell whether there is anything to do
		return
	case recorded:
		c.e.metrics.already.Inc()
		c.e.tally.add(func(t *tally) { t.already++ })
		c.finish()
		return
	}
	c.e.noteDead(c.run, m)
	if !c.takeUp(ctx) {
		c.again(c.read)
		return
	}
	if m.slot == slotNone || m.podGone {
		c.salvage(ctx)
		c.gone = true
		c.seal(ctx)
		return
	}
	vanishing := c.missed > 0 && m.vanishes() || m.away // and its files outlive what the API has of it by a moment
	if c.e.nodeFiles != nil && (c.e.nodeFiles.prefer || vanishing) && !c.consulted {
		if _, err := c.fetch(ctx); err == nil {
			c.nextClosing()
			return
		}
	}
	if c.parked(c.read) {
		return
	}
	c.asked = m.slot
	if c.replaced {
		c.asked = slotPrevious
	}
	method := "get"
	if c.asked == slotPrevious {
		method = "previous"
	}
	req := podlog.Request{Previous: c.asked == slotPrevious}
	if c.earlier != nil {
		req.Since = c.further()
	}
	_, ok := c.take(ctx, method, req)
	if ok && c.earlier == nil && c.asked == slotCurrent && m.restartable() {
		ok = c.checkCurrent(ctx)
	}
	if ok && m.slot == slotPrevious {
		ok = c.checkPrevious(ctx, m)
	}
	switch {
	case ctx.Err() != nil:
		c.abandon()
	case ok:
		c.nextClosing()
	case c.gone:
		c.seal(ctx)
	default:
		c.again(c.read)
	}
}

// closingTime is when a log can be taken as settled. The node's clock is asked only for whether the end was
// long ago: it may be behind.
func closingTime(m moment, again bool) time.Time {
	now, settle := time.Now(), settle
	if m.vanishes() {
		settle = settleDying
	}
	switch {
	case again || m.endSeen.IsZero():
		return now.Add(settle)
	case m.endedLongAgo():
		return now
	}
	return m.endSeen.Add(settle)
}

// endedLongAgo says whether the run's end was so long ago that nobody's clock or hurry matters.
func (m moment) endedLongAgo() bool {
	return m.term != nil && !m.term.FinishedAt.IsZero() && time.Since(m.term.FinishedAt.Time) > longAgo
}

// closing reads the end of the log once more and then looks whether the run is still the one that
// was asked for. Only a read that brings nothing new proves the end, and of an empty log, or of one that nothing else has
// shown to its end, only two of them: what is cut may be cut where the held ends.
func (c *capture) closing(ctx context.Context) {
	if c.awaitsStatus(ctx) || !c.e.once && c.doubtEnd(ctx) && c.parked(c.closing) {
		return
	}
	silent, m := c.log.Bytes() == 0, c.run.now()
	more := c.readEnd(ctx)
	if more == 0 && c.doubtEnd(ctx) {
		c.again(c.closing)
		return
	}
	if silent && more > 0 && ctx.Err() == nil && c.asked == slotCurrent && m.slot == slotCurrent && m.restartable() {
		c.own = false // the kubelet has named what was empty
		if !c.checkCurrent(ctx) {
			c.again(c.read)
			return
		}
	}
	if silent && more > 0 && m.slot == slotPrevious && c.asked == slotPrevious {
		c.own = false
		if !c.checkPrevious(ctx, m) {
			c.seal(ctx)
			return
		}
	}
	again := (silent || c.beforeEnd) && more == 0 && c.closings == 0 && c.tail.State == bundle.Proven
	if (more > 0 || again) && ctx.Err() == nil && c.closings < maxClosings {
		c.closings++
		c.nextClosing()
		return
	}
	c.seePod(ctx)
	c.looked = true
	if ctx.Err() != nil {
		c.stop(ctx)
		return
	}
	switch m := c.run.now(); {
	case m.slot != slotPrevious, c.own, c.moved:
	case c.asked == slotCurrent && (!c.followed || c.overtaken):
		// The container restarted since: what was read may be its successor's. Once more, by name.
		c.moved, c.looked = true, false
		c.gone = false
		c.forget()
		c.keep()
		c.read(ctx)
		return
	case !c.unsure.IsZero(): // what is held, or the closing read, is by name, or was streamed: see maySucceed
		c.nextRuns = false
		c.checkPrevious(ctx, m)
	}
	if !c.awaitsNext() {
		c.seal(ctx)
	}
}

// doubtEnd says whether the closing read is to be made again because it was refused, or did not come to a clean end:
// the kubelet, its runtime or the API server may only be starting. A record waits for that as long as lostAfter.
func (c *capture) doubtEnd(ctx context.Context) bool {
	switch {
	case c.unclear.IsZero(), c.gone, ctx.Err() != nil, c.e.stopping(), c.run.now().podGone:
		return false
	case c.e.once:
		return c.refused < oneShotTries
	}
	return time.Since(c.unclear) < c.doubts()
}

// readEnd reads on from the last second, or the whole log again if it was streamed, and judges the
// tail by what comes. It returns how many bytes were new.
func (c *capture) readEnd(ctx context.Context) (more int64) {
	m := c.run.now()
	before, since := c.log.Bytes(), c.unclear
	c.tail, c.unclear = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven}, time.Time{}
	if since.IsZero() {
		since = time.Now()
	}
	if m.podGone || m.slot == slotNone { // whatever has the name now is another
		c.tail.Evidence = []string{"the pod or its container was gone before a closing read came to a clean end"}
		return 0
	}
	req := podlog.Request{Since: c.further(), Previous: m.slot == slotPrevious || c.asked == slotPrevious}
	if (c.followed || c.pieced) && c.alignable() && before <= c.e.wholeAgain() {
		req.Since = time.Time{}
	}
	bounded, stalled, done := c.watchdog(ctx, false)
	defer done()
	answered := c.e.nodes.ask(m.pod.node)
	body, err := c.e.source.Open(bounded, c.request(req))
	answered(err)
	if err != nil {
		c.note("closing", podlog.Result{}, err)
		c.refuse(ctx, err)
		c.unclear = since
		c.tail.Evidence = []string{"the closing read was refused: " + string(podlog.Classify(err))}
		return 0
	}
	defer body.Close() //nolint:errcheck // a body that was read to its end
	c.nodeAway = false
	c.log.RefuseHoles = before > 0 && !c.certain
	res, err := c.log.Read(stalled(body))
	c.note("closing", res, err)
	if before == 0 && res.Join == podlog.JoinShort {
		c.run.speaks()
	}
	if req.Previous && c.asked == slotCurrent && before > 0 && !res.First.IsZero() && res.First.Before(c.log.First()) {
		c.overtaken = true // the stream was opened when the next run had begun: see closing
		c.tail.Evidence = []string{"the kubelet serves an older log by the run's name"}
		return 0
	}
	c.own = c.own || c.vouches(req, res)
	switch {
	case errors.Is(err, podlog.ErrHole):
		return c.otherLog(ctx, m, res)
	case err == nil && res.Bytes == 0 && before > 0 && c.asked == slotCurrent && m.slot == slotCurrent:
		return c.emptied(ctx)
	}
	c.joined(res)
	if err == nil && res.TextKind == podlog.TextNone && c.reached(res) {
		c.answered(res)
	}
	var werr *podlog.WriteError
	switch {
	case errors.As(err, &werr):
		c.tail.Evidence = []string{"what the closing read brought could not be written"}
	case err != nil || res.TextKind != podlog.TextNone:
		c.unclear = since
		if res.TextKind == podlog.TextGone {
			c.unfound()
			c.gone = c.gone || req.Previous && c.missed > lostTries // a further restart removes it
		} else {
			c.refused++
		}
		c.tail.Evidence = []string{"the closing read did not end cleanly"}
	default:
		proven := c.judgeEnd(req, res, before)
		c.differs = !proven && before > 0 && res.Appended == 0 && res.Join != podlog.JoinEmpty
		if proven && before > 0 && m.slot == slotPrevious { // the kubelet served the same by name
			c.late = false
			if !c.unsure.IsZero() {
				c.asked = slotPrevious
			}
		}
	}
	c.piece(req, res, true)
	if c.pieced && c.tail.State == bundle.Proven && !c.alignable() {
		c.recount(ctx, req.Previous)
	}
	return res.Appended
}

// judgeEnd judges the tail by a closing read that came to a clean end; before is how much was held.
func (c *capture) judgeEnd(req podlog.Request, res podlog.Result, before int64) (proven bool) {
	switch {
	case !c.reached(res):
		c.tail.Evidence = []string{"the closing read ended before what is held"}
	case res.Appended > 0:
		c.tail.Evidence = []string{fmt.Sprintf("every closing read brought more; the last one %d bytes", res.Appended)}
	case before > 0 && req.Since.IsZero() && !res.Aligned && c.alignable() && !c.rotatable() && c.middle.State == bundle.Proven: // one of the reads lies
		c.tail.Evidence = []string{"the closing read, of the whole log, does not begin as what is held"}
	case res.Join == podlog.JoinExact, res.Join == podlog.JoinEmpty && before == 0:
		c.aligned = res.Aligned
		c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{"a closing read joined exactly and brought nothing new"}}
		return true
	}
	return false
}

func (e *Exporter) wholeAgain() int64 { return max(wholeAgain, e.rotateAt) }

// take makes one read that brings log text. It returns whether the body was read to a clean end.
func (c *capture) take(ctx context.Context, method string, req podlog.Request) (podlog.Result, bool) {
	node := c.node
	c.tail, c.aligned, c.node, c.own = bundle.Part{}, false, nil, false // whatever was proven before, there is more to come
	c.renew, c.beforeEnd = false, !c.run.now().ended()
	if !c.ready() {
		return podlog.Result{}, false
	}
	empty := c.log.Bytes() == 0
	c.late = c.late || c.served && empty
	bounded, watched, done := c.watchdog(ctx, req.Follow)
	defer done()
	opened := time.Now()
	answered := c.e.nodes.ask(c.run.now().pod.node)
	body, err := c.e.source.Open(bounded, c.request(req))
	answered(err)
	if cut := ourCut(bounded); err != nil && cut != nil { // no header comes before the first byte
		c.followed = c.followed || req.Follow
		done()
		return c.silent(method, opened, cut), true
	}
	if err != nil {
		c.note(method, podlog.Result{}, err)
		c.refuse(ctx, err)
		return podlog.Result{}, false
	}
	defer body.Close() //nolint:errcheck // the read's own error is the one that counts
	c.followed, c.nodeAway, c.heard = c.followed || req.Follow, false, time.Now()
	c.log.RefuseHoles = c.log.Bytes() > 0 && !(c.certain && (req.Previous || c.run.now().slot == slotCurrent))
	res, err := c.log.Read(watched(body))
	var werr *podlog.WriteError
	var cause error
	if err != nil && !errors.Is(err, podlog.ErrHole) && !errors.As(err, &werr) {
		cause = ourCut(bounded)
	}
	done() // nobody looks at the log beside this from here on
	c.run.holds(c.log.First())
	if cause != nil {
		err = cause
	}
	c.note(method, res, err)
	c.seeBeginning(req, res, opened, empty)
	c.own = c.vouches(req, res)
	if errors.Is(err, podlog.ErrHole) {
		c.makeCertain(ctx, res)
		return res, false
	}
	c.certain, c.doubted = false, time.Time{}
	c.joined(res)
	c.piece(req, res, req.Follow)
	switch {
	case werr != nil:
		c.refused++
		if c.cannotSpool(err); c.atSource() {
			c.reset()
		}
		return res, false
	case res.TextKind == podlog.TextGone && res.Join == podlog.JoinEmpty && (c.log.Bytes() == 0 || !c.served && !req.Follow), c.fileGone(res):
		c.unfound()
		return res, false
	case cause != nil:
		c.renew, c.served = errors.Is(cause, errRenew), true
		return res, true
	case strings.HasPrefix(res.Text, noWatcher):
		c.crowded = time.Now()
		return res, false
	case err != nil, res.TextKind == podlog.TextRetry:
		c.refused++
		return res, false
	}
	if res.TextKind == podlog.TextGone && res.Appended == 0 {
		c.node = node
	}
	c.beforeEnd = c.beforeEnd && !req.Follow
	c.answered(res)
	return res, true
}

// seeBeginning notes what a read, opened at that time, tells of the beginning of a log that was empty before, or not.
func (c *capture) seeBeginning(req podlog.Request, res podlog.Result, opened time.Time, empty bool) {
	first := c.log.First()
	switch {
	case c.log.Bytes() > 0 && empty && req.Follow && first.After(opened) && c.run.beginsEmpty(opened):
		c.begun = first
	case c.log.Bytes() > 0:
	case res.Join == podlog.JoinShort:
		c.run.speaks()
	case req.Follow:
		c.run.stayedEmpty(opened)
	}
}

// ready says whether the run's log may be asked for, and there is a place for what comes.
func (c *capture) ready() bool {
	if c.run.now().podGone {
		c.gone = true // whatever has the name now is another pod
		return false
	}
	err := c.open()
	if err == nil {
		err = c.out.catchUp()
	}
	if err != nil {
		c.refused++
		c.cannotSpool(err)
		return false
	}
	c.stuck = nil
	return true
}

// silent handles a stream that was cut before it had brought anything: the kubelet had taken the request, and not
// even begun to answer.
func (c *capture) silent(method string, opened time.Time, cause error) podlog.Result {
	c.note(method, podlog.Result{}, cause)
	c.renew = errors.Is(cause, errRenew)
	if b := c.beside; b != nil && b.settled && len(b.body) == 0 && c.log.Bytes() == 0 {
		c.run.stayedEmpty(opened) // as the read beside it has shown
	}
	return podlog.Result{Join: podlog.JoinEmpty}
}

// vouches says whether the kubelet has named this very run when it was asked for the current one: then
// what it served up to here was this run's. What it serves later may be the successor's.
func (c *capture) vouches(req podlog.Request, res podlog.Result) bool {
	return res.Own && !req.Previous && c.log.Bytes() > 0
}

// recorded says whether the run may have a record already, in the spool or in the bucket: it had ended
// when it was first seen, or it is known from an earlier process only. A bucket that cannot answer now
// does not hold up a capture: the same run twice ends as one object. What an earlier process had read and not
// committed may be more than it had recorded.
func (c *capture) recorded(ctx context.Context, m moment) (bool, error) {
	switch {
	case c.run.unseen:
		return c.run.recalled && c.e.foundCount(ctx, c.run), nil
	case c.log != nil || len(c.reads) > 0:
		return false, nil
	case m.podGone && m.remembered, c.run.recalled && m.term == nil && !m.reachable():
		return c.recordedBefore(ctx)
	case c.e.leftovers.has(c.run.id):
		return false, nil
	case !c.run.firstSeenDead || m.term == nil:
		return false, nil
	case m.term.FinishedAt.IsZero():
		return c.e.foundSince(ctx, c.run, c.run.since(m)), nil
	}
	key, err := bundle.KeyOf(c.record(m, false))
	if err != nil {
		return false, err
	}
	keys := []string{key.Record()}
	// An exporter to which this end was told too late has noted when it noticed it, which may be the next day.
	if key.Date = m.term.FinishedAt.Add(2 * statusWait).UTC().Format(time.DateOnly); key.Record() != keys[0] {
		keys = append(keys, key.Record())
	}
	for _, key := range keys {
		switch rec, err := c.e.spooled(key); {
		case err == nil:
			return rec.Verdict.Tail.State == bundle.Proven || key != keys[0], nil // otherwise there may be more by now
		case !errors.Is(err, sink.ErrNotFound):
			return false, nil // commit deals with it
		}
	}
	if c.e.ship.down() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, key := range keys {
		if _, err = c.e.bucket.Stat(ctx, key); err == nil {
			return true, nil
		}
	}
	return false, nil
}

// recordedBefore is recorded for a run that an earlier process knew and that is out of reach. Where that one had read
// more than it had recorded, the record to come is of the same end.
func (c *capture) recordedBefore(ctx context.Context) (bool, error) {
	key, err := c.e.found(ctx, c.run)
	if key == "" || err != nil || !c.e.leftovers.has(c.run.id) {
		return key != "", err
	}
	rec, err := c.e.loadStored(ctx, key)
	var away *awayError
	switch {
	case errors.As(err, &away), ctx.Err() != nil:
		return false, err
	case err == nil && rec.State.FinishedAt != nil: // otherwise it is damaged, and no better one
		c.noticed = *rec.State.FinishedAt
	}
	return false, nil
}
