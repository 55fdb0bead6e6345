package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"
)

const (
	// FrameSize is how much text a frame holds at most. A log up to this size is one frame, because
	// several readers in the wild stop silently after the first; most logs are, since the kubelet
	// rotates at 10 MiB by default.
	FrameSize = 16 << 20
	// MaxStored is the size that no log object exceeds: a single PUT that can be repeated cheaply.
	MaxStored = 64 << 20
	// minFrameSize keeps the stamp of a line inside the frame in which the line begins.
	minFrameSize = 64
	// bufferSize is what a writer holds in memory. A log that is no longer never touches the scratch file.
	bufferSize = 16 << 10
)

// ScratchFile holds the text of the frame in progress: its size stands at the front of the frame, so
// it must be known before compression begins. *os.File is one, unless it was opened with O_APPEND.
type ScratchFile interface {
	io.Writer
	io.ReaderAt
	io.Seeker
	Truncate(size int64) error
}

// Rewinder is a file of which the end can be taken back. *os.File is one.
type Rewinder interface {
	io.Seeker
	Truncate(size int64) error
}

// LogOptions say where a LogWriter writes and how.
type LogOptions struct {
	Compression Compression
	// Encoders may be shared by many writers. Nil means one of the writer's own.
	Encoders *Encoders
	// Scratch holds FrameSize bytes at most. It must be empty; the writer leaves it empty when Close
	// succeeds. The caller owns it and may use it again. Nil means memory, for short logs and tests.
	Scratch ScratchFile
	// Next gives the file for the next log object. It is called when the first byte for it is ready,
	// and so never for an empty log. The caller owns the files and may close one when the next is asked for.
	// A file that is a Rewinder may fail and be written to again.
	Next func() (io.Writer, error)
	// FrameSize and MaxStored replace the constants of these names, for tests. 0 means the constant.
	FrameSize int
	MaxStored int64
}

// Summary tells what a LogWriter wrote.
type Summary struct {
	Objects               []Object // in order, without keys
	Lines                 int64    // a last line without a newline counts
	RawBytes              int64
	RawSHA256             string // of the whole text, in lower-case hex; empty for an empty log
	RawSHA256State        []byte // see Record; only from Cut
	FirstStamp, LastStamp *time.Time
	LastLines             []string
}

// LogWriter compresses the text of one run's log into one object or, if it is long, into several.
// It holds 16 KiB and the beginnings of the last 20 lines, whatever the length of the log and of its
// lines. Not safe for concurrent use.
//
// A call that fails because a file takes no more leaves the writer as it was, so that it may be made again: a
// full disk has room again some day, and what was written may be all there is of the log. For that the files
// have to be Rewinders.
type LogWriter struct {
	o   LogOptions
	err error // it is good for nothing any more

	// The frame in progress: its first part lies in the scratch file, the rest in buf.
	buf       []byte
	inScratch int64
	lineEnd   int64 // where its last line ends, 0 if no line ends in it

	newlines   int64
	rawBytes   int64
	endsInLine bool

	scan   scanner
	whole  hash.Hash // of the text
	object *openObject
	done   []Object
	closed *Summary
}

// openObject is the log object that is being written.
type openObject struct {
	Object
	w          io.Writer
	raw        hash.Hash
	stored     hash.Hash
	md5        hash.Hash // of the stored bytes too
	frames     []Frame
	seek       []seekEntry
	firstLines int64 // newlines of the log before this object
}

// NewLogWriter returns a writer for one log.
func NewLogWriter(o LogOptions) *LogWriter {
	if o.FrameSize == 0 {
		o.FrameSize = FrameSize
	}
	o.FrameSize = max(o.FrameSize, minFrameSize)
	if o.MaxStored == 0 {
		o.MaxStored = MaxStored
	}
	if o.Encoders == nil {
		o.Encoders = NewEncoders(1)
	}
	if o.Scratch == nil {
		o.Scratch = &memoryScratch{}
	}
	return &LogWriter{o: o, whole: sha256.New()}
}

// Lines returns how many lines were written so far, counting an unterminated one.
func (w *LogWriter) Lines() int64 {
	if w.endsInLine {
		return w.newlines + 1
	}
	return w.newlines
}

