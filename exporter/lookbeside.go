package exporter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// settleDying takes the place of settle where a pod is being deleted: 0.15 s pass at least between an exit and the
	// status that tells of it, and 0.57 to 0.83 s between that and the removal of the container (measured).
	settleDying = 250 * time.Millisecond
	// lookSize is how much of a log's end may wait in memory for its stream to end.
	lookSize = 64 << 10
)

// errLooked is why a stream was cut beside which the log was read once more, after its end.
var errLooked = errors.New("cut, for the log was read once more after the container's end")

// look is what a read has brought beside a stream, after the container's end was known.
type look struct {
	req  podlog.Request
	body []byte
}

// lookBeside reads the log once more beside the stream of a dying pod whose container's end is known, as long as it
// can be had: the kubelet ends the stream up to a second after the exit, and then the container may be removed
// already. It says whether the stream may be cut for what came. If not, its own end may still tell.
func (c *capture) lookBeside(ctx context.Context) bool {
	seen, held := c.run.now().endSeen, c.out.size()
	early := c.look(ctx)
	if held > 0 {
		c.beside = early
	}
	select {
	case <-time.After(time.Until(seen.Add(settleDying))):
	case <-ctx.Done():
		return false
	}
	switch {
	case early == nil && held == 0: // of an empty log two looks must tell
		return false
	case early == nil, held == 0, c.out.size() != held:
		c.beside = c.look(ctx)
	}
	return c.beside != nil
}

// look reads the end of the log, the whole of it if it is small. It returns nil if it cannot be had.
func (c *capture) look(ctx context.Context) *look {
	l := &look{req: podlog.Request{Since: c.out.further(lookSize)}}
	ctx, done := context.WithTimeout(ctx, bodyStall)
	defer done()
	body, err := c.e.source.Open(ctx, c.request(l.req))
	if err != nil {
		return nil
	}
	defer body.Close() //nolint:errcheck // a body that was read to its end
	if l.body, err = io.ReadAll(io.LimitReader(body, lookSize+1)); err != nil || len(l.body) > lookSize {
		return nil
	}
	probe := podlog.New(discard{}, c.run.id.containerID)
	if res, err := probe.Read(bytes.NewReader(l.body)); err != nil || res.TextKind != podlog.TextNone {
		return nil
	}
	return l
}

// lookedBeside says whether a look has proven the tail: one beside the stream, or one after its clean end, when the
// container's end is known for long enough.
func (c *capture) lookedBeside(ctx context.Context, clean bool) bool {
	l, m := c.beside, c.run.now()
	c.beside = nil
	if l == nil && clean && m.dying && m.term != nil && time.Since(m.endSeen) > settleDying && c.log.Bytes() > 0 {
		l = c.look(ctx)
	}
	return l != nil && c.provenBy(l)
}

// provenBy compares what a look has brought with what the stream has by now, and judges the tail by that. What
// neither has cannot have been written.
func (c *capture) provenBy(l *look) bool {
	before := c.log.Bytes()
	c.late, c.log.RefuseHoles = c.late || before == 0, before > 0
	res, err := c.log.Read(bytes.NewReader(l.body))
	c.note("closing", res, err)
	if err != nil {
		return false
	}
	c.tail = bundle.Part{}
	c.joined(res)
	c.piece(l.req, res, true)
	return c.judgeEnd(res, before)
}
