package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// shelf is a run as it is stored: log objects and record, by key.
type shelf struct {
	files  map[string][]byte
	record string
}

// stored makes a run of a text.
func stored(t testing.TB, r *Record, text []byte, o LogOptions) *shelf {
	t.Helper()
	w := writeLog(t, text, o, nil)
	if err := r.SetLog(w.Summary, o.Compression); err != nil {
		t.Fatal(err)
	}
	s := &shelf{files: map[string][]byte{}}
	for i, obj := range r.Objects {
		s.files[obj.Key] = w.files[i]
	}
	s.replace(t, r)
	return s
}

// replace stores another record of the run.
func (s *shelf) replace(t testing.TB, r *Record) {
	t.Helper()
	k, err := KeyOf(r)
	if err != nil {
		t.Fatal(err)
	}
	s.record = k.Record()
	if s.files[s.record], err = Encode(r); err != nil {
		t.Fatal(err)
	}
}

func (s *shelf) open(key string) (io.ReadCloser, error) {
	b, ok := s.files[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// check checks everything and returns the keys that are damaged.
func (s *shelf) check() (damaged []string, errs []error) {
	r, err := CheckRecord(s.record, s.files[s.record])
	if err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, CheckLog(r, s.open)...)
	}
	return keysOf(errs), errs
}

func keysOf(errs []error) (damaged []string) {
	for _, err := range errs {
		if bad := (*DamagedError)(nil); errors.As(err, &bad) {
			damaged = append(damaged, bad.Key)
		}
	}
	return damaged
}

// shelves are runs of every form that a log can be stored in.
func shelves(t testing.TB) map[string]*shelf {
	small := LogOptions{FrameSize: 128}
	segments := LogOptions{FrameSize: 128, MaxStored: 500}
	with := func(o LogOptions, c Compression) LogOptions {
		o.Compression = c
		return o
	}
	unterminated := bytes.TrimSuffix(goldenText(5, 30), newline)
	stamp := "2026-03-01T10:00:00.000000000Z "
	longLine := []byte(stamp + "short\n" + stamp + strings.Repeat("long "+stamp, 60) + "\n" + stamp + "end")
	all := map[string]*shelf{}
	for name, run := range map[string]struct {
		text []byte
		o    LogOptions
	}{
		"zstd":           {goldenText(4, 30), LogOptions{}},
		"gzip":           {goldenText(4, 30), LogOptions{Compression: Gzip}},
		"unterminated":   {unterminated, LogOptions{}},
		"empty":          {nil, LogOptions{}},
		"seekable":       {goldenText(6, 60), small},
		"gzip members":   {goldenText(6, 60), with(small, Gzip)},
		"segments":       {goldenText(12, 100), segments},
		"gzip segments":  {goldenText(12, 100), with(segments, Gzip)},
		"long line":      {longLine, segments},
		"without stamps": {[]byte("no stamp\nnor here\n\n\x00\xff"), LogOptions{}},
	} {
		r := goldenRecord("app")
		r.PodObject, r.Pod.Owners, r.Pod.Labels = nil, nil, nil
		all[name] = stored(t, r, run.text, run.o)
	}
	r := goldenRecord("snapshot")
	r.State = State{Running: true, StartedAt: r.State.StartedAt}
	r.Verdict.Complete, r.Verdict.Tail = false, Part{State: Unproven, Cause: CauseStillRunning}
	all["snapshot"] = stored(t, r, goldenText(5, 30), segments)
	return all
}

func TestCheckSound(t *testing.T) {
	several := 0
	for name, s := range shelves(t) {
		if damaged, errs := s.check(); len(errs) > 0 {
			t.Errorf("%s: %v: %v", name, damaged, errs)
		}
		several += max(0, len(s.files)-2)
		r, err := CheckRecord(s.record, s.files[s.record])
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Objects {
			if err := CheckObject(r, i, s.open); err != nil {
				t.Errorf("%s: object %d alone: %v", name, i, err)
			}
		}
	}
	if several < 5 {
		t.Errorf("only %d segments", several)
	}
}

