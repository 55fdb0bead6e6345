package s3server_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
)

// TestNamed starts a server under a name, finds it again as another process would, and stops it by
// its name.
func TestNamed(t *testing.T) {
	s3server.Required(t)
	if os.Getenv("KUBELOGEXPORTER_TEST_S3_ENDPOINT") != "" {
		t.Skip("KUBELOGEXPORTER_TEST_S3_ENDPOINT names a server: none is started")
	}
	o := s3server.Options{Name: fmt.Sprintf("kubelogexporter-test-%d", os.Getpid()), Log: t.Output()}
	first, err := s3server.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s3server.Stop(context.Background(), o.Name) })
	if err := first.MakeBucket(t.Context(), "logs"); err != nil {
		t.Fatal(err)
	}
	again, err := s3server.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Endpoint != first.Endpoint || again.SecretKey != first.SecretKey {
		t.Errorf("the second start gave another server: %s, then %s", first.Endpoint, again.Endpoint)
	}
	if err := again.MakeBucket(t.Context(), "logs"); err != nil {
		t.Errorf("make a bucket that is there: %v", err)
	}
	if err := s3server.Stop(t.Context(), o.Name); err != nil {
		t.Fatal(err)
	}
	if err := first.MakeBucket(t.Context(), "other"); err == nil {
		t.Error("the server still answers after Stop")
	}
	if err := s3server.Stop(t.Context(), o.Name); err != nil {
		t.Errorf("stop a server that is not there: %v", err)
	}
}

func TestKinds(t *testing.T) {
	for _, kind := range []s3server.Kind{s3server.MinIO, s3server.VersityGW} {
		t.Run(string(kind), func(t *testing.T) {
			s := s3server.ForTest(t, kind)
			if err := s.MakeBucket(t.Context(), "logs"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
