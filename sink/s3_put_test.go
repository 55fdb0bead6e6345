package sink_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// TestS3Conditions meets stores that keep to conditions, that ignore them, and that refuse them. One
// object per key, and one version of it, is the outcome everywhere.
func TestS3Conditions(t *testing.T) {
	for name, c := range map[string]s3test.Conditions{"kept": s3test.Kept, "ignored": s3test.Ignored, "unknown": s3test.Unknown} {
		t.Run(name, func(t *testing.T) {
			s := s3test.New(t)
			s.Conditions = c
			b := s.Bucket(sink.ObjectOptions{})
			for i := range 3 {
				err := b.Put(t.Context(), "a", strings.NewReader("first"))
				if i == 0 && err != nil || i > 0 && !errors.Is(err, sink.ErrExists) {
					t.Errorf("put %d: %v", i, err)
				}
			}
			if n := s.Versions("a"); n != 1 {
				t.Errorf("%d versions", n)
			}
			if limits := b.Limits(); (len(limits) > 0) != (c != s3test.Kept) {
				t.Errorf("limits %q", limits)
			}
			old, err := b.Stat(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Replace(t.Context(), "a", strings.NewReader("better"), old); err != nil {
				t.Errorf("replace: %v", err)
			}
			if err := b.Replace(t.Context(), "a", strings.NewReader("late"), old); !errors.Is(err, sink.ErrChanged) {
				t.Errorf("replace what has changed: got %v, want ErrChanged", err)
			}
			if got := string(s.Objects()["a"]); got != "better" {
				t.Errorf("stored %q", got)
			}
			if n := s.Versions(".kubelogexporter-probe"); n > 3 {
				t.Errorf("the probe has %d versions", n)
			}
			again := s.Bucket(sink.ObjectOptions{}) // the next process
			if err := again.Put(t.Context(), "a", strings.NewReader("x")); !errors.Is(err, sink.ErrExists) {
				t.Errorf("next process: %v", err)
			}
		})
	}
}

// TestS3ProbeForbidden meets a policy that names the keys that may be stored.
func TestS3ProbeForbidden(t *testing.T) {
	s := s3test.New(t)
	s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
		if !strings.Contains(r.URL.Path, "probe") {
			return false
		}
		s3test.Refuse(w, http.StatusForbidden, "AccessDenied")
		return true
	}
	b := s.Bucket(sink.ObjectOptions{})
	for i := range 3 {
		if err := b.Put(t.Context(), fmt.Sprint("a", i), strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		if err := b.Put(t.Context(), fmt.Sprint("a", i), strings.NewReader("y")); !errors.Is(err, sink.ErrExists) {
			t.Errorf("put again: %v", err)
		}
	}
	if s.Script = nil; s.Versions(".kubelogexporter-probe") != 0 {
		t.Error("the probe was stored")
	}
}

// TestS3Options checks what goes along with each object, and stores that know no tags or checksums.
func TestS3Options(t *testing.T) {
	o := sink.ObjectOptions{
		Encryption: "kms", KMSKeyID: "key-7", StorageClass: "STANDARD_IA", LockMode: "governance", LockFor: time.Hour,
		Tags: map[string]string{"team": "shop"}, Checksum: "sha256",
	}
	s := s3test.New(t)
	b := s.Bucket(o)
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	h := s.Header("a")
	for name, want := range map[string]string{
		"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-7", "X-Amz-Storage-Class": "STANDARD_IA",
		"X-Amz-Object-Lock-Mode": "GOVERNANCE", "X-Amz-Tagging": "team=shop", "X-Amz-Checksum-Sha256": "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=",
		"X-Amz-Content-Sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if until, err := time.Parse(time.RFC3339, h.Get("X-Amz-Object-Lock-Retain-Until-Date")); err != nil || time.Until(until) > time.Hour || time.Until(until) < 50*time.Minute {
		t.Errorf("retained until %v, %v", until, err)
	}
	s.Change(func(s *s3test.Server) { s.NoTags = true })
	if err := b.Put(t.Context(), "b", strings.NewReader("x")); err != nil || s.Header("b").Get("X-Amz-Tagging") != "" {
		t.Errorf("a store without tags: %v, %v", err, s.Header("b"))
	}
	if s.Header("b").Get("X-Amz-Server-Side-Encryption") == "" || len(b.Limits()) != 1 {
		t.Errorf("headers %v, limits %q", s.Header("b"), b.Limits())
	}
	s.Change(func(s *s3test.Server) { s.NoChecksums = true })
	if err := b.Put(t.Context(), "c", strings.NewReader("x")); sink.ClassOf(err) != sink.ClassHold {
		t.Errorf("a checksum that was asked for and is refused: %v", err)
	}
	plain := s.Bucket(sink.ObjectOptions{})
	if err := plain.Put(t.Context(), "c", strings.NewReader("x")); err != nil {
		t.Errorf("a store without checksums: %v", err)
	}
	for name, o := range map[string]sink.ObjectOptions{
		"encryption": {Encryption: "rot13"},
		"KMS":        {KMSKeyID: "key"},
		"lock mode":  {LockMode: "maybe", LockFor: 1},
		"lock needs": {LockMode: "governance"},
		"tags":       {Tags: map[string]string{"": "x"}},
		`"sha7"`:     {Checksum: "sha7"},
	} {
		if _, err := sink.OpenS3(t.Context(), sink.S3Options{Bucket: "logs", Credentials: "env", Objects: o}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestS3Tags: tags are dropped for good only where an object is taken without them, and that is told.
func TestS3Tags(t *testing.T) {
	s := s3test.New(t)
	var told []string
	o := sink.S3Options{Endpoint: s.URL, Bucket: "logs", Credentials: "env", Objects: sink.ObjectOptions{Tags: map[string]string{"team": "shop"}}}
	o.Limited = func(limit string) { told = append(told, limit) }
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	b, err := sink.OpenS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Change(func(s *s3test.Server) {
		s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool { // a proxy that is not set up yet
			if r.URL.Path == "/logs/a" {
				s3test.Refuse(w, http.StatusNotImplemented, "NotImplemented")
			}
			return r.URL.Path == "/logs/a"
		}
	})
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); sink.ClassOf(err) != sink.ClassHold {
		t.Errorf("a store that takes nothing: %v", err)
	}
	s.Change(func(s *s3test.Server) { s.Script = nil })
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil || s.Header("a").Get("X-Amz-Tagging") != "team=shop" || len(told) > 0 {
		t.Errorf("afterwards: %v, %v, told %q", err, s.Header("a"), told)
	}
	s.Change(func(s *s3test.Server) { s.NoTags = true })
	for _, key := range []string{"b", "c"} {
		if err := b.Put(t.Context(), key, strings.NewReader("x")); err != nil || s.Header(key).Get("X-Amz-Tagging") != "" {
			t.Errorf("a store without tags: %v, %v", err, s.Header(key))
		}
	}
	if len(told) != 1 || !strings.Contains(told[0], "tags") {
		t.Errorf("told %q", told)
	}
}

// TestS3CheckWrite shows at the start what an upload would meet.
func TestS3CheckWrite(t *testing.T) {
	s := s3test.New(t)
	if err := s.Bucket(sink.ObjectOptions{Tags: map[string]string{"a": "b"}}).CheckWrite(t.Context()); err != nil {
		t.Error(err)
	}
	s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
		if r.Header.Get("X-Amz-Storage-Class") != "" {
			s3test.Refuse(w, http.StatusBadRequest, "InvalidStorageClass")
			return true
		}
		if r.URL.Query().Has("object-lock") {
			s3test.Refuse(w, http.StatusNotFound, "ObjectLockConfigurationNotFoundError")
			return true
		}
		return false
	}
	if err := s.Bucket(sink.ObjectOptions{StorageClass: "NONE"}).CheckWrite(t.Context()); err == nil || !strings.Contains(sink.Hint(err), "storage class") {
		t.Errorf("storage class: %v", err)
	}
	if err := s.Bucket(sink.ObjectOptions{LockMode: "compliance", LockFor: time.Hour}).CheckWrite(t.Context()); err == nil || sink.Reason(err) != "ObjectLockConfigurationNotFoundError" {
		t.Errorf("lock: %v", err)
	}
	if len(s.Objects()) != 0 {
		t.Errorf("stored %v", s.Objects())
	}
}

// TestS3RetryAfter reads how long the store wants to be left alone, and how far the clocks are apart.
func TestS3RetryAfter(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": 0, "-3": 0, "soon": 0, "999999999999": 15 * time.Minute,
		date.Add(time.Minute).Format(http.TimeFormat): time.Minute, date.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		s := s3test.New(t)
		s.Script = func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
			w.Header().Set("Date", date.Format(http.TimeFormat))
			w.Header().Set("Retry-After", header)
			s3test.Refuse(w, http.StatusServiceUnavailable, "SlowDown")
			return true
		}
		if err := s.Bucket(sink.ObjectOptions{}).Put(t.Context(), "a", strings.NewReader("x")); sink.RetryAfter(err) != want || sink.ClassOf(err) != sink.ClassSlow {
			t.Errorf("%q: %s, %v", header, sink.RetryAfter(err), err)
		}
	}
	for ahead, want := range map[time.Duration]string{20 * time.Minute: "behind the store's", -20 * time.Minute: "ahead of the store's"} {
		s := s3test.New(t)
		s.Script = func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			s3test.Refuse(w, http.StatusForbidden, "RequestTimeTooSkewed")
			return true
		}
		err := s.Bucket(sink.ObjectOptions{}).Put(t.Context(), "a", strings.NewReader("x"))
		hint := sink.Hint(err)
		if !strings.Contains(hint, want) || !strings.Contains(hint, "20m") && !strings.Contains(hint, "19m59s") || sink.ClassOf(err) != sink.ClassHold {
			t.Errorf("a store that is %s ahead: hint %q", ahead, hint)
		}
	}
}

