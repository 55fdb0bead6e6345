package exporter

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func stat(file any) fs.FileInfo {
	if f, ok := file.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := f.Stat(); err == nil {
			return info
		}
	}
	return nil
}

// markSize is more than a stamp has: two lines that agree in so much are one line.
const markSize = 256

// decoded is the text of a log object, as far as it can be decompressed.
type decoded struct {
	r           io.Reader
	compression bundle.Compression
	log         *bundle.LogReader
	done        bool
}

func (d *decoded) Read(p []byte) (int, error) {
	if d.log == nil && !d.done {
		r := bufio.NewReader(d.r)
		compression := d.compression
		if magic, _ := r.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
			compression = bundle.Gzip
		}
		var err error
		if d.log, err = bundle.NewLogReader(r, compression); err != nil {
			d.done = true
		}
	}
	if d.done {
		return 0, io.EOF
	}
	n, err := d.log.Read(p)
	if err != nil {
		_ = d.log.Close()
		d.done = true
		err = io.EOF // damaged, or cut: what came before it counts
	}
	return n, err
}

// until reads lines up to one that begins with mark.
type until struct {
	r     *bufio.Reader
	mark  []byte
	start bool   // of a line
	left  []byte // of the piece that was read last
	end   bool
}

func (u *until) Read(p []byte) (int, error) {
	if len(u.left) == 0 && !u.end {
		if u.start && len(u.mark) > 0 {
			if next, _ := u.r.Peek(len(u.mark)); bytes.Equal(next, u.mark) {
				u.end = true
				return 0, io.EOF
			}
		}
		piece, err := u.r.ReadSlice('\n')
		u.left = piece
		u.start = err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			u.end = true
		}
	}
	if len(u.left) == 0 && u.end {
		return 0, io.EOF
	}
	n := copy(p, u.left)
	u.left = u.left[n:]
	return n, nil
}

// firstStamp returns the stamp of the line that a reader is at; zero if it has none.
func firstStamp(lines *bufio.Reader) time.Time {
	head, _ := lines.Peek(markSize)
	t, _, _ := bundle.ParseStamp(head)
	return t
}

// linesSince leaves out the lines before the first one that is not older than a time, as a kubelet does.
func linesSince(text io.Reader, since time.Time) io.Reader {
	lines := bufio.NewReaderSize(text, 64<<10)
	for start := true; ; {
		head, _ := lines.Peek(markSize)
		if t, _, ok := bundle.ParseStamp(head); len(head) == 0 || start && ok && !t.Before(since) {
			return lines
		}
		_, err := lines.ReadSlice('\n')
		start = err == nil
	}
}
