package redact

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// MaxLine is the longest text of a line, in bytes, that rules see as a whole. It is what a writer
	// holds at most, and only while such a line comes in.
	MaxLine = 256 << 10
	// MaxMatch is how long a match in a longer line may be, in bytes, to be found for certain.
	MaxMatch = 16 << 10
	// around is kept beyond a match on both sides, for \b and its like.
	around = 8
	// keepBuffer is how much of a buffer is kept from line to line: many logs are followed at a time.
	keepBuffer = 4 << 10
)

// Writer redacts one log on its way to another writer. It holds an unterminated line and nothing else;
// blocks of whole lines are not copied. Not safe for concurrent use.
type Writer struct {
	r      *Redactor
	w      io.Writer
	err    error
	counts []int64 // by rule; nil if nothing was found
	keys   keys
	closed bool

	line []byte // an unterminated line, or its part that is not written yet
	long *long  // the line is longer than MaxLine
	// What was counted before that line, whose beginning may be counted and never be stored.
	before     []int64
	keysBefore int64
}

// long is a line that goes through in windows. All places are in Writer.line.
type long struct {
	from    int    // matches that begin before are dealt with
	written int    // what is before is written, or replaced
	done    []int  // by rule, where its last match ended
	spans   []span // found, but not written yet
}

// NewWriter returns a writer for one log. The text is as kubectl logs --timestamps prints it, cut
// anywhere; a line without a stamp is text from its first byte on.
func (r *Redactor) NewWriter(w io.Writer) *Writer {
	return &Writer{r: r, w: w, keys: keys{rule: r.key, end: r.keyEnd, maxLine: r.maxMatch}}
}

// Text redacts a text that is no log of its own, such as a container's termination message, which may be
// the end of its log. It returns what it found by rule.
func (r *Redactor) Text(text string) (string, map[string]int64) {
	var b strings.Builder
	w := r.NewWriter(&b)
	if r.key >= 0 {
		end := r.keyEnd.FindStringIndex(text)
		begin := r.rules[r.key].whole.FindStringIndex(text)
		if end != nil && (begin == nil || end[0] < begin[0]) { // it begins within a key
			w.MayBeInKey()
		}
	}
	_, err := w.Write([]byte(text))
	if err = errors.Join(err, w.Close()); err != nil {
		return "", nil // a strings.Builder does not fail
	}
	return b.String(), w.Counts()
}

// Write takes the next bytes of the log. An unterminated last line waits for the next call. An error is
// the underlying writer's; every further call fails with it.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err == nil && w.closed {
		return 0, errors.New("redact log: the writer is closed")
	}
	n := len(p)
	if w.err == nil {
		w.err = w.write(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return n, nil
}

// Close redacts and writes an unterminated last line. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.closed || w.err != nil {
		return w.err
	}
	w.closed = true
	if len(w.line) > 0 {
		w.err = w.endLine()
	}
	return w.err
}

// Counts returns how many secrets each rule has found in the lines that have ended; rules that found none
// are not in it.
func (w *Writer) Counts() map[string]int64 {
	byRule, keys := w.counts, w.keys.count
	if w.long != nil {
		byRule, keys = w.before, w.keysBefore
	}
	counts := make(map[string]int64)
	for i, n := range byRule {
		if n > 0 {
			counts[w.r.rules[i].name] = n
		}
	}
	if keys > 0 {
		counts[w.r.rules[w.keys.rule].name] = keys
	}
	return counts
}

func (w *Writer) count(rule int) {
	if w.counts == nil {
		w.counts = make([]int64, len(w.r.rules))
	}
	w.counts[rule]++
}

func (w *Writer) write(p []byte) error {
	begun := 0
	if len(w.line) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			return w.hold(p)
		}
		if err := w.hold(p[:end]); err != nil {
			return err
		}
		if err := w.endLine(); err != nil {
			return err
		}
		p, begun = p[end:], 1 // its newline goes with the lines behind it
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if err := w.lines(p[:end], begun); err != nil {
		return err
	}
	return w.hold(p[end:])
}

