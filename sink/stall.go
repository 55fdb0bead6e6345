package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// stallTimeout is how long a request may move no byte before it is cut. HTTP clients put no limit on
// writing a body, nor on reading one: a peer that stops would hold us for ever. A minute is what
// minio-go's transport waits for the first byte of an answer.
const stallTimeout = 60 * time.Second

var errStalled = errors.New("stalled")

// stallGuard cuts requests on which nothing moves. It counts only the time that we wait for the
// store: somebody may read half an answer, think for an hour, and read on.
type stallGuard struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip implements http.RoundTripper.
func (g *stallGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	limit := g.limit
	ctx, cancel := context.WithCancelCause(req.Context())
	t := &stallTimer{ctx: ctx, cancel: cancel, limit: limit}
	t.Timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w: no byte moved for %s", errStalled, limit)) })
	guarded := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		guarded.Body = &sending{req.Body, t}
		guarded.GetBody = nil // it would give a body without the guard
	}
	resp, err := g.next.RoundTrip(guarded)
	if err != nil {
		err = t.cause(err)
		t.end()
		return nil, err
	}
	t.Stop()
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok {
		a.note(resp)
	}
	resp.Body = &receiving{resp.Body, t}
	return resp, nil
}

// answer is what a store says beside its answer, in headers that the client does not pass on.
type answer struct {
	retryAfter time.Duration
	skew       time.Duration // of its clock against ours
}

// answerKey is where a request's context holds its *answer.
type answerKey struct{}

// note reads Retry-After, in seconds or as a date (RFC 9110, 10.2.3), and Date.
func (a *answer) note(resp *http.Response) {
	now := time.Now()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err == nil {
		a.skew = date.Sub(now)
	}
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		a.retryAfter = min(time.Duration(seconds), maxRetryAfter/time.Second) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		if date.IsZero() {
			date = now
		}
		a.retryAfter = min(max(at.Sub(date), 0), maxRetryAfter)
	}
}

// maxRetryAfter bounds what a store may ask for: it may be wrong, or its clock.
const maxRetryAfter = 15 * time.Minute

// stallTimer is the timer of one request.
type stallTimer struct {
	*time.Timer
	ctx    context.Context //nolint:containedctx // of the one request that it times
	cancel context.CancelCauseFunc
	limit  time.Duration
}

func (t *stallTimer) end() {
	t.Stop()
	t.cancel(nil)
}

// cause prefers the reason why a request was cut over the client's words for it.
func (t *stallTimer) cause(err error) error {
	if cause := context.Cause(t.ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// sending is a request's body. Each read of it means that the store took what came before.
type sending struct {
	io.ReadCloser
	t *stallTimer
}

func (s *sending) Read(p []byte) (int, error) {
	s.t.Reset(s.t.limit)
	return s.ReadCloser.Read(p)
}

// Close leaves the body open: the file in it is the caller's of Put, and minio-go's own reader must not
// be closed here, in the transport's goroutine, because http.Client closes it too at a redirect.
func (s *sending) Close() error { return nil }

// receiving is a response's body. The time runs only while somebody waits in Read.
type receiving struct {
	io.ReadCloser
	t *stallTimer
}

func (r *receiving) Read(p []byte) (int, error) {
	r.t.Reset(r.t.limit)
	n, err := r.ReadCloser.Read(p)
	r.t.Stop()
	if err != nil && err != io.EOF { //nolint:errorlint // a reader returns io.EOF itself
		err = r.t.cause(err)
	}
	return n, err
}

func (r *receiving) Close() error {
	err := r.ReadCloser.Close()
	r.t.end()
	return err
}
