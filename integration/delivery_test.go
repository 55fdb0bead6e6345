package integration

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// TestS3Delivery holds real servers to what shipping relies on: conditions, as the probe finds them, one
// version of each object in a versioned bucket, and a better record in the place of another.
func TestS3Delivery(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, kind := range []s3server.Kind{s3server.MinIO, s3server.VersityGW} {
		t.Run(string(kind), func(t *testing.T) {
			s := s3server.ForTest(t, kind)
			name := fmt.Sprintf("delivery-%d", os.Getpid())
			b := bucketOn(t, s, name, "some/prefix")
			u, err := url.Parse(s.Endpoint)
			if err != nil {
				t.Fatal(err)
			}
			client, err := minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1"})
			if err != nil {
				t.Fatal(err)
			}
			versioned := client.EnableVersioning(t.Context(), name) == nil
			if !versioned && kind == s3server.MinIO {
				t.Error("the bucket cannot be versioned")
			}
			if err := b.CheckWrite(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("limits: %q", b.Limits())
			if kind == s3server.MinIO && len(b.Limits()) > 0 {
				t.Errorf("limits %q", b.Limits())
			}
			for i := range 4 {
				err := b.Put(t.Context(), "a/b.json", strings.NewReader("first"))
				if i == 0 && err != nil || i > 0 && !errors.Is(err, sink.ErrExists) {
					t.Errorf("put %d: %v", i, err)
				}
			}
			if n := versions(t, client, name, "some/prefix/a/b.json"); n != 1 {
				t.Errorf("%d versions", n)
			}
			old, err := b.Stat(t.Context(), "a/b.json")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Replace(t.Context(), "a/b.json", strings.NewReader("better"), old); err != nil {
				t.Errorf("replace: %v", err)
			}
			if err := b.Replace(t.Context(), "a/b.json", strings.NewReader("late"), old); !errors.Is(err, sink.ErrChanged) {
				t.Errorf("replace what has changed: got %v, want ErrChanged", err)
			}
			if n := versions(t, client, name, "some/prefix/a/b.json"); versioned && n != 2 {
				t.Errorf("%d versions after it was replaced once", n)
			}
		})
	}
}

func versions(t *testing.T, client *minio.Client, bucket, key string) (n int) {
	t.Helper()
	for o := range client.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Prefix: key, WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		n++
	}
	return n
}
