package exporter

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// firstBackoff and lastBackoff bound the wait before a source is asked again. The first is short
	// because a log may live for a second only.
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 30 * time.Second
	// dyingTries is how often the log of a dying pod is asked for at short intervals: for half a minute.
	dyingTries = 100
	// maxReads bounds the list of reads in a record.
	maxReads = 50
	// endedByText is the result of a read at whose end the kubelet has put one of its error texts.
	endedByText = "ended by an error text"
)

// capture is the reading of one run, from the first request to the record. A step either puts the next one
// on the queue or ends the capture.
type capture struct {
	steps
	e      *Exporter
	run    *run
	export *Export // that takes the run, or may take it
	held
	kept *held // what a read brought that may be the successor's, until a read by name shows better

	refusals
	notes

	undecided bool        // which export takes the run, if any, is known at its end
	closings  int         // closing reads that brought more
	unstored  int         // how often it was read and could not be spooled
	stuck     error       // why not, at the last try
	failed    error       // why a sweep has nothing of it
	certain   bool        // it was looked whether a read that does not continue what is held is this run's
	consulted bool        // the node was asked for what the API could not give
	moved     bool        // the run changed its slot under a read
	replaced  bool        // the kubelet calls the run's log the previous one, whatever the status says
	doubted   time.Time   // since when reads do not continue what is held
	renew     bool        // the last stream was cut because it had lasted long enough
	beside    *besideRead // what was read beside the last stream
	followed  bool        // a stream was opened
	crowded   time.Time   // when the node had no stream to spare
	heard     time.Time   // when the last body brought something
	gone      bool        // the API has no more to give
	running   bool        // a snapshot: the run goes on
	sweeping  atomic.Bool // it is only looked what there is so far
	looked    bool        // the pod was looked at after the last read
	noRoom    bool        // the spool was full when there was something to read
	noticed   time.Time   // when its end was, of one that nobody told
	apart     bool        // the store was away when it was to be looked what it has of the log
}

// notes are what goes into a record, which may be written beside a stream.
type notes struct {
	noting sync.Mutex
	reads  []bundle.Read
	texts  []string    // the kubelet's error texts
	object *corev1.Pod // the whole pod as last seen
	podErr error       // of the last look at it
	other  time.Time   // when the pod was made that has the name now
}

// held is a log as far as it was read, and what speaks for it.
type held struct {
	out       *output
	log       *podlog.Log
	asked     slot            // the slot that was asked for what is held, or by which it was found again
	served    bool            // the kubelet has served what is held, be it nothing
	beforeEnd bool            // the last read was begun before the run's end was known, and did not come to an end of its own
	own       bool            // the kubelet has named this very run, or its other log shows that this one is ours
	node      *nodelog.Report // of the node's files, if they were read last
	tookUp    bool            // it was looked for what was stored of this log before
	earlier   *bundle.Record  // the snapshot that this log goes on from
	resumed   bool            // it begins with what an earlier process has read
	met       bool            // a read has come to the last line of that
	begun     time.Time       // stamp of its first line, if that came by a stream which was opened before it was written
	late      bool            // it was empty when a read of it had ended: what came later may be another's
	nextRuns  bool            // it may be the log of one of the runs after this one
	overtaken bool            // it was streamed, and the kubelet has an older log by this run's name
	unsure    time.Time       // since when the status is waited for to tell
	pieced    bool            // a part of it came by reads that begin at a stamp, and no whole read has shown that nothing is left out
	quiet     time.Time       // since when its streams had all ended at once, if that was before its end was told
	aligned   bool            // the whole file was read again and is what is held, from its first line on
	differs   bool            // the closing read came to a clean end and was not the end of what is held: one of the two lies
	middle    bundle.Part
	tail      bundle.Part
}

// begin puts a run on the queue, if an export takes it, and says so. It is the tracker's work function: it
// comes a second time when the pod of a run that is being captured begins to be deleted.
func (e *Exporter) begin(r *run, p priority) bool {
	if r.capture != nil {
		r.capture.hurry(p)
		return true
	}
	m := r.moment()
	x, d := e.takes(r, m, e.endOf(m))
	if d == selection.No {
		return false
	}
	if r.missed { // others wait for their turn: a start shows all that have ended
		e.noteDead(r, m)
	}
	c := e.newCapture(r, x, d == selection.Maybe)
	switch {
	case m.ended():
		c.next(p, time.Now(), c.read)
	case e.once:
		c.next(p, time.Now(), c.snapshot)
	default:
		c.next(p, time.Now(), c.follow)
	}
	return true
}

