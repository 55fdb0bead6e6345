package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// store is a bucket in a directory that does what a script says first. It needs no network, so that
// time can be virtual; what stores answer over HTTP is tested in package sink.
type store struct {
	*sink.Dir
	mu     sync.Mutex
	script func(key string) error // called without the lock
	puts   []time.Time
}

func (s *store) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	s.mu.Lock()
	s.puts = append(s.puts, time.Now())
	script := s.script
	s.mu.Unlock()
	if script != nil {
		if err := script(key); err != nil {
			return err
		}
	}
	return s.Dir.Put(ctx, key, body)
}

func (s *store) set(script func(key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// since counts the uploads tried since a time.
func (s *store) since(t time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, at := range s.puts {
		if !at.Before(t) {
			n++
		}
	}
	return n
}

// refusal is an error as sink words it.
func refusal(status int, code string, after time.Duration) error {
	return &sink.StoreError{Op: "put", Bucket: "logs", Key: "k", Code: code, Status: status, RetryAfter: after, Err: errors.New(code)}
}

// memoryDir makes a directory in memory, where there is such a place: these tests sync thousands of files.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kubelogexporter-test-") //nolint:usetesting // in memory
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// shipping is an exporter of which only the shipper runs.
type shipping struct {
	t      *testing.T
	e      *Exporter
	store  *store
	bucket sink.Bucket // the store, or another
	spool  string
	log    bytes.Buffer
	reg    *prometheus.Registry
	stop   func()
	n      int
}

func newShipping(t *testing.T, change func(*Options)) *shipping {
	t.Helper()
	dir, err := sink.OpenDir(memoryDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s := &shipping{t: t, store: &store{Dir: dir}, spool: memoryDir(t)}
	s.open(change)
	return s
}

// open opens the spool, as a new process does.
func (s *shipping) open(change func(*Options)) {
	s.t.Helper()
	s.reg = prometheus.NewRegistry()
	o := Options{
		Metrics: s.reg,
		Kube:    &rest.Config{Host: "http://127.0.0.1:1"}, Bucket: s.store, Spool: s.spool, Cluster: "test", Version: "test",
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: &s.log}, nil)),
	}
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.e, s.bucket = e, o.Bucket
}

// run takes up the spool and ships.
func (s *shipping) run() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.e.ship.recover(ctx); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.e.ship.run(ctx)
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := s.e.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(s.stop)
}

// record describes the n-th run.
func (s *shipping) record(n int) *bundle.Record {
	finished := time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)
	proven := bundle.Part{State: bundle.Proven}
	return &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: "test", Namespace: "shop",
		Pod:       bundle.Pod{Name: fmt.Sprintf("pod-%04d", n), UID: fmt.Sprintf("00000000-0000-0000-0000-%012d", n)},
		Container: bundle.Container{Name: "app", Type: bundle.TypeContainer, ContainerID: fmt.Sprintf("containerd://%064x", n+1<<60)},
		State:     bundle.State{FinishedAt: &finished},
		Verdict:   bundle.Verdict{Complete: true, Head: proven, Middle: proven, Tail: proven},
		Capture:   bundle.Capture{ExporterVersion: "test", Policy: "final"},
	}
}

const stampedLine = "2026-03-01T10:00:00.000000001Z "

// commit puts a capture into the spool, and returns its key.
func (s *shipping) commit(rec *bundle.Record, text string) string {
	s.t.Helper()
	about, err := bundle.Encode(rec)
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := newOutput(s.e.spool, s.e.encoders, bundle.Zstd, about)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.abort()
	if _, err := out.Write([]byte(text)); err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(out.seal(rec), out.publish(rec)); err != nil {
		s.t.Fatal(err)
	}
	run, err := bundle.KeyOf(rec)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := putRecord(s.e.spool, run.Record(), rec); err != nil {
		s.t.Fatal(err)
	}
	return run.Record()
}

// fill puts captures into the spool and hands them to the shipper.
func (s *shipping) fill(n int) (keys []string) {
	s.t.Helper()
	for range n {
		rec := s.record(s.n)
		key := s.commit(rec, fmt.Sprintf("%sline of %d\n", stampedLine, s.n))
		s.n++
		s.e.ship.add(key, rec)
		keys = append(keys, key)
	}
	return keys
}

