package sink_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// fakeS3 is an S3 server that does what a script says, and what S3 does where the script says
// nothing. Conformance is tested on real servers; this one is for what they do not do on request.
type fakeS3 struct {
	*httptest.Server
	// script handles a request and returns true, or leaves it to the server.
	script func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	objects  map[string][]byte // by path
	requests []*http.Request   // without their bodies
}

func newFakeS3(t *testing.T, script func(w http.ResponseWriter, r *http.Request) bool) *fakeS3 {
	t.Helper()
	f := &fakeS3{script: script, objects: make(map[string][]byte)}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r.Clone(r.Context()))
	f.mu.Unlock()
	if f.script != nil && f.script(w, r) {
		return
	}
	var body []byte
	if r.Method == http.MethodPut {
		body = readBody(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old, exists := f.objects[r.URL.Path]
	switch {
	case r.Method == http.MethodPut && (exists && r.Header.Get("If-None-Match") == "*" || r.Header.Get("If-Match") != "" && `"`+strings.Trim(r.Header.Get("If-Match"), `"`)+`"` != etag(old)):
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Method == http.MethodPut:
		f.objects[r.URL.Path] = body
		w.Header().Set("ETag", etag(body))
	case r.URL.Query().Has("list-type"):
		f.list(w, r)
	case !exists:
		refuse(w, http.StatusNotFound, "NoSuchKey")
	default:
		w.Header().Set("ETag", etag(old))
		http.ServeContent(w, r, "", time.Unix(1_700_000_000, 0), bytes.NewReader(old))
	}
}

// list gives all objects in one page.
func (f *fakeS3) list(w http.ResponseWriter, r *http.Request) {
	type contents struct {
		Key          string
		LastModified time.Time
		ETag         string
		Size         int
	}
	var page struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		IsTruncated bool
		Contents    []contents
	}
	for path, data := range f.objects {
		key := strings.TrimPrefix(path, r.URL.Path)
		if strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			page.Contents = append(page.Contents, contents{Key: key, LastModified: time.Unix(1_700_000_000, 0).UTC(), ETag: etag(data), Size: len(data)})
		}
	}
	slices.SortFunc(page.Contents, func(a, b contents) int { return strings.Compare(a.Key, b.Key) })
	_ = xml.NewEncoder(w).Encode(page)
}

func etag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// readBody reads a request's body without the chunk signatures that the client puts in over plain HTTP.
func readBody(r *http.Request) []byte {
	data, err := io.ReadAll(r.Body)
	if err != nil || !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return data
	}
	var plain []byte
	for {
		head, rest, ok := bytes.Cut(data, []byte("\r\n"))
		var size int
		if _, err := fmt.Sscanf(string(head), "%x;", &size); !ok || err != nil || size == 0 {
			return plain
		}
		plain, data = append(plain, rest[:size]...), rest[size+2:]
	}
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>the message of %s</Message></Error>`, code, code)
}

// always refuses every request.
func always(status int, code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		refuse(w, status, code)
		return true
	}
}

const (
	testAccess = "AKIATEST"
	testSecret = "a-secret-that-must-not-show"
)

// open opens the bucket "logs" of the server, with keys from the environment.
func (f *fakeS3) open(t *testing.T) *sink.S3 {
	t.Helper()
	return f.impatient(t, sink.Patience{})
}

func (f *fakeS3) impatient(t *testing.T, p sink.Patience) *sink.S3 {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", testAccess)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	return f.openWith(t, sink.S3Options{Credentials: "env", Patience: p})
}

func (f *fakeS3) openWith(t *testing.T, o sink.S3Options) *sink.S3 {
	t.Helper()
	o.Endpoint, o.Bucket = f.URL, "logs"
	b, err := sink.OpenS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.checkSigned(t) })
	return b
}

// checkSigned checks that every request for the store carried a signature.
func (f *fakeS3) checkSigned(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if strings.HasPrefix(r.URL.Path, "/logs") && !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
			t.Errorf("%s %s came unsigned: Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
	}
}

func (f *fakeS3) count(method string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if r.Method == method {
			n++
		}
	}
	return n
}

// probePath is where the client tries what the store does with conditions.
const probePath = "/logs/.kubelogexporter-probe"

// countAt counts the requests for one path.
func (f *fakeS3) countAt(path, method string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if r.URL.Path == path && r.Method == method {
			n++
		}
	}
	return n
}
