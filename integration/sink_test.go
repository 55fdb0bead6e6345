package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/sinktest"
)

// TestS3 holds the S3 bucket to its promises on two servers that share no code.
func TestS3(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, kind := range []s3server.Kind{s3server.MinIO, s3server.VersityGW} {
		t.Run(string(kind), func(t *testing.T) {
			s := s3server.ForTest(t, kind)
			for _, prefix := range []string{"", "team a/logs"} {
				t.Run(fmt.Sprintf("prefix=%q", prefix), func(t *testing.T) {
					var next atomic.Int64
					sinktest.TestBucket(t, func(t *testing.T) sink.Bucket {
						name := fmt.Sprintf("conformance-%d-%d-%d", os.Getpid(), len(prefix), next.Add(1))
						return bucketOn(t, s, name, prefix)
					})
				})
			}
		})
	}
}

// bucketOn makes a bucket and opens it.
func bucketOn(t *testing.T, s *s3server.Server, name, prefix string) *sink.S3 {
	t.Helper()
	if err := s.MakeBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	b := openBucket(t, s, name, prefix, sink.ObjectOptions{})
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// openBucket opens a bucket, whose objects get these options, and asks it nothing.
func openBucket(t *testing.T, s *s3server.Server, name, prefix string, objects sink.ObjectOptions) *sink.S3 {
	t.Helper()
	dir := t.TempDir()
	o := sink.S3Options{
		Endpoint: s.Endpoint, Bucket: name, Prefix: prefix, Credentials: "files",
		AccessKeyIDFile: filepath.Join(dir, "access"), SecretAccessKeyFile: filepath.Join(dir, "secret"), Objects: objects,
	}
	for file, text := range map[string]string{o.AccessKeyIDFile: s.AccessKey, o.SecretAccessKeyFile: s.SecretKey} {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := sink.OpenS3(context.WithoutCancel(t.Context()), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
