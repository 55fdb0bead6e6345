package exporter

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// These are fault tests over real HTTP. After each of them every capture is in the bucket exactly once, with
// the bytes that its record tells of, and nothing is left in the spool.

func newFault(t *testing.T) (*s3test.Server, *shipping) {
	t.Helper()
	server := s3test.New(t)
	bucket := server.Bucket(sink.ObjectOptions{})
	return server, newShipping(t, func(o *Options) { o.Bucket = bucket })
}

// isUpload says whether a request is for an object of the archive.
func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPut && !strings.Contains(r.URL.Path, "probe")
}

// once checks that every object was stored once.
func once(t *testing.T, server *s3test.Server) {
	t.Helper()
	for key := range server.Objects() {
		if n := server.Versions(key); n != 1 {
			t.Errorf("%s has %d versions", key, n)
		}
	}
}

// drop ends a request without an answer.
func drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset
		_ = conn.Close()
	}
}

// TestFaultThrottled is fault test 1 over HTTP: a third of the requests is refused, with Retry-After.
func TestFaultThrottled(t *testing.T) {
	t.Parallel()
	server, s := newFault(t)
	var n atomic.Int64
	server.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
		if !isUpload(r) || n.Add(1)%12 != 5 {
			return false
		}
		return s3test.Wait(http.StatusServiceUnavailable, "SlowDown", 1)(w, r, nil, 0)
	}
	s.run()
	s.fill(15)
	s.drained(30 * time.Second)
	s.check(15)
	once(t, server)
}

// TestFaultAfterBody is fault test 2: the connection breaks, or 503 comes, after the whole body, whether the
// object was stored or not. Ours is found, and no second version is made.
func TestFaultAfterBody(t *testing.T) {
	t.Parallel()
	for _, stored := range []bool{false, true} {
		for _, answered := range []bool{false, true} {
			t.Run(fmt.Sprintf("stored=%t answered=%t", stored, answered), func(t *testing.T) {
				t.Parallel()
				server, s := newFault(t)
				var mu sync.Mutex
				tried := make(map[string][]byte)
				told := make(map[string]int)
				s.e.opts.Archived = func(key string, _ []byte) {
					mu.Lock()
					defer mu.Unlock()
					told[key]++
				}
				server.Script = func(w http.ResponseWriter, r *http.Request, body []byte, _ int) bool {
					mu.Lock()
					before, again := tried[r.URL.Path]
					if isUpload(r) {
						tried[r.URL.Path] = body
					}
					mu.Unlock()
					if again && isUpload(r) && !bytes.Equal(before, body) {
						t.Errorf("%s was sent with other bytes", r.URL.Path)
					}
					if !isUpload(r) || again {
						return false
					}
					if stored {
						server.Store(r, body)
					}
					if answered {
						s3test.Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable")
					} else {
						drop(w)
					}
					return true
				}
				s.run()
				for _, key := range s.fill(2) {
					defer func() {
						if n := told[key]; n != 1 {
							t.Errorf("told %d times of %s", n, key)
						}
					}()
				}
				s.drained(60 * time.Second)
				s.check(2)
				once(t, server)
			})
		}
	}
}

// TestFaultWrongAnswer is fault test 3: 200 OK with the ETag of other bytes, with a part of the object only, and
// from somebody who stores nothing. Each is found out, and an object with the right bytes is there in the end.
func TestFaultWrongAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(server *s3test.Server, w http.ResponseWriter, r *http.Request, body []byte){
		"other ETag": func(_ *s3test.Server, w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("ETag", s3test.ETag([]byte("other")))
		},
		"truncated": func(server *s3test.Server, w http.ResponseWriter, r *http.Request, body []byte) {
			server.Store(r, body[:len(body)/2])
			w.Header().Set("ETag", s3test.ETag(body[:len(body)/2]))
		},
		"an error in the body": func(_ *s3test.Server, w http.ResponseWriter, _ *http.Request, _ []byte) {
			s3test.Refuse(w, http.StatusOK, "InternalError")
		},
		"a page of a proxy": func(_ *s3test.Server, w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("ETag", `"5f3a-61c"`)
			_, _ = io.WriteString(w, "<html>Please log in.</html>")
		},
		"truncated by another": func(server *s3test.Server, w http.ResponseWriter, r *http.Request, body []byte) {
			server.Store(r, body[:len(body)/2])
			s3test.Refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, s := newFault(t)
			var mu sync.Mutex
			tried := make(map[string]bool)
			server.Script = func(w http.ResponseWriter, r *http.Request, body []byte, _ int) bool {
				mu.Lock()
				again := tried[r.URL.Path]
				tried[r.URL.Path] = tried[r.URL.Path] || isUpload(r)
				mu.Unlock()
				if !isUpload(r) || again || strings.Contains(r.URL.Path, ".1001.") {
					return false
				}
				answer(server, w, r, body)
				return true
			}
			s.run()
			s.fill(1)
			s.drained(30 * time.Second)
			s.check(1)
			if n := s.metric("upload_mismatch_total"); (n != 2) != (name == "truncated by another") {
				t.Errorf("%v mismatches", n)
			}
		})
	}
}