// TestCheckFindsEveryByte changes every byte of every stored object by one bit, and of the plainest run
// by each bit and by all: every time the key of the object is named, and no other one.
func TestCheckFindsEveryByte(t *testing.T) {
	for name, s := range shelves(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := CheckRecord(s.record, s.files[s.record])
			if err != nil {
				t.Fatal(err)
			}
			check := func(key string) ([]string, []error) {
				if key == s.record {
					return s.check()
				}
				errs := CheckLog(r, s.open) // the record is as it was
				return keysOf(errs), errs
			}
			for key, b := range s.files {
				for i := range b {
					old := b[i]
					changes := []byte{1 << (i % 8)}
					if name == "zstd" {
						changes = []byte{1, 2, 4, 8, 16, 32, 64, 128, 255}
					}
					for _, change := range changes {
						b[i] = old ^ change
						damaged, errs := check(key)
						if len(damaged) != 1 || damaged[0] != key || len(errs) != 1 {
							t.Fatalf("%s: byte %d of %d changed from %q to %q: damaged %v, %v", key, i, len(b), old, old^change, damaged, errs)
						}
					}
					b[i] = old
				}
			}
		})
	}
}

// TestCheckFindsCuts cuts an object at every place, and lets it grow.
func TestCheckFindsCuts(t *testing.T) {
	t.Parallel()
	s := shelves(t)["seekable"]
	for key, b := range s.files {
		for n := range len(b) {
			s.files[key] = b[:n]
			if damaged, _ := s.check(); len(damaged) != 1 || damaged[0] != key {
				t.Fatalf("%s cut to %d of %d bytes: damaged %v", key, n, len(b), damaged)
			}
		}
		for _, more := range []string{"\n", " ", "\x00", "}", string(b)} {
			s.files[key] = append(b[:len(b):len(b)], more...)
			if damaged, _ := s.check(); len(damaged) != 1 || damaged[0] != key {
				t.Errorf("%s with %q behind it: damaged %v", key, more, damaged)
			}
		}
		s.files[key] = b
	}
}

// TestCheckTruth lets a record with a right digest say what is not so: each thing that it says of its
// log is compared with the log.
func TestCheckTruth(t *testing.T) {
	later := time.Date(2026, 3, 1, 10, 0, 0, 1, time.UTC)
	for name, change := range map[string]func(*Record){
		"raw hash":        func(r *Record) { r.RawSHA256 = sha(nil) },
		"object raw hash": func(r *Record) { r.Objects[1].RawSHA256 = sha(nil) },
		"stored hash":     func(r *Record) { r.Objects[1].StoredSHA256 = sha(nil) },
		"stored size":     func(r *Record) { r.Objects[1].StoredBytes++ },
		"lines moved":     func(r *Record) { r.Objects[0].Lines++; r.Objects[1].Lines-- },
		"lines":           func(r *Record) { r.Lines++; r.Objects[len(r.Objects)-1].Lines++ },
		"bytes moved": func(r *Record) {
			r.Objects[0].Frames[0].RawBytes++
			r.Objects[0].Frames[1].RawBytes--
			r.Objects[0].Frames[1].RawOffset++
		},
		"offset moved": func(r *Record) {
			r.Objects[0].Frames[0].StoredBytes++
			r.Objects[0].Frames[1].StoredBytes--
			r.Objects[0].Frames[1].Offset++
		},
		"first line":         func(r *Record) { r.Objects[0].Frames[1].FirstLine-- },
		"frame stamp":        func(r *Record) { r.Objects[0].Frames[1].FirstStamp = &later },
		"no frame stamp":     func(r *Record) { r.Objects[0].Frames[1].FirstStamp = nil },
		"object first stamp": func(r *Record) { r.Objects[1].FirstStamp = &later },
		"object last stamp":  func(r *Record) { r.Objects[0].LastStamp = nil },
		"first stamp":        func(r *Record) { r.Objects[0].FirstStamp, r.FirstStamp = &later, &later },
		"last lines":         func(r *Record) { r.LastLines[3] = "something else" },
		"fewer last lines":   func(r *Record) { r.LastLines = r.LastLines[1:] },
		"order":              func(r *Record) { r.Objects[0].Key, r.Objects[1].Key = r.Objects[1].Key, r.Objects[0].Key },
		"fewer objects": func(r *Record) {
			last := len(r.Objects) - 1
			r.Lines, r.RawBytes = r.Lines-r.Objects[last].Lines, r.RawBytes-r.Objects[last].RawBytes
			r.Objects, r.LastStamp = r.Objects[:last], r.Objects[last-1].LastStamp
		},
	} {
		s := shelves(t)["segments"]
		r, err := CheckRecord(s.record, s.files[s.record])
		if err != nil || len(r.Objects) < 3 || len(r.Objects[0].Frames) < 2 {
			t.Fatal(err)
		}
		change(r)
		s.replace(t, r)
		if damaged, errs := s.check(); len(damaged) == 0 {
			t.Errorf("%s: not noticed: %v", name, errs)
		}
	}
}

