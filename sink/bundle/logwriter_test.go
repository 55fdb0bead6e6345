package bundle

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// written is what a LogWriter made of a text.
type written struct {
	Summary
	files [][]byte
}

// writeLog passes text through a LogWriter in pieces of random length.
func writeLog(t testing.TB, text []byte, o LogOptions, rnd *rand.Rand) written {
	t.Helper()
	var files []*bytes.Buffer
	o.Next = func() (io.Writer, error) {
		files = append(files, &bytes.Buffer{})
		return files[len(files)-1], nil
	}
	w := NewLogWriter(o)
	for rest := text; len(rest) > 0; {
		n := len(rest)
		if rnd != nil {
			n = min(n, 1+rnd.IntN(1<<rnd.IntN(18)))
		}
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	s, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out := written{Summary: s}
	for _, f := range files {
		out.files = append(out.files, f.Bytes())
	}
	return out
}

// A log that is cut while it is written is the same text, and each cut tells of whole lines only.
func TestLogWriterCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 60 {
		text := randomLog(rnd, 200, 1<<rnd.IntN(12))
		var files []*bytes.Buffer
		w := NewLogWriter(LogOptions{FrameSize: 4 << 10, Scratch: scratch(t), Next: func() (io.Writer, error) {
			files = append(files, &bytes.Buffer{})
			return files[len(files)-1], nil
		}})
		decoded := func(objects []Object) (all []byte) {
			for i, o := range objects {
				raw := readLog(t, files[i].Bytes(), Zstd)
				if int64(len(raw)) != o.RawBytes || sha(raw) != o.RawSHA256 || sha(files[i].Bytes()) != o.StoredSHA256 {
					t.Fatalf("object %d is not what was said of it", i)
				}
				all = append(all, raw...)
			}
			return all
		}
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(3000))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			if rest = rest[n:]; rnd.IntN(3) > 0 {
				continue
			}
			s, err := w.Cut()
			if err != nil {
				t.Fatal(err)
			}
			got := decoded(s.Objects)
			if !bytes.HasPrefix(text, got) || int64(len(got)) != s.RawBytes || len(got) > 0 && sha(got) != s.RawSHA256 ||
				s.Lines != int64(bytes.Count(got, newline)) {
				t.Fatalf("a cut told of %d bytes and %d lines, the objects have %d and %d", s.RawBytes, s.Lines, len(got), bytes.Count(got, newline))
			}
		}
		s, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		want := describe(text)
		if got := decoded(s.Objects); !bytes.Equal(got, text) || s.RawSHA256 != want.RawSHA256 || s.Lines != want.Lines {
			t.Fatalf("the objects do not add up to the text")
		}
	}
}

