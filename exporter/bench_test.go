//go:build unix

package exporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// benchSizes are above one frame, below it, and so large that what a capture costs once does not count.
func benchSizes() []int { return []int{1 << 20, 16 << 20, 128 << 20} }

// stampedLog makes size bytes, in whole lines, of what the kubelet serves for a web service.
func stampedLog(size int) []byte {
	rnd := rand.New(rand.NewPCG(7, 7))
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	levels := []string{"info", "info", "info", "debug", "warn", "error"}
	paths := []string{"/api/v1/orders", "/api/v1/users", "/healthz", "/metrics", "/api/v1/carts/items"}
	b := make([]byte, 0, size+300)
	for len(b) < size {
		at = at.Add(time.Duration(rnd.Int64N(int64(2 * time.Millisecond))))
		b = at.AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00")
		b = fmt.Appendf(b, ` {"level":%q,"msg":"request served","method":"GET","path":%q,"status":%d,"duration_ms":%d.%03d,"trace_id":"%016x%016x"}`+"\n",
			levels[rnd.IntN(len(levels))], paths[rnd.IntN(len(paths))], 200+100*rnd.IntN(4), rnd.IntN(400), rnd.IntN(1000), rnd.Uint64(), rnd.Uint64())
	}
	return b[:bytes.LastIndexByte(b, '\n')+1]
}

// network hands out a body as HTTP/2 does: a frame of 16 KiB at most at a time.
type network struct{ r io.Reader }

func (n network) Read(p []byte) (int, error) { return n.r.Read(p[:min(len(p), 16<<10)]) }

// alone compresses a text as a capture does, and does nothing else with it.
func alone(b *testing.B, z *zstd.Encoder, text []byte) {
	z.ResetContentSize(io.Discard, int64(len(text)))
	for rest := text; len(rest) > 0; {
		n, err := z.Write(rest[:min(len(rest), 32<<10)])
		if err != nil {
			b.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
}

// plainZstd is an encoder with the settings of package bundle.
func plainZstd(b *testing.B) *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(bundle.WindowSize))
	if err != nil {
		b.Fatal(err)
	}
	return z
}

// BenchmarkCapturePath measures what a capture does with the bytes of a log, from the response's body to the
// synced objects under their keys in the spool: parse, join, hash, compress, write. The compression
// alone takes turns with it, and the best time of each counts for "of-plain-%": how fast a capture is
// compared with it. "cpu-of-plain-%" is the same in CPU time, which does not see the disk, nor what
// else the machine has to do.
func BenchmarkCapturePath(b *testing.B) {
	for _, size := range benchSizes() {
		text := stampedLog(size)
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) { benchmarkCapturePath(b, text) })
	}
}

func benchmarkCapturePath(b *testing.B, text []byte) {
	spool, err := sink.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	enc, plain := bundle.NewEncoders(1), plainZstd(b)
	bestPlain, best := never(), never()
	var mallocs uint64
	b.SetBytes(int64(len(text)))
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		bestPlain.measure(func() { alone(b, plain, text) })
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.StartTimer()

		var rec *bundle.Record
		best.measure(func() { rec = captureText(b, spool, enc, text, i) })

		b.StopTimer()
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
		if rec.RawBytes != int64(len(text)) {
			b.Fatalf("%d bytes of %d", rec.RawBytes, len(text))
		}
		for _, o := range rec.Objects {
			if err := spool.Remove(o.Key); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(mallocs)/float64(b.N)/(float64(len(text))/1e6), "allocs/MB")
	b.ReportMetric(100*float64(bestPlain.wall)/float64(best.wall), "of-plain-%")
	b.ReportMetric(100*float64(bestPlain.cpu)/float64(best.cpu), "cpu-of-plain-%")
}

// best is the least time that something took, of several tries.
type best struct{ wall, cpu time.Duration }

func never() best { return best{time.Hour, time.Hour} }

func (t *best) measure(do func()) {
	start, cpu := time.Now(), cpuTime()
	do()
	t.wall, t.cpu = min(t.wall, time.Since(start)), min(t.cpu, cpuTime()-cpu)
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// captureText does with a text what a capture does with a body.
func captureText(b *testing.B, spool *sink.Dir, enc *bundle.Encoders, text []byte, i int) *bundle.Record {
	finished := time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)
	rec := &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: "bench", Namespace: "bench",
		Pod:       bundle.Pod{Name: "bench", UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i)},
		Container: bundle.Container{Name: "app", Type: bundle.TypeContainer, ContainerID: fmt.Sprintf("containerd://%064d", i)},
		State:     bundle.State{FinishedAt: &finished},
	}
	out, err := newOutput(spool, enc, bundle.Zstd, []byte("{}"))
	if err != nil {
		b.Fatal(err)
	}
	defer out.abort()
	log := podlog.New(out, rec.Container.ContainerID)
	if _, err := log.Read(network{bytes.NewReader(text)}); err != nil {
		b.Fatal(err)
	}
	if err := out.seal(rec); err != nil {
		b.Fatal(err)
	}
	if err := out.publish(rec); err != nil {
		b.Fatal(err)
	}
	if _, err := spool.Stat(context.Background(), rec.Objects[0].Key); err != nil {
		b.Fatal(err)
	}
	return rec
}

// BenchmarkZstdAlone is the compression of the same text with the same settings.
func BenchmarkZstdAlone(b *testing.B) {
	for _, size := range benchSizes() {
		text := stampedLog(size)
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			z := plainZstd(b)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				alone(b, z, text)
			}
		})
	}
}

// BenchmarkJoin measures parsing and joining alone: a first read, of which everything is new, and a second
// one, of which nothing is.
func BenchmarkJoin(b *testing.B) {
	text := stampedLog(16 << 20)
	for _, kind := range []string{"first", "again"} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				log := podlog.New(io.Discard, "")
				if kind == "again" {
					if _, err := log.Read(bytes.NewReader(text)); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				res, err := log.Read(network{bytes.NewReader(text)})
				if err != nil || kind == "again" && (res.Join != podlog.JoinExact || res.Appended > 0) {
					b.Fatal(res, err)
				}
			}
		})
	}
}
