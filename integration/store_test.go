package integration

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// store is the MinIO that the tests of this package archive to, started by the first that asks.
var store struct {
	once   sync.Once
	server *s3server.Server
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if store.server != nil {
		if err := store.server.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// objectStore is where the tests archive to: a bucket of its own for each call.
func objectStore(t *testing.T) sink.Bucket {
	t.Helper()
	s := sharedMinIO(t)
	return bucketOn(t, s, fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano()), "")
}

// sharedMinIO is for tests that want a server and break nothing on it.
func sharedMinIO(t *testing.T) *s3server.Server {
	t.Helper()
	required(t)
	store.once.Do(func() {
		store.server, store.err = s3server.Start(context.Background(), s3server.Options{Log: os.Stderr})
	})
	if store.err != nil {
		t.Fatal(store.err)
	}
	return store.server
}