// large makes a text that does not compress.
func large(size int) string {
	rnd := rand.New(rand.NewPCG(1, 1))
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(stampedLine)
		for range 100 {
			b.WriteByte(byte(' ' + rnd.IntN(95)))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// check holds the archive to the invariants: every record once, with its objects, each with the bytes that
// the record tells of, and nothing in the spool.
func (s *shipping) check(want int) map[string]*bundle.Record {
	s.t.Helper()
	recs := make(map[string]*bundle.Record)
	for o, err := range s.bucket.List(context.Background(), "", sink.ListOptions{}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if !strings.HasSuffix(o.Key, ".json") {
			continue
		}
		data, err := readAll(context.Background(), s.bucket, o.Key)
		if err != nil {
			s.t.Fatal(err)
		}
		rec, err := bundle.DecodeStrict(data)
		if err == nil {
			err = rec.Validate()
		}
		if err != nil {
			s.t.Errorf("%s: %v", o.Key, err)
			continue
		}
		recs[rec.Pod.Name] = rec
		for _, obj := range rec.Objects {
			same, err := (&shipper{e: &Exporter{bucket: s.bucket}}).same(context.Background(), &obj)
			if err != nil || !same {
				s.t.Errorf("%s: not the bytes that the record tells of: %v", obj.Key, err)
			}
		}
	}
	if len(recs) != want {
		s.t.Errorf("%d records in the bucket, want %d", len(recs), want)
	}
	if n := s.e.ship.open.count(); n == 0 {
		for o := range s.e.spool.List(context.Background(), "", sink.ListOptions{}) {
			s.t.Errorf("left in the spool: %s", o.Key)
		}
	}
	return recs
}

// metric returns the sum of a metric's values.
func (s *shipping) metric(name string) (sum float64) {
	s.t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "kubelogexporter_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (s *shipping) said(what string) int { return strings.Count(s.log.String(), what) }

// TestShipHold: whatever looks final and is not holds everything, is tried now and then, is told once, and
// is over within a minute after people have mended it.
func TestShipHold(t *testing.T) {
	for _, test := range []struct {
		err    error
		reason string
		tries  int // in ten minutes, at most
	}{
		{refusal(403, "AccessDenied", 0), "AccessDenied", 60},
		{refusal(404, "NoSuchBucket", 0), "NoSuchBucket", 60},
		{refusal(400, "ExpiredToken", 0), "ExpiredToken", 60},
		{refusal(403, "RequestTimeTooSkewed", 0), "RequestTimeTooSkewed", 60},
		{refusal(507, "XMinioStorageFull", 0), "XMinioStorageFull", 60},
		{refusal(400, "XMinioAdminBucketQuotaExceeded", 0), "XMinioAdminBucketQuotaExceeded", 60},
		{refusal(400, "InvalidStorageClass", 0), "InvalidStorageClass", 60},
		{refusal(0, "", 0), "Unreachable", 120},
		{refusal(503, "SlowDown", 0), "SlowDown", 160},
		{refusal(503, "SlowDown", 5*time.Minute), "SlowDown", 20},
		{refusal(500, "InternalError", 0), "Other", 160},
	} {
		t.Run(fmt.Sprintf("%s %s", test.reason, sink.RetryAfter(test.err)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShipping(t, nil)
				s.store.set(func(string) error { return test.err })
				s.run()
				s.fill(60)
				start := time.Now()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if n := s.store.since(start); n > test.tries || n < 2 {
					t.Errorf("%d tries in ten minutes, want 2 to %d", n, test.tries)
				}
				if n := s.metric("ship_held"); n != 1 {
					t.Errorf("ship_held is %v", n)
				}
				if n := s.metric("captures_pending"); n != 60 {
					t.Errorf("%v pending", n)
				}
				s.store.set(nil)
				time.Sleep(time.Minute + sink.RetryAfter(test.err))
				synctest.Wait()
				if n := s.e.ship.open.count(); n != 0 {
					t.Errorf("%d are left a minute after it was mended", n)
				}
				if s.said("level=WARN") != 1 || s.said("uploads work again") != 1 || s.said("level=ERROR") != 0 {
					t.Errorf("said:\n%s", s.log.String())
				}
				if n := s.metric("ship_held"); n != 0 {
					t.Errorf("ship_held is still %v", n)
				}
				s.check(60)
				s.stop()
			})
		})
	}
}

// TestShipRefused: a capture that the store refuses, or whose files cannot be read, holds up no other.
func TestShipRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		s.store.set(func(key string) error {
			if strings.Contains(key, "pod-0000") {
				return refusal(400, "EntityTooLarge", 0)
			}
			return nil
		})
		s.run()
		s.fill(50)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.e.ship.open.count(); n != 1 {
			t.Errorf("%d are left, want the one that is refused", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s.said("level=WARN") != 1 || s.e.ship.down() || s.metric("captures_refused") != 1 {
			t.Errorf("down: %t, said:\n%s", s.e.ship.down(), s.log.String())
		}
		if err := s.e.ship.outageSince(time.Second); err == nil {
			t.Error("a one-off export would wait for it for ever")
		}
		s.fill(10)
		time.Sleep(time.Second)
		synctest.Wait()
		s.store.set(nil)
		time.Sleep(maxItemBackoff)
		synctest.Wait()
		s.check(60)
		if n := s.metric("captures_refused"); n != 0 {
			t.Errorf("%v are refused", n)
		}
		s.stop()
	})
}

