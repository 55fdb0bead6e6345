package exporter

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// endWait is how long after a stream's end the status is waited for before the stream is opened
	// again: the kubelet looks at its containers once a second.
	endWait = 2 * time.Second
	// statusWait is how long the exit code is waited for after a log's end. It comes with the pod's last
	// status, which a busy node reports late.
	statusWait = 30 * time.Second
	statusLook = 100 * time.Millisecond
	// pollLive and pollDying are the pauses between reads of a log that cannot be streamed. What is
	// left of a container that was deleted is there for 0.6 s after its exit.
	pollLive  = 5 * time.Second
	pollDying = 300 * time.Millisecond
	// quietFor is for how long every further stream of a dying pod must end at once, with nothing new.
	quietFor = 750 * time.Millisecond
	// streamAgain is the pause before a further stream of a dying pod.
	streamAgain = 50 * time.Millisecond
	// crowdedFor is how long no stream is asked for after a node had no inotify instance left.
	crowdedFor = 30 * time.Second
	// noWatcher is the kubelet's word for that.
	noWatcher = "failed to create fsnotify watcher"
	// aliveWithin is how recently a stream must have brought something for its end to be taken for
	// the log's: a connection that is silently dead is found out by pings, after 30 s at least.
	aliveWithin = 10 * time.Second
	// removalTakes is less than what passes between a container's exit and its removal: 0.6 to 0.95 s were
	// measured. Whoever hears so soon after a stream's end that the container is gone knows that it had exited
	// before that end, and so that the end was the log's.
	removalTakes = 500 * time.Millisecond
)

// follow reads a running container's log to its end. For a pod that is being deleted the stream is
// opened while the container still runs, because what is left after its exit lives for a second or less.
func (c *capture) follow(ctx context.Context) {
	if !c.takeUp(ctx) {
		c.again(c.follow)
		return
	}
	m := c.run.now()
	switch {
	case m.ended() && !c.had():
		c.reset()
		c.read(ctx) // it ended before a stream could be opened
		return
	case m.ended():
		c.ended(ctx)
		return
	case c.parked(c.follow):
		return
	case c.replaced:
		c.readBefore(ctx)
		return
	}
	c.asked = slotCurrent
	node := m.pod.node
	if time.Since(c.crowded) < crowdedFor || !c.e.nodes.take(node, m.dying) {
		c.poll(ctx)
		return
	}
	var look sync.WaitGroup
	if m.dying && !c.looked {
		look.Go(func() { c.seePod(ctx) }) // beside the stream, which must not wait
	}
	ended, ok := c.stream(ctx)
	c.e.nodes.give(node)
	look.Wait()
	c.streamed(ctx, ended, ok)
}

// streamed decides what comes after a stream: ended says that the kubelet ended it for the log's end,
// ok that it came to a clean end at all.
func (c *capture) streamed(ctx context.Context, ended, ok bool) {
	if ctx.Err() != nil {
		c.stop(ctx)
		return
	}
	wait := endWait
	if !ok {
		wait = 0
	}
	switch m := c.awaitEnd(ctx, wait); {
	case c.gone, m.podGone, ended:
		if ended { // the node is asked at once: files outlive their container by 0.6 s
			c.consult(ctx)
		} else {
			c.salvage(ctx)
		}
		c.sealWhenTold(time.Now().Add(c.e.statusWait))(ctx)
	case m.ended():
		c.next(urgency(m), time.Now(), c.ended) // the log may still be there
	case c.e.stopping() && !m.dying:
		c.stop(ctx)
	default:
		c.next(c.priority(), time.Now().Add(c.pause()), c.follow)
	}
}

// sealWhenTold is a step that seals as soon as the status tells the exit code, or at the latest then.
// It waits on the queue, so that it takes no place from the next dying pod. A run that goes on by then, as the
// status says, is followed on: only of a dying pod may the end be taken for certain without it.
//
// Where that was taken for certain, and the end is told only after that, the log is read once more if it can be had:
// see checkQuiet.
func (c *capture) sealWhenTold(latest time.Time) func(context.Context) {
	return func(ctx context.Context) {
		m := c.run.now()
		settled := m.endSeen.Add(c.e.settleDying)
		switch {
		case m.term != nil && !c.quiet.IsZero() && !m.podGone && time.Now().Before(settled) && ctx.Err() == nil:
			c.next(urgency(m), settled, c.sealWhenTold(latest))
		case m.term != nil && !c.quiet.IsZero() && c.checkQuiet(ctx, m):
			c.next(urgency(m), time.Now(), c.sealWhenTold(latest))
		case m.term != nil, m.podGone, ctx.Err() != nil:
			c.seal(ctx)
		case time.Now().Before(latest):
			c.next(prioClosing, time.Now().Add(statusLook), c.sealWhenTold(latest))
		case m.ended(), m.dying:
			c.seal(ctx)
		default:
			c.gone = false
			c.next(c.priority(), time.Now().Add(c.pause()), c.follow)
		}
	}
}

