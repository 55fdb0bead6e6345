package exporter

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// bodyStall is how long a read may bring no byte. A connection that is half dead would otherwise
	// hold its place in the queue for ever.
	bodyStall = time.Minute
	// followEnd is how long a stream may go on after its container's end is known.
	followEnd = 10 * time.Second
	// renewAfter ends a stream before the kubelet does: it writes no response for longer than 4 h
	// (k8s.io/kubernetes/pkg/kubelet/server/server.go, WriteTimeout).
	renewAfter = 3*time.Hour + 30*time.Minute
)

// errRenew is why a stream was cut that had lasted long enough.
var errRenew = errors.New("time to renew the stream")

// watchdog returns a context for one request, and a wrapper for its body. A read is cut when it
// brings no byte for bodyStall; a stream, which may be silent for hours, when its end is overdue,
// before the kubelet cuts it, and when the exporter stops while the container goes on.
func (c *capture) watchdog(ctx context.Context, follow bool) (context.Context, func(io.Reader) io.Reader, func()) {
	ctx, cut := context.WithCancelCause(ctx)
	if !follow {
		timer := time.AfterFunc(bodyStall, func() { cut(nil) })
		return ctx, func(r io.Reader) io.Reader { return c.slow(ctx, &fed{r: r, timer: timer, heard: &c.heard}) }, func() {
			timer.Stop()
			cut(nil)
		}
	}
	renew := time.AfterFunc(c.e.renewAfter, func() { cut(errRenew) })
	var watch sync.WaitGroup
	if c.export.live() && !c.undecided {
		watch.Go(func() { c.segments(ctx, func() { cut(errRenew) }) })
	}
	watch.Go(func() {
		m, changed := c.run.watch()
		for ; !m.ended(); m, changed = c.run.watch() {
			stopped := c.e.stopped
			if m.dying {
				stopped = nil // its end is near, and worth waiting for
			}
			select {
			case <-changed:
			case <-stopped:
				cut(nil)
				return
			case <-ctx.Done():
				return
			}
		}
		if m.vanishes() && m.term != nil && m.slot == slotCurrent && c.readBeside(ctx) {
			cut(errReadBeside)
			return
		}
		select {
		case <-time.After(followEnd):
			cut(nil)
		case <-ctx.Done():
		}
	})
	return ctx, func(r io.Reader) io.Reader { return c.slow(ctx, &fed{r: r, heard: &c.heard}) }, func() {
		renew.Stop()
		cut(nil)
		watch.Wait()
	}
}

// ourCut returns why a request was cut, if that was to go on with another, and nil otherwise.
func ourCut(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errRenew) || errors.Is(cause, errReadBeside) {
		return cause
	}
	return nil
}

func (c *capture) slow(ctx context.Context, r io.Reader) io.Reader {
	if c.e.rate == nil {
		return r
	}
	return &slowed{ctx: ctx, r: r, rate: c.e.rate, run: c.run}
}

// readSize is how much one read of a body brings at most, and so the burst of a rate limit.
const readSize = 64 << 10

// newRate returns a limiter of bytes per second, or nil for none.
func newRate(perSecond int64) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), readSize)
}

// vanishing says whether a run's log may be gone within seconds: its pod is being deleted, or its container has been
// restarted or may be at any moment.
func (m moment) vanishing() bool { return m.dying || m.ended() && urgency(m) <= prioRestart }

// slowed holds a body to the rate limit, unless its log may be gone within seconds.
type slowed struct {
	ctx  context.Context
	r    io.Reader
	rate *rate.Limiter
	run  *run
}

func (s *slowed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), readSize)])
	if n > 0 && !s.run.now().vanishing() {
		if werr := s.rate.WaitN(s.ctx, n); werr != nil && err == nil {
			err = werr
		}
	}
	return n, err //nolint:wrapcheck // a reader returns io.EOF itself
}

// fed notes when a body brought something, and resets a timer at each read.
type fed struct {
	r     io.Reader
	timer *time.Timer // nil for a stream
	heard *time.Time
}

func (f *fed) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if n > 0 {
		*f.heard = time.Now()
	}
	if f.timer != nil {
		f.timer.Reset(bodyStall)
	}
	return n, err
}