// TestShipPoisonedHold: one capture gets an answer that looks like everybody's. The others are shipped.
func TestShipPoisonedHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		s.store.set(func(key string) error {
			if strings.Contains(key, "pod-0000") {
				return refusal(400, "InvalidArgument", 0)
			}
			return nil
		})
		s.run()
		s.fill(50)
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if n := s.e.ship.open.count(); n != 1 {
			t.Errorf("%d are left, want one", n)
		}
		s.stop()
	})
}

// TestShipLanes: large captures on a slow line do not hold up small ones, and the oldest goes first.
func TestShipLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		slow := make(chan struct{})
		var mu sync.Mutex
		var order []string
		s.store.set(func(key string) error {
			mu.Lock()
			order = append(order, key)
			mu.Unlock()
			if strings.Contains(key, "pod-9") {
				<-slow
			}
			return nil
		})
		text := large(2 << 20)
		for i := range 8 {
			rec := s.record(9000 + i)
			s.e.ship.add(s.commit(rec, text), rec)
		}
		keys := s.fill(100)
		s.run()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.e.ship.open.count(); n != 8 {
			t.Errorf("%d are left, want the large ones only", n)
		}
		var records []string
		for _, key := range order {
			if strings.HasSuffix(key, ".json") {
				records = append(records, key)
			}
		}
		early := slices.Index(records, keys[0])
		if late := slices.Index(records, keys[99]); early > 16 || late < 80 {
			t.Errorf("the oldest was shipped as number %d, the youngest as number %d", early, late)
		}
		close(slow)
		time.Sleep(time.Second)
		synctest.Wait()
		s.check(108)
		s.stop()
	})
}

// TestShipSlowDown is fault test 1: a store answers a third of the requests with 503 for ten minutes. The rate
// falls to a quarter and less within five seconds, and is back a minute after.
func TestShipSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		rnd := rand.New(rand.NewPCG(3, 3))
		var mu sync.Mutex
		busy := false
		const latency = 500 * time.Millisecond
		s.store.set(func(string) error {
			time.Sleep(latency)
			mu.Lock()
			defer mu.Unlock()
			if busy && rnd.IntN(10) < 3 {
				return refusal(503, "SlowDown", 0)
			}
			return nil
		})
		s.run()
		rate := func(d time.Duration) float64 {
			start := time.Now()
			for end := start.Add(d); time.Now().Before(end); {
				if n := s.e.ship.open.count(); n < 60 {
					s.fill(60 - n)
				}
				time.Sleep(500 * time.Millisecond)
			}
			return float64(s.store.since(start)) / d.Seconds()
		}
		rate(5 * time.Second)
		full := rate(5 * time.Second)
		mu.Lock()
		busy = true
		mu.Unlock()
		rate(5 * time.Second)
		slowed := rate(10 * time.Second)
		time.Sleep(9 * time.Minute)
		mu.Lock()
		busy = false
		mu.Unlock()
		rate(60 * time.Second)
		again := rate(5 * time.Second)
		t.Logf("%.0f/s, then %.0f/s, then %.0f/s", full, slowed, again)
		if slowed > full/4 || again < full*0.9 {
			t.Errorf("%.0f/s before, %.0f/s while the store asks for less, %.0f/s after", full, slowed, again)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s.check(s.n)
		s.stop()
	})
}

// TestShipRetryAfter: one request is answered with 503 and Retry-After, and all the others wait too.
func TestShipRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		var mu sync.Mutex
		n := 0
		s.store.set(func(string) error {
			mu.Lock()
			n++
			tenth := n == 10
			mu.Unlock()
			if tenth {
				return refusal(503, "SlowDown", 30*time.Second)
			}
			time.Sleep(500 * time.Millisecond)
			return nil
		})
		s.run()
		s.fill(300)
		time.Sleep(3 * time.Second) // what was under way has ended
		start := time.Now()
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if n := s.store.since(start); n != 0 {
			t.Errorf("%d requests while the store asked to be left alone", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s.check(300)
		if s.said("level=WARN") > 0 {
			t.Errorf("said:\n%s", s.log.String())
		}
		s.stop()
	})
}

// TestShipShippedBefore: the process ended after everything was stored and a part was taken out of the spool.
func TestShipShippedBefore(t *testing.T) {
	s := newShipping(t, nil)
	keys := s.fill(2)
	data, err := os.ReadFile(filepath.Join(s.spool, keys[0]))
	if err != nil {
		t.Fatal(err)
	}
	s.run()
	s.drained(10 * time.Second)
	s.stop()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(s.spool, keys[0])), 0o755); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.spool, keys[0]), data, 0o644); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	s.open(nil)
	s.run()
	s.drained(10 * time.Second)
	s.check(2)
	if s.metric("already_archived_total") != 1 || s.metric("archived_total") != 0 {
		t.Error("it was not found in the bucket")
	}
}

