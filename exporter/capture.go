package exporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// firstBackoff and lastBackoff bound the wait before a source is asked again. The first is short
	// because a log may live for a second only.
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 30 * time.Second
	// endWait is how long after a follow's end the status is waited for before the stream is opened
	// again: the kubelet looks at its containers once a second.
	endWait = 2 * time.Second
	// settle is how long after a run was seen dead its last bytes may still be on their way to the
	// file: the runtime's copying of the last few KiB is not covered by its report of the exit. That
	// report itself was seen late, by up to a second: the kubelet looks at its containers once a second.
	settle = 750 * time.Millisecond
	// maxReads bounds the list of reads in a record.
	maxReads = 50
)

// capture is the reading of one run, from the first request to the record. Its steps run one after
// the other on the queue, never two at once.
type capture struct {
	e   *Exporter
	run *run
	out *output
	log *podlog.Log

	reads    []bundle.Read
	texts    []string // the kubelet's error texts
	refused  int      // refusals in a row
	moved    int      // how often the run changed its slot under a read
	asked    slot     // the slot that the first read asked for
	followed bool
	gone     bool // the API has no more to give
	running  bool // a snapshot: the run goes on
	looked   bool // the pod was looked at after the last read
	served   bool // the kubelet has served what is held, be it nothing

	podMu  sync.Mutex
	object *corev1.Pod // the whole pod as last seen
	podErr error       // of the last look at it

	middle bundle.Part
	tail   bundle.Part
	prio   priority
}

// begin puts a run on the queue. It is the tracker's work function.
func (e *Exporter) begin(r *run, p priority) {
	e.metrics.observed.Inc()
	c := &capture{e: e, run: r, prio: p}
	e.captures.begin()
	e.tally.add(func(t *tally) { t.runs++ })
	e.metrics.open.Inc()
	step := c.read
	switch m := r.moment(); {
	case m.ended():
	case e.once:
		step = c.snapshot
	default:
		step = c.follow
	}
	e.queue.add(p, time.Now(), step)
}

// probeHead reads the first stamp of a running container's log, so that a later rotation shows.
func (e *Exporter) probeHead(r *run) {
	wait := 2 * time.Second
	var probe func(context.Context)
	probe = func(ctx context.Context) {
		m := r.now()
		if m.ended() || m.dying {
			return
		}
		body, err := e.source.Open(ctx, c0(r, m).request(podlog.Request{LimitBytes: 64}))
		if err == nil {
			l := podlog.New(discard{}, r.id.containerID)
			res, rerr := l.Read(body)
			_ = body.Close()
			if rerr == nil && res.Text == "" && r.witnessHead(l.First()) {
				return
			}
		}
		if wait *= 2; wait < 10*time.Minute {
			e.queue.add(prioProbe, time.Now().Add(wait), probe)
		}
	}
	e.queue.add(prioProbe, time.Now(), probe)
}

func c0(r *run, m moment) *capture { return &capture{run: r, asked: m.slot} }

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// request completes a request for this run's container.
func (c *capture) request(r podlog.Request) podlog.Request {
	pod := c.run.now().pod
	r.Namespace, r.Pod, r.Container = pod.Namespace, pod.Name, c.run.id.container
	return r
}

// follow reads a dying pod's container to its end. The stream is opened while the container still
// runs, because what is left after its exit lives for a second or less.
func (c *capture) follow(ctx context.Context) {
	if m := c.run.now(); m.ended() && !c.had() {
		c.reset()
		c.read(ctx) // it ended before a stream could be opened
		return
	}
	var look sync.WaitGroup
	if !c.followed {
		c.followed = true
		look.Go(func() { c.seePod(ctx) }) // beside the stream, which must not wait
	}
	ok := c.stream(ctx)
	look.Wait()
	if ctx.Err() != nil {
		c.seal(ctx)
		return
	}
	wait := endWait
	if !ok {
		wait = 0
	}
	switch m := c.awaitEnd(ctx, wait); {
	case c.gone, m.podGone, ok && m.ended():
		c.awaitEnd(ctx, endWait) // for the exit code, which comes with the pod's last status
		c.seal(ctx)
	case m.ended():
		c.e.queue.add(c.prio, time.Now(), c.read) // the stream broke, the log may still be there
	default:
		c.e.queue.add(prioDying, time.Now().Add(backoff(c.refused)), c.follow)
	}
}

// stream follows until the kubelet ends two streams in a row, the second at once and with nothing
// new. A clean end alone says nothing, a broken connection behind the API server looks the same; but
// for a running container the second stream would stay open, so the kubelet has said that the
// container has ended, and that this is the end of its log. It returns whether that happened.
func (c *capture) stream(ctx context.Context) bool {
	for again := false; ; again = true {
		start := time.Now()
		res, ok := c.take(ctx, "follow", podlog.Request{Follow: true, Since: c.since()})
		if !ok {
			return false
		}
		same := res.Appended == 0 && (res.Join == podlog.JoinExact || res.Join == podlog.JoinEmpty && c.log.Bytes() == 0)
		if again && same && time.Since(start) < endWait && res.TextKind == podlog.TextNone {
			c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{"the kubelet ended two streams in a row, the second at once and with nothing new"}}
			return true
		}
		if res.TextKind == podlog.TextGone {
			return true // the runtime has removed the container: this is all there is
		}
	}
}

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

