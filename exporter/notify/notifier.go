package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Workers is how many events are on their way at a time.
	Workers = 4
	// attemptTimeout is for one attempt: a receiver answers when it has taken the event, not when it has
	// dealt with it.
	attemptTimeout = 15 * time.Second
	firstBackoff   = time.Second
	maxBackoff     = 2 * time.Minute
	// drainTime is what the stop of a Notifier gives to events that wait; each is tried once more.
	drainTime = 5 * time.Second
)

// Options say whom to tell, and what.
type Options struct {
	Sink   string // URL of the receiver, http or https
	Source string // a URI reference that names this exporter, such as /kubelogexporter/<cluster>
	// Archive is the URL under which the record's key is found, for the attribute dataref; may be empty.
	Archive    string
	Extensions map[string]string // further attributes
	Client     *http.Client      // nil is a client of its own, which follows no redirects
	MaxEvents  int               // that wait at most; 0 is 1,000
	MaxBytes   int64             // of the events that wait; 0 is 16 MiB
	MaxData    int               // largest record that is sent along, in bytes; 0 is 256 KiB, which most receivers take
	// MaxAge is how long an event is tried; 0 is an hour.
	MaxAge time.Duration
	Log    *slog.Logger // nil is nowhere
}

// Counts tells what became of the events.
type Counts struct {
	Delivered int64
	Rejected  int64 // the receiver will never take them
	Expired   int64 // tried for MaxAge, or until the stop, in vain
	Dropped   int64 // too many waited
	Waiting   int64 // or on their way
	Retries   int64 // attempts that failed and were made again
}

// Notifier sends events. Make one with New, and let Run do the work.
type Notifier struct {
	o     Options
	queue chan event

	mu     sync.Mutex
	closed bool
	seq    uint64                // of the last event
	bytes  int64                 // of those that wait or are on their way
	aside  map[event]*time.Timer // those that the receiver stumbled over, until they are tried again

	delivered, rejected, expired, dropped, waiting, retries atomic.Int64
}

type event struct {
	seq   uint64
	key   string
	body  string
	since time.Time
	fell  int // how often the receiver has stumbled over it
}

