package nodelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	// maxTries bounds how often names may move between two listings. A kubelet rotates a file every
	// 10 s at most (3 s is the least that containerLogMonitorInterval allows), and the name of the
	// current file is missing only until the runtime has opened the next one.
	maxTries = 10
	// maxFailures bounds how often one file's body may break without bringing anything.
	maxFailures = 4
	// maxGrowth bounds how often a file that still grows is read on.
	maxGrowth = 16
)

// source reads the bytes of a run's files, oldest file first, while the kubelet renames, compresses
// and removes them. Each byte comes once.
//
// All files are opened first, then the directory is listed again. A rotation adds a name that was not
// there before, so if there is none, every name meant the file that the first listing said. Only the
// current file's name can change its meaning; a rotated one never does.
type source struct {
	c         *Client
	ctx       context.Context //nolint:containedctx // of one Open; Read has none
	directory string
	run       Run

	queue []*file // still to be read, oldest first; the last has no stamp, until it is read to its end
	all   []*file
	seen  map[string]bool // stamps that are or were in the queue, or were left out
	now   listing

	small   bool // no rotation was under way when that listing was made, and no failed one was waiting
	started bool // the files were opened, and a listing agreed
	rotated int  // how many rotated files that listing held
	left    []File
	witness bool // that listing held a file that was left out for its age
	closed  bool // a listing after the last byte shows nothing that was not read

	bare bool // nothing was read after the latest gap: it may be the tail that is missing

	gaps                      []string
	headLost, lost, openEnded bool
}

func (s *source) start(since time.Time) error {
	l, err := s.c.list(s.ctx, s.directory, s.run.Restart)
	if err != nil {
		return err
	}
	if !l.current && len(l.stamps) == 0 {
		return &Error{Verb: "list", URL: s.directory, Kind: ErrNotFound, Cause: fmt.Errorf("the directory has no file of restart %d", s.run.Restart)}
	}
	s.now, s.rotated = l, len(l.stamps)
	s.seen = make(map[string]bool)
	if err := s.leaveOut(since); err != nil {
		return err
	}
	for _, stamp := range append(slices.Clone(l.stamps), "") {
		if !s.seen[stamp] {
			s.add(stamp)
		}
	}
	if err := s.hold(); err != nil {
		s.close()
		return err
	}
	if len(s.queue) == 0 {
		return &Error{Verb: "list", URL: s.directory, Kind: ErrNotFound, Cause: errors.New("the files were removed while they were opened")}
	}
	s.started = true
	s.rotated = max(s.rotated, len(s.now.stamps)) // none any more, if the directory was removed
	// A rotation begins when the current file has the full size, and it keeps that until it is renamed.
	// Names of rotated files never come back, so the same ones before and after are those in between.
	if f := s.queue[len(s.queue)-1]; f.stamp == "" && s.now.current {
		s.small = f.size >= 0 && f.size < s.c.maxSize && slices.Equal(f.beside, s.now.stamps)
	}
	for _, f := range s.left {
		s.witness = s.witness || slices.Contains(s.now.stamps, f.stamp)
	}
	return nil
}

// leaveOut marks the rotated files that ended before since as seen. A line's stamp is older than the
// last change of its file, for a compressed one by a whole rotation.
func (s *source) leaveOut(since time.Time) error {
	if since.IsZero() {
		return nil
	}
	for i, stamp := range slices.Backward(s.now.stamps) {
		resp, err := s.c.get(s.ctx, "read", s.directory+s.now.name(s.run.Restart, stamp), 0, 0)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		resp.Body.Close()
		t, err := http.ParseTime(resp.Header.Get("Last-Modified"))
		if err != nil || !t.Add(time.Second).Before(since) { // whole seconds
			continue
		}
		for _, old := range s.now.stamps[:i+1] {
			s.seen[old] = true
			s.left = append(s.left, File{Name: s.now.name(s.run.Restart, old), stamp: old})
		}
		s.left[i].Modified = t
		return nil
	}
	return nil
}

func (s *source) add(stamp string) {
	f := &file{stamp: stamp, size: -1}
	s.queue = append(s.queue, f)
	s.all = append(s.all, f)
	s.seen[stamp] = true
}

