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
	// status that tells of it, and 0.05 to 0.83 s between that and the removal of the container (measured).
	settleDying = 250 * time.Millisecond
	// besideSize is how much of a log's end may wait in memory for its stream to end, besideMemory how much all of
	// them, and besideTakes how long such a read may take.
	besideSize   = 64 << 10
	besideMemory = 32 << 20
	besideTakes  = 2 * time.Second
)

// errReadBeside is why a stream was cut beside which the log was read once more, after its end.
var errReadBeside = errors.New("cut, for the log was read once more after the container's end")

// besideRead is what a read has brought beside a stream, after the container's end was known.
type besideRead struct {
	req   podlog.Request
	body  []byte
	first time.Time // the stamp of its first line
	// settled says that it was asked for when the last bytes had reached the file.
	settled bool
}

// readBeside reads the log beside the stream of a dying pod whose container's end is known, while it can be had: the
// kubelet ends the stream up to a second after the exit, and the container may be removed before that or right after.
// What is read at once counts if the stream then comes to its own end. Once the log has settled it is read again, and
// for that the stream may be cut, which is what readBeside says.
func (c *capture) readBeside(ctx context.Context) bool {
	switch b := c.readAgain(ctx); {
	case b != nil && len(b.body) == 0: // one empty answer may be one that was cut
		b.free(c.e)
	case b != nil:
		if c.beside = b; b.settled {
			return true
		}
	}
	select {
	case <-time.After(time.Until(c.run.now().endSeen.Add(c.e.settleDying))):
	case <-ctx.Done():
		return false
	}
	b := c.readAgain(ctx)
	if held, _ := c.out.reached(); b != nil && len(b.body) == 0 && held == 0 {
		b.free(c.e)
		b = c.readAgain(ctx)
	}
	if b == nil {
		return false
	}
	if c.beside != nil {
		c.beside.free(c.e)
	}
	c.beside = b
	return true
}

// readAgain reads the end of the log into memory, the whole of it if it is small. It returns nil if that cannot be had,
// or does not meet what the stream has brought so far: that one may lag behind, in a file from before a rotation.
// Whoever gets it frees it.
func (c *capture) readAgain(ctx context.Context) *besideRead {
	ctx, done := context.WithTimeout(ctx, besideTakes)
	defer done()
	if c.e.beside.Acquire(ctx, besideSize) != nil {
		return nil
	}
	b := &besideRead{settled: time.Since(c.run.now().endSeen) >= c.e.settleDying}
	if held, last := c.out.reached(); held > besideSize && !last.IsZero() {
		b.req.Since = last.Add(-time.Second)
	}
	err := b.read(ctx, c)
	if held, last := c.out.reached(); err != nil || held > 0 && (len(b.body) == 0 || b.first.After(last)) {
		c.e.metrics.read.WithLabelValues("closing").Add(float64(len(b.body)))
		c.e.beside.Release(besideSize)
		return nil
	}
	c.e.beside.Release(besideSize - int64(len(b.body)))
	return b
}

// free gives back the memory that it takes.
func (b *besideRead) free(e *Exporter) { e.beside.Release(int64(len(b.body))) }

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
	probe := podlog.New(io.Discard, c.run.id.containerID)
	res, err := probe.Read(bytes.NewReader(b.body))
	if err == nil && (res.TextKind != podlog.TextNone || len(b.body) > besideSize) {
		err = errNotAllOfIt
	}
	b.first = probe.First()
	return err //nolint:wrapcheck // likewise
}

// besideSaid is what a further read says of what a stream has brought.
type besideSaid int

const (
	besideNothing besideSaid = iota
	besideMore               // it has brought more
	besideSame               // it has brought the same, before the log had settled
	besideProven             // it has brought the same, and that is all
)

// readBesideSays compares what was read beside the stream, or is read now, after its clean end, when the log has
// settled.
func (c *capture) readBesideSays(ctx context.Context, clean bool) besideSaid {
	b, m := c.beside, c.run.now()
	c.beside = nil
	if b == nil && clean && m.dying && m.term != nil && time.Since(m.endSeen) > c.e.settleDying && c.log.Bytes() > 0 {
		soon, done := context.WithTimeout(ctx, streamAgain) // the next stream may be the last one that is served
		b = c.readAgain(soon)
		done()
	}
	if b == nil {
		return besideNothing
	}
	defer b.free(c.e)
	if c.log == nil { // thrown away, for it could not be spooled and can be had again
		return besideNothing
	}
	before := c.log.Bytes()
	same := c.provenBy(b, before)
	switch {
	case c.log.Bytes() > before:
		return besideMore
	case same && b.settled:
		return besideProven
	case same && clean:
		c.tail = bundle.Part{}
		return besideSame
	case same:
		c.unprovenTail("the stream was cut right after the container's exit, and a read at that moment may have come too soon")
	}
	return besideNothing
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
	return err == nil && c.judgeEnd(b.req, res, before)
}