func scratch(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func readLog(t testing.TB, stored []byte, c Compression) []byte {
	t.Helper()
	r, err := NewLogReader(bytes.NewReader(stored), c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// randomLog makes a log with lines as different as they come: empty, stamped, unstamped, broken
// stamps, long ones, and characters that are no UTF-8.
func randomLog(rnd *rand.Rand, lines, longest int) []byte {
	var b []byte
	at := time.Date(2026, 3, 1, 23, 59, 50, 0, time.UTC)
	for range lines {
		at = at.Add(time.Duration(rnd.Int64N(int64(time.Second))))
		switch rnd.IntN(12) {
		case 0:
		case 1:
			b = append(b, "no stamp here "...)
		case 2:
			b = append(b, "2026-02-30T25:00:00.000000000Z broken "...)
		case 3:
			b = append(b, at.In(time.FixedZone("", -5*3600-1800)).Format(stampLayout)+" "...)
		default:
			b = append(b, at.Format(stampLayout)+" "...)
		}
		n := rnd.IntN(60)
		if rnd.IntN(10) == 0 {
			n = rnd.IntN(longest)
		}
		for range n {
			b = append(b, "abcdef ä\xff…"[rnd.IntN(13)])
		}
		b = append(b, '\n')
	}
	if rnd.IntN(2) == 0 && len(b) > 0 {
		b = b[:rnd.IntN(len(b))]
	}
	return b
}

const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// describe is the slow and obvious way to what a LogWriter counts while it writes.
func describe(text []byte) (s Summary) {
	if len(text) == 0 {
		return s
	}
	s.RawBytes = int64(len(text))
	s.RawSHA256 = sha(text)
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	s.Lines = int64(len(lines))
	for i, l := range lines {
		if t, _, ok := ParseStamp(l); ok {
			if s.FirstStamp == nil {
				s.FirstStamp = &t
			}
			s.LastStamp = &t
		}
		if i >= len(lines)-20 {
			s.LastLines = append(s.LastLines, show(cut(bytes.TrimSuffix(l, []byte("\n")), lineHead)))
		}
	}
	return s
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestLogWriter(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	encoders := NewEncoders(1)
	file := scratch(t)
	for i := range 80 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		o := LogOptions{Encoders: encoders, Compression: Compression(i % 2), FrameSize: FrameSize, MaxStored: MaxStored}
		longest := 3000
		switch i % 4 {
		case 0, 1:
			o.FrameSize = 64 + rnd.IntN(5000)
			o.MaxStored = 200 + rnd.Int64N(20000)
		case 2:
			o.FrameSize, longest = 100_000, 50_000
			o.MaxStored = 150_000
		}
		if i%3 > 0 {
			o.Scratch = file
		}
		text := randomLog(rnd, rnd.IntN(200), longest)
		got := writeLog(t, text, o, rnd)
		if diff := cmp.Diff(describe(text), got.Summary, cmpopts.IgnoreFields(Summary{}, "Objects"), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("log %d: summary (-want +got):\n%s", i, diff)
		}
		checkObjects(t, text, got, o)
		if t.Failed() {
			t.Fatalf("log %d", i)
		}
		if fi, err := file.Stat(); err != nil || fi.Size() != 0 {
			t.Fatalf("log %d: %d bytes left in the scratch file", i, fi.Size())
		}
	}
}

// checkObjects compares objects and frames with the text that they hold.
func checkObjects(t *testing.T, text []byte, got written, o LogOptions) {
	t.Helper()
	if len(got.Objects) != len(got.files) {
		t.Fatalf("%d objects in %d files", len(got.Objects), len(got.files))
	}
	for i, obj := range got.Objects {
		stored, last := got.files[i], i == len(got.Objects)-1
		raw := readLog(t, stored, o.Compression)
		if !bytes.HasPrefix(text, raw) {
			t.Errorf("object %d is not what was written", i)
			return
		}
		text = text[len(raw):]
		want := Object{RawBytes: int64(len(raw)), StoredBytes: int64(len(stored)), RawSHA256: sha(raw), StoredSHA256: sha(stored), StoredMD5: fmt.Sprintf("%x", md5.Sum(stored))}
		want.Lines = int64(bytes.Count(raw, newline))
		if last && raw[len(raw)-1] != '\n' {
			want.Lines++
		}
		if diff := cmp.Diff(want, obj, cmpopts.IgnoreFields(Object{}, "FirstStamp", "LastStamp", "Frames")); diff != "" {
			t.Errorf("object %d (-want +got):\n%s", i, diff)
		}
		if obj.StoredBytes > o.MaxStored && len(obj.Frames) > 0 {
			t.Errorf("object %d has %d bytes, more than %d", i, obj.StoredBytes, o.MaxStored)
		}
		if len(obj.Frames) == 1 || len(raw) > o.FrameSize && len(obj.Frames) == 0 {
			t.Errorf("object %d of %d bytes has %d frames", i, len(raw), len(obj.Frames))
		}
		checkFrames(t, raw, stored, obj, o)
	}
	if len(text) > 0 {
		t.Errorf("%d bytes were not stored", len(text))
	}
}

func checkFrames(t *testing.T, raw, stored []byte, obj Object, o LogOptions) {
	t.Helper()
	atLineStart := true
	for j, f := range obj.Frames {
		part := raw[f.RawOffset : f.RawOffset+f.RawBytes]
		if got := readLog(t, stored[f.Offset:f.Offset+f.StoredBytes], o.Compression); !bytes.Equal(got, part) {
			t.Errorf("frame %d does not hold its part of the text", j)
		}
		if n := int64(bytes.Count(raw[:f.RawOffset], newline)); n != f.FirstLine {
			t.Errorf("frame %d: first line %d, not %d", j, f.FirstLine, n)
		}
		if int(f.RawBytes) > o.FrameSize {
			t.Errorf("frame %d has %d bytes", j, f.RawBytes)
		}
		if !atLineStart {
			_, part, _ = bytes.Cut(part, newline)
		}
		if want := describe(part).FirstStamp; !cmp.Equal(want, f.FirstStamp) {
			t.Errorf("frame %d: first stamp %v, not %v", j, f.FirstStamp, want)
		}
		end := raw[f.RawOffset+f.RawBytes-1] == '\n'
		if !end && j < len(obj.Frames)-1 && bytes.IndexByte(part, '\n') >= 0 && atLineStart {
			t.Errorf("frame %d was cut inside a line", j)
		}
		if !end && j < len(obj.Frames)-1 && int(f.RawBytes) != o.FrameSize {
			t.Errorf("frame %d was cut inside a line before it was full", j)
		}
		atLineStart = end
	}
}

func TestLogWriterEmpty(t *testing.T) {
	w := NewLogWriter(LogOptions{Next: func() (io.Writer, error) { return nil, errors.New("asked for a file") }})
	s, err := w.Close()
	if err != nil || len(s.Objects) != 0 || s.Lines != 0 || s.RawBytes != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
}

// failAfter is a file on a disk that fills up.
type failAfter struct {
	n   int
	err error
}

func (f *failAfter) Write(p []byte) (int, error) {
	if len(p) > f.n {
		n := f.n
		f.n = 0
		return n, f.err
	}
	f.n -= len(p)
	return len(p), nil
}

func TestLogWriterErrorsStick(t *testing.T) {
	full := errors.New("disk full")
	for n := range 40 {
		file := &failAfter{n: n * 50, err: full}
		w := NewLogWriter(LogOptions{
			FrameSize: 1000,
			MaxStored: 1100,
			Next:      func() (io.Writer, error) { return file, nil },
		})
		rnd := rand.New(rand.NewPCG(1, 2))
		var err error
		for range 100 {
			line := make([]byte, 100)
			for i := range line {
				line[i] = byte(rnd.Uint32())
			}
			if _, err = w.Write(line); err != nil {
				break
			}
		}
		if !errors.Is(err, full) {
			t.Fatalf("after %d bytes: write: %v", n*50, err)
		}
		if _, err = w.Write([]byte("x")); !errors.Is(err, full) {
			t.Fatalf("second write: %v", err)
		}
		if _, err = w.Close(); !errors.Is(err, full) {
			t.Fatalf("close: %v", err)
		}
	}
}

func TestLogWriterScratchFails(t *testing.T) {
	file := scratch(t)
	_ = file.Close()
	w := NewLogWriter(LogOptions{Scratch: file, Next: func() (io.Writer, error) { return &bytes.Buffer{}, nil }})
	_, err := w.Write(make([]byte, 1<<20))
	if err == nil || !strings.HasPrefix(err.Error(), "write scratch file: ") {
		t.Fatal(err)
	}
}

// TestLogWriterDefaults writes a log that is a little more than a frame and one that is exactly one.
func TestLogWriterDefaults(t *testing.T) {
	line := []byte(strings.Repeat("x", 1023) + "\n")
	text := bytes.Repeat(line, FrameSize/1024)
	for extra, frames := range map[int]int{0: 0, 1: 2} {
		got := writeLog(t, append(text[:FrameSize:FrameSize], line[:extra]...), LogOptions{Scratch: scratch(t)}, nil)
		if len(got.Objects) != 1 || len(got.Objects[0].Frames) != frames {
			t.Errorf("%d bytes: %s", FrameSize+extra, fmt.Sprint(got.Objects))
		}
	}
}
