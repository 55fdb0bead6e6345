package sink_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// TestS3Answers goes through the answers of stores: which error, which class and which hint come of
// them, and that one call is one request, because the caller owns retries.
func TestS3Answers(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		is     error
		class  sink.Class
		hint   string
	}{
		{404, "NoSuchBucket", nil, sink.ClassHold, "aws s3 mb s3://logs"},
		{403, "AccessDenied", nil, sink.ClassHold, "s3:PutObject"},
		{403, "InvalidAccessKeyId", nil, sink.ClassHold, "credentials are wrong"},
		{403, "SignatureDoesNotMatch", nil, sink.ClassHold, "credentials are wrong"},
		{403, "RequestTimeTooSkewed", nil, sink.ClassHold, "clock"},
		{400, "ExpiredToken", nil, sink.ClassHold, "expired"},
		{400, "AuthorizationHeaderMalformed", nil, sink.ClassHold, "--s3-region"},
		{301, "PermanentRedirect", nil, sink.ClassHold, "--s3-region"},
		{507, "XMinioStorageFull", nil, sink.ClassHold, "full"},
		{400, "XMinioAdminBucketQuotaExceeded", nil, sink.ClassHold, "quota"},
		{503, "SlowDown", nil, sink.ClassSlow, ""},
		{503, "ServerBusy", nil, sink.ClassSlow, ""},
		{429, "NeverHeardOf", nil, sink.ClassSlow, ""},
		{503, "XMinioServerNotInitialized", nil, sink.ClassSlow, ""},
		{400, "ThrottlingException", nil, sink.ClassSlow, ""},
		{500, "InternalError", nil, sink.ClassRetry, ""},
		{502, "NeverHeardOf", nil, sink.ClassRetry, ""},
		{504, "NeverHeardOf", nil, sink.ClassRetry, ""},
		{400, "RequestTimeout", nil, sink.ClassRetry, ""},
		{400, "IncompleteBody", nil, sink.ClassRetry, ""},
		{400, "XAmzContentChecksumMismatch", nil, sink.ClassRetry, ""},
		{401, "Unauthorized", nil, sink.ClassHold, ""},
		{403, "AllAccessDisabled", nil, sink.ClassHold, "s3:PutObject"},
		{400, "InvalidToken", nil, sink.ClassHold, "expired"},
		{400, "KMS.DisabledException", nil, sink.ClassHold, "encryption key"},
		{400, "InvalidStorageClass", nil, sink.ClassHold, "storage class"},
		{400, "InvalidTag", nil, sink.ClassHold, "tags"},
		{409, "ConditionalRequestConflict", nil, sink.ClassRetry, ""},
		{400, "BadDigest", nil, sink.ClassRetry, ""},
		{418, "NeverHeardOf", nil, sink.ClassRetry, ""},
		{400, "EntityTooLarge", nil, sink.ClassItem, ""},
		{400, "KeyTooLongError", nil, sink.ClassItem, ""},
		{400, "MetadataTooLarge", nil, sink.ClassItem, ""},
		{400, "XMinioInvalidObjectName", nil, sink.ClassItem, ""},
		{412, "PreconditionFailed", sink.ErrExists, sink.ClassRetry, ""},
		{404, "NoSuchKey", sink.ErrNotFound, sink.ClassRetry, ""},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.code), func(t *testing.T) {
			f := newFakeS3(t, always(test.status, test.code))
			b := f.open(t)
			err := b.Put(t.Context(), "a/b.json", strings.NewReader("{}"))
			if err == nil {
				t.Fatal("put: no error")
			}
			for _, known := range []error{sink.ErrExists, sink.ErrNotFound} {
				if errors.Is(err, known) != (test.is == known) { //nolint:errorlint // the very value
					t.Errorf("put: got %v, want it to be %v", err, test.is)
				}
			}
			var store *sink.StoreError
			if !errors.As(err, &store) || store.Code != test.code || store.Status != test.status || store.Key != "a/b.json" {
				t.Errorf("put: got %#v, want code, status and key", store)
			}
			if got := sink.ClassOf(fmt.Errorf("wrapped: %w", err)); got != test.class {
				t.Errorf("class %d, want %d", got, test.class)
			}
			if hint := sink.Hint(err); !strings.Contains(hint, test.hint) || (test.hint == "") != (hint == "") {
				t.Errorf("hint %q, want it to hold %q", hint, test.hint)
			}
			if n := f.countAt("/logs/a/b.json", http.MethodPut); n > 1 || n+f.countAt(probePath, http.MethodPut) == 0 {
				t.Errorf("%d requests, want 1 at most", n)
			}
			checkSecret(t, err)
		})
	}
}

