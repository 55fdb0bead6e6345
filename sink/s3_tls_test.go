package sink_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// TestS3TLS stores over TLS with the store's own CA, and meets what goes wrong with TLS most often.
func TestS3TLS(t *testing.T) {
	f := &fakeS3{objects: make(map[string][]byte)}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	f.StartTLS()
	t.Cleanup(f.Close)
	clearAWS(t)
	t.Setenv("AWS_ACCESS_KEY_ID", testAccess)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	ca := write(t, filepath.Join(t.TempDir(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})))

	b := f.openWith(t, sink.S3Options{CAFile: ca})
	if err := b.Put(t.Context(), "a", strings.NewReader("body")); err != nil {
		t.Fatal(err)
	}
	if got := string(f.objects["/logs/a"]); got != "body" {
		t.Errorf("stored %q", got)
	}

	open := func(endpoint, ca string) error {
		b, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: endpoint, Bucket: "logs", CAFile: ca})
		if err != nil {
			t.Fatal(err)
		}
		return b.Put(t.Context(), "b", strings.NewReader("body"))
	}
	plain := newFakeS3(t, nil)
	port := f.URL[strings.LastIndexByte(f.URL, ':'):]
	for what, test := range map[string]struct {
		err   error
		class sink.Class
		hint  string
	}{
		"unknown CA":          {open(f.URL, ""), sink.ClassHold, "--s3-ca-file"},
		"another name":        {open("https://localhost"+port, ca), sink.ClassHold, "another name"},
		"HTTPS to plain":      {open("https://"+plain.Listener.Addr().String(), ""), sink.ClassHold, "http://"},
		"host does not exist": {open("https://no-such-host.invalid", ""), sink.ClassRetry, "host name"},
	} {
		if test.err == nil || sink.ClassOf(test.err) != test.class || !strings.Contains(sink.Hint(test.err), test.hint) {
			t.Errorf("%s: got %v, class %d, hint %q", what, test.err, sink.ClassOf(test.err), sink.Hint(test.err))
		}
		checkSecret(t, test.err)
	}
	// Go's TLS servers answer plain HTTP in words; an upload is cut off before they are read.
	b, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: "http://" + f.Listener.Addr().String(), Bucket: "logs"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err == nil || !strings.Contains(sink.Hint(err), "https://") {
		t.Errorf("plain to HTTPS: got %v, hint %q", err, sink.Hint(err))
	}
	for _, file := range []string{"no-such-file", write(t, filepath.Join(t.TempDir(), "bad"), "no PEM")} {
		if _, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: f.URL, Bucket: "logs", CAFile: file}); err == nil {
			t.Errorf("CA file %s: no error", file)
		}
	}
}
