package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// randomLog makes a log whose stamps ascend, with long lines, lines without a stamp and empty ones.
func randomLog(rnd *rand.Rand, lines, longest int) string {
	var b strings.Builder
	at := day
	stamped := 1 + rnd.IntN(6)
	for range lines {
		at = at.Add(time.Duration(rnd.IntN(3)) * 100 * time.Millisecond)
		if rnd.IntN(7) < stamped {
			b.WriteString(at.In(time.FixedZone("", rnd.IntN(3)*1800)).Format(stampLayout) + " ")
		}
		n := rnd.IntN(50)
		if rnd.IntN(15) == 0 {
			n = rnd.IntN(longest)
		}
		for range n {
			b.WriteByte("abcdefgh "[rnd.IntN(9)])
		}
		b.WriteByte('\n')
	}
	text := b.String()
	if rnd.IntN(2) == 0 {
		text = text[:rnd.IntN(len(text)+1)]
	}
	return text
}

// naive does with a whole text what Log does with a stream.
func naive(text string, o LogOptions) string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	var from int64
	if o.TailLines >= 0 {
		from = max(0, int64(len(lines))-o.TailLines)
	}
	keep := o.Since.IsZero()
	var out strings.Builder
	for i, l := range lines {
		t, n, ok := bundle.ParseStamp([]byte(l))
		if ok {
			keep = !t.Before(o.Since)
		}
		if int64(i) < from || !keep {
			continue
		}
		if ok && !o.Timestamps {
			l = l[n:]
		}
		out.WriteString(l)
	}
	got := out.String()
	if o.LimitBytes > 0 && int64(len(got)) > o.LimitBytes {
		got = got[:o.LimitBytes]
	}
	return got
}

func (s *stock) read(r *bundle.Record, o LogOptions) (string, error) {
	body, err := s.Log(s.t.Context(), r, o)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(body)
	return string(b), errors.Join(err, body.Close())
}

// TestLogLikeNaive compares all options with the obvious way, over logs of every shape.
func TestLogLikeNaive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := newStock(t)
	shapes := map[string]int{}
	for i := range 30 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		lw := bundle.LogOptions{Compression: bundle.Compression(i % 2)}
		longest := 300
		switch i % 3 {
		case 0:
			lw.FrameSize, lw.MaxStored = 64+rnd.IntN(500), 300+rnd.Int64N(2000)
		case 1:
			lw.FrameSize, longest = 2000+rnd.IntN(8000), 40_000
		}
		text := randomLog(rnd, rnd.IntN(400), longest)
		r := s.add(run("a", fmt.Sprintf("p%d", i), "u", "app", 0, 1), text, lw)
		if len(r.Objects) > 1 {
			shapes["objects"]++
		}
		for _, o := range r.Objects {
			if len(o.Frames) > 1 {
				shapes["frames"]++
			}
		}
		for range 30 {
			o := LogOptions{Timestamps: rnd.IntN(2) == 0, TailLines: -1}
			if rnd.IntN(2) == 0 {
				o.TailLines = rnd.Int64N(r.Lines + 2)
			}
			if rnd.IntN(2) == 0 {
				o.Since = day.Add(time.Duration(rnd.Int64N(int64(50 * time.Second))))
				if rnd.IntN(2) == 0 {
					o.Since = o.Since.Truncate(100 * time.Millisecond)
				}
			}
			if rnd.IntN(3) == 0 {
				o.LimitBytes = rnd.Int64N(int64(len(text)) + 2)
			}
			got, err := s.read(r, o)
			if err != nil {
				t.Fatalf("log %d, %+v: %v", i, o, err)
			}
			if want := naive(text, o); got != want {
				t.Fatalf("log %d of %d lines, %+v:\ngot  %d bytes %.300q\nwant %d bytes %.300q", i, r.Lines, o, len(got), got, len(want), want)
			}
		}
	}
	if shapes["objects"] < 3 || shapes["frames"] < 10 {
		t.Fatalf("the logs were too simple: %v", shapes)
	}
}