// TestFullDisk: a disk that is full, or on which a quota is used up, holds everything until people have made room.
func TestFullDisk(t *testing.T) {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := fmt.Errorf("store a in /archive: %w", &fs.PathError{Op: "write", Path: "a", Err: full})
		if sink.ClassOf(err) != sink.ClassHold || sink.Reason(err) != "DiskFull" || !strings.Contains(sink.Hint(err), "make room") {
			t.Errorf("%v: class %d, reason %s, hint %q", full, sink.ClassOf(err), sink.Reason(err), sink.Hint(err))
		}
	}
}

func checkSecret(t *testing.T, values ...any) {
	t.Helper()
	for _, v := range values {
		if text := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(text, testSecret) {
			t.Errorf("the secret shows in %s", text)
		}
	}
}

func TestS3Check(t *testing.T) {
	missing := false
	f := newFakeS3(t, func(w http.ResponseWriter, _ *http.Request) bool {
		if missing {
			refuse(w, http.StatusNotFound, "NoSuchBucket")
		}
		return missing
	})
	b := f.open(t)
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("an empty bucket: %v", err)
	}
	if err := b.Put(t.Context(), "x", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("a bucket with an object: %v", err)
	}
	missing = true
	err := b.Check(t.Context())
	if err == nil || !strings.Contains(sink.Hint(err), "aws s3 mb s3://logs --endpoint-url "+f.URL) {
		t.Errorf("no bucket: %v, hint %q", err, sink.Hint(err))
	}
	if text := b.String(); !strings.Contains(text, "s3://logs") || strings.Contains(text, testSecret) || strings.Contains(text, testAccess) {
		t.Errorf("the bucket calls itself %q", text)
	}
	f.Close()
	if err := b.Check(t.Context()); err == nil || sink.ClassOf(err) != sink.ClassRetry || !strings.Contains(sink.Hint(err), "nothing listens") {
		t.Errorf("no server: %v, hint %q", err, sink.Hint(err))
	}
}

// TestS3Headers checks what makes an upload safe: a length, a digest, and the condition.
func TestS3Headers(t *testing.T) {
	f := newFakeS3(t, nil)
	b := f.open(t)
	for key, want := range map[string]string{"a.json": "application/json", "a.log.zst": "application/zstd", "a.log.gz": "application/gzip", "a": "application/octet-stream"} {
		if err := b.Put(t.Context(), key, strings.NewReader("body")); err != nil {
			t.Fatal(err)
		}
		h := f.requests[len(f.requests)-1].Header
		if h.Get("Content-Type") != want || h.Get("If-None-Match") != "*" || h.Get("Content-Md5") != "hBotaJrYa9FhFEdFPCLG/A==" ||
			strings.Contains(h.Get("Content-Encoding"), "zstd") || strings.Contains(h.Get("Content-Encoding"), "gzip") {
			t.Errorf("put %s sent %v", key, h)
		}
	}
}

// TestS3NoConditions meets a store that does not know If-None-Match: Put then looks first.
func TestS3NoConditions(t *testing.T) {
	f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" && r.Header.Get("If-Match") == "" {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 2) // the client's body is not at its start any more
		refuse(w, http.StatusNotImplemented, "NotImplemented")
		return true
	})
	b := f.open(t)
	body := strings.NewReader("12345")
	_, _ = body.Seek(2, io.SeekStart)
	if err := b.Put(t.Context(), "a", body); err != nil {
		t.Fatal(err)
	}
	if got := string(f.objects["/logs/a"]); got != "345" {
		t.Errorf("stored %q, want %q", got, "345")
	}
	if err := b.Put(t.Context(), "a", strings.NewReader("other")); !errors.Is(err, sink.ErrExists) {
		t.Errorf("put again: got %v, want ErrExists", err)
	}
	if err := b.Put(t.Context(), "b", strings.NewReader("b")); err != nil {
		t.Fatal(err)
	}
	if got := string(f.objects["/logs/a"]); got != "345" {
		t.Errorf("now stored %q, want %q", got, "345")
	}
	if n := f.count(http.MethodPut); n != 4 {
		t.Errorf("%d PUTs, want 4: two probes that are refused, two without the condition", n)
	}
}