// TestCheckSeekTable: a seek table of other numbers is found even if all hashes agree with it.
func TestCheckSeekTable(t *testing.T) {
	s := shelves(t)["seekable"]
	r, err := CheckRecord(s.record, s.files[s.record])
	if err != nil {
		t.Fatal(err)
	}
	o := &r.Objects[0]
	b := s.files[o.Key]
	table := int(seekTableSize(len(o.Frames)))
	for i := len(b) - table; i < len(b); i++ {
		changed := bytes.Clone(b)
		changed[i] ^= 4
		s.files[o.Key], o.StoredSHA256 = changed, sha(changed)
		s.replace(t, r)
		if damaged, errs := s.check(); len(damaged) != 1 || damaged[0] != o.Key {
			t.Fatalf("byte %d of the seek table: %v", i-len(b)+table, errs)
		}
	}
}

func TestCheckRecordOfAnotherKey(t *testing.T) {
	s := shelves(t)["zstd"]
	if _, err := CheckRecord(strings.Replace(s.record, "/_app.0.", "/_app.1.", 1), s.files[s.record]); err == nil || !strings.Contains(err.Error(), "it is the record of "+s.record) {
		t.Error(err)
	}
}

// TestCheckErrors: what cannot be read is not damaged.
func TestCheckErrors(t *testing.T) {
	s := shelves(t)["segments"]
	r, err := CheckRecord(s.record, s.files[s.record])
	if err != nil {
		t.Fatal(err)
	}
	reset := errors.New("connection reset")
	second := r.Objects[1].Key
	for _, at := range []int{-1, 0, 1, 50, len(s.files[second])} {
		errs := CheckLog(r, func(key string) (io.ReadCloser, error) {
			switch {
			case key != second:
				return s.open(key)
			case at < 0:
				return nil, reset
			}
			return io.NopCloser(io.MultiReader(bytes.NewReader(s.files[key][:at]), brokenReader{reset})), nil
		})
		if len(errs) != 1 || !errors.Is(errs[0], reset) || errors.As(errs[0], new(*DamagedError)) || !strings.Contains(errs[0].Error(), second) {
			t.Errorf("broken after %d bytes: %v", at, errs)
		}
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

// TestDigest: version 1.0 has no digest, and a record cannot be taken for one to hide a change.
func TestDigest(t *testing.T) {
	r := goldenRecord("app")
	b, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, newline)
	head := bytes.Join(lines[:len(lines)-3], nil) // what head -n -2 prints
	if want := fmt.Sprintf("  \"digest\": %q\n}\n", sha(head)); string(b[len(head):]) != want {
		t.Errorf("the record ends with %q, want %q", b[len(head):], want)
	}
	r.Digest = "of no interest"
	if again, err := Encode(r); err != nil || !bytes.Equal(again, b) {
		t.Errorf("an old digest changes the new one: %v\n%s", err, again)
	}
	old := goldenRecord("app")
	old.FormatVersion = "1.0"
	plain, err := Encode(old)
	if err != nil || bytes.Contains(plain, []byte("digest")) {
		t.Fatalf("%v\n%s", err, plain)
	}
	if got, err := Decode(plain); err != nil || got.Digest != "" {
		t.Errorf("%v, digest %q", err, got.Digest)
	}
	for what, changed := range map[string][]byte{
		"no digest":               bytes.Replace(plain, []byte(`"1.0"`), []byte(`"1.1"`), 1),
		"no digest, later":        bytes.Replace(plain, []byte(`"1.0"`), []byte(`"1.12"`), 1),
		"1.1 called 1.0":          bytes.Replace(b, []byte(`"1.1"`), []byte(`"1.0"`), 1),
		"the digest under a name": bytes.Replace(b, []byte(`"digest"`), []byte(`"dijest"`), 1),
		"upper case":              bytes.Replace(b, []byte(sha(head)), []byte(strings.ToUpper(sha(head))), 1),
		"compact":                 compact(t, b),
	} {
		if _, err := Decode(changed); err == nil {
			t.Errorf("%s was taken for sound", what)
		}
	}
}

func compact(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
