package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// encodeFrame compresses the first size bytes of the frame in progress into the object in progress,
// or into a new one if this one could grow too large. One pass over the text does everything.
func (w *LogWriter) encodeFrame(size int64) error {
	if w.object != nil && w.object.StoredBytes+worstCase(size)+seekTableSize(len(w.object.frames)+1) > w.o.MaxStored {
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
	enc := w.o.Encoders.take()
	defer w.o.Encoders.give(enc)
	z, err := enc.begin(o.w, o.stored, w.o.Compression, size)
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
		return fmt.Errorf("write log object: %w", err)
	}
	frame.StoredBytes = enc.stored.n
	o.add(frame, seekEntry{stored: uint32(enc.stored.n), raw: uint32(size), checksum: enc.stored.last}, &w.scan)
	return nil
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
	w.object = &openObject{w: file, stored: newStoredSums(), firstLines: w.scan.newlines}
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
	w.object = nil
	if len(o.frames) > 1 {
		o.Frames = o.frames
		if w.o.Compression == Zstd {
			table := appendSeekTable(nil, o.seek)
			if n, err := o.w.Write(table); err != nil || n < len(table) {
				if err == nil {
					err = io.ErrShortWrite
				}
				return fmt.Errorf("write seek table: %w", err)
			}
			_, _ = o.stored.Write(table) // a hash never fails
			o.StoredBytes += int64(len(table))
		}
	}
	o.StoredSHA256, o.StoredMD5 = hex.EncodeToString(o.stored.sha256.Sum(nil)), hex.EncodeToString(o.stored.md5.Sum(nil))
	raw := o.raw
	if raw == nil {
		raw = w.whole
	}
	o.RawSHA256 = hex.EncodeToString(raw.Sum(nil))
	w.done = append(w.done, o.Object)
	return nil
}
