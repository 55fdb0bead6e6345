package bundle

import (
	"crypto/md5" //nolint:gosec // not against forgery: most stores tell the MD5 as ETag
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// encodeFrame compresses the first size bytes of the frame in progress into the object in progress,
// or into a new one if this one could grow too large. One pass over the text does everything.
func (w *LogWriter) encodeFrame(size int64) error {
	if w.object != nil && len(w.object.frames) > 0 && w.object.StoredBytes+worstCase(size)+seekTableSize(len(w.object.frames)+1) > w.o.MaxStored {
		if err := w.endObject(); err != nil {
			return err
		}
	}
	if w.object == nil {
		if err := w.beginObject(); err != nil {
			return err
		}
	}
	o := w.object
	frame := Frame{
		Offset:    o.StoredBytes,
		RawOffset: o.RawBytes,
		RawBytes:  size,
		FirstLine: w.scan.newlines - o.firstLines,
	}
	before := w.point()
	enc := w.o.Encoders.take()
	defer w.o.Encoders.give(enc)
	z, err := enc.begin(o.w, io.MultiWriter(o.stored, o.md5), w.o.Compression, size)
	if err != nil {
		return err
	}
	if err = w.eachPiece(size, enc.buf, func(p []byte) error {
		w.whole.Write(p)
		if o.raw != nil {
			o.raw.Write(p)
		}
		w.scan.feed(p)
		_, err := z.Write(p)
		return err
	}); err == nil {
		err = z.Close()
	}
	if err == nil {
		err = enc.out.Flush()
	}
	if err != nil {
		err = fmt.Errorf("write log object: %w", err)
		w.back(before, err)
		return err
	}
	frame.StoredBytes = enc.stored.n
	o.add(frame, seekEntry{stored: uint32(enc.stored.n), raw: uint32(size), checksum: enc.stored.last}, &w.scan)
	return nil
}

// point is where a writer stands between two frames, so that it can go back there.
type point struct {
	whole, raw, stored, md5 hash.Hash
	scan                    scanner
}

func (w *LogWriter) point() point {
	o := w.object
	p := point{whole: clone(w.whole), stored: clone(o.stored), md5: clone(o.md5), scan: w.scan.clone()}
	if o.raw != nil {
		p.raw = clone(o.raw)
	}
	return p
}

// clone copies a hash of the standard library, which all can be copied.
func clone(h hash.Hash) hash.Hash {
	c, err := h.(hash.Cloner).Clone()
	if err != nil {
		panic("bundle: " + err.Error())
	}
	return c.(hash.Hash) //nolint:forcetypeassert // Clone says so
}

// back takes back a frame of which only a part could be written.
func (w *LogWriter) back(p point, why error) {
	o := w.object
	w.whole, w.scan, o.raw, o.stored, o.md5 = p.whole, p.scan, p.raw, p.stored, p.md5
	w.rewind(why)
}

// rewind takes back what was written to the object in progress and does not count. Where that cannot be done
// the writer is good for nothing any more.
func (w *LogWriter) rewind(why error) {
	o := w.object
	f, ok := o.w.(Rewinder)
	if !ok {
		w.err = why
		return
	}
	err := f.Truncate(o.StoredBytes)
	if err == nil {
		_, err = f.Seek(o.StoredBytes, io.SeekStart)
	}
	if err != nil {
		w.err = errors.Join(why, fmt.Errorf("rewind log object: %w", err))
	}
}

// worstCase is more than a frame of incompressible text can take: a few bytes for each block, and
// header and checksum.
func worstCase(size int64) int64 { return size + size>>10 + 64 }

// eachPiece hands out the first size bytes of the frame in progress.
func (w *LogWriter) eachPiece(size int64, piece []byte, do func([]byte) error) error {
	fromFile := min(size, w.inScratch)
	for off := int64(0); off < fromFile; {
		piece = piece[:min(fromFile-off, int64(cap(piece)))]
		if _, err := w.o.Scratch.ReadAt(piece, off); err != nil {
			return fmt.Errorf("read scratch file: %w", err)
		}
		if err := do(piece); err != nil {
			return err
		}
		off += int64(len(piece))
	}
	if size > fromFile {
		return do(w.buf[:size-fromFile])
	}
	return nil
}

func (w *LogWriter) beginObject() error {
	file, err := w.o.Next()
	if err != nil {
		return fmt.Errorf("begin log object: %w", err)
	}
	w.object = &openObject{w: file, stored: sha256.New(), md5: md5.New(), firstLines: w.scan.newlines}
	if len(w.done) > 0 {
		w.object.raw = sha256.New() // for the first object, the hash of the whole is its own
	}
	return nil
}

// add takes the frame that was just written into the object's account.
func (o *openObject) add(f Frame, e seekEntry, scan *scanner) {
	first, last := scan.take()
	f.FirstStamp = first
	if o.FirstStamp == nil {
		o.FirstStamp = first
	}
	if last != nil {
		o.LastStamp = last
	}
	o.StoredBytes += f.StoredBytes
	o.RawBytes += f.RawBytes
	o.Lines = scan.newlines - o.firstLines
	o.frames = append(o.frames, f)
	o.seek = append(o.seek, e)
}

// endObject writes the seek table of an object of several frames and closes its account.
func (w *LogWriter) endObject() error {
	o := w.object
	if len(o.frames) > 1 {
		o.Frames = o.frames
		if w.o.Compression == Zstd {
			table := appendSeekTable(nil, o.seek)
			if n, err := o.w.Write(table); err != nil || n < len(table) {
				if err == nil {
					err = io.ErrShortWrite
				}
				err = fmt.Errorf("write seek table: %w", err)
				w.rewind(err)
				return err
			}
			o.stored.Write(table)
			o.md5.Write(table)
			o.StoredBytes += int64(len(table))
		}
	}
	o.StoredSHA256 = hex.EncodeToString(o.stored.Sum(nil))
	o.StoredMD5 = hex.EncodeToString(o.md5.Sum(nil))
	raw := o.raw
	if raw == nil {
		raw = w.whole
	}
	o.RawSHA256 = hex.EncodeToString(raw.Sum(nil))
	w.done, w.object = append(w.done, o.Object), nil
	return nil
}
