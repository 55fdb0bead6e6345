package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// output is where a capture's log text goes: log objects in the making, in the spool's own
// directory, under no key yet. A log that is followed for long is cut into segments, which are stored
// while the rest is still being written.
type output struct {
	spool       *sink.Dir
	compression bundle.Compression
	scratch     *sink.File

	mu    sync.Mutex // a segment is cut beside the stream that writes
	files []*sink.File
	w     *bundle.LogWriter
	keys  []string // of the objects that are in the spool
	cutAt time.Time
	cut   int64 // bytes of text at the last cut
	// What the log that is written here knows of its beginning, as of the last write.
	log         *podlog.Log
	first       time.Time
	firstSecond int64
}

func newOutput(spool *sink.Dir, enc *bundle.Encoders, c bundle.Compression) (*output, error) {
	scratch, err := spool.Temp()
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	o := &output{spool: spool, compression: c, scratch: scratch, cutAt: time.Now()}
	o.w = bundle.NewLogWriter(bundle.LogOptions{Compression: c, Encoders: enc, Scratch: scratch, Next: o.next})
	return o, nil
}

func (o *output) next() (io.Writer, error) {
	f, err := o.spool.Temp()
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	o.files = append(o.files, f)
	return f, nil
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first, o.firstSecond = o.log.First(), o.log.FirstSecond()
	return o.w.Write(p)
}

// beginning returns the first stamp of the log, and how much was written in the second from then on. It
// may be called beside a stream that writes.
func (o *output) beginning() (first time.Time, firstSecond int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first, o.firstSecond
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
	o.cut = rec.RawBytes
	return nil
}

// due says whether so much was written since the last cut, or so long ago, that it should be stored.
func (o *output) due(every time.Duration, size int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	fresh := o.w.RawBytes() - o.cut
	return fresh > size || fresh > 0 && time.Since(o.cutAt) > every
}

// segment ends the object in progress, enters all objects so far into the record and commits the new
// ones to the spool. It returns whether there were any.
func (o *output) segment(rec *bundle.Record) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	sum, err := o.w.Cut()
	if err != nil {
		return false, fmt.Errorf("cut log: %w", err)
	}
	o.cutAt, o.cut = time.Now(), sum.RawBytes
	if len(sum.Objects) == len(o.keys) {
		return false, nil
	}
	if err := o.number(&sum, rec); err != nil {
		return false, err
	}
	return true, errors.Join(rec.SetLog(sum, o.compression), o.publishNumbered(sum.Objects))
}

// seal ends the log and enters it into the record.
func (o *output) seal(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	sum, err := o.w.Close()
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	if len(o.keys) > 0 {
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

func (o *output) publishNumbered(objects []bundle.Object) error {
	for i := len(o.keys); i < len(objects); i++ {
		if err := o.files[i].Commit(objects[i].Key); err != nil {
			return err
		}
		o.keys = append(o.keys, objects[i].Key)
	}
	return nil
}

// publish puts the sealed objects into the spool under the record's keys. Until the record itself is
// in the spool they are nobody's, and a new start removes them.
func (o *output) publish(rec *bundle.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.keys) == 0 {
		for _, obj := range rec.Objects {
			if err := o.spool.Remove(obj.Key); err != nil && !errors.Is(err, sink.ErrNotFound) {
				return err // left by an attempt that never got as far as its record
			}
		}
	}
	return o.publishNumbered(rec.Objects)
}

// abort removes everything that was not committed.
func (o *output) abort() {
	_ = o.scratch.Abort()
	for _, f := range o.files {
		if f != nil { // an earlier process's
			_ = f.Abort()
		}
	}
}