// beginLive follows a run from its first sight on.
func (e *Exporter) beginLive(r *run, x *Export, undecided bool) {
	c := e.newCapture(r, x, undecided)
	c.next(prioLive, time.Now(), c.follow)
}

func (e *Exporter) newCapture(r *run, x *Export, undecided bool) *capture {
	c := &capture{steps: steps{queue: e.queue}, e: e, run: r, export: x, undecided: undecided}
	r.capture = c
	e.captures.begin()
	c.count()
	return c
}

// count takes the run's end, or what is taken for it, into the account.
func (c *capture) count() {
	c.e.tally.add(func(t *tally) { t.runs++ })
	c.e.metrics.observed.Inc()
	c.e.metrics.open.Inc()
}

// nextClosing puts the closing read on the queue. It waits for its time, whatever happens to the pod.
func (c *capture) nextClosing() {
	c.put(prioClosing, closingTime(c.run.now(), c.closings > 0), c.closing, true)
}

// priority is that of the capture's next step, by what is known now.
func (c *capture) priority() priority {
	m := c.run.now()
	switch {
	case m.ended():
		return urgency(m)
	case m.dying:
		return prioDying
	case c.e.once:
		return prioFinished
	}
	return prioLive
}

// request completes a request for this run's container.
func (c *capture) request(r podlog.Request) podlog.Request {
	pod := c.run.now().pod
	r.Namespace, r.Pod, r.Container = pod.namespace, pod.name, c.run.id.container
	return r
}

// backoff is the wait before the n-th further try: doubling, from firstBackoff to lastBackoff.
func backoff(n int) time.Duration {
	d := firstBackoff << min(max(n-1, 0), 10)
	return min(d, lastBackoff)
}

// pause is the wait before the log is asked for again after a refusal. What a pod that is being deleted has
// to say last can be had for a second only, so its log is asked for at short intervals for a while: a
// kubelet that comes back ends it at once.
func (c *capture) pause() time.Duration {
	m := c.run.now()
	if c.nodeAway {
		return c.e.nodes.wait(m.pod.node, m.dying)
	}
	d := backoff(c.refused)
	if c.refused <= dyingTries && m.dying {
		d = min(d, pollDying)
	}
	return jittered(d)
}

func (c *capture) attrs(more ...any) []any {
	pod := c.run.now().pod
	return append([]any{"namespace", pod.namespace, "pod", pod.name, "container", c.run.id.container, "restart", c.run.restart}, more...)
}

// open makes the place in the spool that the log is written to.
func (c *capture) open() error {
	if c.out != nil {
		return nil
	}
	out, err := c.e.output(c)
	if err != nil {
		return err
	}
	c.out = out
	c.log = podlog.New(out, c.run.id.containerID)
	out.log = c.log
	c.middle = bundle.Part{State: bundle.Proven, Evidence: []string{"every further read overlapped what was held"}}
	return nil
}

// reset throws away what was read, because it may be another run's, or can be had again.
func (c *capture) reset() {
	c.held.end(c.e)
	c.held = held{}
}

// leave leaves what was read and is not in the spool for good where the next look at the run or the next process
// finds it, unless it may be another run's or can be had again.
func (c *capture) leave() {
	if c.out == nil || c.out.draft == nil || c.atSource() || !c.out.unsafe() || c.foreign(c.run.now()) {
		c.reset()
		return
	}
	c.putDown()
}

// keep puts what was read aside: it is taken up again if nothing better comes.
func (c *capture) keep() {
	c.drop()
	kept := c.held
	c.kept, c.held = &kept, held{}
}

// drop throws away what was put aside.
func (c *capture) drop() {
	if c.kept != nil {
		c.kept.end(c.e)
	}
	c.kept = nil
}

// end gives up what was not committed.
func (h *held) end(e *Exporter) {
	if h.out != nil {
		e.outputs.remove(h.out)
		h.out.abort()
	}
}

