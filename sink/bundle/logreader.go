package bundle

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// LogReader reads the text of a log object, or of any run of its frames from a frame's beginning. It
// checks the checksums of the frames as it goes, needs some 20 MiB at most whatever it is given, and
// starts no goroutine. It cannot tell that whole frames are missing at the end: compare RawBytes.
// Not safe for concurrent use.
type LogReader struct {
	src *source
	zst *zstd.Decoder
	gz  *gzip.Reader
	c   Compression
	err error
}

// NewLogReader returns a reader of the stored bytes of r. It reads ahead in r, and does not close it.
// The caller closes the LogReader, which frees its memory.
func NewLogReader(r io.Reader, c Compression) (*LogReader, error) {
	l := &LogReader{src: &source{r: r}, c: c}
	if c == Gzip {
		return l, nil // gzip.NewReader would read already
	}
	z, err := zstd.NewReader(l.src,
		zstd.WithDecoderConcurrency(1), // no goroutines
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(WindowSize),
		zstd.WithDecoderMaxMemory(WindowSize)) // for frames that have no window but only a size
	if err != nil {
		return nil, fmt.Errorf("open log object: %w", err)
	}
	l.zst = z
	return l, nil
}

// reset makes it read something else of the same compression, and keeps its memory.
func (l *LogReader) reset(r io.Reader) {
	l.src, l.gz, l.err = &source{r: r}, nil, nil
	if l.zst != nil {
		l.err = l.zst.Reset(l.src)
	}
}

// Read fails when the object is damaged, and with the error of the underlying reader when that fails.
func (l *LogReader) Read(p []byte) (int, error) {
	if l.err != nil || len(p) == 0 {
		return 0, l.err
	}
	n, err := l.read(p)
	switch {
	case err == nil:
		return n, nil
	case l.src.err != nil:
		// The decoders take a source that fails between two frames for one that ended.
		err = l.src.err
	case !errors.Is(err, io.EOF):
		err = fmt.Errorf("decompress log: %w", err)
	default:
		err = io.EOF
	}
	l.err = err
	return n, err
}

func (l *LogReader) read(p []byte) (int, error) {
	if l.c == Zstd {
		return l.zst.Read(p)
	}
	if l.gz == nil {
		z, err := gzip.NewReader(l.src)
		if err != nil {
			return 0, err
		}
		l.gz = z
	}
	return l.gz.Read(p)
}

// Close frees the reader's memory. Further reads fail.
func (l *LogReader) Close() error {
	if l.zst != nil {
		l.zst.Close()
		l.zst = nil
	}
	l.gz = nil
	l.err = errors.New("read log: the reader is closed")
	return nil
}

// source remembers why the stored bytes ended.
type source struct {
	r   io.Reader
	err error // nil for a clean end
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
