package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// output is where a capture's log text goes: log objects in the making, in the spool's own
// directory, under no key yet. A log that is followed for long is cut into segments, which are stored
// while the rest is still being written.
type output struct {
	spool       *sink.Dir
	compression bundle.Compression
	draft       *sink.Draft // nil if it is made in memory
	scratch     *sink.File  // likewise
	begin       func() (unfinished, error)
	commit      func(i int, o *bundle.Object) error // puts an object under its key, or under another that is free
	release     func()                              // nil if there is nothing to give back
	room        func() error                        // asked before each write; nil if there is always room
	wait        func(error) bool                    // waits a while after a write has failed, if the text can wait; nil if it never can

	mu    sync.Mutex // a segment is cut beside the stream that writes
	files []unfinished
	w     *bundle.LogWriter
	late  []byte   // text that w could not take yet
	shut  bool     // w is to take none now
	keys  []string // of the objects that are in the spool
	cutAt time.Time
	safe  int64  // bytes of text that are in the spool for good, with a record that names them
	sieve *sieve // nil if nothing is redacted
	own   bool   // something was written that was not redacted before
	// recount is set while what is written was; again says that it goes through the redactor once more.
	recount *redact.Recount
	again   bool
	// parts say what was looked for in the parts of the log that were written before, nil if nothing was.
	parts []*bundle.Redaction
	// What the log that is written here knows of its beginning, as of the last write.
	log         *podlog.Log
	first       time.Time
	firstSecond int64
	last        time.Time // and of its end
	held        int64
	full        bool // there was no room for more: the rest of the log is lost
	most        int  // how many objects the record can name, 0 is no limit
	long        bool // there are as many
	over        bool // it was given up, or all of it is committed
}

// unfinished is a log object in the making.
type unfinished interface {
	io.Writer
	Commit(key string) error
	Abort() error
}

// newOutput makes an output in the spool. What the log is about goes with it, for the next process,
// should this one end in the middle.
func newOutput(spool *sink.Dir, enc *bundle.Encoders, c bundle.Compression, about []byte) (*output, error) {
	draft, err := spool.Draft(about)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	scratch, err := draft.Temp()
	if err != nil {
		_ = draft.Remove()
		return nil, fmt.Errorf("open spool: %w", err)
	}
	o := &output{spool: spool, compression: c, draft: draft, scratch: scratch, cutAt: time.Now()}
	o.begin = func() (unfinished, error) { return draft.Temp() }
	o.commit = func(i int, obj *bundle.Object) error { return o.files[i].Commit(obj.Key) }
	o.w = bundle.NewLogWriter(bundle.LogOptions{Compression: c, Encoders: enc, Scratch: scratch, Next: o.next})
	return o, nil
}

func (o *output) next() (io.Writer, error) {
	f, err := o.begin()
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	o.files = append(o.files, f)
	return f, nil
}

// errCut says that what comes next of a log cannot be kept, and cannot be had later.
var errCut = errors.New("no room for the rest of the log")

// Write takes all of p, whatever it returns: who has read it may not have it again. An error says that no more
// should be read before catchUp succeeds.
func (o *output) Write(p []byte) (int, error) {
	var full error
	if o.room != nil && !o.isFull() {
		full = o.room()
	}
	o.mu.Lock()
	o.long = o.long || o.most > 0 && len(o.files) >= o.most
	o.full = o.full || o.long || errors.Is(full, errCut)
	if o.full {
		o.mu.Unlock()
		return len(p), nil // what is held stays whole up to here
	}
	if o.log != nil {
		o.first, o.firstSecond = o.log.First(), o.log.FirstSecond()
		o.last, o.held = o.log.Last(), o.log.Bytes()
	}
	to := o.put
	if o.recount != nil {
		_, _ = o.recount.Write(p) // never fails
	}
	if o.recount == nil || o.again {
		if o.own = true; o.sieve != nil {
			to = o.sieve.w.Write
		}
	}
	o.shut = full != nil
	_, err := to(p)
	o.shut = false
	o.mu.Unlock()
	if err != nil || full != nil {
		return len(p), errors.Join(err, full)
	}
	for err = o.catchUp(); err != nil && o.wait != nil && o.wait(err); {
		err = o.catchUp()
	}
	return len(p), err
}

// put hands text to the writer. What that does not take is kept in memory.
func (o *output) put(p []byte) (int, error) {
	n := 0
	if !o.shut && len(o.late) == 0 {
		n, _ = o.w.Write(p) // catchUp returns the error, if it stays
	}
	o.late = append(o.late, p[n:]...)
	return len(p), nil
}

// catchUp hands the writer what it could not take before.
func (o *output) catchUp() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.caughtUp()
}

func (o *output) caughtUp() error {
	if len(o.late) == 0 {
		return nil
	}
	n, err := o.w.Write(o.late)
	if o.late = o.late[n:]; err == nil {
		o.late = nil
	}
	return err
}

// kept puts all that was taken where it outlives the process.
func (o *output) kept() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.caughtUp(); err != nil {
		return err
	}
	return o.w.Flush()
}

// unsafe says whether there is text that is not in the spool for good.
func (o *output) unsafe() bool {
	line, whole := o.openLine()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.RawBytes()+int64(len(o.late)) > o.safe || len(line) > 0 || !whole
}

// beginning returns the first stamp of the log, and how much was written in the second from then on. It
// may be called beside a stream that writes.
func (o *output) beginning() (first time.Time, firstSecond int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first, o.firstSecond
}

// resumed notes that the log goes on after what was written elsewhere.
func (o *output) resumed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.held = o.log.Last(), o.log.Bytes()
}

// reached is how much was written, and the last stamp of that. It may be called beside the writer.
func (o *output) reached() (held int64, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held, o.last
}