// New checks the options.
func New(o Options) (*Notifier, error) {
	u, err := url.Parse(o.Sink)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("notify: the receiver %q is not a URL of http or https", o.Sink)
	}
	if _, err := url.Parse(o.Source); err != nil || o.Source == "" {
		return nil, fmt.Errorf("notify: the source %q is not a URI reference", o.Source)
	}
	for name := range o.Extensions {
		if err := CheckExtension(name); err != nil {
			return nil, fmt.Errorf("notify: %w", err)
		}
	}
	if o.MaxEvents <= 0 {
		o.MaxEvents = 1000
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 20
	}
	if o.MaxData <= 0 {
		o.MaxData = 256 << 10
	}
	if o.MaxAge <= 0 {
		o.MaxAge = time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Client == nil {
		// A redirect would make a GET of most POSTs.
		o.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Notifier{o: o, queue: make(chan event, o.MaxEvents+Workers), aside: make(map[event]*time.Timer)}, nil
}

// Notify takes a run to tell of. It never waits: if too many events wait, or the Notifier has stopped,
// this one is dropped and counted. An error means that no event can be made of the run.
func (n *Notifier) Notify(r Run) error {
	body, err := n.o.encode(r)
	if err != nil {
		n.dropped.Add(1)
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed && n.bytes+int64(len(body)) <= n.o.MaxBytes && n.waiting.Load() < int64(cap(n.queue)) {
		n.waiting.Add(1)
		n.bytes += int64(len(body))
		n.seq++
		n.queue <- event{seq: n.seq, key: r.Key, body: string(body), since: time.Now()} // there is room for all that wait
		return nil
	}
	if n.dropped.Add(1) == 1 {
		n.o.Log.Warn("event dropped: too many wait; further ones are only counted", "key", r.Key)
	}
	return nil
}

// Counts tells what became of the events so far.
func (n *Notifier) Counts() Counts {
	return Counts{
		Delivered: n.delivered.Load(), Rejected: n.rejected.Load(), Expired: n.expired.Load(),
		Dropped: n.dropped.Load(), Waiting: n.waiting.Load(), Retries: n.retries.Load(),
	}
}

// Run sends events until the context ends. Then it takes no more, tries each that waits once again, for
// five seconds in all, and returns. A Notifier runs once.
func (n *Notifier) Run(ctx context.Context) error {
	drain, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var workers sync.WaitGroup
	for range Workers {
		workers.Go(func() {
			for e := range n.queue {
				n.deliver(ctx, drain, e)
			}
		})
	}
	<-ctx.Done()
	n.mu.Lock()
	n.closed = true
	for e, timer := range n.aside {
		timer.Stop()
		n.queue <- e
	}
	clear(n.aside)
	close(n.queue)
	n.mu.Unlock()
	timer := time.AfterFunc(drainTime, stop)
	defer timer.Stop()
	workers.Wait()
	if c := n.Counts(); c.Expired+c.Dropped+c.Rejected > 0 {
		n.o.Log.Info("events not delivered", "expired", c.Expired, "dropped", c.Dropped, "rejected", c.Rejected)
	}
	return nil
}

// deliver tries an event until it is taken, rejected or too old, or puts it aside. After ctx has ended it is tried once.
func (n *Notifier) deliver(ctx, drain context.Context, e event) {
	waits := false
	defer func() {
		if waits {
			return
		}
		n.waiting.Add(-1)
		n.mu.Lock()
		n.bytes -= int64(len(e.body))
		n.mu.Unlock()
	}()
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		last := ctx.Err() != nil || time.Since(e.since) > n.o.MaxAge
		after, err := n.send(drain, e)
		var no *refusal
		switch {
		case err == nil:
			n.delivered.Add(1)
			return
		case errors.As(err, &no) && no.final():
			n.rejected.Add(1)
			n.o.Log.Warn("event rejected", "key", e.key, "err", err)
			return
		case last:
			n.expired.Add(1)
			n.o.Log.Warn("event given up", "key", e.key, "err", err)
			return
		}
		n.retries.Add(1)
		if no != nil && no.stumble() && n.putAside(e) {
			waits = true
			return
		}
		wait := spread(backoff)
		timer := time.NewTimer(max(wait, min(after, maxBackoff)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// putAside lets others go first while an event waits for its next try: the receiver may stumble over this one only. It
// does not if the Notifier has stopped.
func (n *Notifier) putAside(e event) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	wait := spread(min(firstBackoff<<min(e.fell, 10), maxBackoff))
	e.fell++
	n.aside[e] = time.AfterFunc(wait, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if _, ok := n.aside[e]; ok { // and not stopped meanwhile
			delete(n.aside, e)
			n.queue <- e
		}
	})
	return true
}

func spread(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, hides nothing
}

// refusal is an answer that does not take an event.
type refusal struct {
	code   int
	status string
}

func (r *refusal) Error() string { return "send event: the receiver answered " + r.status }

// final says whether the receiver will not take this event, whenever it is asked.
func (r *refusal) final() bool {
	switch r.code {
	case http.StatusBadRequest, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// stumble says whether the receiver has failed, perhaps at this event only. All else is its state, or a mistake in its
// address or its rights that may be mended.
func (r *refusal) stumble() bool { return r.code == http.StatusInternalServerError }

// send makes one attempt. If the receiver names a time to wait, it is returned with the error.
func (n *Notifier) send(ctx context.Context, e event) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.o.Sink, strings.NewReader(e.body))
	if err != nil {
		return 0, fmt.Errorf("send event: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := n.o.Client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("send event: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return 0, nil
	}
	return retryAfter(resp), &refusal{resp.StatusCode, resp.Status}
}

func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}
