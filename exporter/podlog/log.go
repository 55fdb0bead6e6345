package podlog

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// bufferSize is what one read of a body holds in memory. A line may be of any length; only its
	// last holdBack bytes wait here for the end of the body.
	bufferSize = 32 << 10
	// holdBack is more than the longest error text that can be glued to an unterminated last line:
	// two sentences with a 64-digit container ID each.
	holdBack = 1 << 10
	// prefixSize is how much of a line decides whether it is one that is already held. The rest of a
	// longer line is checked when it has passed.
	prefixSize = 4 << 10
	// ringSize is how many of the last held lines are remembered for joining: an overlap of one
	// second of sinceTime, at 1,000 lines a second, in 24 KiB for each log.
	ringSize = 1024
)

// Join says how a read met what was held before.
type Join string

// The ways to meet.
const (
	JoinFirst Join = "first" // nothing was held
	JoinExact Join = "exact" // the overlap was found and followed to the last byte held
	JoinHole  Join = "hole"  // the read began after what was held: lines may be missing between
	JoinShort Join = "short" // the read ended before it reached the last byte held
	JoinEmpty Join = "empty" // the read held nothing
)

// Result tells what one read brought.
type Result struct {
	Bytes    int64 // of the body, as received
	Appended int64 // bytes that were new
	Join     Join
	// Missed counts lines of this read that lie inside what is held and yet were not held.
	Missed int64
	// HoleAfter and HoleBefore are the stamps around the hole of a JoinHole or of missed lines.
	HoleAfter, HoleBefore time.Time
	// First and Last are the stamps of the first and the last stamped line of the body.
	First, Last time.Time
	// Text and TextKind are the kubelet's error text that ended the body, already cut from the log.
	Text     string
	TextKind Text
	// Own: the error text names this log's own container.
	Own bool
	// Aligned: the read began with the first line held, and all of its lines up to the last byte held
	// were those that are held, in order and number. So no line between is missing on either side.
	Aligned bool
}

// Log is the text of one container run, put together from any number of reads that overlap.
// It writes each byte once, in order, to the writer it was made with, and remembers only marks of
// the last lines. It is not safe for concurrent use.
type Log struct {
	w           io.Writer
	containerID string

	lines int64  // complete lines held
	bytes int64  // bytes held
	chain uint64 // of the hashes of all complete lines held, see chained
	ring  []mark // marks of the last complete lines: line i is ring[i%ringSize]
	first mark
	// open is the unterminated last line, which a later read may continue.
	open openLine

	firstStamp, lastStamp time.Time
	firstSecond           int64 // bytes held when a line came that is more than a second younger than the first
	pastFirst             bool  // there was one
	buf                   []byte
}

// mark stands for a line that was written.
type mark struct {
	prefix, full uint64 // of at most prefixSize bytes, and of the whole line with its newline
	stamp        int64  // Unix nanoseconds, 0 without a stamp
}

type openLine struct {
	n      int64
	digest xxhash.Digest // of its n bytes
	prefix []byte        // its first prefixSize bytes at most
}

// New returns an empty log that writes to w. The container ID, with or without its scheme, is used
// to recognise the kubelet's sentences about that container.
func New(w io.Writer, containerID string) *Log {
	return &Log{w: w, containerID: containerID}
}

// Lines returns how many lines are held; an unterminated last line counts.
func (l *Log) Lines() int64 {
	if l.open.n > 0 {
		return l.lines + 1
	}
	return l.lines
}

// Bytes returns how many bytes are held.
func (l *Log) Bytes() int64 { return l.bytes }

// First returns the stamp of the first stamped line held, Last of the last; zero if there is none.
func (l *Log) First() time.Time { return l.firstStamp }

// Last returns the stamp of the last stamped line held.
func (l *Log) Last() time.Time { return l.lastStamp }

// FirstSecond returns how many bytes are held of the second that began with the first stamp held, give
// or take a buffer: it tells who writes at full speed.
func (l *Log) FirstSecond() int64 { return l.firstSecond }

