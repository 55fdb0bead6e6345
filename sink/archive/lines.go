package archive

import (
	"bufio"
	"errors"
	"io"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// lineBuffer is how much of the text is in memory at a time. Longer lines pass in pieces.
	lineBuffer = 64 << 10
	// stampSize is more than a stamp and the space behind it can take.
	stampSize = 40
)

// lines passes on the lines of a text that are wanted, with or without their stamps.
type lines struct {
	src        io.ReadCloser
	buf        *bufio.Reader
	skip       int64 // lines to leave out, from where src begins
	since      time.Time
	timestamps bool

	inLine bool   // the next piece continues a line
	keep   bool   // what is decided about the line, and about lines without a stamp that follow
	piece  []byte // what was read and not passed on yet; lies in buf
	err    error
}

// newLines filters a text that begins at a place. If a line began before the place, its rest is left
// out: that line is before line, or before o.Since, or else its own frame would be the place.
func newLines(src io.ReadCloser, o LogOptions, at place, line int64, keep bool) *lines {
	return &lines{
		src: src, buf: bufio.NewReaderSize(src, lineBuffer), since: o.Since, timestamps: o.Timestamps,
		skip: max(line-at.line, 0), inLine: at.inLine, keep: keep,
	}
}

func (l *lines) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(l.piece) == 0 {
			// What is there already is passed on before more is waited for.
			if n > 0 && l.buf.Buffered() == 0 {
				break
			}
			if l.advance(); len(l.piece) == 0 && l.err != nil {
				break
			}
		}
		m := copy(p[n:], l.piece)
		l.piece = l.piece[m:]
		n += m
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, l.err
}

// advance reads the next piece of a line, and leaves it in l.piece if it is wanted.
func (l *lines) advance() {
	if l.err != nil {
		return
	}
	stamp := 0
	if !l.inLine && (l.skip == 0 || !l.since.IsZero()) {
		head, err := l.buf.Peek(stampSize)
		if len(head) == 0 {
			l.err = err
			return
		}
		if t, n, ok := bundle.ParseStamp(head); ok {
			stamp = n
			l.keep = !t.Before(l.since)
		}
	}
	piece, err := l.buf.ReadSlice('\n')
	l.inLine = errors.Is(err, bufio.ErrBufferFull)
	if err != nil && !l.inLine {
		l.err = err
	}
	switch {
	case l.skip > 0:
		if !l.inLine {
			l.skip--
		}
	case !l.keep:
	case l.timestamps:
		l.piece = piece
	default:
		l.piece = piece[stamp:]
	}
}

// Close ends the reading.
func (l *lines) Close() error {
	l.err, l.piece = errClosed, nil
	return l.src.Close()
}
