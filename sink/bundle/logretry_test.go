package bundle

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fickle is a file on a full disk: now and then it takes a part only of what would make it longer, and fails.
type fickle struct {
	*os.File
	rnd *rand.Rand
}

var errFickle = errors.New("no space left on device")

func (f *fickle) Write(p []byte) (int, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if info, err := f.Stat(); err != nil || at < info.Size() || f.rnd.IntN(3) > 0 {
		return f.File.Write(p)
	}
	n, err := f.File.Write(p[:f.rnd.IntN(len(p)+1)])
	return n, errors.Join(err, errFickle)
}

// A call that failed because a file took no more may be made again, however often: in the end the log is that
// of a writer that never failed.
func TestLogWriterTriesAgain(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	for range 80 {
		o := LogOptions{FrameSize: 4 << 10, Compression: []Compression{Zstd, Gzip}[rnd.IntN(2)]}
		if rnd.IntN(2) == 0 {
			o.MaxStored = 6 << 10
		}
		text := randomLog(rnd, 200, 1<<rnd.IntN(12))
		seed := rnd.Uint64()
		want, wantFiles := writeFickly(t, text, o, seed, false)
		got, gotFiles := writeFickly(t, text, o, seed, true)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("another summary (-want +got):\n%s", diff)
		}
		if !slices.EqualFunc(wantFiles, gotFiles, bytes.Equal) {
			t.Fatal("other files")
		}
	}
}

// writeFickly writes a text with cuts at places that the seed decides.
func writeFickly(t *testing.T, text []byte, o LogOptions, seed uint64, fails bool) (Summary, [][]byte) {
	t.Helper()
	dir := t.TempDir()
	faults := rand.New(rand.NewPCG(seed, 1))
	var names []string
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	again := func(do func() error) {
		err := errFickle
		for n := 0; err != nil; n++ {
			if err = do(); err != nil && (!errors.Is(err, errFickle) || n > 1000) {
				t.Fatal(err)
			}
		}
	}
	o.Next = func() (io.Writer, error) {
		if fails && faults.IntN(3) == 0 {
			return nil, errFickle
		}
		f := open("object" + string(rune('a'+len(names))))
		names = append(names, f.Name())
		if fails {
			return &fickle{f, faults}, nil
		}
		return f, nil
	}
	o.Scratch = open("scratch")
	if fails {
		o.Scratch = &fickle{open("scratch"), faults}
	}
	w := NewLogWriter(o)
	rnd := rand.New(rand.NewPCG(seed, 2))
	for rest := text; len(rest) > 0; {
		piece := rest[:min(len(rest), 1+rnd.IntN(5000))]
		rest = rest[len(piece):]
		again(func() error {
			n, err := w.Write(piece)
			piece = piece[n:]
			return err
		})
		switch rnd.IntN(20) {
		case 0:
			again(func() error { _, err := w.Cut(); return err })
		case 1:
			again(w.Flush)
		}
	}
	var sum Summary
	again(func() (err error) { sum, err = w.Close(); return err })
	var files [][]byte
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, data)
	}
	return sum, files
}