// TestFaultBlackHole is fault test 4 in part: large uploads hang and are cut, again and again, small ones go
// through, and nothing grows. It counts goroutines, so it does not run beside other tests.
func TestFaultBlackHole(t *testing.T) {
	before := runtime.NumGoroutine()
	server := s3test.New(t)
	bucket, err := s3test.Open(t, server.URL, sink.ObjectOptions{}, sink.Patience{Stall: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s := newShipping(t, func(o *Options) { o.Bucket = bucket })
	var hung, cut, most atomic.Int64
	server.Script = func(_ http.ResponseWriter, r *http.Request, body []byte, _ int) bool {
		if !isUpload(r) || len(body) < largeCapture {
			return false
		}
		most.Store(max(most.Load(), hung.Add(1)))
		<-r.Context().Done()
		hung.Add(-1)
		cut.Add(1)
		return true
	}
	text := large(2 << 20)
	for i := range 3 {
		rec := s.record(9000 + i)
		s.e.ship.add(s.commit(rec, text), rec)
	}
	s.run()
	s.fill(20)
	end := time.Now().Add(20 * time.Second)
	for s.e.ship.open.count() > 3 || cut.Load() < 6 {
		if time.Now().After(end) {
			t.Fatalf("%d are left, %d large uploads were cut", s.e.ship.open.count(), cut.Load())
		}
		<-time.After(20 * time.Millisecond)
	}
	if n := most.Load(); n > 4 {
		t.Errorf("%d large uploads hung at a time", n)
	}
	if n := runtime.NumGoroutine(); n > before+60 { // each connection has two on either side
		t.Errorf("%d goroutines after %d cuts, %d before", n, cut.Load(), before)
	}
	server.Change(func(s *s3test.Server) { s.Script = nil })
	s.drained(20 * time.Second)
	s.bucket = server.Bucket(sink.ObjectOptions{}) // a patient one
	s.check(23)
	once(t, server)
	s.stop()
	server.CloseClientConnections()
	settled(t, before)
}

// settled waits until no more goroutines run than before.
func settled(t *testing.T, before int) {
	t.Helper()
	const own = 8 // of servers and clients that the test's end closes
	end := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+own && time.Now().Before(end) {
		<-time.After(50 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+own {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// TestFaultNoBucket is fault test 5: the bucket is missing at the start, comes, goes and comes again.
func TestFaultNoBucket(t *testing.T) {
	t.Parallel()
	server, s := newFault(t)
	server.Missing = true
	s.run()
	for range 2 {
		s.fill(5)
		end := time.Now().Add(10 * time.Second)
		for s.metric("ship_held") == 0 && time.Now().Before(end) {
			<-time.After(10 * time.Millisecond)
		}
		if err := s.e.ship.outageSince(0); sink.Reason(err) != "NoSuchBucket" {
			t.Errorf("held for %v", err)
		}
		server.Change(func(s *s3test.Server) { s.Missing = false })
		s.drained(maxHoldBackoff)
		server.Change(func(s *s3test.Server) { s.Missing = true })
	}
	server.Change(func(s *s3test.Server) { s.Missing = false })
	s.check(10)
	once(t, server)
}

// TestFaultStores: stores without conditions, tags or checksums end with one right object for each key.
func TestFaultStores(t *testing.T) {
	t.Parallel()
	for _, c := range []s3test.Conditions{s3test.Ignored, s3test.Unknown} {
		server := s3test.New(t)
		server.Conditions, server.NoTags, server.NoChecksums = c, true, true
		bucket := server.Bucket(sink.ObjectOptions{Tags: map[string]string{"a": "b"}})
		s := newShipping(t, func(o *Options) { o.Bucket = bucket })
		s.run()
		keys := s.fill(4)
		s.drained(20 * time.Second)
		for i := range keys { // another exporter has captured the same runs
			rec := s.record(i)
			s.e.ship.add(s.commit(rec, fmt.Sprintf("%sline of %d\n", stampedLine, i)), rec)
		}
		s.drained(20 * time.Second)
		s.check(4)
		once(t, server)
	}
}

// TestFaultReplicas is fault test 15 in part: two exporters ship the same runs at the same time.
func TestFaultReplicas(t *testing.T) {
	t.Parallel()
	server, one := newFault(t)
	other := server.Bucket(sink.ObjectOptions{})
	two := newShipping(t, func(o *Options) { o.Bucket = other })
	const runs = 24
	one.run()
	two.run()
	for i := range runs {
		for j, s := range []*shipping{one, two} {
			rec := s.record(i)
			text := fmt.Sprintf("%sline of %d\n", stampedLine, i)
			if i%3 == j { // one of them has read more
				text += fmt.Sprintf("2026-03-01T10:00:02.000000001Z the end of %d\n", i)
			}
			s.e.ship.add(s.commit(rec, text), rec)
		}
	}
	one.drained(30 * time.Second)
	two.drained(30 * time.Second)
	for i, rec := range one.check(runs) {
		want, n := int64(2), 0
		if _, err := fmt.Sscanf(i, "pod-%d", &n); err != nil {
			t.Fatal(err)
		}
		if n%3 == 2 {
			want = 1
		}
		if rec.Lines != want {
			t.Errorf("%s: %d lines, want %d", i, rec.Lines, want)
		}
	}
	if sum := one.metric("archived_total") + one.metric("already_archived_total") + two.metric("archived_total") + two.metric("already_archived_total"); sum != 2*runs {
		t.Errorf("%v runs are accounted for", sum)
	}
}

// TestFaultRestarts stops at random moments of shipping, without a word, and starts again.
func TestFaultRestarts(t *testing.T) {
	t.Parallel()
	server, s := newFault(t)
	s.fill(50)
	var slow atomic.Bool
	slow.Store(true)
	server.Script = func(http.ResponseWriter, *http.Request, []byte, int) bool {
		if slow.Load() {
			<-time.After(rand.N(20 * time.Millisecond))
		}
		return false
	}
	bucket := s.bucket
	s.run()
	for range 8 {
		<-time.After(rand.N(100 * time.Millisecond))
		s.stop()
		s.open(func(o *Options) { o.Bucket = bucket })
		s.run()
	}
	slow.Store(false)
	s.drained(30 * time.Second)
	s.check(50)
	once(t, server)
}

// openFiles counts the files that this process has open, 0 where it cannot be told.
func openFiles() int {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(files)
}

// TestFaultGoroutines: after all of it nothing is left running, and no file open. No other test may run beside it.
func TestFaultGoroutines(t *testing.T) {
	before, files := runtime.NumGoroutine(), openFiles()
	server, s := newFault(t)
	server.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, n int) bool {
		broken := n < 30 && n%3 == 0
		if broken {
			drop(w)
		}
		return broken
	}
	s.run()
	s.fill(20)
	s.drained(60 * time.Second)
	server.Change(func(s *s3test.Server) { s.Script = nil })
	s.check(20)
	s.stop()
	server.CloseClientConnections()
	end := time.Now().Add(10 * time.Second)
	for (runtime.NumGoroutine() > before+8 || openFiles() > files+8) && time.Now().Before(end) {
		<-time.After(50 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+8 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	if n := openFiles(); n > files+8 {
		t.Errorf("%d open files, %d before", n, files)
	}
}

// TestFaultFullDisk is fault test 7 in part: a start on a spool where nothing can be written any more takes
// up what is there, and ships it.
func TestFaultFullDisk(t *testing.T) {
	t.Parallel()
	_, s := newFault(t)
	s.fill(5)
	if err := s.e.Close(); err != nil {
		t.Fatal(err)
	}
	bucket := s.bucket
	s.open(func(o *Options) { o.Bucket, o.SpoolMaxBytes = bucket, 1 })
	s.run()
	s.drained(20 * time.Second)
	s.check(5)
	if left, err := filepath.Glob(filepath.Join(s.spool, ".tmp", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(s.spool, spoolMark)); err != nil {
		t.Error(err)
	}
}
