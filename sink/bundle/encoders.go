package bundle

import (
	"bufio"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// WindowSize is how far back a log object's zstd frames refer, and so what a reader needs in
	// memory. RFC 9659 lets HTTP clients refuse more, and Trino does (trino#25142).
	WindowSize = 8 << 20
	// writeWindow is how far back the frames that are written here refer. Larger windows find no more in
	// logs (measured: 8 MiB saves nothing over 1 MiB), and an encoder holds twice its window.
	writeWindow = 2 << 20
	// copySize is how much of a frame is in memory at a time while it is compressed.
	copySize = 128 << 10
)

// Encoders are what LogWriters compress with. A zstd encoder holds some 10 MiB, so a program has one
// Encoders for all its writers: no more than n frames are compressed at a time, and a writer that
// finds all encoders busy waits in Write or Close until one is free. Between two frames a writer
// holds no encoder. Encoders are made on first use and kept. Safe for concurrent use.
type Encoders struct {
	free chan *encoder // nil stands for an encoder that was not needed yet
}

// NewEncoders returns Encoders that compress at most n frames at a time; less than 1 means 1.
func NewEncoders(n int) *Encoders {
	e := &Encoders{free: make(chan *encoder, max(n, 1))}
	for range cap(e.free) {
		e.free <- nil
	}
	return e
}

func (e *Encoders) take() *encoder {
	enc := <-e.free
	if enc == nil {
		enc = &encoder{buf: make([]byte, copySize), stored: storedHash{}}
		enc.out = bufio.NewWriterSize(&enc.stored, 64<<10)
	}
	return enc
}

func (e *Encoders) give(enc *encoder) {
	enc.stored.w = nil
	e.free <- enc
}

// encoder compresses one frame at a time.
type encoder struct {
	zstd   *zstd.Encoder
	gzip   *gzip.Writer
	buf    []byte
	out    *bufio.Writer // gzip writes in small pieces
	stored storedHash
}

// begin starts a frame that will hold exactly size bytes and goes to w.
func (e *encoder) begin(w io.Writer, h storedSums, c Compression, size int64) (io.WriteCloser, error) {
	e.stored = storedHash{w: w, sums: h}
	e.out.Reset(&e.stored)
	if c == Gzip {
		if e.gzip == nil {
			e.gzip = gzip.NewWriter(e.out)
		} else {
			e.gzip.Reset(e.out)
		}
		return e.gzip, nil
	}
	if e.zstd == nil {
		z, err := zstd.NewWriter(nil,
			zstd.WithEncoderConcurrency(1), // no goroutines
			zstd.WithEncoderLevel(zstd.SpeedDefault),
			zstd.WithWindowSize(writeWindow),
			zstd.WithEncoderCRC(true),
			// Otherwise frames below 256 bytes would not tell their size.
			zstd.WithSingleSegment(true))
		if err != nil {
			return nil, fmt.Errorf("make zstd encoder: %w", err)
		}
		e.zstd = z
	}
	e.zstd.ResetContentSize(e.out, size)
	return e.zstd, nil
}

// storedHash passes a frame on to its object, and counts and hashes it.
type storedHash struct {
	w    io.Writer
	sums storedSums // of the whole object
	n    int64      // of the frame
	last [4]byte    // the last bytes of the frame: its checksum
}

func (s *storedHash) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.n += int64(n)
	_, _ = s.sums.Write(p[:n]) // a hash never fails
	if n >= len(s.last) {
		copy(s.last[:], p[n-len(s.last):n])
	} else {
		copy(s.last[:], s.last[n:])
		copy(s.last[len(s.last)-n:], p[:n])
	}
	return n, err
}
