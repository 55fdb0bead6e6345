package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync/atomic"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// patience is how long to wait before each further try of a request that failed for a passing reason. A
// store that restarts or asks to slow down does not spoil a verification that takes hours.
func patience() []time.Duration {
	return []time.Duration{500 * time.Millisecond, 2 * time.Second, 8 * time.Second}
}

// busy says whether a store asks for less. Whoever waits for an answer is told of any other failure at once.
func busy(err error) bool { return sink.ClassOf(err) == sink.ClassSlow }

// passing says whether a failure may pass. A verification that takes hours bears with it.
func passing(err error) bool {
	return !errors.Is(err, sink.ErrNotFound) && !errors.As(err, new(*DamagedError)) && !errors.As(err, new(*fs.PathError)) && sink.ClassOf(err) <= sink.ClassSlow
}

// retry waits before the next try after so many failures in a row. It returns the error if there is no point in one.
func retry(ctx context.Context, failures int, err error, worth func(error) bool) error {
	waits := patience()
	if failures > len(waits) || ctx.Err() != nil || !worth(err) {
		return err
	}
	select {
	case <-time.After(max(waits[failures-1], sink.RetryAfter(err))):
		return nil
	case <-ctx.Done():
		return err
	}
}

// listPatiently lists like the bucket, and goes on after the last object when a listing breaks off.
func (a *Archive) listPatiently(ctx context.Context, prefix string, o sink.ListOptions, worth func(error) bool) iter.Seq2[sink.Object, error] {
	return func(yield func(sink.Object, error) bool) {
		for failures := 0; ; {
			var failed error
			for obj, err := range a.bucket.List(ctx, prefix, o) {
				if err != nil {
					failed = err
					break
				}
				failures, o.After = 0, obj.Key
				if !yield(obj, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			failures++
			if err := retry(ctx, failures, failed, worth); err != nil {
				yield(sink.Object{}, fmt.Errorf("list %q: %w", prefix, err))
				return
			}
		}
	}
}

// patiently does something until it succeeds or there is no point in a further try.
func patiently[T any](ctx context.Context, worth func(error) bool, do func() (T, error)) (T, error) {
	for failures := 1; ; failures++ {
		v, err := do()
		if err == nil {
			return v, nil
		}
		if err = retry(ctx, failures, err, worth); err != nil {
			return v, err
		}
	}
}

// openPatiently opens an object; the reader goes on where it was when a request breaks off.
func (a *Archive) openPatiently(ctx context.Context, key string, read *atomic.Int64) (io.ReadCloser, error) {
	body, err := patiently(ctx, passing, func() (io.ReadCloser, error) { return a.bucket.Open(ctx, key, 0, -1) })
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return &patientReader{ctx: ctx, bucket: a.bucket, key: key, body: body, read: read}, nil
}

type patientReader struct {
	ctx      context.Context //nolint:containedctx // an io.Reader has no other way to be stopped
	bucket   sink.Bucket
	key      string
	body     io.ReadCloser // nil after a failure
	at       int64
	failures int // since the last byte
	read     *atomic.Int64
}

func (p *patientReader) Read(b []byte) (int, error) {
	for {
		err := p.open()
		if err == nil {
			var n int
			n, err = p.body.Read(b)
			p.at += int64(n)
			p.read.Add(int64(n))
			if n > 0 {
				p.failures = 0
				if !errors.Is(err, io.EOF) {
					err = nil // the next read meets it again
				}
			}
			if err == nil || errors.Is(err, io.EOF) {
				return n, err
			}
			_ = p.Close()
		}
		p.failures++
		if err = retry(p.ctx, p.failures, err, passing); err != nil {
			return 0, fmt.Errorf("read %s: %w", p.key, err)
		}
	}
}

func (p *patientReader) open() (err error) {
	if p.body == nil {
		p.body, err = p.bucket.Open(p.ctx, p.key, p.at, -1)
	}
	return err
}

// Close ends the reading.
func (p *patientReader) Close() error {
	if p.body == nil {
		return nil
	}
	err := p.body.Close()
	p.body = nil
	return err
}
