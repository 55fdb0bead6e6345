package s3server

import (
	"context"
	"os"
	"testing"
)

// Required skips a test that needs more than Go, unless it was asked for. In CI it is always asked for.
func Required(t testing.TB) {
	t.Helper()
	if os.Getenv("KUBELOGEXPORTER_INTEGRATION") != "1" && os.Getenv("CI") != "true" {
		t.Skip(`needs Docker: run "make test", or set KUBELOGEXPORTER_INTEGRATION=1`)
	}
}

// ForTest starts a server that ends with the test.
func ForTest(t testing.TB, kind Kind) *Server {
	t.Helper()
	Required(t)
	s, err := Start(t.Context(), Options{Kind: kind, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}
