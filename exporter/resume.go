package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// resumeWait bounds the reading of what was stored of a log, resumeDying that of a dying pod's, whose
	// log may be gone in a second.
	resumeWait  = 10 * time.Second
	resumeDying = time.Second
	// resumeLines and resumeTime say how much of a stored log's end is read, so that a further read can be
	// joined with it: as many lines as podlog remembers one by one, or all of the time that reads overlap.
	resumeLines = 512
	resumeTime  = 5 * time.Second
)

// takeUp makes a capture go on with what was stored of the run's log while it went on: by an earlier
// process, or by an earlier look at it. If that cannot be had the log begins anew. It returns whether the capture
// may go on: not while what an earlier process has read waits for room.
func (c *capture) takeUp(ctx context.Context) bool {
	if c.tookUp || c.had() {
		return true
	}
	c.tookUp = true
	m, wait := c.run.now(), resumeWait
	if m.dying || m.podGone {
		wait = resumeDying
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	switch err := c.resumeStored(ctx, c.e.leftovers.redacted(c.run.id)); {
	case err == nil:
		c.apart = false
	case (ctx.Err() != nil || errors.As(err, new(*awayError))) && !(c.e.once && m.ended()): // else people wait, and nothing more comes
		c.reset()
		if c.tookUp = true; !c.apart {
			c.e.log.Warn("cannot look for what was stored of a log; it is read meanwhile, and goes on from there later", c.attrs("err", err)...)
		}
		c.apart = true
	default:
		c.reset()
		c.tookUp, c.apart = true, false
		c.cannotGoOn(err)
	}
	return c.takeLeftovers(ctx)
}

// awayError says that the store could not tell what it has.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// cannotGoOn tells that a log begins anew.
func (c *capture) cannotGoOn(err error) {
	c.e.log.Warn("cannot go on with what was stored of a log; its record will name only what is read from now on, and what was stored stays as a snapshot", c.attrs("err", err)...)
}

// resumeStored makes the log go on where its last snapshot ends, if there is one. byStamp says that what is to be
// put behind that was redacted.
func (c *capture) resumeStored(ctx context.Context, byStamp bool) error {
	key, err := c.stored(ctx)
	if err != nil || key == "" {
		return err
	}
	if err = c.resume(ctx, key, byStamp); !errors.Is(err, sink.ErrNotFound) {
		return err
	}
	// A record that told of damage may have taken its place, or its time in the bucket is over.
	c.reset()
	c.tookUp = true
	if last, lerr := c.e.lastSnapshot(ctx, c.run); lerr != nil {
		return lerr
	} else if last != "" {
		return c.resume(ctx, last, byStamp)
	}
	return err
}

// rejoin puts what was read while the store was away behind what it has of the log. It returns whether the capture
// may store anything: not while the store may have more of the log than is known.
func (c *capture) rejoin(ctx context.Context) bool {
	if !c.apart {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	was := c.held
	if was.out != nil && was.out.draft == nil { // in memory it cannot wait
		c.apart = false
		return true
	}
	about := c.aboutDraft(c.decided(), true)
	c.held = held{tookUp: true}
	err := c.resumeStored(ctx, about.Capture.Redaction != nil)
	away := err != nil && (ctx.Err() != nil || errors.As(err, new(*awayError)))
	if err == nil && was.out != nil && c.earlier != nil {
		err = c.takeOver(ctx, &was, about)
		away = err != nil && !(errors.Is(err, errWithinLine) && c.run.now().ended())
	}
	if err != nil || c.earlier == nil {
		c.reset()
		c.held = was
		if c.apart = away; away {
			c.stuck = err
		} else if err != nil {
			c.cannotGoOn(err)
		}
		return !away
	}
	c.apart = false
	if was.out != nil {
		c.e.metrics.redacted(was.out.newMatches())
		c.met = c.met && (was.met || !was.resumed)
		c.out.cutAs(was.out)
	}
	was.end(c.e)
	c.served, c.own, c.asked, c.tail = was.served, was.own, was.asked, was.tail
	c.late, c.nextRuns, c.unsure, c.overtaken = was.late, was.nextRuns, was.unsure, was.overtaken
	c.pieced = was.pieced // it was read from the file's first line on
	if c.middle.State == bundle.Proven && was.out != nil && was.middle.State != bundle.Proven {
		c.middle = was.middle
	}
	return true
}

// errWithinLine says that a log ends within a line of which the beginning was redacted and written, so that it
// cannot be put behind another text.
var errWithinLine = errors.New("the log ends within a very long line")

// takeOver puts what was read apart behind what is stored.
func (c *capture) takeOver(ctx context.Context, was *held, about *bundle.Record) error {
	line, whole := was.out.openLine()
	if !whole {
		return errWithinLine
	}
	if err := was.out.kept(); err != nil {
		return err
	}
	left := &leftover{about: about, draft: was.out.draft}
	if err := c.takeLeftover(ctx, left, left.redacted()); err != nil {
		return err
	}
	if err := c.log.Append(line); err != nil {
		return err
	}
	return c.out.kept()
}

// stored returns the key of the run's last snapshot, if there is one. The ledger knows it; where a
// ledger was lost, the archive does.
func (c *capture) stored(ctx context.Context) (string, error) {
	key := c.run.storedUnder()
	if spooled := c.e.snapshots[c.run.id]; key == "" || snapshotTime(spooled).After(snapshotTime(key)) {
		key = spooled // the ledger is written after the spool
	}
	if key != "" {
		return key, nil
	}
	stored := c.e.once || c.sweeping.Load() || c.export.live()
	if !stored || !c.e.known.IsZero() || !c.run.startedAt.Before(c.e.begun) || c.run.now().dying {
		return "", nil
	}
	return c.e.lastSnapshot(ctx, c.run)
}

// snapshotTime returns the time in a snapshot's key; zero if it is none.
func snapshotTime(key string) time.Time {
	run, _, _, _, err := bundle.ParseKey(key)
	if err != nil {
		return time.Time{}
	}
	return run.Snapshot
}

// lastSnapshot looks for the youngest snapshot of a run in the archive, day by day backwards.
func (e *Exporter) lastSnapshot(ctx context.Context, r *run) (string, error) {
	key := e.keyOf(r)
	days, err := e.daysSince(ctx, key, r.startedAt)
	if err != nil {
		return "", err
	}
	for _, key.Date = range slices.Backward(days[max(0, len(days)-maxLookBack):]) {
		prefix := strings.TrimSuffix(key.Record(), "json") + "at"
		last := ""
		for o, err := range e.bucket.List(ctx, prefix, sink.ListOptions{}) {
			if err != nil {
				return "", &awayError{fmt.Errorf("look for snapshots: %w", err)}
			}
			if strings.HasSuffix(o.Key, ".json") {
				last = o.Key
			}
		}
		if last != "" {
			return last, nil
		}
	}
	return "", nil
}

// daysSince returns the days from a time on, or the one before it, on which a namespace has anything stored.
func (e *Exporter) daysSince(ctx context.Context, key bundle.RunKey, from time.Time) (days []string, err error) {
	oldest := from.UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	prefix := bundle.NamespacePrefix(key.Cluster, key.Namespace) + "date="
	for o, err := range e.bucket.List(ctx, prefix, sink.ListOptions{Shallow: true}) {
		if err != nil {
			return nil, &awayError{fmt.Errorf("look for snapshots: %w", err)}
		}
		if day := strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), "/"); day >= oldest {
			days = append(days, day)
		}
	}
	return days, nil
}