// hold opens every file of the queue that is not open, and lists until the names agree.
func (s *source) hold() error {
	failures := 0
	for try := 1; ; try++ {
		held := true
		var failure error
		for i := 0; i < len(s.queue); i++ {
			f := s.queue[i]
			if f.body != nil {
				continue
			}
			switch err := s.open(f); {
			case err == nil:
			case errors.Is(err, errOther):
				s.replace(f)
				held, i = false, i-1
			case errors.Is(err, ErrNotFound), errors.Is(err, errMoved):
				held = false
			default:
				held, failure = false, err
			}
			if failure != nil {
				break
			}
		}
		changed, err := false, failure
		if failure == nil {
			changed, err = s.look()
		}
		if err != nil {
			failures++
		}
		switch {
		case errors.Is(err, ErrNotFound):
			s.vanished()
			return nil
		case err != nil && (!errors.Is(err, ErrUnavailable) || failures >= maxFailures):
			return err
		case err == nil && held && !changed:
			for _, f := range s.queue {
				f.proven = true
			}
			return nil
		case try >= maxTries:
			s.giveUp()
			return nil
		case changed: // there is something new to open
		default:
			if err := s.wait(time.Duration(try) * s.c.pause); err != nil {
				return err
			}
		}
	}
}

// open opens a file under the name that the latest listing gives it, from where it was read to.
func (s *source) open(f *file) error {
	zipped := s.now.zipped[f.stamp]
	f.name = s.now.name(s.run.Restart, f.stamp)
	f.asCurrent = f.stamp == ""
	f.alone = s.queue[0] == f
	url := s.directory + f.name
	if f.renamed && !zipped && f.offset > 0 {
		resp, err := s.c.get(s.ctx, "read", url, 0, int64(len(f.head))-1)
		if err != nil {
			return err
		}
		same, err := f.begins(resp.Body)
		resp.Body.Close()
		if err != nil {
			return failed(s.ctx, "read", url, err)
		}
		if !same {
			return errOther
		}
	}
	if f.renamed && f.unsure && f.offset == 0 {
		s.missing("%s may not be the next file after the one that was read: no older file is left to show it", f.name)
		f.gap = true
	}
	f.renamed = false
	from := f.offset
	if zipped {
		from = 0
	}
	resp, err := s.c.get(s.ctx, "read", url, from, -1)
	if err != nil {
		return err
	}
	if from == 0 && resp.StatusCode == http.StatusOK {
		f.size, f.beside = resp.ContentLength, s.now.stamps
	}
	if err := f.accept(resp, from, zipped); err != nil {
		resp.Body.Close()
		switch {
		case !errors.Is(err, errMoved):
			return failed(s.ctx, "read", url, err)
		case f.stamp != "":
			return errOther // a rotated name keeps its meaning, so this was the wrong one
		}
		return err
	}
	return nil
}

// look lists the directory and gives the files in the queue the names they have now.
func (s *source) look() (changed bool, err error) {
	l, err := s.c.list(s.ctx, s.directory, s.run.Restart)
	if err != nil {
		return false, err
	}
	old := s.now
	s.now = l
	fresh := slices.DeleteFunc(slices.Clone(l.stamps), func(stamp string) bool { return s.seen[stamp] })
	if len(fresh) > 0 {
		s.rename(old, fresh)
		changed = true
	}
	s.drop(func(f *file) bool {
		gone := f.stamp != "" && f.body == nil && !slices.Contains(l.stamps, f.stamp)
		if gone {
			s.missing("%s was removed after %d bytes of it were read", s.now.name(s.run.Restart, f.stamp), f.offset)
			changed = true
		}
		return gone
	})
	return changed, nil
}

// rename follows rotations: the first new name is that of the file that was the current one.
func (s *source) rename(old listing, fresh []string) {
	kept := slices.ContainsFunc(old.stamps, func(stamp string) bool { return slices.Contains(s.now.stamps, stamp) })
	if n := len(old.stamps); n > 0 && fresh[0] < old.stamps[n-1] {
		s.missing("a file was rotated to %s although %s was there: the node's clock went back, and the order of the files is not certain", fresh[0], old.stamps[n-1])
	}
	if n := len(s.queue); n > 0 && s.queue[n-1].stamp == "" {
		f := s.queue[n-1]
		if !f.proven {
			f.close() // opened between the listings, so it may be any of the new files
		}
		// The kubelet removes the oldest first, so a file that is still there from the last listing
		// shows that none was removed that came after it.
		f.stamp, f.renamed, f.unsure = fresh[0], true, !kept && (s.started || len(old.stamps) > 0)
		s.seen[fresh[0]] = true
		fresh = fresh[1:]
	}
	for _, stamp := range append(slices.Clone(fresh), "") {
		s.add(stamp)
	}
}

// replace puts a file in the place of one that is not the one it was taken for.
func (s *source) replace(f *file) {
	s.missing("%s is not the file that was being read: that one was removed after %d bytes", f.name, f.offset)
	f.close()
	n := &file{stamp: f.stamp, size: -1, gap: true}
	s.queue[slices.Index(s.queue, f)] = n
	s.all = append(s.all, n)
}