// resume makes a new output go on where a snapshot ends, whose objects are stored already.
func (o *output) resume(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.w.Continue(rec); err != nil {
		return err
	}
	for _, obj := range rec.Objects {
		o.files, o.keys = append(o.files, nil), append(o.keys, obj.Key)
	}
	o.safe = rec.RawBytes
	o.parts = append(o.parts, rec.Capture.Redaction)
	if o.sieve != nil {
		o.sieve.goOn(rec.Capture.Redaction)
	}
	return nil
}

// named returns how many objects are in the spool, or were.
func (o *output) named() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.keys)
}

// isLong says whether the log has as many objects as its record can name.
func (o *output) isLong() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.long
}

func (o *output) isFull() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.full
}

// cutAs notes that the text was taken from another output, which may have taken no more at some point.
func (o *output) cutAs(other *output) {
	full, long := other.isFull(), other.isLong()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.full, o.long = o.full || full, o.long || long
}

// flush puts what is in memory where it outlives the process. An error shows at the next write.
func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over && o.caughtUp() == nil {
		_ = o.w.Flush()
	}
}

// due says whether so much was written since the last cut, or so long ago, that it should be stored.
func (o *output) due(every time.Duration, size int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	fresh := o.w.RawBytes() - o.safe
	return fresh > size || fresh > 0 && time.Since(o.cutAt) > every
}

// segment ends the object in progress, enters all objects so far into the record and commits the new
// ones to the spool. It returns whether there is any that no snapshot names yet, see stored.
func (o *output) segment(rec *bundle.Record) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rec.Capture.Redaction = o.redaction()
	if err := o.caughtUp(); err != nil {
		return false, fmt.Errorf("cut log: %w", err)
	}
	sum, err := o.w.Cut()
	if err != nil {
		return false, fmt.Errorf("cut log: %w", err)
	}
	o.cutAt = time.Now()
	if sum.RawBytes == o.safe {
		return false, nil
	}
	if err := o.number(&sum, rec); err != nil {
		return false, err
	}
	return true, errors.Join(rec.SetLog(sum, o.compression), o.publishNumbered(sum.Objects))
}

// stored notes that a snapshot in the spool names so much of the text.
func (o *output) stored(size int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.safe = size
}

// seal ends the log and enters it into the record.
func (o *output) seal(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sieve != nil {
		if err := o.sieve.w.Close(); err != nil {
			return fmt.Errorf("seal log: %w", err)
		}
	}
	rec.Capture.Redaction = o.redaction()
	if err := o.caughtUp(); err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	sum, err := o.w.Close()
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	if len(o.keys) > 0 || len(sum.Objects) > 1 && o.draft != nil { // a snapshot may name objects in the spool
		if err := o.number(&sum, rec); err != nil {
			return err
		}
	}
	return rec.SetLog(sum, o.compression)
}

// number gives the objects of a log in segments their keys. Those that are in the spool already have
// theirs; for a new one the next number is taken, or a much higher one if an earlier process has left
// its own segment of that number in the spool.
func (o *output) number(sum *bundle.Summary, rec *bundle.Record) error {
	for i := range sum.Objects {
		obj := &sum.Objects[i]
		if i < len(o.keys) {
			obj.Key = o.keys[i]
			continue
		}
		day := *rec
		if rec.State.Running {
			day.LastStamp = sum.LastStamp
		}
		run, err := bundle.KeyOf(&day)
		if err != nil {
			return err
		}
		for n := i + 1; ; n += 1000 {
			obj.Key = run.Final().Log(n, o.compression)
			if _, err := o.spool.Stat(context.Background(), obj.Key); errors.Is(err, sink.ErrNotFound) {
				break
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// apart gives the objects that are not in the spool yet keys under which nothing is.
func (o *output) apart(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.number(&bundle.Summary{Objects: rec.Objects, LastStamp: rec.LastStamp}, rec)
}

func (o *output) publishNumbered(objects []bundle.Object) error {
	for i := len(o.keys); i < len(objects); i++ {
		if err := o.commit(i, &objects[i]); err != nil {
			return err
		}
		o.keys = append(o.keys, objects[i].Key)
	}
	return nil
}

// publish puts the sealed objects into the spool under the record's keys. Until the record itself is
// in the spool they are nobody's.
func (o *output) publish(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draft == nil {
		return o.publishNumbered(rec.Objects)
	}
	if len(o.keys) == 0 && len(rec.Objects) == 1 { // its key has no number, and so no snapshot names it
		if err := o.spool.Remove(rec.Objects[0].Key); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return err // left by an attempt that never got as far as its record
		}
	}
	before := len(o.keys)
	err := o.publishNumbered(rec.Objects)
	if err != nil {
		for _, key := range o.keys[before:] {
			_ = o.spool.Remove(key) // what stays is nobody's, and the next start finds it
		}
		o.keys = o.keys[:before]
	}
	return err
}

// leave leaves what was written where the next process finds it: a line that has not ended too, which may not be
// served again.
func (o *output) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	if o.sieve != nil {
		_ = o.sieve.w.Close()
	}
	if o.caughtUp() == nil {
		_ = o.w.Flush()
	}
	if o.scratch != nil {
		_ = o.scratch.Close()
	}
	for _, f := range o.files {
		if c, ok := f.(io.Closer); ok {
			_ = c.Close()
		}
	}
}

// abort removes everything that was not committed.
func (o *output) abort() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	if o.scratch != nil {
		_ = o.scratch.Abort()
	}
	for _, f := range o.files {
		if f != nil { // an earlier process's
			_ = f.Abort()
		}
	}
	if o.draft != nil {
		_ = o.draft.Remove()
	}
	if o.release != nil {
		o.release()
	}
}