// keyOf names a run, without a date.
func (e *Exporter) keyOf(r *run) bundle.RunKey {
	pod := r.now().pod
	return bundle.RunKey{
		Cluster: e.cluster, Namespace: pod.namespace, Pod: pod.name, UID: string(pod.uid),
		Container: r.id.container, Restart: r.restart, ID12: bundle.ID12(r.id.containerID),
	}
}

// resume makes the log go on where a snapshot ends.
func (c *capture) resume(ctx context.Context, key string, byStamp bool) error {
	rec, err := c.e.loadStored(ctx, key)
	if err != nil {
		return err
	}
	if err := rec.ValidateLog(); err != nil {
		return err
	}
	if len(rec.Objects) == 0 {
		return nil
	}
	for _, o := range rec.Objects {
		if _, _, _, compression, err := bundle.ParseKey(o.Key); err != nil || compression != c.export.Compression {
			return errors.New("it is compressed in another way than is wanted now")
		}
	}
	if err := c.open(); err != nil {
		return err
	}
	if err := c.out.resume(rec); err != nil {
		return err
	}
	c.earlier, c.resumed, c.pieced, c.asked = rec, true, true, c.run.now().slot
	if rec.Verdict.Middle.State != bundle.Proven && rec.Verdict.Middle.Cause != bundle.CauseStillRunning {
		c.middle = rec.Verdict.Middle
	}
	if rec.Capture.Redaction != nil || byStamp {
		c.log.CompareStamps()
	}
	if err := c.rememberTail(ctx, rec); err != nil {
		return err
	}
	c.rereadForKey(ctx)
	c.noting.Lock()
	defer c.noting.Unlock()
	if len(c.reads) == 0 {
		c.reads, c.texts = rec.Capture.Reads[:min(len(rec.Capture.Reads), maxReads/2)], rec.Capture.KubeletErrors
	}
	return nil
}