// TestS3ETag meets stores that answer 200 to an upload and keep other bytes than they were sent, or none: a proxy
// in front of a store does. Where the answer has no sum to compare, the store is asked what it has.
func TestS3ETag(t *testing.T) {
	for name, test := range map[string]struct {
		etag, encryption string
		size             int // of what is there afterwards; 0 for nothing
		ok               bool
	}{
		"other MD5":          {etag: etag([]byte("other")), size: 2},
		"encrypted":          {etag: etag([]byte("other")), encryption: "aws:kms", size: 2, ok: true},
		"encrypted, cut":     {etag: etag([]byte("other")), encryption: "aws:kms", size: 1},
		"no MD5":             {etag: `"opaque-tag-7"`, size: 2, ok: true},
		"no MD5, nothing":    {etag: `"opaque-tag-7"`},
		"no MD5, cut":        {etag: `"opaque-tag-7"`, size: 1},
		"none":               {size: 2, ok: true},
		"none, nothing":      {},
		"none, cut":          {size: 1},
		"upper-case MD5 too": {etag: strings.ToUpper(etag([]byte("{}"))), ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == probePath {
					return false
				}
				_ = readBody(r)
				if r.Method == http.MethodHead && test.size == 0 {
					refuse(w, http.StatusNotFound, "NoSuchKey")
					return true
				}
				if r.Method == http.MethodHead {
					w.Header().Set("Content-Length", strconv.Itoa(test.size))
				}
				w.Header().Set("ETag", test.etag)
				w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
				if test.encryption != "" {
					w.Header().Set("X-Amz-Server-Side-Encryption", test.encryption)
				}
				return true
			})
			err := f.open(t).Put(t.Context(), "a", strings.NewReader("{}"))
			if (err == nil) != test.ok || err != nil && (!errors.Is(err, sink.ErrMismatch) || errors.Is(err, sink.ErrNotFound)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestS3ShortBody meets a connection that breaks within an object.
func TestS3ShortBody(t *testing.T) {
	for _, length := range []int64{-1, 8} {
		f := newFakeS3(t, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "8")
			w.Header().Set("Content-Range", "bytes 2-9/10")
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "234")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		r, err := f.open(t).Open(t.Context(), "a", 2, length)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if string(data) != "234" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("length %d: got %q and %v, want what came and io.ErrUnexpectedEOF", length, data, err)
		}
		_ = r.Close()
	}
}

// TestS3NoRanges meets a store that answers a range with the whole object.
func TestS3NoRanges(t *testing.T) {
	f := newFakeS3(t, func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	b := f.open(t)
	if err := b.Put(t.Context(), "a", strings.NewReader("0123456789")); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Open(t.Context(), "a", 3, -1); err == nil {
		data, _ := io.ReadAll(r)
		t.Errorf("from 3: got %q and no error", data)
	}
	if r, err := b.Open(t.Context(), "a", 0, 4); err == nil {
		data, _ := io.ReadAll(r)
		t.Errorf("4 bytes: got %q and no error", data)
	}
}

// TestS3Stall meets a store that stops: before it answers, while it is sent to, and while it sends.
func TestS3Stall(t *testing.T) {
	stop := make(chan struct{})
	f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && !r.URL.Query().Has("list-type") {
			w.Header().Set("Content-Length", "10")
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
			_, _ = io.WriteString(w, "01234")
			_ = http.NewResponseController(w).Flush()
		}
		select { // without reading what is sent
		case <-stop:
		case <-time.After(time.Minute):
		}
		return true
	})
	defer close(stop)
	b := f.impatient(t, sink.Patience{Stall: 50 * time.Millisecond})
	check := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "stalled: no byte moved for 50ms") || errors.Is(err, context.Canceled) || sink.ClassOf(err) != sink.ClassRetry {
			t.Errorf("%s: got %v", what, err)
		}
	}
	check("put", b.Put(t.Context(), "a", strings.NewReader(strings.Repeat("x", 64<<20))))
	_, err := b.Stat(t.Context(), "a")
	check("stat", err)
	for _, err := range b.List(t.Context(), "", sink.ListOptions{}) {
		check("list", err)
	}
	r, err := b.Open(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	check("read", err)
	if string(data) != "01234" {
		t.Errorf("read %q before the stall", data)
	}
	_ = r.Close()
}