// chained adds the hash of the next line to that of all lines before it. Order and number count.
func chained(chain, line uint64) uint64 { return chain*0x9E3779B97F4A7C15 + line + 1 }

// WriteError wraps a failure of the writer, to tell it from a failure of the body that is read.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "write log: " + e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// Read takes a body to its end and appends what is not held yet. An error of the body is returned
// as it is, with all bytes before it taken; an error of the writer is a *WriteError.
func (l *Log) Read(body io.Reader) (Result, error) {
	if l.buf == nil {
		l.buf = make([]byte, bufferSize)
	}
	j := joiner{log: l, appending: l.bytes == 0}
	j.res.Join = JoinEmpty
	if !j.appending {
		j.index()
	}
	err := l.scan(body, &j)
	if !j.appending && j.res.Bytes > int64(len(j.res.Text)) {
		j.res.Join = JoinShort
	}
	return j.res, err
}

// scan cuts the body into lines, or pieces of lines longer than the buffer, and hands them to j.
func (l *Log) scan(body io.Reader, j *joiner) error {
	buf, n := l.buf, 0
	for {
		m, err := body.Read(buf[n:])
		j.res.Bytes += int64(m)
		n += m
		used := 0
		if end := bytes.LastIndexByte(buf[n-m:n], '\n'); end >= 0 {
			used = n - m + end + 1
			if werr := j.lines(buf[:used]); werr != nil {
				return werr
			}
		}
		if n-used == len(buf) { // one line fills the buffer: pass it on but for its last bytes
			used = len(buf) - holdBack
			if werr := j.piece(buf[:used]); werr != nil {
				return werr
			}
		}
		n = copy(buf, buf[used:n])
		if err == nil {
			continue
		}
		if err != io.EOF { //nolint:errorlint // a reader returns io.EOF itself at its end
			if werr := j.last(buf[:n]); werr != nil {
				return werr
			}
			return fmt.Errorf("read log: %w", err)
		}
		return j.end(buf[:n])
	}
}

// joiner puts one read into a log.
type joiner struct {
	log       *Log
	res       Result
	appending bool // everything from here on is new

	byPrefix   map[uint64][]int64 // where lines with this prefix stand in the ring
	candidates []int64            // positions in the log that the next line of the read may be
	seen       int64              // lines of this read so far
	parked     bool               // a shorter overlap than those in candidates was complete
	aligned    bool               // the read began with the very first line held
	chain      uint64             // of the complete lines of this read, until it reaches what is new

	// the line in progress, when it does not fit the buffer
	inLine bool
	cur    lineState
}

type lineState struct {
	n       int64
	digest  xxhash.Digest
	mark    mark
	write   bool  // it is new, or its rest is
	resumed bool  // it continues the open line
	skip    int64 // bytes of it that are held
	checked bool  // the held bytes were compared
}

func (j *joiner) index() {
	l := j.log
	j.byPrefix = make(map[uint64][]int64, len(l.ring))
	for i := l.ringStart(); i < l.lines; i++ {
		m := l.at(i)
		j.byPrefix[m.prefix] = append(j.byPrefix[m.prefix], i)
	}
}

func (l *Log) ringStart() int64 { return max(0, l.lines-ringSize) }
func (l *Log) at(i int64) mark  { return l.ring[i%ringSize] }
func (l *Log) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	l.bytes += int64(len(p))
	if !l.pastFirst {
		l.firstSecond += int64(len(p))
	}
	if _, err := l.w.Write(p); err != nil {
		return &WriteError{err}
	}
	return nil
}

// lines takes a block of whole lines; the first may be the rest of a line in progress.
func (j *joiner) lines(block []byte) error {
	if j.inLine {
		end := bytes.IndexByte(block, '\n') + 1
		if err := j.finish(block[:end]); err != nil {
			return err
		}
		block = block[end:]
	}
	for len(block) > 0 && (!j.appending || j.log.open.n > 0) {
		end := bytes.IndexByte(block, '\n') + 1
		if err := j.begin(block[:end]); err != nil {
			return err
		}
		if err := j.finish(nil); err != nil {
			return err
		}
		block = block[end:]
	}
	return j.appendLines(block)
}

