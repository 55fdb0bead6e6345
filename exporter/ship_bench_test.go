//go:build unix

package exporter

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// BenchmarkDrain measures how fast a spool is shipped to a store that answers after 5 ms: objects a second,
// a log and a record for each capture.
func BenchmarkDrain(b *testing.B) {
	server := s3test.New(b)
	server.Script = func(http.ResponseWriter, *http.Request, []byte, int) bool {
		time.Sleep(5 * time.Millisecond)
		return false
	}
	bucket := server.Bucket(sink.ObjectOptions{})
	const captures = 500
	var took time.Duration
	for b.Loop() {
		b.StopTimer()
		server.Change((*s3test.Server).Clear)
		e, err := New(Options{
			Kube: &rest.Config{Host: "http://127.0.0.1:1"}, Bucket: bucket, Spool: b.TempDir(), Cluster: "bench", Version: "bench", Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			b.Fatal(err)
		}
		for i := range captures {
			rec := captureText(b, e.spool, e.encoders, []byte(fmt.Sprintf("2026-03-01T10:00:00.000000001Z line of %d\n", i)), i)
			run, err := bundle.KeyOf(rec)
			if err == nil {
				err = putRecord(e.spool, run.Record(), rec)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		b.StartTimer()
		start := time.Now()
		if err := e.ship.recover(ctx); err != nil {
			b.Fatal(err)
		}
		go func() {
			defer close(done)
			e.ship.run(ctx)
		}()
		<-e.ship.open.none()
		took += time.Since(start)
		b.StopTimer()
		cancel()
		<-done
		_ = e.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.N)*2*captures/took.Seconds(), "objects/s")
}

// BenchmarkUpload measures one object of 64 MiB from the spool beside a bare PUT of minio-go with its own
// settings, in turns. "of-bare-%" is how fast ours is compared with that. Over plain HTTP it fails below 80; over
// TLS the bare PUT signs no hash of the body, so it has less to do.
func BenchmarkUpload(b *testing.B) {
	for name, start := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": httptest.NewTLSServer} {
		b.Run(name, func(b *testing.B) { benchmarkUpload(b, start) })
	}
}

func benchmarkUpload(b *testing.B, start func(http.Handler) *httptest.Server) {
	const size = 64 << 20
	server := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != "" && r.ContentLength < 1000 {
			s3test.Refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		sum := md5.New() // of all the things that a store does this is what every one does
		_, _ = io.CopyBuffer(struct{ io.Writer }{sum}, r.Body, make([]byte, 128<<10))
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sum.Sum(nil)))
	}))
	defer server.Close()
	dir := b.TempDir()
	ca := filepath.Join(dir, "ca")
	if c := server.Certificate(); c != nil {
		if err := os.WriteFile(ca, pemOf(c.Raw), 0o600); err != nil {
			b.Fatal(err)
		}
	} else {
		ca = ""
	}
	b.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	b.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	ours, err := sink.OpenS3(b.Context(), sink.S3Options{Endpoint: server.URL, Bucket: "logs", Credentials: "env", CAFile: ca})
	if err != nil {
		b.Fatal(err)
	}
	bare, err := minio.New(server.Listener.Addr().String(), &minio.Options{
		Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Secure: ca != "", Region: "us-east-1", Transport: server.Client().Transport,
	})
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(dir, "object")
	if err := os.WriteFile(file, bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		b.Fatal(err)
	}
	hash, sum, err := hashOf(file)
	if err != nil {
		b.Fatal(err)
	}
	bestBare, best := never(), never()
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		bestBare.measure(func() {
			if _, err := bare.FPutObject(b.Context(), "logs", "bare", file, minio.PutObjectOptions{DisableMultipart: true}); err != nil {
				b.Fatal(err)
			}
		})
		b.StartTimer()
		best.measure(func() {
			f, err := os.Open(file)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if err := ours.Put(b.Context(), fmt.Sprint("ours-", i), sink.Whole{Content: f, SHA256: hash, MD5: sum}); err != nil {
				b.Fatal(err)
			}
		})
	}
	ofBare := 100 * float64(bestBare.wall) / float64(best.wall)
	b.ReportMetric(ofBare, "of-bare-%")
	if b.N > 1 && ca == "" && ofBare < 80 { // a single turn is no measurement
		b.Errorf("%.0f %% of the speed of a bare PUT, want 80", ofBare)
	}
	b.ReportMetric(100*float64(bestBare.cpu)/float64(best.cpu), "cpu-of-bare-%")
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func hashOf(file string) (sha, sum string, err error) {
	data, err := os.ReadFile(file) //nolint:gosec // a benchmark's own file
	return fmt.Sprintf("%x", sha256.Sum256(data)), fmt.Sprintf("%x", md5.Sum(data)), err
}
