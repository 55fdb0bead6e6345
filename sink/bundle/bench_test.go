package bundle

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// serviceLog makes size bytes that look like the log of a web service.
func serviceLog(size int) []byte {
	rnd := rand.New(rand.NewPCG(7, 7))
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	levels := []string{"info", "info", "info", "debug", "warn", "error"}
	paths := []string{"/api/v1/orders", "/api/v1/users", "/healthz", "/metrics", "/api/v1/carts/items"}
	b := make([]byte, 0, size+300)
	for len(b) < size {
		at = at.Add(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
		b = at.AppendFormat(b, stampLayout)
		b = fmt.Appendf(b, ` {"level":%q,"msg":"request served","method":"GET","path":%q,"status":%d,"duration_ms":%d.%03d,"trace_id":"%016x%016x"}`+"\n",
			levels[rnd.IntN(len(levels))], paths[rnd.IntN(len(paths))], 200+100*rnd.IntN(4), rnd.IntN(400), rnd.IntN(1000), rnd.Uint64(), rnd.Uint64())
	}
	return b[:size]
}

// BenchmarkLogWriter compares the whole of what a LogWriter does with the compression alone. Both take
// turns, and the best time of each counts for "of-plain-%", so that a busy machine matters little.
func BenchmarkLogWriter(b *testing.B) {
	for _, size := range []int{10 << 10, 1 << 20, 10 << 20, 64 << 20} {
		text := serviceLog(size)
		for c := range Gzip + 1 {
			b.Run(fmt.Sprintf("%s/%dKiB", c, size>>10), func(b *testing.B) { benchmarkLogWriter(b, text, c) })
		}
	}
}

func benchmarkLogWriter(b *testing.B, text []byte, c Compression) {
	pieces := func(w io.Writer) {
		for rest := text; len(rest) > 0; {
			n, err := w.Write(rest[:min(len(rest), 32<<10)])
			if err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
	}
	var plain io.WriteCloser = gzip.NewWriter(io.Discard)
	if c == Zstd {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(WindowSize))
		if err != nil {
			b.Fatal(err)
		}
		plain = z
	}
	o := LogOptions{
		Compression: c,
		Encoders:    NewEncoders(1),
		Scratch:     scratch(b),
		Next:        func() (io.Writer, error) { return io.Discard, nil },
	}
	bestPlain, best := time.Hour, time.Hour
	var stored int64
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		start := time.Now()
		switch z := plain.(type) {
		case *zstd.Encoder:
			z.ResetContentSize(io.Discard, int64(len(text)))
		case *gzip.Writer:
			z.Reset(io.Discard)
		}
		pieces(plain)
		if err := plain.Close(); err != nil {
			b.Fatal(err)
		}
		bestPlain = min(bestPlain, time.Since(start))
		b.StartTimer()

		start = time.Now()
		w := NewLogWriter(o)
		pieces(w)
		s, err := w.Close()
		if err != nil {
			b.Fatal(err)
		}
		best = min(best, time.Since(start))
		stored = 0
		for _, o := range s.Objects {
			stored += o.StoredBytes
		}
	}
	b.ReportMetric(float64(len(text))/float64(stored), "ratio")
	b.ReportMetric(100*float64(bestPlain)/float64(best), "of-plain-%")
}

// BenchmarkLogReader measures decompression with all checks of the format.
func BenchmarkLogReader(b *testing.B) {
	text := serviceLog(32 << 20)
	for c := range Gzip + 1 {
		b.Run(c.String(), func(b *testing.B) {
			stored := writeLog(b, text, LogOptions{Compression: c, Scratch: scratch(b)}, nil).files[0]
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := NewLogReader(bytes.NewReader(stored), c)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, struct{ io.Reader }{r})
				if err != nil || n != int64(len(text)) {
					b.Fatal(n, err)
				}
				_ = r.Close()
			}
		})
	}
}