// TestS3Wrong meets stores that tell of other bytes than were sent, by each sum that they may answer with.
func TestS3Wrong(t *testing.T) {
	for name, header := range map[string]string{"etag": "ETag", "crc": "X-Amz-Checksum-Crc64nvme", "sha": "X-Amz-Checksum-Sha256"} {
		t.Run(name, func(t *testing.T) {
			s := s3test.New(t)
			s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
				if r.Method != http.MethodPut || strings.Contains(r.URL.Path, "probe") {
					return false
				}
				w.Header().Set("ETag", s3test.ETag([]byte("x")))
				w.Header().Set(header, strings.Trim(s3test.ETag([]byte("other")), `"`))
				return true
			}
			b := s.Bucket(sink.ObjectOptions{})
			if err := b.Put(t.Context(), "a", strings.NewReader("x")); !errors.Is(err, sink.ErrMismatch) || sink.ClassOf(err) != sink.ClassRetry {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestWhole checks that bytes which have rotted are never stored.
func TestWhole(t *testing.T) {
	s := s3test.New(t)
	for name, b := range map[string]sink.Bucket{"s3": s.Bucket(sink.ObjectOptions{}), "dir": openDir(t, t.TempDir())} {
		good := sink.Whole{Content: bytes.NewReader([]byte("x")), SHA256: "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
		bad := sink.Whole{Content: bytes.NewReader([]byte("y")), SHA256: good.SHA256}
		if err := b.Put(t.Context(), "a", bad); !errors.Is(err, sink.ErrDamaged) || sink.ClassOf(err) != sink.ClassItem {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.Stat(t.Context(), "a"); !errors.Is(err, sink.ErrNotFound) {
			t.Errorf("%s: stored: %v", name, err)
		}
		if err := b.Put(t.Context(), "a", good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestS3Race lets writers race for keys.
func TestS3Race(t *testing.T) {
	s := s3test.New(t)
	var wait sync.WaitGroup
	for range 4 {
		b := s.Bucket(sink.ObjectOptions{})
		wait.Go(func() {
			for i := range 50 {
				if err := b.Put(t.Context(), fmt.Sprint("k", i), strings.NewReader("same")); err != nil && !errors.Is(err, sink.ErrExists) {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	for i := range 50 {
		if n := s.Versions(fmt.Sprint("k", i)); n != 1 {
			t.Errorf("k%d has %d versions", i, n)
		}
	}
}

// TestS3TooSlow cuts an upload that trickles, and gives the next one more time.
func TestS3TooSlow(t *testing.T) {
	if first, second := sink.UploadLimit(64<<20, 0), sink.UploadLimit(64<<20, 1); first != 30*time.Second+512*time.Second || second != 30*time.Second+1024*time.Second {
		t.Errorf("64 MiB may take %s, then %s", first, second)
	}
	var slow atomic.Int64
	f := newFakeS3(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/logs/large") {
			<-time.After(time.Duration(slow.Load())) // bytes go on into buffers on the way
		}
		return false
	})
	b := f.impatient(t, sink.Patience{Pace: 4 << 20, Grace: time.Second})
	body := strings.NewReader(strings.Repeat("x", 4<<20)) // 2 s, then 3 s
	put := func() error {
		_, _ = body.Seek(0, io.SeekStart)
		n := f.count(http.MethodPut)
		err := b.Put(t.Context(), fmt.Sprint("large", n), body)
		if err := b.Put(t.Context(), fmt.Sprint("small", n), strings.NewReader("x")); err != nil {
			t.Errorf("a small object: %v", err)
		}
		return err
	}
	for i, test := range []struct {
		slow time.Duration
		cut  bool
	}{
		{2400 * time.Millisecond, true},
		{2400 * time.Millisecond, false}, // with more time
		{0, false},                       // this one shows that the line is fast
		{2400 * time.Millisecond, true},
	} {
		slow.Store(int64(test.slow))
		switch err := put(); {
		case !test.cut && err != nil:
			t.Errorf("%d: %v", i, err)
		case test.cut && (sink.ClassOf(err) != sink.ClassSlow || !strings.Contains(err.Error(), "4194304 bytes took longer than 2s")):
			t.Errorf("%d: got %v, want a cut", i, err)
		}
	}
}

// TestCredentialsHalfRotated: a rotation that is half done when it is read is read again.
func TestCredentialsHalfRotated(t *testing.T) {
	clearAWS(t)
	s := s3test.New(t)
	s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
		if signedBy(r) == s3test.AccessKey {
			return false
		}
		s3test.Refuse(w, http.StatusForbidden, "SignatureDoesNotMatch")
		return true
	}
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	text := "[default]\naws_access_key_id = %s\naws_secret_access_key = " + s3test.SecretKey + "\n"
	write(t, file, fmt.Sprintf(text, "OLD"))
	b, err := sink.OpenS3(t.Context(), sink.S3Options{Endpoint: s.URL, Bucket: "logs", Credentials: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); sink.ClassOf(err) != sink.ClassHold {
		t.Errorf("old key: %v", err)
	}
	if err := os.WriteFile(file, []byte(fmt.Sprintf(text, s3test.AccessKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Errorf("new key: %v", err)
	}
}