// TestShipDamaged: bytes that have rotted in the spool are never archived as if they were sound. The record
// tells of the loss, and the bytes are kept for people.
func TestShipDamaged(t *testing.T) {
	s := newShipping(t, nil)
	keys := s.fill(3)
	logs, err := filepath.Glob(filepath.Join(s.spool, filepath.Dir(keys[1]), "app.*.log.zst"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	data, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 4
	if err := os.WriteFile(logs[0], data, 0o644); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	s.run()
	s.drained(10 * time.Second)
	recs := s.check(3)
	if rec := recs["pod-0001"]; rec.Verdict.Complete || rec.Verdict.Middle.Cause != bundle.CauseSpoolDamaged || len(rec.Objects) > 0 {
		t.Errorf("record %+v", rec)
	}
	for _, name := range []string{"pod-0000", "pod-0002"} {
		if !recs[name].Verdict.Complete {
			t.Errorf("%s: %+v", name, recs[name])
		}
	}
	rel, _ := filepath.Rel(s.spool, logs[0])
	if kept, err := os.ReadFile(filepath.Join(s.spool, ".set-aside", rel)); err != nil || !bytes.Equal(kept, data) {
		t.Errorf("set aside: %v", err)
	}
	if s.said("level=ERROR") != 1 {
		t.Errorf("said:\n%s", s.log.String())
	}
}

func (s *shipping) drained(d time.Duration) {
	s.t.Helper()
	select {
	case <-s.e.ship.open.none():
	case <-time.After(d):
		s.t.Fatalf("%d are left after %s", s.e.ship.open.count(), d)
	}
}

// TestSpoolCorrupt: what a start cannot read is set aside with the reason, and the rest is shipped.
func TestSpoolCorrupt(t *testing.T) {
	s := newShipping(t, nil)
	keys := s.fill(4)
	for i, text := range []string{"{", "", "\x00\x00\x00"} {
		if err := os.WriteFile(filepath.Join(s.spool, keys[i]), []byte(text), 0o644); err != nil { //nolint:gosec // a test
			t.Fatal(err)
		}
	}
	orphan := "cluster=test/namespace=shop/date=2026-03-01/lone/u/app.0.0123456789ab.log.zst"
	if err := s.e.spool.Put(t.Context(), orphan, strings.NewReader("whose?")); err != nil {
		t.Fatal(err)
	}
	if err := s.e.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(nil)
	s.run()
	s.drained(10 * time.Second)
	s.check(1)
	aside := 0
	err := filepath.WalkDir(filepath.Join(s.spool, ".set-aside"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.HasSuffix(path, ".reason.txt") {
			aside++
			if why, err := os.ReadFile(path + ".reason.txt"); err != nil || len(why) < 10 {
				t.Errorf("%s: reason %q, %v", path, why, err)
			}
		}
		return err
	})
	if err != nil || aside != 7 {
		t.Errorf("%d files are set aside, want three records, three logs and the one without a record; %v", aside, err)
	}
}

// TestTwoWriters: of two records of one run the more complete one stays, whoever comes first.
func TestTwoWriters(t *testing.T) {
	unproven := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven}
	short, long := stampedLine+"one\n", stampedLine+"one\n2026-03-01T10:00:01.000000001Z two\n"
	for _, test := range []struct {
		name                 string
		first, second        string
		complete1, complete2 bool
		lines                int64
		complete             bool
	}{
		{"the same", short, short, true, true, 1, true},
		{"complete later", short, long, false, true, 2, true},
		{"complete first", long, short, true, false, 2, true},
		{"complete and shorter", short, long, true, false, 1, true},
		{"longer later", short, long, false, false, 2, false},
		{"longer first", long, short, false, false, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newShipping(t, nil)
			s.run()
			for i, text := range []string{test.first, test.second} {
				rec := s.record(0)
				if complete := []bool{test.complete1, test.complete2}[i]; !complete {
					rec.Verdict.Complete, rec.Verdict.Tail = false, unproven
				}
				s.e.ship.add(s.commit(rec, text), rec)
				s.drained(10 * time.Second)
			}
			rec := s.check(1)["pod-0000"]
			if rec.Lines != test.lines || rec.Verdict.Complete != test.complete {
				t.Errorf("%d lines, complete %t", rec.Lines, rec.Verdict.Complete)
			}
			archived, already := s.metric("archived_total"), s.metric("already_archived_total")
			if archived+already != 2 {
				t.Errorf("archived %v, already archived %v", archived, already)
			}
		})
	}
}
