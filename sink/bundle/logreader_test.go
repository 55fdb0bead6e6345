package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

func TestLogReaderNoticesDamage(t *testing.T) {
	text := goldenText(60, 200)
	for c := range Gzip + 1 {
		stored := writeLog(t, text, LogOptions{Compression: c, FrameSize: 2 << 10}, nil).files[0]
		for i := range stored {
			damaged := bytes.Clone(stored)
			damaged[i] ^= 0x10
			got, err := readAll(damaged, c)
			if err == nil && !bytes.Equal(got, text) {
				t.Errorf("%s: a bit was turned in byte %d of %d, and nobody noticed", c, i, len(stored))
			}
		}
	}
}

func readAll(stored []byte, c Compression) ([]byte, error) {
	r, err := NewLogReader(bytes.NewReader(stored), c)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestLogReaderPassesErrorsOn: a store that breaks off must never look like a log that ended.
func TestLogReaderPassesErrorsOn(t *testing.T) {
	text := goldenText(30, 30)
	for c := range Gzip + 1 {
		w := writeLog(t, text, LogOptions{Compression: c, FrameSize: 1 << 10}, nil)
		stored := w.files[0]
		for _, broken := range []error{io.ErrUnexpectedEOF, errors.New("connection reset")} {
			for i := range len(stored) {
				src := io.MultiReader(iotest.OneByteReader(bytes.NewReader(stored[:i])), iotest.ErrReader(broken))
				r, err := NewLogReader(src, c)
				if err == nil {
					_, err = io.ReadAll(r)
					_ = r.Close()
				}
				if !errors.Is(err, broken) {
					t.Fatalf("%s: after %d of %d bytes: %v, not %v", c, i, len(stored), err, broken)
				}
			}
		}
	}
}

// TestLogReaderMemory gives it frames that ask for more memory than the format allows.
func TestLogReaderMemory(t *testing.T) {
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0x02, 0xff, 0xff, 'x'} // 256 MiB
	single := binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, 1<<30)
	single = append(single, 0x02, 0xff, 0xff, 'x')
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	large := z.EncodeAll(make([]byte, 64<<20), nil)
	for name, stored := range map[string][]byte{"window": window, "single segment": single, "large window": large} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := NewLogReader(bytes.NewReader(stored), Zstd)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			_ = r.Close()
		}
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 40<<20 {
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
	}
}

// TestMemory writes and reads a log that is a single line of many frames.
func TestMemory(t *testing.T) {
	const size = 100 << 20
	piece := bytes.Repeat([]byte("all one line "), 5000)
	var before, after runtime.MemStats
	file := scratch(t)
	stored, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer stored.Close()
	runtime.ReadMemStats(&before)
	w := NewLogWriter(LogOptions{Scratch: file, Next: func() (io.Writer, error) { return stored, nil }})
	for w.RawBytes() < size {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	s, err := w.Close()
	if err != nil || len(s.Objects) != 1 || len(s.Objects[0].Frames) != int((s.RawBytes+FrameSize-1)/FrameSize) {
		t.Fatalf("%v: %+v", err, s)
	}
	if _, err := stored.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, err := NewLogReader(stored, Zstd)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	if err != nil || n != s.RawBytes {
		t.Fatalf("%d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("%d MiB were allocated", used>>20)
	}
}

func FuzzLogReader(f *testing.F) {
	for c := range Gzip + 1 {
		f.Add(writeLog(f, goldenText(20, 30), LogOptions{Compression: c, FrameSize: 256}, nil).files[0], c == Gzip)
	}
	f.Fuzz(func(t *testing.T, stored []byte, isGzip bool) {
		c := Zstd
		if isGzip {
			c = Gzip
		}
		r, err := NewLogReader(bytes.NewReader(stored), c)
		if err != nil {
			return
		}
		defer r.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 64<<20))
	})
}

