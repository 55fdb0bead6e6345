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
	// besideSize is how much of a log's end may wait in memory for its stream to end, besideMost how many such reads
	// there are at a time, and besideTakes how long one may take.
	besideSize  = 64 << 10
	besideMost  = 128
	besideTakes = 2 * time.Second
)

// errReadBeside is why a stream was cut beside which the log was read once more, after its end.
var errReadBeside = errors.New("cut, for the log was read once more after the container's end")

// besideRead is what a read has brought beside a stream, after the container's end was known.
type besideRead struct {
	req   podlog.Request
	body  []byte
	first time.Time // the stamp of its first line
}

// readBeside reads the log once more beside the stream of a dying pod whose container's end is known, while it can be
// had: the kubelet ends the stream up to a second after the exit, and then the container may be removed already. It
// says whether the stream may be cut for what came: not if that does not meet what the stream has brought so far.
func (c *capture) readBeside(ctx context.Context) bool {
	select {
	case <-time.After(time.Until(c.run.now().endSeen.Add(settleDying))):
	case <-ctx.Done():
		return false
	}
	b := c.readAgain(ctx)
	if b != nil && len(b.body) == 0 && c.out.size() == 0 { // one empty answer may be one that was cut
		b.waste(c.e)
		b = c.readAgain(ctx)
	}
	if b == nil {
		return false
	}
	if held, last := c.out.reached(); held > 0 && (len(b.body) == 0 || b.first.After(last)) {
		b.waste(c.e)
		return false
	}
	c.beside = b
	return true
}

// readAgain reads the end of the log into memory, the whole of it if it is small. It returns nil if that cannot be had.
func (c *capture) readAgain(ctx context.Context) *besideRead {
	ctx, done := context.WithTimeout(ctx, besideTakes)
	defer done()
	select {
	case c.e.beside <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	b := &besideRead{req: podlog.Request{Since: c.out.further(besideSize)}}
	if err := b.read(ctx, c); err != nil {
		b.waste(c.e)
		return nil
	}
	return b
}

var errNotAllOfIt = errors.New("too large, or ended by an error text")

func (b *besideRead) read(ctx context.Context, c *capture) error {
	body, err := c.e.source.Open(ctx, c.request(b.req))
	if err != nil {
		return err //nolint:wrapcheck // only whether there is one counts
	}
	defer body.Close() //nolint:errcheck // a body that was read to its end
	b.body, err = io.ReadAll(io.LimitReader(body, besideSize+1))
	if err != nil {
		return err //nolint:wrapcheck // likewise
	}
	probe := podlog.New(discard{}, c.run.id.containerID)
	res, err := probe.Read(bytes.NewReader(b.body))
	if err == nil && (res.TextKind != podlog.TextNone || len(b.body) > besideSize) {
		err = errNotAllOfIt
	}
	b.first = probe.First()
	return err //nolint:wrapcheck // likewise
}

// free gives the place back that a read took, whose body is not needed any more.
func (b *besideRead) free(e *Exporter) { <-e.beside }

// waste does the same for a body that was of no use.
func (b *besideRead) waste(e *Exporter) {
	e.metrics.read.WithLabelValues("closing").Add(float64(len(b.body)))
	b.free(e)
}

// provenBeside says whether a further read has proven the tail: one beside the stream, or one after its clean end,
// when the container's end has been known for long enough. more says that it has brought more than the streams.
func (c *capture) provenBeside(ctx context.Context, clean bool) (proven, more bool) {
	b, m := c.beside, c.run.now()
	c.beside = nil
	if b == nil && clean && m.dying && m.term != nil && time.Since(m.endSeen) > settleDying && c.log.Bytes() > 0 {
		b = c.readAgain(ctx)
	}
	if b == nil {
		return false, false
	}
	defer b.free(c.e)
	if c.log == nil { // thrown away, for it could not be spooled and can be had again
		return false, false
	}
	before := c.log.Bytes()
	proven = c.provenBy(b, before)
	return proven, c.log.Bytes() > before
}

// provenBy compares what a read beside the stream has brought with what the stream has by now, and judges the tail by
// that. What neither has cannot have been written.
func (c *capture) provenBy(b *besideRead, before int64) bool {
	c.tail = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"a read after the container's end did not continue what is held"}}
	c.late, c.log.RefuseHoles = c.late || before == 0, before > 0
	res, err := c.log.Read(bytes.NewReader(b.body))
	c.note("closing", res, err)
	if errors.Is(err, podlog.ErrHole) {
		return false
	}
	c.served = true
	c.joined(res)
	c.piece(b.req, res, true)
	return err == nil && c.judgeEnd(res, before)
}