// appendLines is the fast path: a block of new lines is marked line by line and written at once.
func (j *joiner) appendLines(block []byte) error {
	if len(block) == 0 {
		return nil
	}
	j.started()
	for rest := block; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		j.log.hold(j.markLine(rest[:end]))
		rest = rest[end:]
	}
	j.res.Appended += int64(len(block))
	return j.log.write(block)
}

func (j *joiner) started() {
	if j.res.Join == JoinEmpty {
		j.res.Join = JoinFirst
	}
}

// markLine marks a line, or the beginning of a long one, and notes its stamp.
func (j *joiner) markLine(line []byte) mark {
	m := mark{prefix: xxhash.Sum64(line[:min(len(line), prefixSize)])}
	m.full = m.prefix
	if len(line) > prefixSize {
		m.full = xxhash.Sum64(line)
	}
	if t, _, ok := bundle.ParseStamp(line); ok {
		m.stamp = t.UnixNano()
		if j.res.First.IsZero() {
			j.res.First = t
		}
		j.res.Last = t
	}
	j.seen++
	return m
}

// hold remembers a complete line that was written.
func (l *Log) hold(m mark) {
	if l.lines == 0 {
		l.first = m
	}
	if len(l.ring) < ringSize {
		l.ring = append(l.ring, m)
	} else {
		l.ring[l.lines%ringSize] = m
	}
	l.lines++
	l.chain = chained(l.chain, m.full)
	l.noteStamp(m.stamp)
}

func (l *Log) noteStamp(ns int64) {
	if ns == 0 {
		return
	}
	l.lastStamp = time.Unix(0, ns).UTC()
	if l.firstStamp.IsZero() {
		l.firstStamp = l.lastStamp
	}
	l.pastFirst = l.pastFirst || l.lastStamp.Sub(l.firstStamp) > time.Second
}

// piece takes a part of a line that is longer than the buffer.
func (j *joiner) piece(p []byte) error {
	if !j.inLine {
		return j.begin(p)
	}
	return j.more(p)
}

// end takes the last bytes of a body that ended cleanly: a line without a newline, an error text,
// or both glued together.
func (j *joiner) end(p []byte) error {
	if len(p) == 0 && !j.inLine {
		return nil
	}
	_, _, stamped := bundle.ParseStamp(p)
	if !j.inLine && !stamped {
		if kind := classify(string(p)); kind != TextNone {
			j.res.Text, j.res.TextKind = string(p), kind
			j.res.Own = names(p, j.log.containerID)
			return nil
		}
	}
	tail := p[max(0, len(p)-holdBack):]
	if at, kind := gluedText(string(tail), j.log.containerID); kind != TextNone {
		j.res.Text, j.res.TextKind, j.res.Own = string(tail[at:]), kind, true
		p = p[:len(p)-len(tail)+at]
	}
	return j.last(p)
}

// partOfStamp says whether a line that was cut may have been cut within its stamp.
func partOfStamp(p []byte) bool {
	const layout = "0000-00-00T00:00:00.000000000+00:00"
	if len(p) > len(layout) || bytes.IndexByte(p, ' ') >= 0 {
		return false
	}
	for i, c := range p {
		digit := c >= '0' && c <= '9'
		zone := i == len(layout)-6 && (c == 'Z' || c == '-')
		if digit != (layout[i] == '0') && !zone || !digit && !zone && c != layout[i] {
			return false
		}
	}
	return true
}

// last takes an unterminated last line, or the last part of one.
func (j *joiner) last(p []byte) error {
	if !j.inLine {
		if len(p) == 0 || partOfStamp(p) {
			return nil // nothing of the line itself, and too little to know the line by
		}
		if err := j.begin(p); err != nil {
			return err
		}
		return j.leaveOpen()
	}
	if err := j.more(p); err != nil {
		return err
	}
	return j.leaveOpen()
}
