package exporter

import (
	"context"
	"io"
	"sync"
	"time"
)

const (
	// bodyStall is how long a read may bring no byte. A connection that is half dead would otherwise
	// hold its place in the queue for ever.
	bodyStall = time.Minute
	// followEnd is how long a stream may go on after its container's end is known.
	followEnd = 10 * time.Second
)

// watchdog returns a context for one request, and a wrapper for its body. A read is cut when it
// brings no byte for bodyStall; a stream, which may be silent for hours, when its end is overdue.
func (c *capture) watchdog(ctx context.Context, follow bool) (context.Context, func(io.Reader) io.Reader, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if !follow {
		timer := time.AfterFunc(bodyStall, cancel)
		return ctx, func(r io.Reader) io.Reader { return &fed{r, timer} }, func() {
			timer.Stop()
			cancel()
		}
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		for m := c.run.now(); !m.ended(); m = c.run.now() {
			select {
			case <-m.changed:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(followEnd):
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func(r io.Reader) io.Reader { return r }, func() {
		cancel()
		watch.Wait()
	}
}

// fed resets a timer at each read.
type fed struct {
	r     io.Reader
	timer *time.Timer
}

func (f *fed) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.timer.Reset(bodyStall)
	return n, err
}