// rememberTail shows the log the end of what is stored, so that a further read can be joined with it.
func (c *capture) rememberTail(ctx context.Context, rec *bundle.Record) error {
	tail, done, err := c.e.storedTail(ctx, rec)
	defer done()
	if err != nil {
		return err
	}
	var first time.Time
	if rec.FirstStamp != nil {
		first = *rec.FirstStamp
	}
	c.followed = true
	if err := c.log.Resume(tail, rec.Lines, rec.RawBytes, first); err != nil {
		return err //nolint:wrapcheck // it says so itself
	}
	c.out.resumed()
	return nil
}

// loadStored reads a record from the spool, or from the bucket if it was shipped.
func (e *Exporter) loadStored(ctx context.Context, key string) (*bundle.Record, error) {
	body, err := e.openStored(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(body, bundle.MaxRecordSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return bundle.Decode(data)
}

func (e *Exporter) openStored(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	body, err := e.spool.Open(ctx, key, offset, -1)
	if !errors.Is(err, sink.ErrNotFound) {
		return body, err
	}
	if body, err = e.bucket.Open(ctx, key, offset, -1); err != nil && !errors.Is(err, sink.ErrNotFound) {
		err = &awayError{err}
	}
	return body, err
}

// storedTail opens the end of a stored log. done closes it, whatever was returned.
func (e *Exporter) storedTail(ctx context.Context, rec *bundle.Record) (tail io.Reader, done func(), err error) {
	from, offset := tailOf(rec)
	var parts []io.Reader
	var open []io.Closer
	done = func() {
		for _, c := range open {
			_ = c.Close() // read only
		}
	}
	for _, o := range rec.Objects[from:] {
		body, err := e.openStored(ctx, o.Key, offset)
		if err != nil {
			return nil, done, err
		}
		offset = 0
		_, _, _, compression, err := bundle.ParseKey(o.Key)
		if err != nil {
			_ = body.Close()
			return nil, done, err
		}
		text, err := bundle.NewLogReader(body, compression)
		open = append(open, body)
		if err != nil {
			return nil, done, err
		}
		open = append(open, text)
		parts = append(parts, text)
	}
	return io.MultiReader(parts...), done, nil
}

// tailOf says with which object of a log, and where in it, enough of its end begins.
func tailOf(rec *bundle.Record) (object int, offset int64) {
	if rec.RawBytes <= wholeAlways {
		return 0, 0 // further reads are compared with all of it
	}
	lines := int64(0)
	for i := len(rec.Objects) - 1; i >= 0; i-- {
		o := rec.Objects[i]
		for j := len(o.Frames) - 1; j > 0; j-- {
			f := o.Frames[j]
			if enoughTail(rec, lines+o.Lines-f.FirstLine, f.FirstStamp) {
				return i, f.Offset
			}
		}
		if lines += o.Lines; enoughTail(rec, lines, o.FirstStamp) {
			return i, 0
		}
	}
	return 0, 0
}

func enoughTail(rec *bundle.Record, lines int64, first *time.Time) bool {
	return lines >= resumeLines || first != nil && rec.LastStamp != nil && rec.LastStamp.Sub(*first) > resumeTime
}