// since is where a further read begins: the second of the last stamp held.
func (c *capture) since() time.Time {
	if c.log == nil {
		return time.Time{}
	}
	return c.log.Last()
}

// read takes the whole log of a run that has ended.
func (c *capture) read(ctx context.Context) {
	m := c.run.now()
	if c.log == nil && c.refused == 0 && c.run.firstSeenDead && c.e.archived(ctx, c.run, m) {
		c.e.metrics.already.Inc()
		c.e.tally.add(func(t *tally) { t.already++ })
		c.finish()
		return
	}
	if m.slot == slotNone || m.podGone {
		c.gone = true
		c.seal(ctx)
		return
	}
	c.asked = m.slot
	method := "get"
	if m.slot == slotPrevious {
		method = "previous"
	}
	_, ok := c.take(ctx, method, podlog.Request{Previous: m.slot == slotPrevious})
	switch {
	case ctx.Err() != nil:
		c.abandon()
	case ok:
		c.e.queue.add(prioClosing, closingTime(m), c.closing)
	case c.gone:
		c.seal(ctx)
	default:
		c.again(c.read)
	}
}

// closingTime is when a log can be taken as settled: a second after its end, which lies before now,
// and by the node's clock within the second of finishedAt.
func closingTime(m moment) time.Time {
	now := time.Now()
	seen := now.Add(settle)
	if m.term == nil || m.term.FinishedAt.IsZero() {
		return seen
	}
	if byNode := m.term.FinishedAt.Add(2 * time.Second); byNode.Before(seen) {
		return byNode
	}
	return seen
}

// closing reads the end of the log once more and then looks whether the run is still the one that
// was asked for.
func (c *capture) closing(ctx context.Context) {
	c.close(ctx)
	c.seePod(ctx)
	c.looked = true
	if ctx.Err() != nil {
		c.abandon()
		return
	}
	if c.run.now().slot == slotPrevious && c.asked == slotCurrent && c.moved < 3 {
		// The container restarted since: what was read may be its successor's. Once more, by name.
		c.moved++
		c.looked = false
		c.reset()
		c.read(ctx)
		return
	}
	c.seal(ctx)
}

// close reads from the last second on and judges the tail by what comes.
func (c *capture) close(ctx context.Context) {
	m := c.run.now()
	before := c.log.Bytes()
	c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven}
	if m.podGone || m.slot == slotNone {
		return // whatever has the name now is another
	}
	ctx, stalled, done := c.watchdog(ctx, false)
	defer done()
	body, err := c.e.source.Open(ctx, c.request(podlog.Request{Since: c.since(), Previous: m.slot == slotPrevious}))
	if err != nil {
		c.note("closing", podlog.Result{}, err)
		c.tail.Evidence = []string{"the closing read was refused: " + string(podlog.Classify(err))}
		return
	}
	defer body.Close() //nolint:errcheck // a body that was read to its end
	res, err := c.log.Read(stalled(body))
	c.note("closing", res, err)
	c.joined(res)
	switch {
	case err != nil || res.TextKind != podlog.TextNone:
		c.tail.Evidence = []string{"the closing read did not end cleanly"}
	case res.Join == podlog.JoinExact, res.Join == podlog.JoinEmpty && before == 0, res.Join == podlog.JoinFirst:
		c.tail = bundle.Part{State: bundle.Proven, Evidence: []string{
			fmt.Sprintf("a closing read joined exactly and brought %d more bytes", res.Appended),
		}}
	}
}

// take makes one read that brings log text. It returns whether the body was read to a clean end.
func (c *capture) take(ctx context.Context, method string, req podlog.Request) (podlog.Result, bool) {
	c.tail = bundle.Part{} // whatever was proven before, there is more to come
	if c.run.now().podGone {
		c.gone = true // whatever has the name now is another pod
		return podlog.Result{}, false
	}
	if err := c.open(); err != nil {
		c.refused++
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
		return podlog.Result{}, false
	}
	ctx, stalled, done := c.watchdog(ctx, req.Follow)
	defer done()
	body, err := c.e.source.Open(ctx, c.request(req))
	if err != nil {
		c.note(method, podlog.Result{}, err)
		c.refuse(ctx, err)
		return podlog.Result{}, false
	}
	defer body.Close() //nolint:errcheck // the read's own error is the one that counts
	res, err := c.log.Read(stalled(body))
	c.note(method, res, err)
	c.joined(res)
	var werr *podlog.WriteError
	switch {
	case errors.As(err, &werr):
		c.refused++
		c.reset()
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
		return res, false
	case res.TextKind == podlog.TextGone && res.Join == podlog.JoinEmpty && c.log.Bytes() == 0:
		c.goneOrRetry()
		return res, false
	case err != nil, res.TextKind == podlog.TextRetry:
		c.refused++
		return res, false
	}
	c.refused = 0
	c.served = true
	return res, true
}

