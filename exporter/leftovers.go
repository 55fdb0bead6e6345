package exporter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
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

func (l *leftovers) ids() []runID {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]runID, 0, len(l.m))
	for id := range l.m {
		ids = append(ids, id)
	}
	return ids
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
func (s *shipper) takeDrafts(f *found) error {
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
	all := c.e.leftovers.take(c.run.id)
	var err error
	for _, left := range all {
		if err = c.takeLeftover(ctx, left); err != nil {
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
	return true
}

func (c *capture) takeLeftover(ctx context.Context, left *leftover) error {
	text, done, err := left.text(c.e.spool)
	if err != nil {
		return err
	}
	defer done()
	if err := c.open(); err != nil {
		return err
	}
	if c.out.draft == nil {
		return errSpoolFull // in memory it would be lost with the process
	}
	apart := left.apart() && c.earlier != nil
	if c.out.sieve != nil && left.redacted() {
		return c.takeRedacted(text, apart)
	}
	if apart && c.out.sieve == nil {
		text = linesSince(text, c.since())
	} else if c.earlier != nil && c.out.sieve == nil {
		tail, closeTail, err := c.e.storedTail(ctx, c.earlier)
		defer closeTail()
		if err != nil {
			return err
		}
		text = io.MultiReader(tail, text)
	}
	res, err := c.log.Read(text)
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
	if t := c.run.now().term; c.earlier == nil && !c.resumed && t != nil && !t.FinishedAt.IsZero() && c.log.First().After(t.FinishedAt.Add(time.Second)) {
		// A stream that was opened for this run and brought its successor's log, before the status told.
		c.reset()
		c.tookUp = true
		return nil
	}
	c.joined(res)
	c.resumed, c.pieced, c.tookText, c.followed, c.asked = true, true, true, true, slotCurrent
	c.notes.Lock()
	c.reads = append(c.reads, bundle.Read{Time: time.Now().UTC(), Method: "spool", RawBytes: res.Bytes, Result: "ok"})
	c.notes.Unlock()
	c.out.flush()
	return nil
}

// takeRedacted goes on with text that was redacted before it was kept. If an earlier leftover was taken up,
// the two overlap: a process was killed while it took up the one, or began anew because it could not.
func (c *capture) takeRedacted(text io.Reader, apart bool) error {
	o := c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	var held heldEnd
	switch {
	case c.tookText && c.log.Bytes() > 0:
		held = heldEnd{last: c.log.Last(), n: math.MaxInt}
	case c.tookText, apart: // likewise what is stored
		held = heldEnd{last: o.sieve.last, n: o.sieve.n}
	}
	first, last, n, err := copyHeld(writerFunc(func(p []byte) (int, error) {
		n, err := o.w.Write(p)
		if err != nil {
			err = &podlog.WriteError{Err: err}
		}
		return n, err
	}), text, held)
	if err != nil || last.IsZero() {
		return err
	}
	if c.earlier == nil && !c.tookText {
		o.first = first
	}
	if apart && first.After(held.last) {
		c.middle = bundle.Part{State: bundle.Lost, Cause: bundle.CauseJoinFailed, After: utc(held.last), Before: utc(first), Evidence: []string{
			"what was read while the store was away begins behind what is stored",
		}}
	}
	c.tookText = true
	o.sieve.goOn(last, n, o.w.Lines())
	c.resumed, c.pieced = true, true
	return o.w.Flush()
}

// adopt gives a record to what an earlier process had read of runs that nobody knows any more, once every
// pod has been seen.
func (e *Exporter) adopt(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for len(e.leftovers.ids()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if e.Ready() != nil {
			continue
		}
		for _, id := range e.leftovers.ids() {
			if e.tracker.knows(id.podUID) {
				continue
			}
			for _, left := range e.leftovers.take(id) {
				if err := e.adoptOne(left); err != nil {
					e.log.Warn("cannot give a record to a capture that was not finished; the next start tries again", "namespace", left.about.Namespace, "pod", left.about.Pod.Name, "err", err)
				}
			}
		}
	}
}

// redactorOf returns the redactor of the export that takes a run which is known from a record only, nil if
// it has none. Where several may take it, or none takes it any more, the secrets are taken out all the same.
func (e *Exporter) redactorOf(rec *bundle.Record) *redact.Redactor {
	pod := &podInfo{namespace: rec.Namespace, name: rec.Pod.Name, uid: types.UID(rec.Pod.UID), labels: flat(rec.Pod.Labels), owners: rec.Pod.Owners, node: rec.Pod.NodeName}
	v := view{id: idOf(rec), kind: rec.Container.Type, restart: rec.Container.RestartCount, image: rec.Container.Image, imageID: rec.Container.ImageID}
	if rec.State.StartedAt != nil {
		v.startedAt = *rec.State.StartedAt
	}
	all := e.exports.Load()
	list, _ := e.candidates(all, &run{view: v}, moment{pod: pod})
	if len(list) == 0 {
		list = all.list
	}
	for _, x := range list {
		if x.Redact != nil {
			return x.Redact
		}
	}
	return nil
}

// adoptOne makes a snapshot of a leftover.
func (e *Exporter) adoptOne(left *leftover) error {
	text, done, err := left.text(e.spool)
	if err != nil {
		return err
	}
	defer done()
	rec := *left.about
	redactor := (*redact.Redactor)(nil)
	if !left.redacted() {
		if redactor = e.redactorOf(&rec); redactor != nil {
			rec.Capture.Redaction = &bundle.Redaction{Rules: redactor.Names()}
		}
	}
	about, err := bundle.Encode(&rec)
	if err != nil {
		return err
	}
	out, err := newOutput(e.spool, e.encoders, bundle.Zstd, about)
	if err != nil {
		return err
	}
	defer out.abort()
	out.redact(redactor)
	if _, err := io.Copy(out, text); err != nil {
		return err
	}
	unproven := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"the exporter ended while it read"}}
	rec.State.Running, rec.State.FinishedAt = true, nil
	rec.Verdict = bundle.Verdict{Head: unproven, Middle: unproven, Tail: unproven}
	if err := out.seal(&rec); err != nil {
		return err
	}
	if rec.RawBytes > 0 {
		run, err := bundle.KeyOf(&rec)
		if err != nil {
			return err
		}
		if err := out.publish(&rec); err != nil {
			return err
		}
		if err := putRecord(e.spool, run.Record(), &rec); err != nil && !errors.Is(err, sink.ErrExists) {
			return err
		}
		e.ship.add(run.Record(), &rec)
	}
	return left.remove(e.spool)
}
