package podlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// bufferSize is what one read of a body holds in memory at most, and firstBuffer what it begins with:
	// of a thousand logs that are followed, most are quiet. A line may be of any length; only its last
	// holdBack bytes wait here for the end of the body.
	bufferSize  = 16 << 10
	firstBuffer = 4 << 10
	// holdBack is more than the longest error text that can be glued to an unterminated last line:
	// two sentences with a 64-digit container ID each.
	holdBack = 1 << 10
	// prefixSize is how much of a line decides whether it is one that is already held. The rest of a
	// longer line is checked when it has passed.
	prefixSize = 4 << 10
	// ringSize is how many of the last held lines are remembered one by one, in 12 KiB for each log.
	ringSize = 512
	// anchorCount is how many of the last seconds' first lines are remembered. A read with sinceTime
	// begins with such a line, and there may be more lines in a second than the ring holds.
	anchorCount = 32
)

const second = int64(time.Second)

// Join says how a read met what was held before.
type Join string

// The ways to meet.
const (
	JoinFirst Join = "first" // nothing was held
	JoinExact Join = "exact" // the overlap was found and followed to the last byte held
	JoinHole  Join = "hole"  // the read began after what was held: lines may be missing between
	JoinShort Join = "short" // the read ended before it reached the last byte held, or was cut within a stamp
	JoinEmpty Join = "empty" // the read held nothing
)

// Result tells what one read brought.
type Result struct {
	Bytes    int64 // of the body, as received
	Appended int64 // bytes that were new
	Join     Join
	// Missed counts the places inside what is held where this read and what is held differ.
	Missed int64
	// Unchecked counts lines of this read that lie inside what is held, as far as their stamps tell,
	// and that are too old to be compared with it.
	Unchecked int64
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
	// were those that are held, in order and number. So no line between is missing on either side. All
	// of the text is compared, by a hash that goes along with it.
	Aligned bool
}

// ErrHole is why a read was given up that does not continue what is held, see Log.RefuseHoles.
var ErrHole = errors.New("the read does not continue what is held")

// Log is the text of one container run, put together from any number of reads that overlap.
// It writes each byte once, in order, to the writer it was made with, and remembers only marks of
// the last lines. It is not safe for concurrent use.
type Log struct {
	// RefuseHoles makes a read end with ErrHole, and leaves nothing of it, where lines may be missing
	// between what is held and the read: it may be another run's.
	RefuseHoles bool

	w           io.Writer
	containerID string
	byStamp     bool // lines are known by their stamps, see CompareStamps

	lines int64  // complete lines held; more by a whole number of rings if the log was resumed, see shift
	shift int64  // what to add to lines for their true number
	bytes int64  // bytes held
	chain uint64 // of the hashes of all complete lines held, see chained
	ring  []mark // marks of the last complete lines: line i is ring[i%ringSize]
	// first is the first line held, anchors are the first lines of the last seconds.
	first   anchor
	anchors []anchor
	// open is the unterminated last line, which a later read may continue.
	open openLine
	// begun is how much is held of a line that is not complete: the open one, or the one that is being read.
	begun int64

	firstStamp, lastStamp time.Time
	sought                int64 // a stamp, see Seek
	found                 bool
	heldStamp             int64 // of the last complete stamped line
	firstSecond           int64 // bytes of the complete lines before the first that is more than a second younger than the first
	pastFirst             bool  // there was one
	// secondFrom is the stamp of the line that the second in progress began with, thisSecond what is held of it.
	secondFrom, thisSecond, busiest int64
	buf                             []byte
}

// New returns an empty log that writes to w. The container ID, with or without its scheme, is used
// to recognise the kubelet's sentences about that container.
func New(w io.Writer, containerID string) *Log {
	return &Log{w: w, containerID: containerID}
}

// Lines returns how many lines are held; an unterminated last line counts.
func (l *Log) Lines() int64 {
	if l.open.n > 0 {
		return l.lines + l.shift + 1
	}
	return l.lines + l.shift
}

// Bytes returns how many bytes are held.
func (l *Log) Bytes() int64 { return l.bytes }

// First returns the stamp of the first stamped line held, Last of the last; zero if there is none.
func (l *Log) First() time.Time { return l.firstStamp }

// Last returns the stamp of the last stamped line held.
func (l *Log) Last() time.Time { return l.lastStamp }

// FirstSecond returns how many bytes are held of the second that began with the first stamp held: of
// all lines before the first one that is younger. It tells who writes at full speed.
func (l *Log) FirstSecond() int64 {
	if l.pastFirst {
		return l.firstSecond
	}
	return l.firstSecond + l.begun
}

// BusiestSecond returns how many bytes were written in the busiest of the seconds into which the stamps of
// its lines cut the log.
func (l *Log) BusiestSecond() int64 { return max(l.busiest, l.thisSecond+l.begun) }

// FromFirst says whether a read of the whole log can be compared with all that is held. It cannot if the log was
// resumed without its first line.
func (l *Log) FromFirst() bool { return l.lines == 0 || l.first != anchor{} }

// Resume makes a new log go on after text that was written elsewhere: lines lines in size bytes, which
// began with the stamp first and of which tail holds the last ones, whole lines only.
func (l *Log) Resume(tail io.Reader, lines, size int64, first time.Time) error {
	l.buf = make([]byte, firstBuffer)
	w := l.w
	l.w = io.Discard
	all := &countingReader{r: tail}
	j := joiner{log: l, appending: true}
	err := l.scan(all, &j)
	l.w = w
	switch {
	case err != nil:
		return fmt.Errorf("resume log: %w", err)
	case l.open.n > 0 || j.res.Text != "":
		return errors.New("resume log: the text does not end at a line end")
	case all.n < size: // lines before the tail: none of those held is the log's first
		l.shiftBy(ringSize)
		l.pastFirst = true
	}
	l.shift, l.bytes = lines-l.lines, size
	if !first.IsZero() {
		l.firstStamp = first
	}
	return nil
}

