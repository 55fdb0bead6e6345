package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// LogOptions select a part of a log. They mean what they mean for kubectl logs; a line must fulfil
// all of them.
type LogOptions struct {
	// Timestamps keeps the stamp at the beginning of each line, as it is stored.
	Timestamps bool
	// TailLines is how many of the log's last lines to begin with; below 0 means all of them.
	TailLines int64
	// Since leaves out lines that were stamped before it. A line without a stamp belongs to the one
	// before it. Stamps are taken to ascend: frames that begin before Since are not searched.
	Since time.Time
	// LimitBytes ends the text after so many bytes; 0 means no limit.
	LimitBytes int64
}

// Log opens the text of a run's log, from all its objects in order, at the first frame that is needed.
// The caller closes it. A reading that goes through a whole object compares
// size and SHA-256 with the record, any other at least the size and the checksum of each frame. What
// does not agree makes Read fail with a *DamagedError at the end of the object at the latest: a
// caller that saw no error but io.EOF has read what was archived. A missing object gives an error
// that wraps sink.ErrNotFound; that of the first object comes from Log itself. ctx governs all reading.
func (a *Archive) Log(ctx context.Context, r *bundle.Record, o LogOptions) (io.ReadCloser, error) {
	if err := r.ValidateLog(); err != nil {
		k, kerr := bundle.KeyOf(r)
		if kerr != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		return nil, &DamagedError{Key: k.Record(), Err: err}
	}
	places := framesOf(r)
	var line int64 // the first one that is wanted, counted from 0
	if o.TailLines >= 0 {
		line = max(0, r.Lines-o.TailLines)
	}
	if line >= r.Lines {
		return io.NopCloser(eof{}), nil
	}
	start, keep := begin(places, line, o.Since)
	text := &text{ctx: ctx, bucket: a.bucket, objects: r.Objects, at: places[start]}
	if err := text.open(); err != nil {
		return nil, err
	}
	if o.Timestamps && line == 0 && o.Since.IsZero() {
		return limit(text, o.LimitBytes), nil
	}
	return limit(newLines(text, o, places[start], line, keep), o.LimitBytes), nil
}

// begin finds the frame to begin with, and whether a line without a stamp at its beginning is wanted,
// should there be one.
func begin(places []place, line int64, since time.Time) (start int, keep bool) {
	start = placeOfLine(places, line)
	if since.IsZero() {
		return start, true
	}
	before := placeOfStamp(places, since)
	if start <= before {
		return before, false
	}
	for _, p := range places[before+1 : start] {
		if p.stamp != nil {
			return start, true // it is not before since, and nor is what follows it
		}
	}
	return max(before, 0), false
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

func limit(r io.ReadCloser, n int64) io.ReadCloser {
	if n <= 0 {
		return r
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, n), r}
}

// place is a frame of a log, numbered through all objects.
type place struct {
	object int
	offset int64 // in the object, in stored bytes
	raw    int64 // in the object's text
	line   int64 // how many lines of the log end before it
	stamp  *time.Time
	inLine bool // it begins inside a line
}

// framesOf lists all frames of a log. An object without a list of frames counts as one frame.
func framesOf(r *bundle.Record) []place {
	var places []place
	var lines int64
	for i, o := range r.Objects {
		frames := o.Frames
		if len(frames) == 0 {
			frames = []bundle.Frame{{FirstStamp: o.FirstStamp}}
		}
		for _, f := range frames {
			places = append(places, place{object: i, offset: f.Offset, raw: f.RawOffset, line: lines + f.FirstLine, stamp: f.FirstStamp})
		}
		lines += o.Lines
	}
	for i := 1; i < len(places); i++ {
		// A frame ends inside a line only if no line ends in it (FORMAT.md, Frames).
		places[i].inLine = places[i].line == places[i-1].line
	}
	return places
}

// placeOfLine finds the frame in which a line begins.
func placeOfLine(places []place, line int64) int {
	i := sort.Search(len(places), func(i int) bool { return places[i].line >= line })
	if i < len(places) && places[i].line == line {
		return i
	}
	return max(i-1, 0)
}

// placeOfStamp finds the last frame that begins before a time: no line of an earlier one is as late.
// It returns -1 if there is none.
func placeOfStamp(places []place, t time.Time) int {
	for i := len(places) - 1; i >= 0; i-- {
		if stamp := places[i].stamp; stamp != nil && stamp.Before(t) {
			return i
		}
	}
	return -1
}

var errClosed = errors.New("read log: the reader is closed")
