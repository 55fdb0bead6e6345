package exporter

import (
	"context"
	"io"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
)

// recount reads a log once more as a whole, of which more than can be compared line by line was stored before:
// by an earlier process, or redacted. It is whole if there is as much of it as is held, from the same first
// line to the same last one, because what is held was joined without a doubt and has no line twice.
func (c *capture) recount(ctx context.Context, previous bool) {
	if c.log.Bytes() > c.e.wholeAgain() {
		return
	}
	ctx, stalled, done := c.watchdog(ctx, false)
	defer done()
	body, err := c.e.source.Open(ctx, c.request(podlog.Request{Previous: previous}))
	if err != nil {
		c.note("recount", podlog.Result{}, err)
		return
	}
	defer body.Close() //nolint:errcheck // a body that was read to its end
	whole := podlog.New(io.Discard, c.run.id.containerID)
	res, err := whole.Read(stalled(body))
	c.note("recount", res, err)
	if err != nil || res.TextKind != podlog.TextNone {
		return
	}
	first, last := c.heldBetween()
	same := whole.First().Equal(first) && whole.Last().Equal(last) && whole.Lines() == c.log.Lines()
	c.pieced = !same || whole.Bytes() != c.log.Bytes() && !c.out.redacts() // redaction leaves the number of lines alone
}

// heldBetween returns the first and the last stamp held.
func (h *held) heldBetween() (first, last time.Time) {
	first, last = h.log.First(), h.log.Last()
	if begin, _ := h.out.beginning(); !begin.IsZero() {
		first = begin
	}
	if h.earlier != nil && h.earlier.FirstStamp != nil {
		first = *h.earlier.FirstStamp
	}
	return first, last
}
