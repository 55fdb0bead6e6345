package exporter

import (
	"errors"
	"fmt"
	"io"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// output is where a capture's log text goes: log objects in the making, in the spool's own
// directory, under no key yet.
type output struct {
	spool   *sink.Dir
	scratch *sink.File
	files   []*sink.File
	w       *bundle.LogWriter
}

func newOutput(spool *sink.Dir, enc *bundle.Encoders, c bundle.Compression) (*output, error) {
	scratch, err := spool.Temp()
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	o := &output{spool: spool, scratch: scratch}
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

func (o *output) Write(p []byte) (int, error) { return o.w.Write(p) }

// seal ends the log and fills in the record's sums.
func (o *output) seal(rec *bundle.Record) error {
	sum, err := o.w.Close()
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	rec.Objects = append(rec.Objects, sum.Objects...)
	rec.Lines, rec.RawBytes = sum.Lines, sum.RawBytes
	if len(rec.Objects) > 0 {
		rec.RawSHA256 = sum.RawSHA256
	}
	rec.FirstStamp, rec.LastStamp, rec.LastLines = sum.FirstStamp, sum.LastStamp, sum.LastLines
	return nil
}

// publish puts the sealed objects into the spool under keys of the run. Until the record itself is
// in the spool they are nobody's, and a new start removes them.
func (o *output) publish(keys []string, rec *bundle.Record) error {
	for i, key := range keys {
		rec.Objects[i].Key = key
		if err := o.spool.Remove(key); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return err // left by an attempt that never got as far as its record
		}
		if err := o.files[i].Commit(key); err != nil {
			return err
		}
	}
	return nil
}

// abort removes everything that was not committed.
func (o *output) abort() {
	_ = o.scratch.Abort()
	for _, f := range o.files {
		_ = f.Abort()
	}
}