// checkQuiet looks again at a log whose streams had all ended at once before its end was told, and returns whether there
// was more: what ends streams so may also be a runtime that has lost sight of the container, or what lies between it
// and us. If the log cannot be had any more, the time of the end, by the node's clock, must not speak against it.
func (c *capture) checkQuiet(ctx context.Context, m moment) (more bool) {
	quiet := c.quiet
	c.quiet = time.Time{}
	if !m.podGone {
		c.beside = c.readAgain(ctx)
	}
	switch {
	case c.beside != nil:
		more = c.readBesideSays(ctx, false) == besideMore
	case !m.podGone && c.readEnd(ctx) > 0: // too large to be read beside
		more = true
	case !m.podGone && c.tail.State == bundle.Proven:
	case m.term.FinishedAt.After(quiet):
		c.unprovenTail("the streams had ended before the container did, and nothing could be read after that")
	default:
		c.proveQuiet()
	}
	if more {
		c.quiet = quiet
	}
	return more
}

func (c *capture) proveQuiet() {
	c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{"the kubelet ended every further stream at once, with nothing new"}}
}

// ended takes up a run whose end became known while it was streamed or polled.
func (c *capture) ended(ctx context.Context) {
	m := c.run.now()
	silent := c.log != nil && c.log.Bytes() == 0 && !c.resumed && m.restartable()
	if !c.had() || silent || c.foreign(m) { // a further read cannot be compared with it, and may be the successor's
		c.reset()
	}
	if !c.served {
		c.read(ctx)
		return
	}
	if c.asked == slotCurrent && m.slot == slotCurrent && m.restartable() && !c.resumed && !c.checkCurrent(ctx) {
		c.again(c.read)
		return
	}
	if c.beforeEnd { // there are two to come
		c.closing(ctx)
		return
	}
	c.nextClosing()
}

// stop ends the capture of a run that goes on while the exporter stops. What only a stream has brought
// may not be had again, so it becomes a snapshot.
func (c *capture) stop(ctx context.Context) {
	if !c.had() {
		c.abandon()
		return
	}
	m := c.run.now()
	c.running = !m.ended() && !m.dying
	goesOn := m.dying && !m.ended() && !c.e.once && c.out.draft != nil // and the next process may see its end
	// Nothing is archived before it is known to be wanted, and to be all.
	if goesOn || c.running && (c.undecided || !c.rejoin(ctx)) {
		c.out.leave()
		c.held = held{}
		c.closed()
		return
	}
	if c.running && !c.e.once {
		if c.surely(ctx) {
			_, _, _ = c.storeSoFar() // and the next process goes on from there
			c.leave()
		} else {
			c.reset()
		}
		c.closed()
		return
	}
	c.seal(ctx)
}

// stream follows the log. It returns whether the kubelet has ended it for the log's end.
//
// A clean end alone says nothing: a broken connection behind the API server looks the same. For a pod
// that is being deleted more streams are opened at once. For a running container they would stay open;
// if the kubelet ends them too, with nothing new, then the container has ended and this is the end of its log.
// If its runtime no longer knows the container, the log has ended too, but it may not have been read to its end:
// the kubelet reads to the end of the file before it looks for the container (cri-client/pkg/logs
// ReadLogs), and a slow runtime answers long after that. That it cannot find a log, right when it is asked, counts
// only after two such ends. The container of another pod may have restarted, and a second stream would be its
// successor's; there the status must tell of the end first.
func (c *capture) stream(ctx context.Context) (ended, ok bool) {
	var end streamEnd
	for ctx.Err() == nil {
		start := time.Now()
		res, ok := c.take(ctx, "follow", podlog.Request{Follow: true, Since: c.further()})
		said := c.readBesideSays(ctx, ok && !c.renew && res.TextKind == podlog.TextNone)
		switch {
		case said == besideProven:
			return true, true
		case said == besideMore:
			end = streamEnd{}
			continue
		case c.renew:
			c.rejoin(ctx)
			continue
		case c.certain && res.Join == podlog.JoinHole && !c.run.now().ended(): // what was refused will be taken now
			continue
		case ok && res.TextKind == podlog.TextGone:
			c.removed(res, end)
			if inStream(res) || end.alive() && c.run.now().dying {
				return true, true
			}
			if c.run.now().dying {
				c.consult(ctx) // at once: it may be true
			}
			return false, false
		case !ok && c.gone && end.seen():
			c.vanished(end)
			return true, true
		case !ok && res.TextKind == podlog.TextRetry && end.recent():
			// the log's file is being removed, and the container is not yet
			if strings.HasSuffix(res.Text, noSuchFile) && end.gone.IsZero() {
				end.gone = time.Now()
			}
		case !ok, !c.run.now().dying:
			return false, ok
		case !end.seen(), res.Appended > 0, time.Since(start) > endWait, !c.reached(res):
			first := !end.seen()
			if end = (streamEnd{at: time.Now(), last: time.Now(), again: said == besideSame, quiet: time.Since(c.heard)}); first {
				continue // the container may be removed soon
			}
		case time.Since(end.at) >= quietFor:
			c.proveQuiet()
			if c.run.now().term == nil {
				c.quiet = end.at
			}
			return true, true
		default:
			end.last, end.again = time.Now(), true
		}
		select {
		case <-time.After(streamAgain):
		case <-ctx.Done():
		}
	}
	return false, false
}

