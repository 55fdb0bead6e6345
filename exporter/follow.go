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
	statusWait = 10 * time.Second
	// pollLive and pollDying are the pauses between reads of a log that cannot be streamed. What is
	// left of a container that was deleted is there for 0.6 s after its exit.
	pollLive  = 5 * time.Second
	pollDying = 300 * time.Millisecond
	// crowdedFor is how long no stream is asked for after a node had no inotify instance left.
	crowdedFor = 30 * time.Second
	// noWatcher is the kubelet's word for that.
	noWatcher = "failed to create fsnotify watcher"
	// aliveWithin is how recently a stream must have brought something for its end to be taken for
	// the log's: a connection that is silently dead is found out by pings, after 30 s at least.
	aliveWithin = 10 * time.Second
)

// follow reads a running container's log to its end. For a pod that is being deleted the stream is
// opened while the container still runs, because what is left after its exit lives for a second or less.
func (c *capture) follow(ctx context.Context) {
	m := c.run.now()
	switch {
	case m.ended() && !c.had():
		c.reset()
		c.read(ctx) // it ended before a stream could be opened
		return
	case m.ended():
		c.ended(ctx)
		return
	}
	c.asked = slotCurrent
	node := m.pod.Spec.NodeName
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
		c.awaitEnd(ctx, statusWait) // for the exit code
		c.seal(ctx)
	case m.ended():
		c.next(urgency(m), time.Now(), c.ended) // the log may still be there
	case c.e.stopping() && !m.dying:
		c.stop(ctx)
	default:
		c.next(c.priority(), time.Now().Add(backoff(c.refused)), c.follow)
	}
}

// ended takes up a run whose end became known while it was streamed or polled.
func (c *capture) ended(ctx context.Context) {
	if !c.had() {
		c.reset()
		c.read(ctx)
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
	if c.running {
		c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	}
	c.seal(ctx)
}

// stream follows the log. It returns whether the kubelet has ended it for the log's end.
//
// A clean end alone says nothing: a broken connection behind the API server looks the same. For a pod
// that is being deleted a second stream is opened at once. For a running container it would stay open;
// if the kubelet ends it too, with nothing new, or says that it no longer knows the container, then the
// container has ended and this is the end of its log: the kubelet removes a container after its exit
// only, and reads to the end of the file before it looks for the container (cri-client/pkg/logs
// ReadLogs). The container of another pod may have restarted, and a second stream would be its
// successor's; there the status must tell of the end first.
func (c *capture) stream(ctx context.Context) (ended, ok bool) {
	var quiet time.Duration // how long the stream before had brought nothing when it ended
	for again := false; ; again = true {
		start := time.Now()
		res, ok := c.take(ctx, "follow", podlog.Request{Follow: true, Since: c.since()})
		switch {
		case ok && res.TextKind == podlog.TextGone:
			c.removed(res, again, quiet)
			return true, true
		case !ok || !c.run.now().dying:
			return false, ok
		}
		same := res.Appended == 0 && (res.Join == podlog.JoinExact || res.Join == podlog.JoinEmpty && c.log.Bytes() == 0)
		if again && same && time.Since(start) < endWait {
			c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{"the kubelet ended two streams in a row, the second at once and with nothing new"}}
			return true, true
		}
		quiet = time.Since(c.heard)
	}
}

// removed judges the tail of a log whose container the kubelet no longer knows.
func (c *capture) removed(res podlog.Result, again bool, quiet time.Duration) {
	unproven := func(evidence string) {
		c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{evidence}}
	}
	inStream := strings.HasPrefix(res.Text, "rpc error: ") // after reading, and not in place of it
	switch {
	case !res.Own:
		unproven("the kubelet's last word was about another container")
	case c.rotatable():
		unproven("the container was removed before a second look, and a rotation right before its exit cannot be excluded")
	case inStream && !again, again && res.Appended == 0 && quiet < aliveWithin:
		c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{
			"the stream was open when the container was removed, and the kubelet reads to the end of the log before it looks for the container",
		}}
	default:
		unproven("the stream had been silent before its end, and the container was removed before a second one")
	}
}

// rotatable says whether the log is so long that the kubelet may have rotated it. A line on the node
// is longer than the line that the API serves by at most a third.
func (c *capture) rotatable() bool { return c.log.Bytes()*4/3 >= c.e.rotateAt }

// awaitEnd waits until the run's end is known, ctx ends or the time is over.
func (c *capture) awaitEnd(ctx context.Context, d time.Duration) moment {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		m := c.run.now()
		if m.term != nil || m.podGone {
			return m
		}
		select {
		case <-m.changed:
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
		c.awaitEnd(ctx, endWait)
		c.seal(ctx)
	case c.run.now().ended():
		c.ended(ctx)
	case m.dying:
		c.next(prioDying, time.Now().Add(pollDying), c.follow)
	case ok:
		c.next(prioLive, time.Now().Add(pollLive), c.follow)
	default:
		c.next(prioLive, time.Now().Add(max(backoff(c.refused), pollLive)), c.follow)
	}
}

// nodes counts the streams that are open on each node.
type nodes struct {
	mu         sync.Mutex
	open       map[string]int
	live, most int // how many streams there may be for running pods, and for all
}

// take asks for a stream on a node. Dying pods may use more of them.
func (n *nodes) take(node string, dying bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	limit := n.live
	if dying {
		limit = n.most
	}
	if n.open[node] >= limit {
		return false
	}
	n.open[node]++
	return true
}

func (n *nodes) give(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open[node]--; n.open[node] <= 0 {
		delete(n.open, node)
	}
}
