package redact

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// mixedLog looks like the logs of a namespace: JSON of a web service, logfmt, klog, Java and access
// logs. Some lines speak of tokens and URLs, one in 500 holds a secret.
func mixedLog(size int) []byte {
	rnd := rand.New(rand.NewPCG(3, 3))
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	levels := []string{"info", "info", "info", "debug", "warn", "error"}
	paths := []string{"/api/v1/orders", "/api/v1/users", "/healthz", "/metrics", "/api/v1/carts/items", "/api/v1/secrets/list", "/oauth/token"}
	classes := []string{"c.e.shop.OrderService", "o.s.web.servlet.DispatcherServlet", "c.e.auth.TokenFilter", "o.h.engine.jdbc.spi.SqlExceptionHelper"}
	b := make([]byte, 0, size+600)
	for n := 0; len(b) < size; n++ {
		at = at.Add(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
		b = at.AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00 ")
		path := paths[rnd.IntN(len(paths))]
		switch k := rnd.IntN(100); {
		case n%500 == 499:
			b = fmt.Appendf(b, `{"level":"debug","msg":"connect","dsn":"postgres://shop:%016x@db:5432/shop","password":"%08xX"}`, rnd.Uint64(), rnd.Uint32())
		case k < 45:
			b = fmt.Appendf(b, `{"level":%q,"msg":"request served","method":"GET","path":%q,"status":%d,"duration_ms":%d.%03d,"trace_id":"%016x%016x"}`,
				levels[rnd.IntN(len(levels))], path, 200+100*rnd.IntN(4), rnd.IntN(400), rnd.IntN(1000), rnd.Uint64(), rnd.Uint64())
		case k < 60:
			b = fmt.Appendf(b, `level=%s ts=%s caller=compact.go:%d component=tsdb msg="write block" mint=%d maxt=%d ulid=%016X duration=%dms`,
				levels[rnd.IntN(len(levels))], at.Format(time.RFC3339), rnd.IntN(900), rnd.Uint32(), rnd.Uint32(), rnd.Uint64(), rnd.IntN(5000))
		case k < 70:
			b = fmt.Appendf(b, `I0301 10:%02d:%02d.%06d       1 reconciler.go:%d] "Reconciling" controller="deployment" namespace="shop-%d" name="orders" reconcileID="%08x-%04x"`,
				rnd.IntN(60), rnd.IntN(60), rnd.IntN(1e6), rnd.IntN(900), rnd.IntN(20), rnd.Uint32(), rnd.IntN(1<<16))
		case k < 85:
			b = fmt.Appendf(b, `10.42.%d.%d - - [01/Mar/2026:10:00:00 +0000] "GET %s?id=%d HTTP/1.1" %d %d "https://shop.example.com%s" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"`,
				rnd.IntN(256), rnd.IntN(256), path, rnd.IntN(1e6), 200+100*rnd.IntN(4), rnd.IntN(1e5), path)
		default:
			b = fmt.Appendf(b, `10:00:00.%03d [http-nio-8080-exec-%d] %s %s - Processing %s took %d ms, token valid until 2026-03-02`,
				rnd.IntN(1000), rnd.IntN(200), []string{"INFO ", "DEBUG"}[rnd.IntN(2)], classes[rnd.IntN(len(classes))], path, rnd.IntN(900))
		}
		b = append(b, '\n')
	}
	return b
}

// BenchmarkCompression is the bar for this package: with all built-in rules the way of the text to a log
// object has at least 60 % of its speed without. Plain zstd, which does less than that way, is told
// too. All take turns, and the best time of each counts, so that a busy machine matters little.
func BenchmarkCompression(b *testing.B) {
	text := mixedLog(16 << 20)
	r, err := New(Builtin())
	if err != nil {
		b.Fatal(err)
	}
	pieces := func(w io.Writer) {
		for rest := text; len(rest) > 0; {
			n, err := w.Write(rest[:min(len(rest), 16<<10)])
			if err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
	}
	best := [4]time.Duration{time.Hour, time.Hour, time.Hour, time.Hour}
	timed := func(i int, f func()) {
		start := time.Now()
		f()
		best[i] = min(best[i], time.Since(start))
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(2<<20))
	if err != nil {
		b.Fatal(err)
	}
	encoders := bundle.NewEncoders(1)
	object := func(redact bool) {
		lw := bundle.NewLogWriter(bundle.LogOptions{Encoders: encoders, Next: func() (io.Writer, error) { return io.Discard, nil }})
		if redact {
			w := r.NewWriter(lw)
			pieces(w)
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		} else {
			pieces(lw)
		}
		if _, err := lw.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		timed(0, func() {
			z.ResetContentSize(io.Discard, int64(len(text)))
			pieces(z)
			if err := z.Close(); err != nil {
				b.Fatal(err)
			}
		})
		timed(1, func() { object(false) })
		timed(2, func() { object(true) })
		timed(3, func() {
			w := r.NewWriter(io.Discard)
			pieces(w)
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
	speed := func(i int) float64 { return float64(len(text)) / best[i].Seconds() / 1e6 }
	b.ReportMetric(speed(0), "zstd-MB/s")
	b.ReportMetric(speed(1), "object-MB/s")
	b.ReportMetric(speed(2), "redacted-object-MB/s")
	b.ReportMetric(speed(3), "redact-alone-MB/s")
	b.ReportMetric(100*float64(best[1])/float64(best[2]), "of-object-%")
	b.ReportMetric(100*float64(best[0])/float64(best[0]+best[3]), "of-zstd-%")
}