// streamEnd is the first clean end of a stream after which nothing new came.
type streamEnd struct {
	at    time.Time
	last  time.Time     // of the last stream that came to a clean end since
	again bool          // there was a further one, or a read, from the first line or the last second held on
	gone  time.Time     // when it showed first that the container was removed, if that was before the end of all
	quiet time.Duration // how long the stream had brought nothing
}

func (s streamEnd) seen() bool   { return !s.at.IsZero() }
func (s streamEnd) recent() bool { return s.seen() && time.Since(s.at) < endWait }

// alive says whether the stream's end can be taken for the log's, now that its container or its pod is gone: it
// was not that of a connection which had been dead for long, nor of one that broke while the container ran, or
// after that and before the end of the log, for then a further one would have brought more. The longer all have ended at
// once, the less that is doubted: on a busy node the word of the removal comes late. See quietFor, too.
func (s streamEnd) alive() bool {
	gone := s.gone
	if gone.IsZero() || gone.Before(s.last) {
		gone = time.Now()
	}
	return s.again && s.recent() && s.quiet < aliveWithin && gone.Sub(s.last) < removalTakes+s.last.Sub(s.at)
}

// reached says whether a read came to the end of what is held: no kubelet that has the log serves nothing of it.
func (c *capture) reached(res podlog.Result) bool {
	return res.Join != podlog.JoinShort && (res.Join != podlog.JoinEmpty || c.log.Bytes() == 0)
}

// inStream says whether it was the runtime that no longer knew this very container, when a stream looked for it after
// reading. In place of a log the kubelet's sentence says only that the runtime gave no status: it may be restarting.
func inStream(res podlog.Result) bool { return res.Own && strings.HasPrefix(res.Text, "rpc error: ") }

// removed judges the tail of a log whose container the kubelet no longer knows.
func (c *capture) removed(res podlog.Result, end streamEnd) {
	switch {
	case !res.Own:
		c.unprovenTail("the kubelet's last word was about another container")
	case c.rotatable():
		c.unprovenTail("the container was removed before a second look, and a rotation right before its exit cannot be excluded")
	case res.Appended == 0 && end.alive():
		c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{
			"a stream came to a clean end, a further one or a read brought nothing new, and the container was removed right after",
		}}
	case inStream(res):
		c.unprovenTail("the container was removed under the stream, and the runtime may have been asked for it before the last line was written")
	default:
		c.unprovenTail("the stream may have broken before the container's exit, and the container was removed before a second one was served")
	}
}

// vanished judges the tail of a log whose pod was gone right after its stream had ended: the kubelet
// lets a pod go when its containers have ended. The judge asks for their end besides.
func (c *capture) vanished(end streamEnd) {
	switch {
	case c.rotatable():
		c.unprovenTail("the pod was gone before a second look, and a rotation right before its end cannot be excluded")
	case end.alive():
		c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{"the stream came to a clean end, and the pod was gone right after, with its containers ended"}}
	default:
		c.unprovenTail("the stream may have broken before the container's exit, and the pod was gone before a second one was served")
	}
}

func (c *capture) unprovenTail(evidence string) {
	c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{evidence}}
}

// rotatable says whether the log is so long that the kubelet may have rotated it, or so much was written in
// one second that a stream may have lagged behind by a whole file, and have missed it. A line on the node is
// longer than the line that the API serves by at most a third.
func (c *capture) rotatable() bool {
	return c.log.Bytes()*4/3 >= c.e.rotateAt || c.log.BusiestSecond() >= c.e.rotateAt/4
}

// awaitEnd waits until the run's end is known, ctx ends or the time is over.
func (c *capture) awaitEnd(ctx context.Context, d time.Duration) moment {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		m, changed := c.run.watch()
		if m.term != nil || m.podGone {
			return m
		}
		select {
		case <-changed:
		case <-timer.C:
			return m
		case <-ctx.Done():
			return m
		}
	}
}

// poll reads what is new of a log that cannot be streamed, because its node has no stream to spare.
func (c *capture) poll(ctx context.Context) {
	m := c.run.now()
	c.asked = slotCurrent
	_, ok := c.take(ctx, "poll", podlog.Request{Since: c.since()})
	switch {
	case ctx.Err() != nil, c.e.stopping() && !m.dying:
		c.stop(ctx)
	case c.gone:
		c.salvage(ctx)
		c.sealWhenTold(time.Now().Add(c.e.statusWait))(ctx)
	case c.run.now().ended():
		c.ended(ctx)
	case m.dying:
		c.next(prioDying, time.Now().Add(pollDying), c.follow)
	case ok:
		c.next(prioLive, time.Now().Add(c.e.pollLive), c.follow)
	default:
		c.next(prioLive, time.Now().Add(max(backoff(c.refused), c.e.pollLive)), c.follow)
	}
}
