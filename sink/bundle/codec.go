package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// MaxRecordSize bounds a record, in bytes of JSON: it stays small enough for a console, and a hostile
// one cannot fill a reader's memory.
const MaxRecordSize = 4 << 20

// SetLog enters into the record what a LogWriter wrote: the objects with the keys under which they
// belong, the sums, the hash and the last lines. Objects of the summary that have a key keep it. The
// parts that name the run must be set before.
func (r *Record) SetLog(s Summary, c Compression) error {
	r.Lines, r.RawBytes, r.LastLines = s.Lines, s.RawBytes, s.LastLines
	r.FirstStamp, r.LastStamp = s.FirstStamp, s.LastStamp
	r.RawSHA256, r.RawSHA256State = s.RawSHA256, s.RawSHA256State
	r.Objects = append([]Object{}, s.Objects...)
	k, err := KeyOf(r)
	if err != nil {
		return err
	}
	for i, key := range k.Logs(len(r.Objects), c) {
		if r.Objects[i].Key == "" {
			r.Objects[i].Key = key
		}
	}
	return nil
}

// Encode writes a record in its one canonical form: indented by two spaces, fields in the order of the
// type, times in UTC, a newline at the end. The last field is the digest of the others, whatever the
// record's own Digest says; records of format 1.0 have none. It does not judge the record; Validate does. If the record
// would be larger than MaxRecordSize, events, the pod object and the frame lists are left out, in
// this order and only as needed, and Omitted names them: a log without its frame list can still be
// read from the front.
func Encode(r *Record) ([]byte, error) {
	c := r.canonical()
	c.Digest = ""
	if !hasDigest(c.FormatVersion) {
		for i := range c.Objects {
			c.Objects[i].StoredMD5 = "" // 1.0 has no such field either
		}
	}
	for _, drop := range []struct {
		name string
		do   func()
	}{
		{"events", func() { c.Events = nil }},
		{"podObject", func() { c.PodObject = nil }},
		{"frames", func() {
			for i := range c.Objects {
				c.Objects[i].Frames = nil
			}
		}},
		{},
	} {
		b, err := encode(c)
		if err != nil {
			return nil, err
		}
		if hasDigest(c.FormatVersion) {
			b = appendDigest(b)
		}
		if len(b) <= MaxRecordSize {
			return b, nil
		}
		if drop.do != nil {
			drop.do()
			c.Omitted = append(c.Omitted, drop.name)
		}
	}
	return nil, fmt.Errorf("encode record: it is larger than %d bytes", MaxRecordSize)
}

func encode(r *Record) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // for people: < stays <
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b.Bytes(), nil
}

// canonical returns a copy with all times in UTC and no nil where the format has a list.
func (r *Record) canonical() *Record {
	c := *r
	if c.FormatVersion == "" {
		c.FormatVersion = FormatVersion
	}
	c.Omitted = append([]string(nil), r.Omitted...)
	utc(&c.Pod.DeletionTimestamp, &c.State.StartedAt, &c.State.FinishedAt, &c.FirstStamp, &c.LastStamp)
	for _, p := range []*Part{&c.Verdict.Head, &c.Verdict.Middle, &c.Verdict.Tail} {
		utc(&p.After, &p.Before)
	}
	c.Objects = append([]Object{}, r.Objects...)
	for i := range c.Objects {
		o := &c.Objects[i]
		utc(&o.FirstStamp, &o.LastStamp)
		o.Frames = append([]Frame(nil), o.Frames...)
		for j := range o.Frames {
			utc(&o.Frames[j].FirstStamp)
		}
	}
	c.Capture.Reads = append([]Read(nil), r.Capture.Reads...)
	for i := range c.Capture.Reads {
		c.Capture.Reads[i].Time = c.Capture.Reads[i].Time.UTC()
	}
	return &c
}

func utc(times ...**time.Time) {
	for _, t := range times {
		if *t != nil {
			u := (*t).UTC()
			*t = &u
		}
	}
}

// Decode reads a record of any 1.x version. Fields that it does not know are ignored: a later minor
// version may add some. It fails if a single byte differs from what was written, unless the record is
// of format 1.0, which has no digest. It does not judge the record; Validate does.
func Decode(b []byte) (*Record, error) { return decode(b, false) }

// DecodeStrict reads a record in canonical form, of a version that Encode writes, and nothing else. It
// is for tests of what writes records.
func DecodeStrict(b []byte) (*Record, error) {
	r, err := decode(b, true)
	if err != nil {
		return nil, err
	}
	if isLater(r.FormatVersion) {
		return nil, fmt.Errorf("decode record: format %q is later than %s", r.FormatVersion, FormatVersion)
	}
	again, err := Encode(r)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("decode record: not in canonical form")
	}
	return r, nil
}

func decode(b []byte, strict bool) (*Record, error) {
	if len(b) > MaxRecordSize {
		return nil, fmt.Errorf("decode record: it is larger than %d bytes", MaxRecordSize)
	}
	var head struct {
		FormatVersion string `json:"formatVersion"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	if err := checkVersion(head.FormatVersion); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if strict {
		d.DisallowUnknownFields()
	}
	var r Record
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decode record: something follows the record")
	}
	if r.Digest != "" || hasDigest(r.FormatVersion) {
		if err := checkDigest(b); err != nil {
			return nil, fmt.Errorf("decode record: %w", err)
		}
	}
	return r.canonical(), nil
}

// isLater says whether a version is a later minor one than this package knows.
func isLater(version string) bool { return minorOf(version) > minorOf(FormatVersion) }

func checkVersion(v string) error {
	major, minor, ok := strings.Cut(v, ".")
	isNumber := func(s string) bool {
		return s != "" && len(s) <= 9 && only(s, func(c byte) bool { return c >= '0' && c <= '9' })
	}
	switch {
	case v == "":
		return errors.New("it has no formatVersion, so it is no record of KubeLogExporter")
	case !ok || !isNumber(major) || !isNumber(minor):
		return fmt.Errorf("formatVersion %q is not a version such as %s", v, FormatVersion)
	case major != "1":
		return fmt.Errorf("format %s is not one that this program reads (1.x): use a release of kubelogexporter that reads it", v)
	}
	return nil
}
