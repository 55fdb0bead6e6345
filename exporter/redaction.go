package exporter

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// sieve redacts a log on its way to an output's writer.
type sieve struct {
	redactor *redact.Redactor
	w        *redact.Writer
	unsure   bool             // the text before may end within a private key
	told     map[string]int64 // what was found and is in the metrics
}

func newSieve(r *redact.Redactor, to io.Writer) *sieve {
	return &sieve{redactor: r, w: r.NewWriter(to)}
}

// goOn makes the text go on behind what was stored before, and redacted as before says.
func (s *sieve) goOn(before *bundle.Redaction) {
	rule := s.redactor.KeyRule()
	if rule == "" || before != nil && slices.Contains(before.Rules, rule) && before.Matches[rule] == 0 {
		return
	}
	s.unsure = true
	s.w.MayBeInKey()
}

// redaction is what a record says of it.
func (s *sieve) redaction() *bundle.Redaction {
	return &bundle.Redaction{Rules: s.redactor.Names(), Matches: s.w.Counts()}
}

// fresh returns what was found since it was asked last.
func (s *sieve) fresh() map[string]int64 {
	found := s.w.Counts()
	more := make(map[string]int64)
	for rule, n := range found {
		if n -= s.told[rule]; n > 0 {
			more[rule] = n
		}
	}
	s.told = found
	return more
}

// joinRedactions says of a log what was looked for in all of its parts, and how often it was replaced in any. A
// part in which nothing was looked for has nil.
func joinRedactions(parts []*bundle.Redaction) *bundle.Redaction {
	var all *bundle.Redaction
	for i, part := range parts {
		switch {
		case part == nil && all != nil:
			all.Rules = []string{}
			continue
		case part == nil:
			continue
		case all == nil:
			all = &bundle.Redaction{Rules: slices.Clone(part.Rules), Matches: make(map[string]int64)}
			if i > 0 { // nothing was looked for in those before
				all.Rules = []string{}
			}
		}
		all.Rules = slices.DeleteFunc(all.Rules, func(rule string) bool { return !slices.Contains(part.Rules, rule) })
		for rule, n := range part.Matches {
			all.Matches[rule] += n
		}
	}
	return all
}

// rereadForKey reads once more what was written right before the end of what is held, if that may lie within a
// private key: text that was redacted does not show it. Where it cannot be had a key is taken to go on.
func (c *capture) rereadForKey(ctx context.Context) {
	m := c.run.now()
	if !c.out.unsure() || !m.reachable() {
		return
	}
	end, ok := c.log.End()
	if !ok {
		return
	}
	req := podlog.Request{Previous: m.slot == slotPrevious}
	from := c.keyFrom()
	if from.After(c.log.First()) {
		if end.Oldest.Before(from) {
			from = end.Oldest
		}
		req.Since = from.Add(-time.Second)
	}
	body, err := c.e.source.Open(ctx, c.request(req))
	if err != nil {
		return
	}
	defer body.Close() //nolint:errcheck // read only
	w := c.out.sieve.redactor.NewWriter(io.Discard)
	if followHeld(w, body, from, end) {
		c.out.recalled(w)
	}
}

// keyFrom returns the stamp from which on a log must be known to tell whether what is stored of it ends within a
// private key.
func (c *capture) keyFrom() time.Time {
	if c.earlier != nil {
		if at := stampBack(c.earlier, redact.KeyLines); !at.IsZero() {
			return at
		}
	}
	return c.log.First()
}

// followHeld shows a redactor the lines of a body up to the last one held. Those that it has to know begin
// with the stamp from, if they are in the body.
func followHeld(w *redact.Writer, body io.Reader, from time.Time, end podlog.End) bool {
	lines := bufio.NewReaderSize(body, 64<<10)
	start, first, times := true, true, 0
	for {
		piece, err := lines.ReadSlice('\n')
		if t, _, ok := bundle.ParseStamp(piece); start && ok {
			if first && t.After(from) {
				w.MayBeInKey() // what comes before is not served any more
			}
			first = false
			if t.Equal(end.Last) {
				times++
			}
		}
		if _, werr := w.Write(piece); werr != nil {
			return false
		}
		start = err == nil
		switch {
		case start && times == end.Times:
			return true
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return false
		}
	}
}

// stampBack returns a stamp that no line among the last n of a stored log is older than, as far as its objects
// and frames tell; zero if the log has no more lines.
func stampBack(rec *bundle.Record, n int64) (at time.Time) {
	older := func(t *time.Time) {
		if t != nil && (at.IsZero() || t.Before(at)) {
			at = *t
		}
	}
	lines := int64(0)
	for _, o := range slices.Backward(rec.Objects) {
		older(o.LastStamp)
		for _, f := range slices.Backward(o.Frames) {
			older(f.FirstStamp)
			if lines+o.Lines-f.FirstLine >= n {
				return at
			}
		}
		older(o.FirstStamp)
		if lines += o.Lines; lines >= n {
			return at
		}
	}
	return time.Time{}
}

// wholeLines returns how many bytes of a text are whole lines.
func wholeLines(text io.Reader) (whole int64, err error) {
	lines := bufio.NewReaderSize(text, 64<<10)
	for n := int64(0); ; {
		piece, err := lines.ReadSlice('\n')
		n += int64(len(piece))
		switch {
		case err == nil:
			whole = n
		case errors.Is(err, io.EOF):
			return whole, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return whole, err
		}
	}
}