// RawBytes returns how many bytes of text were written so far.
func (w *LogWriter) RawBytes() int64 { return w.rawBytes }

// Write takes the next bytes of the text, cut anywhere. After an error it has taken as many as it says.
func (w *LogWriter) Write(p []byte) (int, error) {
	if w.closed != nil && w.err == nil {
		return 0, errors.New("write log: the writer is closed")
	}
	written := 0
	for len(p) > 0 && w.err == nil {
		room := int64(w.o.FrameSize) - w.frameLen()
		if room == 0 {
			if err := w.cut(); err != nil {
				return written, err
			}
			continue
		}
		chunk := p[:min(int64(len(p)), room)]
		if err := w.append(chunk); err != nil {
			return written, err
		}
		w.newlines += int64(bytes.Count(chunk, newline))
		w.rawBytes += int64(len(chunk))
		w.endsInLine = chunk[len(chunk)-1] != '\n'
		written += len(chunk)
		p = p[len(chunk):]
	}
	return written, w.err
}

func (w *LogWriter) frameLen() int64 { return w.inScratch + int64(len(w.buf)) }

// append adds to the frame in progress, which has room for it.
func (w *LogWriter) append(p []byte) error {
	begin := w.frameLen()
	if len(w.buf)+len(p) > bufferSize {
		if err := w.spill(w.buf); err != nil {
			return err
		}
		w.buf = w.buf[:0]
	}
	if len(w.buf) > 0 || len(p) <= bufferSize/2 {
		w.buf = append(w.buf, p...)
	} else if err := w.spill(p); err != nil {
		return err
	}
	if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
		w.lineEnd = begin + int64(i) + 1
	}
	return nil
}

// Flush moves what is held in memory to the scratch file, so that it outlives the process.
func (w *LogWriter) Flush() error {
	if w.err != nil || w.closed != nil || len(w.buf) == 0 {
		return w.err
	}
	if err := w.spill(w.buf); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	return nil
}

// spill writes to the scratch file, all or nothing.
func (w *LogWriter) spill(p []byte) error {
	n, err := w.o.Scratch.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("write scratch file: %w", err)
		w.err = errors.Join(w.err, w.resetScratch(w.inScratch))
		return err
	}
	w.inScratch += int64(n)
	return nil
}

// cut ends the frame in progress, which is full, at its last line end. If one line fills it, the line
// is cut. What lies behind the cut begins the next frame.
func (w *LogWriter) cut() error {
	size, end := w.frameLen(), w.lineEnd
	if end == 0 {
		end = size
	}
	if err := w.encodeFrame(end); err != nil {
		return err
	}
	w.lineEnd = 0
	if end >= w.inScratch { // the usual case: the last bytes of the frame are still in memory
		w.buf = append(w.buf[:0], w.buf[end-w.inScratch:]...)
		w.inScratch = 0
		w.err = w.resetScratch(0)
		return w.err
	}
	w.err = w.moveDown(end)
	return w.err
}

// moveDown moves what lies in the scratch file behind from to its beginning.
func (w *LogWriter) moveDown(from int64) error {
	end := w.inScratch
	w.inScratch = 0
	if _, err := w.o.Scratch.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind scratch file: %w", err)
	}
	piece := make([]byte, bufferSize)
	for from < end {
		piece = piece[:min(end-from, bufferSize)]
		if _, err := w.o.Scratch.ReadAt(piece, from); err != nil {
			return fmt.Errorf("read scratch file: %w", err)
		}
		if err := w.spill(piece); err != nil {
			return err
		}
		from += int64(len(piece))
	}
	return w.resetScratch(w.inScratch)
}

func (w *LogWriter) resetScratch(size int64) error {
	if err := w.o.Scratch.Truncate(size); err != nil {
		return fmt.Errorf("truncate scratch file: %w", err)
	}
	if _, err := w.o.Scratch.Seek(size, io.SeekStart); err != nil {
		return fmt.Errorf("rewind scratch file: %w", err)
	}
	return nil
}