// TestLogReader holds the reader to the rules of io.Reader, in reads of every size.
func TestLogReader(t *testing.T) {
	s := newStock(t)
	text := randomLog(rand.New(rand.NewPCG(1, 1)), 300, 3000)
	r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 1000, MaxStored: 9000})
	for _, o := range []LogOptions{{TailLines: -1, Timestamps: true}, {TailLines: -1}, {TailLines: 17}, {TailLines: -1, LimitBytes: 3000}} {
		body, err := s.Log(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(body, []byte(naive(text, o))); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
		if _, err := body.Read(make([]byte, 1)); err == nil {
			t.Error("it can be read after it was closed")
		}
	}
}

// countingBucket counts what is read from it.
type countingBucket struct {
	sink.Bucket
	opened []string
	bytes  int64
}

func (b *countingBucket) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	b.opened = append(b.opened, key)
	body, err := b.Bucket.Open(ctx, key, off, n)
	return &countingBody{body, b}, err
}

type countingBody struct {
	io.ReadCloser
	b *countingBucket
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.b.bytes += int64(n)
	return n, err
}

// TestLogReadsWhatIsNeeded: the tail of a large log costs its last frames only.
func TestLogReadsWhatIsNeeded(t *testing.T) {
	s := newStock(t)
	var b strings.Builder
	rnd := rand.New(rand.NewPCG(3, 3))
	for i := range 20000 {
		fmt.Fprintf(&b, "%s line %d %x\n", day.Add(time.Duration(i)*time.Second).Format(stampLayout), i, rnd.Uint64())
	}
	text := b.String()
	r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 64 << 10, MaxStored: 200 << 10})
	if len(r.Objects) < 2 {
		t.Fatal("one object only")
	}
	for name, o := range map[string]LogOptions{
		"tail":  {TailLines: 100},
		"since": {TailLines: -1, Since: day.Add(19900 * time.Second)},
	} {
		count := &countingBucket{Bucket: s.dir}
		body, err := New(count).Log(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if err != nil || string(got) != naive(text, o) {
			t.Errorf("%s: %v", name, err)
		}
		if last := r.Objects[len(r.Objects)-1]; len(count.opened) != 1 || count.opened[0] != last.Key || count.bytes > 128<<10 {
			t.Errorf("%s: %d bytes of %v were read", name, count.bytes, count.opened)
		}
	}
}

// TestDamagedLogs: whatever is wrong with a stored object, no reader takes it for the log.
func TestDamagedLogs(t *testing.T) {
	text := randomLog(rand.New(rand.NewPCG(5, 6)), 1500, 500)
	other := strings.ToUpper(text)
	for name, damage := range map[string]func(s *stock, r *bundle.Record){
		"bit": func(s *stock, r *bundle.Record) {
			s.damage(r.Objects[1].Key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		},
		"cut": func(s *stock, r *bundle.Record) {
			s.damage(r.Objects[1].Key, func(b []byte) []byte { return b[:len(b)-1] })
		},
		"empty": func(s *stock, r *bundle.Record) { s.damage(r.Objects[1].Key, func([]byte) []byte { return []byte{} }) },
		"cut at a frame": func(s *stock, r *bundle.Record) {
			f := r.Objects[1].Frames
			s.damage(r.Objects[1].Key, func(b []byte) []byte { return b[:f[len(f)-1].Offset] })
		},
		"longer": func(s *stock, r *bundle.Record) {
			s.damage(r.Objects[1].Key, func(b []byte) []byte { return append(b, b[:r.Objects[1].Frames[1].Offset]...) })
		},
		"seek table lost": func(s *stock, r *bundle.Record) {
			f := r.Objects[1].Frames
			s.damage(r.Objects[1].Key, func(b []byte) []byte { return b[:f[len(f)-1].Offset+f[len(f)-1].StoredBytes] })
		},
		"exchanged": func(s *stock, r *bundle.Record) {
			var first []byte
			s.damage(r.Objects[0].Key, func(b []byte) []byte { first = b; return b })
			s.damage(r.Objects[1].Key, func([]byte) []byte { return first })
		},
		"another text": func(s *stock, r *bundle.Record) {
			q := s.add(run("a", "other", "u", "app", 0, 1), other, bundle.LogOptions{FrameSize: 1000, MaxStored: 2500})
			var b []byte
			s.damage(q.Objects[1].Key, func(o []byte) []byte { b = o; return o })
			s.damage(r.Objects[1].Key, func([]byte) []byte { return b })
		},
	} {
		s := newStock(t)
		r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 1000, MaxStored: 2500})
		if len(r.Objects) < 3 || len(r.Objects[1].Frames) < 2 {
			t.Fatal("too few objects")
		}
		damage(s, r)
		for _, o := range []LogOptions{{TailLines: -1}, {TailLines: -1, Timestamps: true}, {TailLines: r.Lines - 2}} {
			got, err := s.read(r, o)
			var damaged *DamagedError
			if !errors.As(err, &damaged) || damaged.Key != r.Objects[1].Key {
				t.Errorf("%s, %+v: %v", name, o, err)
				continue
			}
			if !strings.Contains(err.Error(), "stored object "+damaged.Key+" is damaged: ") {
				t.Errorf("%s: %v", name, err)
			}
			if want := naive(text, o); name != "another text" && name != "exchanged" && !strings.HasPrefix(want, got) {
				t.Errorf("%s: %d bytes that are not of the log were passed on", name, len(got))
			}
		}
	}
}

