package exporter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// leftover is a capture that an earlier process had not finished: what it is about, and its bytes.
type leftover struct {
	about *bundle.Record
	draft *sink.Draft
	logs  []string // its objects that are under their keys already, without a record
}

// leftovers are those that nobody has taken up yet.
type leftovers struct {
	mu sync.Mutex
	m  map[runID][]*leftover
}

func (l *leftovers) add(id runID, left *leftover) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = make(map[runID][]*leftover)
	}
	l.m[id] = append(l.m[id], left)
}

func (l *leftovers) take(id runID) []*leftover {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.m[id]
	delete(l.m, id)
	return left
}

// redacted says whether text of a run was left that went through a redactor.
func (l *leftovers) redacted(id runID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.m[id], (*leftover).redacted)
}

// pods returns the runs of which there are some, each with its pod.
func (l *leftovers) pods() map[runID]podKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	pods := make(map[runID]podKey, len(l.m))
	for id, left := range l.m {
		pods[id] = podKey{left[0].about.Namespace, left[0].about.Pod.Name, id.podUID}
	}
	return pods
}

// has says whether there are any of a run.
func (l *leftovers) has(id runID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.m[id]) > 0
}

// remove removes a leftover's files.
func (l *leftover) remove(spool *sink.Dir) error {
	err := l.draft.Remove()
	for _, key := range l.logs {
		if rerr := spool.Remove(key); !errors.Is(rerr, sink.ErrNotFound) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// takeDrafts sorts what an earlier process had in the making by the runs that it is about.
func (s *shipper) takeDrafts(f *spoolContents) error {
	drafts, err := s.e.spool.Drafts()
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	n := 0
	for _, d := range drafts {
		about, rec := []byte(nil), (*bundle.Record)(nil)
		if about, err = d.About(); err == nil {
			rec, err = bundle.Decode(about)
		}
		if err != nil {
			if err := s.setAsideDraft(d, err); err != nil {
				s.e.log.Warn("cannot set aside a capture that was not finished; the next start tries again", "err", err)
			}
			continue
		}
		left := &leftover{about: rec, draft: d}
		for key, named := range f.logs {
			run, _, _, _, err := bundle.ParseKey(key)
			if err == nil && !named && run.Snapshot.IsZero() && run.UID == rec.Pod.UID && run.Container == rec.Container.Name &&
				run.Restart == rec.Container.RestartCount && run.ID12 == bundle.ID12(rec.Container.ContainerID) {
				left.logs = append(left.logs, key)
				f.logs[key] = true // by this
			}
		}
		slices.Sort(left.logs)
		if at, recorded := f.recorded[idOf(rec)]; recorded && !d.Began().After(at) { // it is what the record was made of
			if err := left.remove(s.e.spool); err != nil {
				s.e.log.Warn("cannot clean the spool; the next start does", "err", err)
			}
			continue
		}
		n++
		s.e.leftovers.add(idOf(rec), left)
	}
	if n > 0 {
		s.e.log.Info("an earlier process has left captures that it had not finished; they are taken up", "captures", n)
	}
	return nil
}

// setAsideDraft handles a draft that does not say what it is about: the machine has lost its power.
func (s *shipper) setAsideDraft(d *sink.Draft, why error) error {
	files, err := d.Files()
	empty := err == nil
	for _, f := range files {
		if n, rerr := f.Read(make([]byte, 1)); n > 0 || rerr != nil && !errors.Is(rerr, io.EOF) {
			empty = false
		}
		_ = f.Close()
	}
	if empty {
		if err := d.Remove(); err != nil {
			return fmt.Errorf("clean spool: %w", err)
		}
		return nil
	}
	to, err := d.SetAside("it is not known which log this is a part of: " + why.Error())
	if err != nil {
		return fmt.Errorf("clean spool: %w", err)
	}
	s.e.metrics.setAside.WithLabelValues("unfinished").Inc()
	s.e.log.Error("a capture that was not finished cannot be told apart, set aside", "file", to, "err", why)
	return nil
}

func idOf(rec *bundle.Record) runID {
	return runID{podUID: types.UID(rec.Pod.UID), container: rec.Container.Name, containerID: rec.Container.ContainerID}
}

// redacted says whether its text went through a redactor.
func (l *leftover) redacted() bool { return l.about.Capture.Redaction != nil }

// wholeLines returns how much of its text are whole lines.
func (l *leftover) wholeLines(spool *sink.Dir) (int64, error) {
	text, done, err := l.text(spool)
	if err != nil {
		return 0, err
	}
	defer done()
	return wholeLines(text)
}

// apart says whether it was not known what was stored of the log when it was begun. So it begins where the kubelet's
// file did, and not behind that.
func (l *leftover) apart() bool { return l.about.Verdict.Middle.Cause == bundle.CauseJoinFailed }

// text opens the log text of a leftover, as far as its bytes go.
func (l *leftover) text(spool *sink.Dir) (io.Reader, func(), error) {
	var closers []io.Closer
	done := func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}
	var stored []io.Reader
	var placed []fs.FileInfo
	compression := bundle.Zstd
	for _, key := range l.logs {
		f, err := spool.File(key)
		if err != nil {
			done()
			return nil, nil, err
		}
		if strings.HasSuffix(key, ".gz") {
			compression = bundle.Gzip
		}
		closers, stored = append(closers, f), append(stored, f)
		if info := stat(f); info != nil {
			placed = append(placed, info)
		}
	}
	files, err := l.draft.Files()
	for _, f := range files {
		closers = append(closers, f)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	var scratch io.Reader = strings.NewReader("")
	for i, f := range files {
		if i == 0 {
			scratch = f // see newOutput
			continue
		}
		if info := stat(f); slices.ContainsFunc(placed, func(p fs.FileInfo) bool { return info != nil && os.SameFile(p, info) }) {
			continue // the process ended after it had put the file under its key, and before it took its other name
		}
		stored = append(stored, f)
	}
	rest := bufio.NewReaderSize(scratch, 64<<10)
	mark, _ := rest.Peek(markSize)
	if i := bytes.IndexByte(mark, '\n'); i >= 0 {
		mark = mark[:i+1]
	}
	texts := make([]io.Reader, 0, len(stored)+1)
	for _, r := range stored {
		texts = append(texts, &decoded{r: r, compression: compression})
	}
	// The frame in progress is in the scratch file until it is finished, so a part of it may be in both.
	whole := &until{r: bufio.NewReaderSize(io.MultiReader(texts...), 64<<10), mark: bytes.Clone(mark), start: true}
	return io.MultiReader(whole, rest), done, nil
}

// takeLeftovers goes on with what an earlier process had read of the run and not committed, before the
// source is asked. It follows what was committed last, if anything was. They leave the disk when all of them are
// written there again, and not before: they may be all there is. It returns whether the capture may go on.
func (c *capture) takeLeftovers(ctx context.Context) bool {
	byStamp := c.e.leftovers.redacted(c.run.id)
	all := c.e.leftovers.take(c.run.id)
	var err error
	for _, left := range all {
		if err = c.takeLeftover(ctx, left, byStamp); err != nil {
			break
		}
	}
	if err == nil && c.out != nil {
		if err = c.out.kept(); err != nil {
			err = &podlog.WriteError{Err: err}
		}
	}
	if err != nil {
		c.reset()
		for _, left := range all {
			c.e.leftovers.add(c.run.id, left)
		}
		c.refused++
		c.e.log.Warn("cannot take up what was read before, will try again", c.attrs("err", err)...)
		var werr *podlog.WriteError
		full := errors.As(err, &werr) || errors.Is(err, errSpoolFull) || sink.Reason(err) == "DiskFull"
		return !full // what cannot be read is no reason to read nothing
	}
	for _, left := range all {
		if err := left.remove(c.e.spool); err != nil {
			c.e.log.Warn("cannot clean the spool; the next start does", c.attrs("err", err)...)
		}
	}
	c.met = false // no read of this process has
	return true
}

// takeLeftover goes on with one of them. byStamp says that one was redacted, so that they can be compared with
// each other, and with what is read, by their stamps only.
func (c *capture) takeLeftover(ctx context.Context, left *leftover, byStamp bool) error {
	if err := c.open(); err != nil {
		return err
	}
	if c.out.draft == nil {
		return errSpoolFull // in memory it would be lost with the process
	}
	if byStamp && c.log.Bytes() == 0 {
		c.log.CompareStamps()
	}
	text, done, err := left.text(c.e.spool)
	if err != nil {
		return err
	}
	defer done()
	if byStamp && c.run.now().reachable() { // a secret may lie across the end of the last line: it is read again
		whole, err := left.wholeLines(c.e.spool)
		if err != nil {
			return err
		}
		text = io.LimitReader(text, whole)
	}
	again := false
	if left.apart() && c.earlier != nil {
		lines := bufio.NewReaderSize(text, 64<<10)
		first := firstStamp(lines)
		if first.After(c.log.Last()) && (c.run.now().endedBefore(first) || c.run.nextMayHave(first)) {
			return nil // the status was late, and it is the next run's
		}
		again = c.out.inKey() && (first.IsZero() || first.After(c.keyFrom())) // it may go on in the key, and show no BEGIN
		text = linesSince(lines, c.since())
	} else if c.earlier != nil {
		tail, closeTail, err := c.e.storedTail(ctx, c.earlier)
		defer closeTail()
		if err != nil {
			return err
		}
		text = io.MultiReader(tail, text)
	}
	var res podlog.Result
	read := func() (err error) {
		res, err = c.log.Read(text)
		return err
	}
	if left.redacted() {
		err = c.out.copy(left.about.Capture.Redaction.Rules, again, read)
	} else {
		err = read()
	}
	if err == nil && c.out.isFull() {
		err = errSpoolFull
	}
	if err != nil {
		return err
	}
	if res.Bytes == 0 {
		if c.earlier == nil && !c.resumed {
			c.reset()
			c.tookUp = true
		}
		return nil
	}
	if c.earlier == nil && !c.resumed && c.run.now().endedBefore(c.log.First()) {
		// A stream that was opened for this run and brought its successor's log, before the status told.
		c.reset()
		c.tookUp = true
		return nil
	}
	c.joined(res)
	c.resumed, c.pieced, c.followed, c.asked = true, true, true, slotCurrent
	c.rereadForKey(ctx)
	c.noting.Lock()
	c.reads = append(c.reads, bundle.Read{Time: time.Now().UTC(), Method: "spool", RawBytes: res.Bytes, Result: "ok"})
	c.noting.Unlock()
	c.out.flush()
	return nil
}