// Cut ends the log object in progress at the last line end, so that what was written up to there can be
// stored while the log goes on; the next line begins a new object. It tells what has been written to
// objects so far: an unterminated last line is not among it, but for whole frames of a very long one.
func (w *LogWriter) Cut() (Summary, error) {
	switch {
	case w.err != nil:
		return Summary{}, w.err
	case w.closed != nil:
		return *w.closed, nil
	}
	if err := w.cutObject(); err != nil {
		return Summary{}, err
	}
	s := w.summary(w.scan.newlines)
	if len(s.Objects) > 0 {
		var err error
		if s.RawSHA256State, err = w.whole.(encoding.BinaryMarshaler).MarshalBinary(); err != nil {
			return Summary{}, fmt.Errorf("cut log: %w", err)
		}
	}
	return s, nil
}

// Continue makes a new writer go on where the text of a snapshot ends, which must be at a line end. The
// snapshot's objects come first in all summaries, which sum up both. If the record does not hold what
// that takes, it fails, and the writer is good for nothing.
func (w *LogWriter) Continue(r *Record) error {
	if len(r.Objects) == 0 {
		return nil
	}
	err := w.whole.(encoding.BinaryUnmarshaler).UnmarshalBinary(r.RawSHA256State)
	if err == nil && hex.EncodeToString(w.whole.Sum(nil)) != r.RawSHA256 {
		err = errors.New("the state of the hash is not that of the hash")
	}
	if err != nil {
		w.err = fmt.Errorf("continue log: %w", err)
		return w.err
	}
	w.done = slices.Clone(r.Objects)
	w.newlines, w.rawBytes, w.scan.newlines = r.Lines, r.RawBytes, r.Lines
	for _, line := range r.LastLines {
		w.scan.keep([]byte(line))
	}
	return nil
}

func (w *LogWriter) cutObject() error {
	if w.lineEnd > 0 {
		if err := w.cut(); err != nil {
			return err
		}
	}
	if w.object == nil {
		return nil
	}
	return w.endObject()
}

// Close compresses what is left, ends the last object and tells what was written. It closes no file.
// A second call returns the same.
func (w *LogWriter) Close() (Summary, error) {
	if w.err != nil {
		return Summary{}, w.err
	}
	if w.closed == nil {
		if err := w.seal(); err != nil {
			return Summary{}, err
		}
	}
	return *w.closed, nil
}

func (w *LogWriter) seal() error {
	if n := w.frameLen(); n > 0 {
		if err := w.encodeFrame(n); err != nil {
			return err
		}
		w.buf, w.lineEnd = w.buf[:0], 0
		if w.inScratch > 0 {
			w.inScratch = 0
			if w.err = w.resetScratch(0); w.err != nil {
				return w.err
			}
		}
	}
	if o := w.object; o != nil {
		lines := o.Lines
		if w.endsInLine {
			o.Lines++
		}
		if err := w.endObject(); err != nil {
			o.Lines = lines
			return err
		}
	}
	s := w.summary(w.Lines())
	w.closed, w.buf = &s, nil
	return nil
}

// summary sums up the objects that are done.
func (w *LogWriter) summary(lines int64) Summary {
	s := Summary{Objects: slices.Clone(w.done), Lines: lines, LastLines: w.scan.lastLines()}
	for _, o := range w.done {
		s.RawBytes += o.RawBytes
		if s.FirstStamp == nil {
			s.FirstStamp = o.FirstStamp
		}
		if o.LastStamp != nil {
			s.LastStamp = o.LastStamp
		}
	}
	if s.RawBytes > 0 {
		s.RawSHA256 = hex.EncodeToString(w.whole.Sum(nil))
	}
	return s
}

// memoryScratch stands in for a file.
type memoryScratch struct {
	b   []byte
	pos int64
}

func (m *memoryScratch) Write(p []byte) (int, error) {
	n := copy(m.b[m.pos:], p)
	m.b = append(m.b, p[n:]...)
	m.pos += int64(len(p))
	return len(p), nil
}

func (m *memoryScratch) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memoryScratch) Truncate(size int64) error {
	m.b = m.b[:size]
	return nil
}

func (m *memoryScratch) Seek(off int64, _ int) (int64, error) {
	m.pos = off
	return off, nil
}