// shiftBy gives all lines held numbers that are higher by n, a multiple of ringSize.
func (l *Log) shiftBy(n int64) {
	l.lines += n
	l.first = anchor{}
	for i := range l.anchors {
		l.anchors[i].index += n
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err //nolint:wrapcheck // a reader returns io.EOF itself
}

// WriteError wraps a failure of the writer, to tell it from a failure of the body that is read.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "write log: " + e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// Read takes a body to its end and appends what is not held yet. An error of the body is returned
// as it is, with all bytes before it taken; an error of the writer is a *WriteError.
func (l *Log) Read(body io.Reader) (Result, error) {
	if l.buf == nil {
		l.buf = make([]byte, firstBuffer)
	}
	j := joiner{log: l, appending: l.bytes == 0}
	j.res.Join = JoinEmpty
	if !j.appending {
		j.index()
	}
	err := l.scan(body, &j)
	short := j.short || !j.appending && j.res.Bytes > int64(len(j.res.Text))
	if short && j.res.Join != JoinHole {
		j.res.Join, j.res.Aligned = JoinShort, false
	}
	return j.res, err
}

// Append takes the beginning of a line of which it is known that it follows the complete lines held.
func (l *Log) Append(line []byte) error {
	j := joiner{log: l, appending: true}
	return j.last(line)
}

// scan cuts the body into lines, or pieces of lines longer than the buffer, and hands them to j.
func (l *Log) scan(body io.Reader, j *joiner) error {
	buf, n := l.buf, 0
	for {
		m, err := body.Read(buf[n:])
		j.res.Bytes += int64(m)
		n += m
		used, full := 0, n == len(buf)
		if end := bytes.LastIndexByte(buf[n-m:n], '\n'); end >= 0 {
			used = n - m + end + 1
			if werr := j.lines(buf[:used]); werr != nil {
				return werr
			}
		}
		if n-used == bufferSize { // one line fills the buffer: pass it on but for its last bytes
			used = len(buf) - holdBack
			if werr := j.piece(buf[:used]); werr != nil {
				return werr
			}
		}
		from := buf[used:n]
		if full && len(buf) < bufferSize {
			l.buf = make([]byte, bufferSize)
			buf = l.buf
		}
		n = copy(buf, from)
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
	placed     bool               // a line of the read was found in the ring
	parked     bool               // a shorter overlap than those in candidates was complete
	seen       int64              // lines of this read so far
	oldest     int64              // the oldest stamp of this read so far
	skipped    int64              // the youngest stamp of the lines held that the read need not contain, see filtered
	short      bool               // the body ended within a stamp, or before the end of what is held

	// from is the anchor that the read was found to pass, if any; chain goes on from there with the
	// read's complete lines until it reaches what is new.
	from  *anchor
	after int64 // lines of the read after the anchor's
	chain uint64

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

func (l *Log) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	l.bytes += int64(len(p))
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
		j.log.hold(j.markLine(rest[:end]), int64(end))
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
	t, stamp, ok := bundle.ParseStamp(line)
	m := j.log.markOf(line, stamp)
	if ok {
		m.stamp = t.UnixNano()
		if j.res.First.IsZero() {
			j.res.First, j.oldest = t, m.stamp
		}
		j.oldest = min(j.oldest, m.stamp)
		if j.skipped != 0 && j.skipped >= j.oldest/second*second {
			j.skipped = 0
			j.missed(m) // the read should have had those lines after all
		}
		j.res.Last = t
	}
	j.seen++
	return m
}

// markOf marks a line, whose stamp has so many bytes, but for its time.
func (l *Log) markOf(line []byte, stamp int) mark {
	if l.byStamp {
		hash := xxhash.Sum64(line[:stamp])
		return mark{prefix: hash, full: hash}
	}
	m := mark{prefix: xxhash.Sum64(line[:min(len(line), prefixSize)])}
	if m.full = m.prefix; len(line) > prefixSize {
		m.full = xxhash.Sum64(line)
	}
	return m
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
			j.res.Own = Names(j.res.Text, j.log.containerID)
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

// within says whether a line that was cut may be one of the complete lines held. Then it cannot be
// compared, because only hashes of whole lines are left of them.
func (j *joiner) within(p []byte) bool {
	l := j.log
	atOpen := slices.Contains(j.candidates, l.lines)
	if j.appending || atOpen && len(j.candidates) == 1 {
		return false
	}
	t, _, stamped := bundle.ParseStamp(p)
	switch {
	case !stamped, slices.ContainsFunc(l.ring, func(m mark) bool { return m.stamp == t.UnixNano() }):
		return true
	case atOpen, l.opensWith(p):
		return false
	}
	return !t.After(l.lastStamp) || j.from != nil && j.from.index+j.after+1 < l.ringStart()
}

// last takes an unterminated last line, or the last part of one.
func (j *joiner) last(p []byte) error {
	if !j.inLine {
		if len(p) == 0 {
			return nil
		}
		if partOfStamp(p) { // nothing of the line itself, and too little to know the line by
			j.short = true
			return nil
		}
		if j.within(p) {
			j.short = true
			return nil
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
