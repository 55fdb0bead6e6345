package exporter

import (
	"bytes"
	"context"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
)

// recount reads a log once more as a whole, of which more than can be compared line by line was stored before:
// by an earlier process, or redacted. It is whole if there is as much of it as is held, from the same first
// line to the same last one, because what is held was joined without a doubt and has no line twice.
func (c *capture) recount(ctx context.Context, previous bool) {
	size, redacted := c.log.Bytes(), c.out.redactedLines()
	if c.earlier != nil && redacted >= 0 {
		size += c.earlier.RawBytes
	}
	if size > c.e.wholeAgain() {
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
	n := &lineCount{}
	whole := podlog.New(n, c.run.id.containerID)
	res, err := whole.Read(stalled(body))
	c.note("recount", res, err)
	if err != nil || res.TextKind != podlog.TextNone {
		return
	}
	first, last := c.heldBetween()
	same := whole.First().Equal(first) && whole.Last().Equal(last)
	if redacted >= 0 {
		same = same && n.lines == redacted
	} else {
		same = same && whole.Lines() == c.log.Lines() && whole.Bytes() == c.log.Bytes()
	}
	c.pieced = !same
}

// heldBetween returns the first and the last stamp held.
func (h *held) heldBetween() (first, last time.Time) {
	first, last = h.log.First(), h.log.Last()
	if last.IsZero() {
		last = h.out.heldUntil()
	}
	if begin, _ := h.out.beginning(); !begin.IsZero() {
		first = begin
	}
	if h.earlier != nil && h.earlier.FirstStamp != nil {
		first = *h.earlier.FirstStamp
	}
	return first, last
}

// lineCount counts the ends of lines that are written to it.
type lineCount struct{ lines int64 }

func (n *lineCount) Write(p []byte) (int, error) {
	n.lines += int64(bytes.Count(p, []byte{'\n'}))
	return len(p), nil
}