// lines writes whole lines, of which the first bytes were looked at before. What has nothing to redact in
// it goes on as it came, in one piece.
func (w *Writer) lines(block []byte, pos int) error {
	m := w.r.pool.Get().(*scratch)
	defer w.r.pool.Put(m)
	out := 0 // what is written
	for pos < len(block) {
		start := pos
		if w.keys.left == 0 && len(w.r.always) == 0 {
			seen := w.r.scan.next(block[pos:])
			if seen < 0 {
				break
			}
			start = pos + bytes.LastIndexByte(block[pos:pos+seen], '\n') + 1
		}
		end := start + bytes.IndexByte(block[start:], '\n')
		pos = end + 1
		line := block[start:end]
		text := line[stampLen(line):]
		if len(text) > w.r.maxLine {
			if err := write(w.w, block[out:start]); err != nil {
				return err
			}
			if err := errors.Join(w.hold(line), w.endLine()); err != nil {
				return err
			}
			out = end
			continue
		}
		m.spans = m.spans[:0]
		w.find(m, view{text: text, limit: len(text), final: true})
		if len(m.spans) == 0 {
			continue
		}
		begin := end - len(text)
		if err := write(w.w, block[out:begin]); err != nil {
			return err
		}
		if _, _, err := w.r.replace(w.w, text, 0, len(text), m.spans); err != nil {
			return err
		}
		out = end
	}
	return write(w.w, block[out:])
}

// find appends the spans of a view, those of keys included.
func (w *Writer) find(m *scratch, v view) {
	w.r.find(m, v, w.count)
	if w.r.key >= 0 && (w.keys.open || w.keys.left > 0 || bytes.Contains(v.text, []byte("-----BEGIN "))) {
		w.keys.find(m, v, w.r.rules[w.r.key].whole)
	}
}

func stampLen(line []byte) int {
	_, n, _ := bundle.ParseStamp(line)
	return n
}

// hold takes the next bytes of an unterminated line.
func (w *Writer) hold(p []byte) error {
	for len(p) > 0 {
		// One byte more than a window shows that the line does not end with it. The windows of a line are
		// the same however it comes in.
		room := w.windowEnd() + 1 - len(w.line)
		if room <= 0 {
			if err := w.window(); err != nil {
				return err
			}
			continue
		}
		n := min(room, len(p))
		w.line = append(w.line, p[:n]...)
		p = p[n:]
	}
	return nil
}

// windowEnd is where the next window ends in the line held.
func (w *Writer) windowEnd() int {
	if w.long != nil {
		return w.long.from + w.r.maxLine
	}
	return stampLen(w.line) + w.r.maxLine
}

// window deals with all matches but those that may go on behind the window.
func (w *Writer) window() error {
	if w.long == nil {
		n := stampLen(w.line)
		if err := write(w.w, w.line[:n]); err != nil {
			return err
		}
		w.line = append(w.line[:0], w.line[n:]...)
		w.long = &long{done: make([]int, len(w.r.rules))}
		w.before, w.keysBefore = slices.Clone(w.counts), w.keys.count
	}
	l := w.long
	end := l.from + w.r.maxLine
	limit := end - w.r.maxMatch - around
	if err := w.look(w.line[:end], limit, false); err != nil {
		return err
	}
	shift := limit - around
	w.line = append(w.line[:0], w.line[shift:]...)
	l.from, l.written = around, l.written-shift
	for i := range l.done {
		l.done[i] = max(l.done[i]-shift, 0)
	}
	for i := range l.spans {
		l.spans[i].start -= shift
		l.spans[i].end -= shift
	}
	return nil
}

// look finds what begins before limit and writes the text up to it.
func (w *Writer) look(text []byte, limit int, final bool) error {
	l := w.long
	m := w.r.pool.Get().(*scratch)
	defer w.r.pool.Put(m)
	m.spans = append(m.spans[:0], l.spans...)
	w.find(m, view{text: text, from: l.from, limit: limit, final: final, done: l.done})
	to, used, err := w.r.replace(w.w, text, l.written, limit, m.spans)
	l.written = to
	l.spans = append(l.spans[:0], m.spans[used:]...)
	return err
}

// endLine deals with the line that is held and ends here.
func (w *Writer) endLine() error {
	var err error
	if w.long != nil {
		err = w.look(w.line, len(w.line), true)
	} else {
		text := w.line[stampLen(w.line):]
		m := w.r.pool.Get().(*scratch)
		m.spans = m.spans[:0]
		w.find(m, view{text: text, limit: len(text), final: true})
		if err = write(w.w, w.line[:len(w.line)-len(text)]); err == nil {
			_, _, err = w.r.replace(w.w, text, 0, len(text), m.spans)
		}
		w.r.pool.Put(m)
	}
	w.long = nil
	if cap(w.line) > keepBuffer {
		w.line = nil
	}
	w.line = w.line[:0]
	return err
}