// TestOtherTextOfSameSize: only the hash can tell.
func TestOtherTextOfSameSize(t *testing.T) {
	s := newStock(t)
	a := s.add(run("a", "p", "u", "app", 0, 1), "a\n", bundle.LogOptions{})
	b := s.add(run("a", "q", "u", "app", 0, 1), "b\n", bundle.LogOptions{})
	var stored []byte
	s.damage(b.Objects[0].Key, func(b []byte) []byte { stored = b; return b })
	s.damage(a.Objects[0].Key, func([]byte) []byte { return stored })
	var damaged *DamagedError
	if _, err := s.read(a, LogOptions{TailLines: -1}); !errors.As(err, &damaged) || damaged.Key != a.Objects[0].Key {
		t.Error(err)
	}
}

// TestFragmentLooksLikeLine: a frame begins inside a long line, with bytes that look like a stamp.
func TestFragmentLooksLikeLine(t *testing.T) {
	s := newStock(t)
	stamp := func(second int) string { return day.Add(time.Duration(second)*time.Second).Format(stampLayout) + " " }
	text := stamp(0) + strings.Repeat(stamp(9), 4) + "\n" + stamp(1) + "x\n" + stamp(6) + "y\n"
	r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 4 * len(stamp(0))})
	if len(r.Objects[0].Frames) < 2 || r.Objects[0].Frames[1].FirstLine != 0 {
		t.Fatalf("%+v", r.Objects[0].Frames)
	}
	got, err := s.read(r, LogOptions{TailLines: -1, Since: day.Add(5 * time.Second)})
	if err != nil || got != "y\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestUnstampedTail: whether a line without a stamp is wanted is up to the line before it, which may
// lie in a frame that is not read.
func TestUnstampedTail(t *testing.T) {
	s := newStock(t)
	plain := strings.Repeat("plain ", 10) + "\n"
	var text string
	for i := range 4 {
		text += day.Add(time.Duration(i)*time.Minute).Format(stampLayout) + " " + plain
	}
	text += plain + plain
	r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 100})
	if len(r.Objects[0].Frames) != len(strings.SplitAfter(text, "\n"))-1 {
		t.Fatalf("%+v", r.Objects[0].Frames)
	}
	for minute := range 6 {
		o := LogOptions{TailLines: 1, Since: day.Add(time.Duration(minute) * time.Minute)}
		if got, err := s.read(r, o); err != nil || got != naive(text, o) {
			t.Errorf("since minute %d: %q, %v", minute, got, err)
		}
	}
}

