package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

// DamagedError says that a stored object is not what it should be. Other objects are not affected.
type DamagedError struct {
	Key string
	Err error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("stored object %s is damaged: %v", e.Key, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// UnreadError says that a stored object could not be read. That says nothing about the object.
type UnreadError struct {
	Key string
	Err error
}

func (e *UnreadError) Error() string { return fmt.Sprintf("check log %s: %v", e.Key, e.Err) }

func (e *UnreadError) Unwrap() error { return e.Err }

// CheckRecord reads a record that was stored under a key and judges everything that can be judged
// without its log objects: its digest, whether it belongs under the key, and whether it contradicts
// itself. Its error is a *DamagedError. The record is nil if it cannot be read at all.
func CheckRecord(key string, stored []byte) (*Record, error) {
	damaged := func(err error) error { return &DamagedError{Key: key, Err: err} }
	r, err := Decode(stored)
	if err != nil {
		return nil, damaged(err)
	}
	own, err := KeyOf(r)
	if err != nil {
		return nil, damaged(err)
	}
	if own.Record() != key {
		return nil, damaged(fmt.Errorf("it is the record of %s", own))
	}
	if err := r.Validate(); err != nil {
		return r, damaged(err)
	}
	return r, nil
}

// CheckLog reads all log objects of a record to their ends and compares them with what the record says:
// sizes and hashes before and after compression, lines, stamps, frames, the seek table and the last
// lines. The record must pass CheckRecord. An object that is not what it should be gives a
// *DamagedError; the record itself gives one if it is wrong about sound objects. What open and the
// readers fail with is returned as an *UnreadError. It holds some 20 MiB.
func CheckLog(r *Record, open func(key string) (io.ReadCloser, error)) []error {
	var errs []error
	c := &logCheck{record: r, whole: sha256.New(), sound: true}
	for i := range r.Objects {
		if err := c.openObject(i, open); err != nil {
			errs = append(errs, err)
			c.sound, c.adrift, c.scan = false, true, scanner{}
		}
	}
	if err := c.end(); c.sound && err != nil {
		k, kerr := KeyOf(r)
		if kerr != nil {
			return append(errs, kerr)
		}
		errs = append(errs, &DamagedError{Key: k.Record(), Err: err})
	}
	return errs
}

// CheckObject does what CheckLog does for the i-th log object alone, but for stamps, which may belong
// to a line that begins in an earlier object.
func CheckObject(r *Record, i int, open func(key string) (io.ReadCloser, error)) error {
	c := &logCheck{record: r, whole: sha256.New(), adrift: true}
	return c.openObject(i, open)
}

// logCheck reads the objects of a log in their order.
type logCheck struct {
	record *Record
	scan   scanner
	whole  hash.Hash // of the text so far
	sound  bool      // every object so far
	adrift bool      // it is not known whether the next object begins inside a line
	buf    []byte
}

func (c *logCheck) openObject(i int, open func(key string) (io.ReadCloser, error)) error {
	key := c.record.Objects[i].Key
	body, err := open(key)
	if err != nil {
		return &UnreadError{Key: key, Err: err}
	}
	defer body.Close() //nolint:errcheck // read only
	err = c.object(i, body)
	if bad := (*DamagedError)(nil); err != nil && !errors.As(err, &bad) {
		return &UnreadError{Key: key, Err: err}
	}
	return err
}

// object reads one object to its end, even if it is damaged: what it is instead is worth knowing.
func (c *logCheck) object(i int, body io.Reader) error {
	o := &c.record.Objects[i]
	_, _, _, compression, err := ParseKey(o.Key)
	if err != nil {
		return &DamagedError{Key: o.Key, Err: err}
	}
	stored := &storedBytes{r: io.LimitReader(body, o.StoredBytes+1), hash: sha256.New()}
	first := c.scan.newlines
	problem := c.text(i, stored, compression)
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return err
	}
	c.adrift = false
	switch is := hex.EncodeToString(stored.hash.Sum(nil)); {
	case stored.n > o.StoredBytes:
		problem = fmt.Errorf("it has more than the %d bytes that its record says", o.StoredBytes)
	case stored.n < o.StoredBytes:
		problem = fmt.Errorf("it has %d bytes, its record says %d", stored.n, o.StoredBytes)
	case is != o.StoredSHA256 && problem != nil:
		problem = fmt.Errorf("its sha256 is %s, its record says %s: %w", is, o.StoredSHA256, problem)
	case is != o.StoredSHA256:
		problem = fmt.Errorf("its sha256 is %s, its record says %s", is, o.StoredSHA256)
	case problem == nil:
		problem = c.lines(i, c.scan.newlines-first)
	}
	if problem != nil {
		return &DamagedError{Key: o.Key, Err: problem}
	}
	return nil
}

// lines checks the number of lines that end in an object.
func (c *logCheck) lines(i int, newlines int64) error {
	o, last := &c.record.Objects[i], i == len(c.record.Objects)-1
	switch {
	case newlines == o.Lines && (!c.scan.open || !last || c.record.State.Running):
		// A snapshot may have been cut inside a line, which then does not count.
	case newlines+1 == o.Lines && c.scan.open && last:
	default:
		return fmt.Errorf("%d lines end in it, its record says %d", newlines, o.Lines)
	}
	return nil
}

// text decompresses an object, frame by frame if they are listed, and returns the first thing that is
// not as the record says.
func (c *logCheck) text(i int, stored *storedBytes, compression Compression) error {
	o := &c.record.Objects[i]
	lr, err := NewLogReader(bytes.NewReader(nil), compression)
	if err != nil {
		return err
	}
	defer lr.Close() //nolint:errcheck // never fails
	raw := sha256.New()
	stamps := Object{}
	frames := o.Frames
	if len(frames) == 0 {
		frames = []Frame{{StoredBytes: o.StoredBytes + 1, RawBytes: o.RawBytes, FirstStamp: o.FirstStamp}}
	}
	var seek []seekEntry
	first := c.scan.newlines
	for j, f := range frames {
		if lines := c.scan.newlines - first; lines != f.FirstLine {
			return fmt.Errorf("%d lines end before frame %d, its record says %d", lines, j, f.FirstLine)
		}
		lr.reset(io.LimitReader(stored, f.StoredBytes))
		if err := c.frame(lr, f.RawBytes, raw); err != nil {
			return frameError(o, j, err)
		}
		seek = append(seek, seekEntry{stored: uint32(f.StoredBytes), raw: uint32(f.RawBytes), checksum: stored.last})
		firstStamp, lastStamp := c.scan.take()
		if !c.adrift && !sameTime(firstStamp, f.FirstStamp) {
			return frameError(o, j, errors.New("the first stamp is not the one that its record says"))
		}
		if stamps.FirstStamp == nil {
			stamps.FirstStamp = firstStamp
		}
		if lastStamp != nil {
			stamps.LastStamp = lastStamp
		}
	}
	if is := hex.EncodeToString(raw.Sum(nil)); is != o.RawSHA256 {
		return fmt.Errorf("the sha256 of its text is %s, its record says %s", is, o.RawSHA256)
	}
	if !c.adrift && (!sameTime(stamps.FirstStamp, o.FirstStamp) || !sameTime(stamps.LastStamp, o.LastStamp)) {
		return errors.New("first and last stamp are not those that its record says")
	}
	return checkSeekTable(stored, o, seek, compression)
}

func frameError(o *Object, j int, err error) error {
	if len(o.Frames) == 0 {
		return err
	}
	return fmt.Errorf("frame %d: %w", j, err)
}

// frame reads the text of one frame.
func (c *logCheck) frame(lr *LogReader, size int64, raw hash.Hash) error {
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	var got int64
	for {
		n, err := lr.Read(c.buf)
		got += int64(n)
		if got > size {
			return fmt.Errorf("it holds more than %d bytes of text", size)
		}
		raw.Write(c.buf[:n])
		c.whole.Write(c.buf[:n])
		c.scan.feed(c.buf[:n])
		switch {
		case errors.Is(err, io.EOF) && got < size:
			return fmt.Errorf("it ends after %d of %d bytes of text", got, size)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// checkSeekTable compares what follows the last listed frame with what a writer puts there.
func checkSeekTable(stored *storedBytes, o *Object, seek []seekEntry, compression Compression) error {
	if len(o.Frames) == 0 {
		return nil
	}
	var want []byte
	if compression == Zstd {
		want = appendSeekTable(nil, seek)
	}
	got, err := io.ReadAll(io.LimitReader(stored, int64(len(want))+1))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("its seek table does not describe its frames")
	}
	return nil
}

// end compares the whole text with the record.
func (c *logCheck) end() error {
	r := c.record
	if is := hex.EncodeToString(c.whole.Sum(nil)); len(r.Objects) > 0 && is != r.RawSHA256 {
		return fmt.Errorf("the sha256 of the whole text is %s, the record says %s", is, r.RawSHA256)
	}
	if !slices.Equal(c.scan.lastLines(), r.LastLines) {
		return errors.New("the last lines of the log are not those that the record shows")
	}
	return nil
}

// storedBytes counts and hashes an object's bytes as they are read, and knows the last four.
type storedBytes struct {
	r    io.Reader
	hash hash.Hash
	n    int64
	last [4]byte
	err  error
}

func (s *storedBytes) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.err = err
	s.n += int64(n)
	s.hash.Write(p[:n])
	keepLast(&s.last, p[:n])
	return n, err
}
