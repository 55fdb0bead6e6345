package integration

import (
	"testing"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// objectStore is where the tests archive to.
func objectStore(t *testing.T) sink.Bucket {
	t.Helper()
	b, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}
