package exporter

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// maxDirect is how much of a compressed log is held in memory on its way to the bucket, and
	// maxDirects how many logs at a time, when the spool is full.
	maxDirect  = 8 << 20
	maxDirects = 2
	// directFrame keeps the text of a frame in progress small: it is in memory too.
	directFrame = 1 << 20
	// roomLook is how often a stream that waits for room looks whether there is some.
	roomLook = 250 * time.Millisecond
	// flushEvery is how long a few lines stay in memory only, where the end of the process takes them.
	flushEvery = 2 * time.Second
)

// outputs are those that are being written.
type outputs struct {
	mu   sync.Mutex
	open map[*output]struct{}
}

func (o *outputs) add(out *output) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open = make(map[*output]struct{})
	}
	o.open[out] = struct{}{}
}

func (o *outputs) remove(out *output) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, out)
}

func (o *outputs) list() []*output {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]*output, 0, len(o.open))
	for out := range o.open {
		list = append(list, out)
	}
	return list
}

// flush keeps on disk what is being written, until ctx ends.
func (o *outputs) flush(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.flushAll()
		}
	}
}

func (o *outputs) flushAll() {
	for _, out := range o.list() {
		out.flush()
	}
}

// output opens the place that a capture's text goes to: in the spool, or, if that is full and the store
// takes something, in memory and from there to the bucket.
func (e *Exporter) output(c *capture) (*output, error) {
	about, err := c.about(c.decided())
	if err != nil {
		return nil, err
	}
	if !e.space.admits(c.urgent()) {
		c.noRoom = true
		return e.directOutput(c)
	}
	out, err := newOutput(e.spool, e.encoders, c.export.Compression, about)
	if err != nil {
		c.noRoom = sink.Reason(err) == "DiskFull"
		return nil, err
	}
	if !c.undecided {
		out.redact(c.export.Redact)
	}
	out.most = e.mostObjects(c.run, c.export.Compression)
	out.room = func() error { return e.awaitRoom(c) }
	told := false
	out.wait = func(err error) bool {
		if !c.mayWait() {
			return false
		}
		if !told {
			told = true
			c.cannotSpool(err)
		}
		<-time.After(roomLook)
		return true
	}
	e.outputs.add(out)
	return out, nil
}

// decided returns the export that takes the run for sure, nil if that is not known yet.
func (c *capture) decided() *Export {
	if c.undecided {
		return nil
	}
	return c.export
}

// about is what goes with a draft: which run it is of, and, if its text goes through an export's redactor,
// that it was redacted. What is not redacted must be before it is archived.
func (c *capture) about(x *Export) ([]byte, error) {
	return bundle.Encode(c.aboutDraft(x, c.apart))
}

func (c *capture) aboutDraft(x *Export, apart bool) *bundle.Record {
	rec := c.record(c.run.now(), true)
	if x != nil && x.Redact != nil {
		rec.Capture.Redaction = &bundle.Redaction{Rules: x.Redact.Names()}
	}
	if apart { // it is not known how it joins what is stored
		rec.Verdict.Middle = bundle.Part{State: bundle.Unproven, Cause: bundle.CauseJoinFailed}
	}
	return rec
}

// cannotSpool tells of a failure of the spool; of one that is full the user was told once.
func (c *capture) cannotSpool(err error) {
	c.stuck = err
	if !errors.Is(err, errSpoolFull) {
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
	}
}

// unspooled notes that what was read could not be put into the spool. Whoever waits for it does not wait for
// ever, though every read before it was a good one.
func (c *capture) unspooled(err error) {
	c.stuck = err
	c.unstored++
	c.refused++
	if c.e.once || c.sweeping.Load() {
		c.refused = c.unstored
	}
}

// urgent says whether the run's log is about to vanish.
func (c *capture) urgent() bool {
	m := c.run.now()
	return m.dying || m.podGone || m.slot != slotCurrent
}

// mayWait says whether the log is followed and its container runs, be its pod dying or not: then the stream can
// wait, and the text with it at its source.
func (c *capture) mayWait() bool {
	return c.followed && !c.e.once && !c.e.stopping() && !c.run.now().ended()
}

// atSource says whether what is held can be had again, as long as nothing happens to the pod. Then its room is
// better used by others.
func (c *capture) atSource() bool { return !c.followed && !c.resumed && !c.urgent() }

// awaitRoom is asked before text is written. While its container runs, a stream waits; a finished log of a pod that
// stays is read again later. What cannot be had later is cut where the room ends.
func (e *Exporter) awaitRoom(c *capture) error {
	for !e.space.admits(c.urgent()) {
		switch {
		case c.mayWait():
			<-time.After(roomLook)
		case c.urgent(), c.followed:
			c.noRoom = true
			return errCut
		default:
			c.noRoom = true
			return errSpoolFull
		}
	}
	return nil
}

// directOutput makes an output in memory, whose objects go to the bucket at once. Their record goes
// through the spool, which keeps room for records.
func (e *Exporter) directOutput(c *capture) (*output, error) {
	if e.ship.down() || c.undecided && e.exports.Load().redactOtherwise(c.export) {
		return nil, errSpoolFull
	}
	select {
	case e.directs <- struct{}{}:
	default:
		return nil, errSpoolFull
	}
	o := &output{spool: e.spool, compression: c.export.Compression, cutAt: time.Now(), release: sync.OnceFunc(func() { <-e.directs })}
	held := &inMemory{}
	o.begin = func() (unfinished, error) { return held.begin(), nil }
	o.commit = func(i int, obj *bundle.Object) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // not to be cut short by a stop
		defer cancel()
		_, err := e.ship.place(ctx, obj, func(to string) error {
			f, _ := o.files[i].(*memoryFile)
			return e.bucket.Put(ctx, to, bytes.NewReader(f.b.Bytes()))
		})
		if err == nil {
			e.metrics.direct.Inc()
		}
		return err
	}
	o.room = func() error {
		switch {
		case held.size < maxDirect:
			return nil
		case c.urgent():
			return errCut
		}
		return errSpoolFull
	}
	o.w = bundle.NewLogWriter(bundle.LogOptions{Compression: c.export.Compression, Encoders: e.encoders, Next: o.next, FrameSize: directFrame})
	o.redact(c.export.Redact) // without knowing whether it is wanted: it cannot be done later
	return o, nil
}

// inMemory are the objects of a log that is not in the spool.
type inMemory struct {
	objects []*memoryFile
	size    int
}

func (m *inMemory) begin() *memoryFile {
	f := &memoryFile{of: m}
	m.objects = append(m.objects, f)
	return f
}

type memoryFile struct {
	of *inMemory
	b  bytes.Buffer
}

func (f *memoryFile) Write(p []byte) (int, error) {
	f.of.size += len(p)
	return f.b.Write(p)
}

func (*memoryFile) Commit(string) error { return errors.ErrUnsupported } // output.commit does it

func (*memoryFile) Abort() error { return nil }
