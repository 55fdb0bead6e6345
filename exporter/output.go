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

// seal ends the log and enters it into the record.
func (o *output) seal(c bundle.Compression, rec *bundle.Record) error {
	sum, err := o.w.Close()
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	return rec.SetLog(sum, c)
}

// publish puts the sealed objects into the spool under the record's keys. Until the record itself is
// in the spool they are nobody's, and a new start removes them.
func (o *output) publish(rec *bundle.Record) error {
	for i, obj := range rec.Objects {
		if err := o.spool.Remove(obj.Key); err != nil && !errors.Is(err, sink.ErrNotFound) {
			return err // left by an attempt that never got as far as its record
		}
		if err := o.files[i].Commit(obj.Key); err != nil {
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