// had says whether the kubelet served this run's log, be it an empty one.
func (h *held) had() bool { return h.log != nil && (h.log.Bytes() > 0 || h.served || h.resumed) }

// since is where a further read begins: a second before the last stamp held, because stdout and stderr
// are stamped apart, so that a later line may have an earlier stamp.
func (h *held) since() time.Time {
	if h.log == nil || h.log.Last().IsZero() {
		return time.Time{}
	}
	return h.log.Last().Add(-time.Second)
}

// alignable says whether a read from the log's first line on can be compared with what is held, line by line
// or, of what was redacted before, stamp by stamp.
func (h *held) alignable() bool {
	return h.node == nil && h.log != nil && h.log.FromFirst()
}

// further is where a further read begins: at the first line, if the log is small, because a read that begins
// at a stamp leaves out what was written after the node's clock was set back.
func (h *held) further() time.Time {
	if h.alignable() && h.log.Bytes() <= wholeAlways {
		return time.Time{}
	}
	return h.since()
}

// piece notes what a read says about the lines that a read which begins at a stamp leaves out. If it came right
// after the end, and brings nothing new, it adds no piece.
func (h *held) piece(req podlog.Request, res podlog.Result, atEnd bool) {
	h.pieced = h.pieced && !res.Aligned || !req.Since.IsZero() && (res.Appended > 0 || !atEnd)
}

// joined notes a read that did not meet what was held.
func (h *held) joined(res podlog.Result) {
	h.met = h.met || res.Join == podlog.JoinExact
	if res.Unchecked > 0 && res.Join != podlog.JoinHole && res.Missed == 0 && h.middle.State == bundle.Proven {
		h.middle = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseJoinFailed, Evidence: []string{
			fmt.Sprintf("%d lines of a further read were too old to be compared with what is held", res.Unchecked),
		}}
	}
	if res.Join != podlog.JoinHole && res.Missed == 0 {
		return
	}
	h.middle = bundle.Part{State: bundle.Lost, Cause: bundle.CauseJoinFailed, Evidence: []string{
		fmt.Sprintf("join %s, %d lines missed", res.Join, res.Missed),
	}}
	if !res.HoleAfter.IsZero() {
		h.middle.After = &res.HoleAfter
	}
	if !res.HoleBefore.IsZero() {
		h.middle.Before = &res.HoleBefore
	}
}

func (c *capture) note(method string, res podlog.Result, err error) {
	c.noting.Lock()
	defer c.noting.Unlock()
	if res.Text != "" && len(c.texts) < maxReads {
		c.texts = append(c.texts, res.Text)
	}
	c.e.metrics.read.WithLabelValues(method).Add(float64(res.Bytes))
	if len(c.reads) >= maxReads {
		return
	}
	r := bundle.Read{Time: time.Now().UTC(), Method: method, RawBytes: res.Bytes, Result: "ok"}
	switch {
	case err != nil:
		r.Result = err.Error()
	case res.Text != "":
		r.Result = endedByText
	}
	c.reads = append(c.reads, r)
}

// abandon ends a capture when the exporter stops. The run stays unrecorded; the next start finds it again, and
// what was read of it.
func (c *capture) abandon() {
	c.drop()
	c.leave()
	if c.sweeping.Swap(false) { // it was never counted
		c.e.captures.end()
		return
	}
	c.closed()
}

// discard ends the capture of a run that no export takes, as its end has shown.
func (c *capture) discard() {
	c.drop()
	c.reset()
	c.e.metrics.unselected.Inc()
	c.finish()
}

// policy is what the record says of how the run was captured.
func (c *capture) policy() string {
	switch {
	case c.e.once:
		return policyExport
	case c.sweeping.Load():
		return policySweep
	}
	return string(c.export.Capture)
}

// finish ends the capture of a run that has its record.
func (c *capture) finish() {
	c.run.finish()
	c.closed()
}

func (c *capture) closed() {
	c.noting.Lock()
	c.object, c.reads, c.texts = nil, nil, nil // the run keeps the capture for as long as its pod is there
	c.noting.Unlock()
	c.e.tally.add(func(t *tally) { t.done++ })
	c.e.metrics.open.Dec()
	c.e.captures.end()
}