// FuzzLogWriter writes any text in any pieces, and reads it back.
func FuzzLogWriter(f *testing.F) {
	f.Add([]byte("2026-03-01T10:00:00.123456789Z x\n\n2026-03-01T10:00:00.123456789+05:30 y"), 64, 7, false)
	f.Fuzz(func(t *testing.T, text []byte, frame, piece int, isGzip bool) {
		o := LogOptions{FrameSize: 64 + max(frame, 0)%1000, MaxStored: 500}
		if isGzip {
			o.Compression = Gzip
		}
		var files []*bytes.Buffer
		o.Next = func() (io.Writer, error) {
			files = append(files, &bytes.Buffer{})
			return files[len(files)-1], nil
		}
		w := NewLogWriter(o)
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+max(piece, 0)%300)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		s, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		got := written{Summary: s}
		for _, file := range files {
			got.files = append(got.files, file.Bytes())
		}
		checkObjects(t, text, got, o)
		if want := describe(text); s.Lines != want.Lines || s.RawSHA256 != want.RawSHA256 {
			t.Fatalf("%d lines, not %d", s.Lines, want.Lines)
		}
	})
}

// tool finds a program that everybody has, or says what to do.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is required in CI: apt-get install %s", name, name)
		}
		t.Skipf("%s is not installed: apt-get install %s", name, name)
	}
	return path
}

// TestOrdinaryTools reads objects as a user without this program would.
func TestOrdinaryTools(t *testing.T) {
	for c, name := range map[Compression]string{Zstd: "zstd", Gzip: "gzip"} {
		program := tool(t, name)
		for _, o := range []LogOptions{{}, {FrameSize: 4 << 10}, {FrameSize: 4 << 10, MaxStored: 20 << 10}} {
			o.Compression = c
			for _, text := range [][]byte{[]byte("x"), goldenText(1000, 300)} {
				var joined []byte
				for _, stored := range writeLog(t, text, o, nil).files {
					cmd := exec.Command(program, "-dc")
					cmd.Stdin = bytes.NewReader(stored)
					out, err := cmd.Output()
					if err != nil {
						t.Fatal(err)
					}
					joined = append(joined, out...)
				}
				if !bytes.Equal(joined, text) {
					t.Errorf("%s does not read what was written", name)
				}
			}
		}
	}
}

// TestZstdTellsSize: one frame that says how long its text is, with checksum, window and no dictionary.
func TestZstdTellsSize(t *testing.T) {
	program := tool(t, "zstd")
	line := goldenText(1000, 100)
	for _, size := range []int{1, 100, 255, 256, 1 << 17, 1<<17 + 1, 3 << 20, FrameSize} {
		file := filepath.Join(t.TempDir(), "log.zst")
		if err := os.WriteFile(file, writeLog(t, bytes.Repeat(line, size/len(line)+1)[:size], LogOptions{}, nil).files[0], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "-lv", file).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range []string{"Check: XXH64", "Zstandard Frames: 1\n", "DictID: 0"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%d bytes: no %q in\n%s", size, want, out)
			}
		}
		if h := header(t, file); h.FrameContentSize != uint64(size) || !h.HasFCS || h.WindowSize > WindowSize {
			t.Errorf("%d bytes: %+v", size, h)
		}
	}
}

func header(t *testing.T, file string) zstd.Header {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestSeekTable reads the seek table as its specification says.
func TestSeekTable(t *testing.T) {
	w := writeLog(t, goldenText(200, 300), LogOptions{FrameSize: 4 << 10}, nil)
	stored, frames := w.files[0], w.Objects[0].Frames
	le := binary.LittleEndian
	footer := stored[len(stored)-9:]
	n := int(le.Uint32(footer))
	if le.Uint32(footer[5:]) != 0x8F92EAB1 || footer[4] != 0x80 || n != len(frames) || n < 3 {
		t.Fatalf("footer %x, %d frames", footer, len(frames))
	}
	table := stored[len(stored)-9-12*n-8:]
	if le.Uint32(table) != 0x184D2A5E || int(le.Uint32(table[4:])) != len(table)-8 {
		t.Fatalf("header %x", table[:8])
	}
	for i, f := range frames {
		e := table[8+12*i:]
		end := stored[f.Offset+f.StoredBytes-4:]
		if int64(le.Uint32(e)) != f.StoredBytes || int64(le.Uint32(e[4:])) != f.RawBytes || le.Uint32(e[8:]) != le.Uint32(end) {
			t.Errorf("entry %d: %x", i, e[:12])
		}
	}
}
