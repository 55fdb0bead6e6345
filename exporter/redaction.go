package exporter

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// sieve redacts a log on its way to an output's writer. What is held of a log that goes on was redacted
// before, so that a further read cannot be compared with it line by line: such a log goes on behind
// its last stamp.
type sieve struct {
	redactor *redact.Redactor
	w        *redact.Writer
	to       io.Writer

	held    bool // the line that goes through is held already
	past    bool // all that comes from here on is new
	inLine  bool
	last    time.Time // stamp of the last line held
	n, seen int       // how many lines held have it, and how many came again
	hole    bool      // they did not come again
	lines   int64     // ends of lines in all that is held
}

func newSieve(r *redact.Redactor, to io.Writer) *sieve {
	s := &sieve{redactor: r, to: to, past: true}
	s.w = r.NewWriter(writerFunc(func(p []byte) (int, error) {
		if s.held {
			return len(p), nil
		}
		return to.Write(p)
	}))
	return s
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// goOn makes the text go on behind a stamp that the last n of the lines held have.
func (s *sieve) goOn(last time.Time, n int, lines int64) {
	s.last, s.n, s.past, s.lines = last, n, last.IsZero(), lines
}

// Write takes text whose stamps were not changed. What is held goes through the redactor too, which may
// have to know the beginning of a secret, and no further.
func (s *sieve) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !s.past {
		if !s.inLine {
			s.line(p)
		}
		end := bytes.IndexByte(p, '\n') + 1
		s.inLine = end == 0
		if end == 0 {
			end = len(p)
		}
		if _, err := s.w.Write(p[:end]); err != nil {
			return 0, err
		}
		if !s.held {
			s.lines += int64(bytes.Count(p[:end], []byte{'\n'}))
		}
		p = p[end:]
	}
	if len(p) > 0 {
		if _, err := s.w.Write(p); err != nil {
			return 0, err
		}
		s.lines += int64(bytes.Count(p, []byte{'\n'}))
	}
	return n, nil
}

// line looks at a line that begins, and decides whether it is held.
func (s *sieve) line(p []byte) {
	t, _, stamped := bundle.ParseStamp(p)
	s.held = true
	switch {
	case !stamped || t.Before(s.last):
	case t.Equal(s.last) && s.seen < s.n:
		s.seen++
	default:
		s.held, s.past = false, true
		s.hole = s.seen < s.n
	}
}

// redaction is what a record says of it.
func (s *sieve) redaction() *bundle.Redaction {
	return &bundle.Redaction{Rules: s.redactor.Names(), Matches: s.w.Counts()}
}

// heldEnd is where a text ends: its last stamp, and how many of its last lines have it.
type heldEnd struct {
	last time.Time
	n    int
}

// copyHeld writes text that was redacted before, but for its lines up to held, and returns its first and last
// stamp and how many lines have the last one; zero if nothing was written.
func copyHeld(w io.Writer, text io.Reader, held heldEnd) (first, last time.Time, n int, err error) {
	lines := bufio.NewReaderSize(text, 64<<10)
	start := true
	for past := held.last.IsZero(); ; {
		piece, rerr := lines.ReadSlice('\n')
		if t, _, ok := bundle.ParseStamp(piece); start && ok {
			if !t.Equal(last) {
				n = 0
			}
			last = t
			n++
			past = past || t.After(held.last) || t.Equal(held.last) && n > held.n
			if first.IsZero() {
				first = t
			}
		}
		start = rerr == nil
		if past {
			if _, err := w.Write(piece); err != nil {
				return first, last, n, err
			}
		}
		switch {
		case errors.Is(rerr, io.EOF) && !past:
			return time.Time{}, time.Time{}, 0, nil
		case errors.Is(rerr, io.EOF):
			return first, last, n, nil
		case rerr != nil && !errors.Is(rerr, bufio.ErrBufferFull):
			return first, last, n, rerr
		}
	}
}

// lastOf returns the last stamp of a record's log and how many of its last lines have it.
func lastOf(rec *bundle.Record) (last time.Time, n int) {
	if rec.LastStamp == nil {
		return time.Time{}, 0
	}
	for _, line := range rec.LastLines {
		if t, _, ok := bundle.ParseStamp([]byte(line)); ok && t.Equal(*rec.LastStamp) {
			n++
		}
	}
	return *rec.LastStamp, n
}