// drop removes files from the queue, and marks the gaps that they leave.
func (s *source) drop(gone func(*file) bool) {
	gap := false
	s.queue = slices.DeleteFunc(s.queue, func(f *file) bool {
		f.gap = f.gap || gap
		gap = gone(f)
		return gap
	})
}

// vanished drops what cannot be opened any more because the directory is gone.
func (s *source) vanished() {
	if !s.started && len(s.queue) > 0 {
		s.missing("the directory was removed while its files were opened: whether one was rotated meanwhile cannot be seen")
	}
	s.now = listing{}
	s.drop(func(f *file) bool {
		if f.body != nil {
			return false
		}
		if f.stamp == "" {
			s.openEnd("the directory was removed when %d bytes of the newest file were read: whether it held more cannot be seen", f.offset)
		} else {
			s.missing("the directory was removed when %d bytes of %s were read", f.offset, f.place())
		}
		return true
	})
}

// giveUp drops what could not be opened although it was listed again and again.
func (s *source) giveUp() {
	s.headLost = s.headLost || !s.started
	s.drop(func(f *file) bool {
		if f.body != nil {
			return false
		}
		if f.stamp == "" {
			s.openEnd("the newest file could not be opened after %d bytes of it: its name is missing or keeps moving", f.offset)
		} else {
			s.missing("%s could not be opened after %d bytes of it: its name keeps moving", f.place(), f.offset)
		}
		return true
	})
}

// border is what lies between the bytes of one read and those of the next.
type border int

const (
	within border = iota // nothing: the same file goes on
	ended                // the end of a file; the next one follows it
	broken               // the end of a file, or of what could be had of it; bytes may be missing here
)

// read takes the next bytes, or none and a border that lies before the next ones.
func (s *source) read(p []byte) (int, border, error) {
	for len(s.queue) > 0 {
		f := s.queue[0]
		if f.body == nil {
			if err := s.hold(); err != nil {
				return 0, within, err
			}
			if len(s.queue) == 0 || s.queue[0] != f { // it is lost
				s.bare = true
				return 0, broken, nil
			}
			continue
		}
		if f.gap {
			f.gap, s.bare = false, true
			return 0, broken, nil
		}
		n, err := f.read(p)
		if n > 0 {
			f.failures, s.bare = 0, false
			return n, within, nil // an error comes again
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			proven := f.proven
			f.close()
			done, err := s.finish(f, proven)
			if err != nil {
				return 0, within, err
			}
			if done {
				s.queue = s.queue[1:]
				return 0, ended, nil
			}
		case errors.Is(err, errOther) && f.stamp != "":
			s.replace(f)
		case f.failures >= maxFailures || s.ctx.Err() != nil:
			return 0, within, failed(s.ctx, "read", s.directory+f.name, err)
		default:
			f.close()
			f.failures++
			if err := s.wait(time.Duration(f.failures) * s.c.pause); err != nil {
				return 0, within, err
			}
		}
	}
	return 0, within, io.EOF
}

// finish decides whether a file whose body has ended is read to its end.
func (s *source) finish(f *file, proven bool) (bool, error) {
	if f.offset > f.from {
		f.waits++
	}
	switch {
	case f.stamp == "" && f.offset == f.from && f.alone && proven:
		// The listing after this answer shows no rotation, so the answer was about this file, and it
		// was given when everything else had been read.
		s.closed = s.now.current
		if !s.closed {
			s.openEnd("the newest file was removed when it had been read")
		}
		return true, nil
	case f.stamp == "" && f.waits >= maxGrowth:
		s.openEnd("the newest file still grew when it was read for the %dth time", f.waits)
		return true, nil
	case f.stamp == "", f.asCurrent: // it may have grown since it was opened
		return false, nil
	case f.young && f.failures < maxFailures:
		// The runtime opens the next file before it has flushed the lines for this one (containerd,
		// internal/cri/server/container_log_reopen.go), so its end may not be there yet.
		f.failures++
		return false, s.wait(s.c.quiet)
	}
	return true, nil
}

func (s *source) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.ctx.Done():
		return failed(s.ctx, "read", s.directory, s.ctx.Err())
	}
}

func (s *source) close() {
	for _, f := range s.queue {
		f.close()
	}
}

// missing notes that bytes are, or may be, missing between the first and the last that were read.
func (s *source) missing(format string, args ...any) {
	s.lost = true
	s.gaps = append(s.gaps, fmt.Sprintf(format, args...))
}

// openEnd notes that bytes may be missing after the last one.
func (s *source) openEnd(format string, args ...any) {
	s.openEnded = true
	s.gaps = append(s.gaps, fmt.Sprintf(format, args...))
}
