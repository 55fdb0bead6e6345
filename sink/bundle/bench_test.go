package bundle

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

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

// BenchmarkLogWriter compares the whole of what a LogWriter does with the compression alone.
func BenchmarkLogWriter(b *testing.B) {
	for _, size := range []int{10 << 10, 1 << 20, 10 << 20, 64 << 20} {
		text := serviceLog(size)
		b.Run(fmt.Sprintf("plain-zstd/%dKiB", size>>10), func(b *testing.B) {
			z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(WindowSize))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				z.ResetContentSize(io.Discard, int64(size))
				for rest := text; len(rest) > 0; {
					n := min(len(rest), 32<<10)
					if _, err := z.Write(rest[:n]); err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := z.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		for c := range Gzip + 1 {
			b.Run(fmt.Sprintf("LogWriter-%s/%dKiB", c, size>>10), func(b *testing.B) {
				o := LogOptions{
					Compression: c,
					Encoders:    NewEncoders(1),
					Scratch:     scratch(b),
					Next:        func() (io.Writer, error) { return io.Discard, nil },
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				var stored int64
				for b.Loop() {
					w := NewLogWriter(o)
					for rest := text; len(rest) > 0; {
						n := min(len(rest), 32<<10)
						if _, err := w.Write(rest[:n]); err != nil {
							b.Fatal(err)
						}
						rest = rest[n:]
					}
					s, err := w.Close()
					if err != nil {
						b.Fatal(err)
					}
					stored = 0
					for _, o := range s.Objects {
						stored += o.StoredBytes
					}
				}
				b.ReportMetric(float64(size)/float64(stored), "ratio")
			})
		}
	}
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