// TestS3SlowReader reads half an object, does nothing for longer than the stall timeout, and reads on.
func TestS3SlowReader(t *testing.T) {
	half := make(chan struct{})
	f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Length", "10")
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Last-Modified", time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat))
		_, _ = io.WriteString(w, "01234")
		_ = http.NewResponseController(w).Flush()
		<-half
		_, _ = io.WriteString(w, "56789")
		return true
	})
	b := f.impatient(t, sink.Patience{Stall: 200 * time.Millisecond})
	r, err := b.Open(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	<-time.After(400 * time.Millisecond) // the reader's user thinks: time itself is under test
	close(half)
	if data, err := io.ReadAll(r); err != nil || string(data) != "56789" {
		t.Errorf("after a pause: got %q and %v", data, err)
	}
}

// TestS3Foreign lists a bucket in which somebody else keeps things under names that are no keys.
func TestS3Foreign(t *testing.T) {
	f := newFakeS3(t, nil)
	for _, path := range []string{"/logs/a", "/logs/dir/", "/logs/dir/b", "/logs/.hidden", "/logs/dir//c", "/logs/d\\e"} {
		f.objects[path] = nil
	}
	var keys []string
	for o, err := range f.open(t).List(t.Context(), "", sink.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	if got := strings.Join(keys, " "); got != "a dir/b" {
		t.Errorf("got %q, want only what Open would take", got)
	}
}

// TestOpenS3 checks that everything wrong with the options is said at once.
func TestOpenS3(t *testing.T) {
	_, err := sink.OpenS3(t.Context(), sink.S3Options{
		Endpoint: "ftp://host/path", Bucket: "No_Bucket", Prefix: "../x", PathStyle: "maybe", CAFile: "no-such-file", Credentials: "magic",
	})
	for _, want := range []string{"endpoint", "No_Bucket", "prefix", "path style", "no-such-file", `credentials "magic"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", testAccess)
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	for endpoint, want := range map[string]string{
		"": "https://s3.amazonaws.com", "minio:9000": "https://minio:9000", "http://minio:9000": "http://minio:9000",
		"https://minio/": "https://minio", "[::1]:9000": "https://[::1]:9000",
	} {
		b, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: endpoint, Bucket: "logs", Prefix: "team/a"})
		if err != nil || !strings.Contains(b.String(), "s3://logs/team/a/ at "+want) {
			t.Errorf("endpoint %q: got %v, %v, want %s", endpoint, b, err, want)
		}
	}
	for _, endpoint := range []string{"http://user:" + testSecret + "@host", "http://", "http://host/bucket", "http://host?x=y"} {
		_, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: endpoint, Bucket: "logs"})
		if err == nil {
			t.Errorf("endpoint %q: no error", endpoint)
		}
		checkSecret(t, err)
	}
}

// The region is the one that is named, else the environment's.
func TestS3Region(t *testing.T) {
	server := s3test.New(t)
	for _, tt := range []struct{ named, env, other, want string }{
		{want: "us-east-1"}, {other: "ap-south-1", want: "ap-south-1"}, {env: "eu-west-1", other: "ap-south-1", want: "eu-west-1"},
		{named: "sa-east-1", env: "eu-west-1", want: "sa-east-1"},
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		t.Setenv("AWS_REGION", tt.env)
		t.Setenv("AWS_DEFAULT_REGION", tt.other)
		signed := ""
		server.Change(func(s *s3test.Server) {
			s.Script = func(_ http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
				signed = r.Header.Get("Authorization")
				return false
			}
		})
		b, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: server.URL, Bucket: "logs", Region: tt.named})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) || !strings.Contains(signed, "/"+tt.want+"/s3/") {
			t.Errorf("%+v: %v, signed %q", tt, err, signed)
		}
	}
}
