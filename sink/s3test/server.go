// Package s3test plays an S3 server over real HTTP that misbehaves on request, for tests.
// It never stands in for the real servers, on which the contract of a Bucket is tested.
package s3test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/crc64nvme"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// Conditions say what a server does with If-None-Match and If-Match.
type Conditions int

// What stores do.
const (
	Kept    Conditions = iota // they are kept
	Ignored                   // the object is stored whatever is there
	Unknown                   // the request is refused with 501
)

// AccessKey and SecretKey are the only ones that the server takes.
const (
	AccessKey = "AKIATEST"
	SecretKey = "a-secret-that-must-not-show"
)

// Server is the server. Its exported fields may be changed while it runs under Change.
type Server struct {
	*httptest.Server
	t testing.TB

	mu sync.Mutex
	// Script handles the n-th request, counted from 1, and returns true, or leaves it to the server. A
	// request's body is read when it is called.
	Script func(w http.ResponseWriter, r *http.Request, body []byte, n int) bool
	// Conditions is what is done with conditions.
	Conditions Conditions
	// NoTags and NoChecksums refuse the headers that some stores do not know.
	NoTags, NoChecksums bool
	// Missing says that there is no bucket.
	Missing bool

	n        int
	objects  map[string][]byte // by key
	versions map[string]int
	headers  map[string]http.Header // of the last PUT
	times    []time.Time            // of the requests
}

// New starts a server with one empty bucket, "logs".
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, objects: make(map[string][]byte), versions: make(map[string]int), headers: make(map[string]http.Header)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// Change changes the server between two requests.
func (s *Server) Change(change func(*Server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// Clear empties the bucket. It is for Change.
func (s *Server) Clear() {
	clear(s.objects)
	clear(s.versions)
	clear(s.headers)
	s.times = nil
}

// Bucket opens the bucket, with what o says of the objects.
func (s *Server) Bucket(o sink.ObjectOptions) *sink.S3 {
	s.t.Helper()
	b, err := Open(s.t, s.URL, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// Open opens the bucket of a server that may be in another process, with patience if some is given.
func Open(t testing.TB, endpoint string, o sink.ObjectOptions, patience ...sink.Patience) (*sink.S3, error) {
	t.Helper()
	dir := t.TempDir()
	so := sink.S3Options{
		Endpoint: endpoint, Bucket: "logs", Credentials: "files", Objects: o,
		AccessKeyIDFile: filepath.Join(dir, "id"), SecretAccessKeyFile: filepath.Join(dir, "secret"),
	}
	for _, p := range patience {
		so.Patience = p
	}
	for file, text := range map[string]string{so.AccessKeyIDFile: AccessKey, so.SecretAccessKeyFile: SecretKey} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return sink.OpenS3(t.Context(), so)
}

// Objects returns a copy of what is stored, by key, but for the client's own probe.
func (s *Server) Objects() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := maps.Clone(s.objects)
	maps.DeleteFunc(all, func(key string, _ []byte) bool { return strings.HasPrefix(key, ".") })
	return all
}

// Versions returns how often an object was stored.
func (s *Server) Versions(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.versions[key]
}

// Header returns the headers with which an object was stored last.
func (s *Server) Header(key string) http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers[key]
}

// Times returns when requests came.
func (s *Server) Times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.times)
}

// Refuse answers as S3 does.
func Refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>the message of %s</Message></Error>`, code, code)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=") {
		s.t.Errorf("%s %s came unsigned", r.Method, r.URL)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	s.mu.Lock()
	s.n++
	n, script := s.n, s.Script
	s.times = append(s.times, time.Now())
	s.mu.Unlock()
	if script != nil && script(w, r, body, n) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := strings.TrimPrefix(r.URL.Path, "/logs/")
	old, exists := s.objects[key]
	switch {
	case s.Missing:
		Refuse(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodPut:
		s.put(w, r, key, body)
	case r.URL.Query().Has("list-type"):
		s.list(w, r)
	case !exists:
		Refuse(w, http.StatusNotFound, "NoSuchKey")
	default:
		w.Header().Set("ETag", ETag(old))
		http.ServeContent(w, r, "", time.Unix(1_700_000_000, 0), bytes.NewReader(old))
	}
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	old, exists := s.objects[key]
	none, match := r.Header.Get("If-None-Match"), r.Header.Get("If-Match")
	sum, sha := md5.Sum(body), sha256.Sum256(body)
	hash := r.Header.Get("X-Amz-Content-Sha256")
	switch {
	case s.NoTags && r.Header.Get("X-Amz-Tagging") != "", s.Conditions == Unknown && none+match != "":
		Refuse(w, http.StatusNotImplemented, "NotImplemented")
	case s.NoChecksums && strings.Contains(strings.ToLower(fmt.Sprint(r.Header)), "x-amz-checksum"):
		Refuse(w, http.StatusBadRequest, "InvalidArgument")
	case s.Conditions == Kept && none == "*" && exists:
		Refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case s.Conditions == Kept && match != "" && (!exists || strings.Trim(match, `"`) != strings.Trim(ETag(old), `"`)):
		Refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Header.Get("Content-Md5") != base64.StdEncoding.EncodeToString(sum[:]), len(hash) == 64 && hash != hex.EncodeToString(sha[:]):
		Refuse(w, http.StatusBadRequest, "BadDigest")
	default:
		s.objects[key] = body
		s.versions[key]++
		s.headers[key] = r.Header.Clone()
		w.Header().Set("ETag", ETag(body))
		crc := crc64nvme.New()
		_, _ = crc.Write(body)
		w.Header().Set("X-Amz-Checksum-Crc64nvme", base64.StdEncoding.EncodeToString(crc.Sum(nil))) // unasked, as AWS does
	}
}

// Store stores a body as if the request had been handled, for scripts that then answer something else.
func (s *Server) Store(r *http.Request, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := strings.TrimPrefix(r.URL.Path, "/logs/")
	s.objects[key] = body
	s.versions[key]++
	s.headers[key] = r.Header.Clone()
}

// list gives all objects in one page.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	type contents struct {
		Key, LastModified, ETag string
		Size                    int
	}
	var page struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		IsTruncated bool
		Contents    []contents
	}
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			page.Contents = append(page.Contents, contents{Key: key, LastModified: "2026-01-01T00:00:00Z", ETag: ETag(s.objects[key]), Size: len(s.objects[key])})
		}
	}
	_ = xml.NewEncoder(w).Encode(page)
}

// Wait is a script that answers like refuse, and asks to be left alone for some seconds.
func Wait(status int, code string, seconds int) func(http.ResponseWriter, *http.Request, []byte, int) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		Refuse(w, status, code)
		return true
	}
}

// ETag is that of a single PUT.
func ETag(data []byte) string {
	sum := md5.Sum(data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}