// goneOrRetry handles a kubelet that cannot find the run's log at all. While the status still shows
// the run this may be a moment between two states; it is believed after a few tries.
func (c *capture) goneOrRetry() {
	if c.refused++; c.refused > 3 || c.run.now().podGone {
		c.gone = true
	}
}

// refuse handles an error in place of a body.
func (c *capture) refuse(ctx context.Context, err error) {
	c.refused++
	switch podlog.Classify(err) {
	case podlog.RefusedPodGone:
		c.gone = true
	case podlog.RefusedNotThere:
		c.gone = c.refused > 5
	case podlog.RefusedForbidden:
		c.e.access.forbidden(ctx, c.run.now().pod.Namespace, err)
	case podlog.RefusedForNow:
		if c.refused == 5 {
			c.e.log.Warn("cannot read log, will go on trying", c.attrs("err", err)...)
		}
	}
	if c.run.now().podGone && c.refused > 3 {
		c.gone = true
	}
}

// joined notes a read that did not meet what was held.
func (c *capture) joined(res podlog.Result) {
	if res.Text != "" && len(c.texts) < maxReads {
		c.texts = append(c.texts, res.Text)
	}
	if res.Join != podlog.JoinHole && res.Missed == 0 {
		return
	}
	c.middle = bundle.Part{State: bundle.Lost, Cause: bundle.CauseJoinFailed, Evidence: []string{
		fmt.Sprintf("join %s, %d lines missed", res.Join, res.Missed),
	}}
	if !res.HoleAfter.IsZero() {
		c.middle.After = &res.HoleAfter
	}
	if !res.HoleBefore.IsZero() {
		c.middle.Before = &res.HoleBefore
	}
}

func (c *capture) note(method string, res podlog.Result, err error) {
	if len(c.reads) >= maxReads {
		return
	}
	r := bundle.Read{Time: time.Now().UTC(), Method: method, RawBytes: res.Bytes, Result: "ok"}
	switch {
	case err != nil:
		r.Result = err.Error()
	case res.Text != "":
		r.Result = "ended by an error text"
	}
	c.reads = append(c.reads, r)
	c.e.metrics.read.WithLabelValues(method).Add(float64(res.Bytes))
}

// backoff is the wait before the n-th further try: doubling, from firstBackoff to lastBackoff.
func backoff(n int) time.Duration {
	d := firstBackoff << min(max(n-1, 0), 10)
	return min(d, lastBackoff)
}

func (c *capture) attrs(more ...any) []any {
	pod := c.run.now().pod
	return append([]any{"namespace", pod.Namespace, "pod", pod.Name, "container", c.run.id.container, "restart", c.run.restart}, more...)
}

// open makes the place in the spool that the log is written to.
func (c *capture) open() error {
	if c.out != nil {
		return nil
	}
	out, err := newOutput(c.e.spool, c.e.encoders, c.e.compression)
	if err != nil {
		return err
	}
	c.out = out
	c.log = podlog.New(out, c.run.id.containerID)
	c.middle = bundle.Part{State: bundle.Proven, Evidence: []string{"every further read overlapped what was held"}}
	return nil
}

// reset throws away what was read, because it may be another run's or the spool failed.
func (c *capture) reset() {
	if c.out != nil {
		c.out.abort()
	}
	c.out, c.log, c.served, c.tail = nil, nil, false, bundle.Part{}
}

// abandon gives up when the exporter stops. The run stays unrecorded; the next start finds it again.
func (c *capture) abandon() {
	c.reset()
	c.closed()
}

// finish ends the capture of a run that has its record.
func (c *capture) finish() {
	c.run.finish()
	c.closed()
}

func (c *capture) closed() {
	c.e.tally.add(func(t *tally) { t.done++ })
	c.e.metrics.open.Dec()
	c.e.captures.end()
}

// archived says whether the run has its record in the spool or in the bucket. A bucket that cannot
// answer now does not hold up a capture: the same run twice ends as one object.
func (e *Exporter) archived(ctx context.Context, r *run, m moment) bool {
	if m.term == nil || m.term.FinishedAt.IsZero() {
		return false
	}
	c := &capture{e: e, run: r}
	key, err := bundle.KeyOf(c.record(m))
	if err != nil {
		return false
	}
	if _, err := e.spool.Stat(ctx, key.Record()); err == nil {
		return true
	}
	if e.ship.down() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = e.bucket.Stat(ctx, key.Record())
	return err == nil
}
