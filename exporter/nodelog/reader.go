package nodelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// blockSize is what one fill takes from a file. A line may be of any length.
const blockSize = 64 << 10

// Reader gives the text of a run: what `kubectl logs --timestamps` would print for its files put
// together. It is not safe for concurrent use.
type Reader struct {
	src   *source
	cri   parser
	since time.Time
	in    []byte
	held  int // bytes of in that the parser left
	out   []byte
	text  []byte // the part of out that was not taken yet
	err   error
	cuts  int64 // in files before the last one
}

// File is one file of a run.
type File struct {
	Name     string    // the one it had last
	Bytes    int64     // received, as stored
	Modified time.Time // zero if the kubelet did not say

	stamp string
}

// Report says what was read, and whether it is everything.
type Report struct {
	Files []File
	// Stdout and Stderr count the lines of each stream, however they were cut and mixed.
	Stdout, Stderr int64
	// Malformed counts lines of the files that are not in the runtime's format. The kubelet skips
	// them, so they are not in the text.
	Malformed int64
	// Head: no file was removed before the first one that was read, or none that reaches behind the
	// stamp that Open was given. Middle: from the first byte on nothing is missing. Tail: the text
	// reaches to the last byte that the files held when all had been read.
	Head, Middle, Tail bool
	// Evidence has sentences for people: what the claims rest on, and what speaks against them.
	Evidence []string
}

// Open lists the run's files on a node, opens all of them, and returns a reader of their text, oldest
// first. Rotated files that ended before since are left out; older lines of the other files are not.
// The context is for the reading too. Errors are to be asked with errors.Is for the sentinels.
func (c *Client) Open(ctx context.Context, host string, r Run, since time.Time) (*Reader, error) {
	directory, err := c.directory(host, r)
	if err != nil {
		return nil, err
	}
	s := &source{c: c, ctx: ctx, directory: directory, run: r}
	if err := s.start(since); err != nil {
		return nil, err
	}
	return &Reader{src: s, since: since, in: make([]byte, blockSize)}, nil
}

// Read gives the next bytes of text, or io.EOF after the last file's. Another error means that the
// node could not be read any further; what came before it is good.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.text) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

func (r *Reader) fill() {
	n, at, err := r.src.read(r.in[r.held:])
	r.out = r.out[:0]
	block := r.in[:r.held+n]
	var used int
	r.out, used = r.cri.convert(r.out, block)
	r.held = copy(r.in, block[used:])
	if at != within {
		r.cuts = r.cri.cuts // the last file's end is not among them yet
		r.cri.end(r.in[:r.held], at == broken)
		r.held = 0
	}
	r.text, r.err = r.out, err
}

// Close ends the reading. It may be called at any time, by the reading goroutine.
func (r *Reader) Close() error {
	r.src.close()
	if r.err == nil {
		r.err = errors.New("read log of run: closed")
	}
	return nil
}

// Report tells what was read so far; only after io.EOF can it say that this is everything.
func (r *Reader) Report() Report {
	s := r.src
	rep := Report{
		Files:  slices.Clone(s.left),
		Stdout: r.cri.lines[stdout], Stderr: r.cri.lines[stderr], Malformed: r.cri.malformed,
		Evidence: slices.Clone(s.gaps),
	}
	for _, f := range s.all {
		if f.name != "" {
			rep.Files = append(rep.Files, File{Name: s.now.name(s.run.Restart, f.stamp), Bytes: f.stored, Modified: f.modified, stamp: f.stamp})
		}
	}
	say := func(format string, args ...any) { rep.Evidence = append(rep.Evidence, fmt.Sprintf(format, args...)) }

	var why string
	rep.Head, why = r.head()
	say("%s", why)

	rep.Middle = !s.lost
	if r.cri.malformed > 0 {
		rep.Middle = false
		say("%d lines are not in the runtime's format and were skipped, as the kubelet does", r.cri.malformed)
	}
	if r.cuts > 0 {
		rep.Middle = false
		say("%d files end in the middle of a line", r.cuts)
	}
	if r.cri.backwards > 0 {
		rep.Middle = false
		say("a file begins more than a minute before the end of the one before it: their order is not certain")
	}
	rep.Tail = s.closed && !s.openEnded && !s.bare && errors.Is(r.err, io.EOF)
	switch {
	case rep.Tail && r.cri.cuts > r.cuts:
		rep.Tail = false
		say("the newest file ends in the middle of a line")
	case rep.Tail:
		say("a listing after the last byte shows no file that was not read to its end")
	case !errors.Is(r.err, io.EOF):
		say("the files were not read to their end")
	}
	return rep
}

// head tells whether a file was removed before the first one that was read. When the current file has
// reached containerLogMaxSize the kubelet removes the oldest until containerLogMaxFiles-2 rotated ones
// are left, compresses, and only then renames the current one (rotateLog and removeExcessLogs in
// pkg/kubelet/logs/container_log_manager.go); if compressing or reopening fails, it stays at that. So
// once it has removed one it never leaves fewer than that, and with exactly that many the current file
// has its full size. "Fewer than the kubelet keeps" would not be enough.
func (r *Reader) head() (proven bool, why string) {
	s := r.src
	keeps := max(s.c.maxFiles-2, 0)
	switch {
	case s.headLost:
		return false, "the file names moved too fast to say how many files there were"
	case s.witness:
		return true, "a file that ended before the stamp asked for is still there, and the kubelet removes the oldest first"
	case !r.since.IsZero() && !r.cri.first.IsZero() && r.cri.first.Before(r.since):
		return true, "the first line read is older than the stamp asked for"
	case s.rotated < keeps:
		return true, fmt.Sprintf("%d rotated files: with containerLogMaxFiles of %d or more (taken to be %d) the kubelet never leaves so few once it has removed one", s.rotated, s.rotated+3, s.c.maxFiles)
	case s.rotated == keeps && s.small:
		return true, fmt.Sprintf("%d rotated files, and no rotation is under way, as the newest file is smaller than containerLogMaxSize (taken to be %d bytes): with containerLogMaxFiles of %d or more (taken to be %d) that shows that the kubelet has removed none", s.rotated, s.c.maxSize, s.rotated+2, s.c.maxFiles)
	}
	return false, fmt.Sprintf("%d rotated files: older ones may have been removed (containerLogMaxFiles is taken to be %d)", s.rotated, s.c.maxFiles)
}
