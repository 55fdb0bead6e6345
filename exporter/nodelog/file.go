package nodelog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// headSize is how much of a file's beginning is remembered, to know it again under another name. The
// first stamp is in it, in nanoseconds.
const headSize = 256

var (
	// errMoved: the name does not mean the file now; a new listing will tell what it means.
	errMoved = errors.New("the name means another file now")
	// errOther: the file under this rotated name is not the one that was being read.
	errOther = errors.New("it is another file than the one that was read before")
)

// file is one stored file of the run. Its bytes are counted as text, uncompressed.
type file struct {
	stamp    string // in its name; empty while it is the current file
	name     string // the one it was opened under last
	modified time.Time
	stored   int64 // bytes received, as stored

	size   int64    // when it was opened for the first time; negative if it is not known
	beside []string // the rotated files of the listing before that
	offset int64    // bytes of text taken
	head   []byte   // the first headSize of them

	// body is open on the node, whatever happens to the name; nil if it has to be opened.
	body      io.ReadCloser
	text      io.Reader // what body holds
	from      int64     // offset when it was opened
	skip      int64     // bytes of text at its beginning that were taken before
	asCurrent bool      // opened under the current file's name: it may have grown since
	alone     bool      // opened when everything before it had been read
	proven    bool      // a listing after the opening says that the name meant this file
	young     bool      // written to just now: after a rotation the runtime still flushes its buffer

	renamed  bool // was the current file, and has to be recognised when it is opened again
	unsure   bool // renamed without a file left from before: others may have come and gone between
	gap      bool // bytes may be missing before those that come next
	failures int
	waits    int
}

// accept takes an answer as the file's body, which begins at byte from.
func (f *file) accept(resp *http.Response, from int64, zipped bool) error {
	f.from, f.skip = f.offset, 0
	switch resp.StatusCode {
	case http.StatusOK: // all of it, asked for or not
		f.skip = f.offset
	case http.StatusPartialContent:
		var first int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != from {
			return fmt.Errorf("asked for bytes from %d on, got %q", from, resp.Header.Get("Content-Range"))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		var size int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes */%d", &size); err != nil {
			return fmt.Errorf("asked for bytes from %d on, got %s", from, resp.Status)
		}
		resp.Body.Close()
		if size != from {
			return errMoved
		}
		resp.Body = http.NoBody // nothing behind what was taken
	}
	f.young = false
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		f.modified = t
		now, err := http.ParseTime(resp.Header.Get("Date")) // the node's clock too
		f.young = err == nil && !zipped && now.Sub(t) < 3*time.Second
	}
	f.body = resp.Body
	f.text = &counter{r: resp.Body, n: &f.stored}
	if zipped {
		f.text = &unzipper{r: f.text}
	}
	return nil
}

func (f *file) close() {
	if f.body != nil {
		f.body.Close()
	}
	f.body, f.text, f.proven = nil, nil, false
}

// read takes the next bytes of text. It ends with io.EOF only if the whole body came.
func (f *file) read(p []byte) (int, error) {
	for f.skip > 0 {
		n, err := f.text.Read(p[:min(int64(len(p)), f.skip)])
		if at := f.offset - f.skip; at < int64(len(f.head)) {
			if k := min(int64(n), int64(len(f.head))-at); !bytes.Equal(p[:k], f.head[at:at+k]) {
				return 0, errOther
			}
		}
		f.skip -= int64(n)
		switch {
		case errors.Is(err, io.EOF) && f.skip > 0:
			return 0, errOther // shorter than what was read of it
		case err != nil:
			return 0, err
		}
	}
	n, err := f.text.Read(p)
	if room := headSize - len(f.head); room > 0 {
		f.head = append(f.head, p[:min(n, room)]...)
	}
	f.offset += int64(n)
	return n, err
}

// begins tells whether body begins as the file did. It reads no more than that.
func (f *file) begins(body io.Reader) (bool, error) {
	head, err := io.ReadAll(io.LimitReader(body, int64(len(f.head)))) // a body that breaks off is an error
	return bytes.Equal(head, f.head), err
}

// counter counts the bytes of a body.
type counter struct {
	r io.Reader
	n *int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	*c.n += int64(n)
	return n, err
}

// unzipper decompresses, and does not read ahead before it is asked.
type unzipper struct {
	r io.Reader
	z *gzip.Reader
}

func (u *unzipper) Read(p []byte) (int, error) {
	if u.z == nil {
		z, err := gzip.NewReader(u.r)
		if errors.Is(err, io.EOF) { // not even a header: the kubelet writes none of that kind
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, fmt.Errorf("decompress: %w", err)
		}
		u.z = z
	}
	return u.z.Read(p)
}

// place is how a person would name a rotated or the current file.
func (f *file) place() string {
	if f.name != "" {
		return f.name
	}
	return strings.TrimSpace("file " + f.stamp)
}