func TestMissingLog(t *testing.T) {
	s := newStock(t)
	r := s.add(run("a", "p", "u", "app", 0, 1), "text\n", bundle.LogOptions{})
	s.damage(r.Objects[0].Key, func([]byte) []byte { return nil })
	if _, err := s.Log(t.Context(), r, LogOptions{TailLines: -1}); !errors.Is(err, sink.ErrNotFound) || !strings.Contains(err.Error(), r.Objects[0].Key) {
		t.Error(err)
	}
}

// TestStoreBreaksOff: an error of the store is passed on as such, not as damage.
func TestStoreBreaksOff(t *testing.T) {
	s := newStock(t)
	text := randomLog(rand.New(rand.NewPCG(6, 6)), 500, 500)
	r := s.add(run("a", "p", "u", "app", 0, 1), text, bundle.LogOptions{FrameSize: 1000})
	for n := int64(0); n < r.Objects[0].StoredBytes; n += 97 {
		body, err := New(breakingBucket{s.dir, n}).Log(t.Context(), r, LogOptions{TailLines: -1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, body)
		var damaged *DamagedError
		if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &damaged) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		_ = body.Close()
	}
}

type breakingBucket struct {
	sink.Bucket
	after int64
}

func (b breakingBucket) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	body, err := b.Bucket.Open(ctx, key, off, n)
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, b.after), iotest.ErrReader(io.ErrUnexpectedEOF)), body}, err
}

// TestHostileRecord: a record that lies about its objects leads nowhere.
func TestHostileRecord(t *testing.T) {
	s := newStock(t)
	secret := s.add(run("secret", "p", "u", "app", 0, 1), "secret\n", bundle.LogOptions{})
	for name, lie := range map[string]func(r *bundle.Record){
		"another's log": func(r *bundle.Record) { r.Objects[0].Key = secret.Objects[0].Key },
		"offset":        func(r *bundle.Record) { r.Objects[0].Frames[0].Offset = -1 },
		"first-line":    func(r *bundle.Record) { r.Objects[0].Frames[0].FirstLine = 1 },
		"lines":         func(r *bundle.Record) { r.Lines = 1 << 62 },
		"size":          func(r *bundle.Record) { r.Objects[0].RawBytes = -1 },
	} {
		r := run("a", "p", "u", "app", 0, 1)
		s.t = t
		if name == "another's log" {
			s.add(r, strings.Repeat("text\n", 1000), bundle.LogOptions{FrameSize: 500})
		} else {
			r = run("a", "p-"+name, "u", "app", 0, 1)
			s.add(r, strings.Repeat("text\n", 1000), bundle.LogOptions{FrameSize: 500})
		}
		lie(r)
		var damaged *DamagedError
		if got, err := s.read(r, LogOptions{TailLines: -1}); !errors.As(err, &damaged) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Validation refuses a log whose first frame begins behind its first line; should one come by, it is no index of -1.
func TestPlaceBeforeTheFirst(t *testing.T) {
	if got := placeOfLine([]place{{line: 1}, {line: 2}}, 0); got != 0 {
		t.Errorf("frame %d", got)
	}
}

func BenchmarkLog(b *testing.B) {
	s := newStock(b)
	rnd := rand.New(rand.NewPCG(3, 3))
	var text bytes.Buffer
	for i := range 200_000 {
		fmt.Fprintf(&text, "%s line %d of a log %x\n", day.Add(time.Duration(i)*time.Second).Format(stampLayout), i, rnd.Uint64())
	}
	r := s.add(run("a", "p", "u", "app", 0, 1), text.String(), bundle.LogOptions{})
	for name, o := range map[string]LogOptions{"stamps": {TailLines: -1, Timestamps: true}, "text": {TailLines: -1}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			for b.Loop() {
				body, err := s.Log(b.Context(), r, o)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, body); err != nil {
					b.Fatal(err)
				}
				_ = body.Close()
			}
		})
	}
}
