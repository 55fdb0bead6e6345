package exporter

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const stampedLine = "2026-03-01T10:00:00.000000001Z "

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

// TestShipHoldChanges: what stands in the way may change while everything is held. That is told, once it has come
// twice in a row, and the metric names it.
func TestShipHoldChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		held := func(reason string, warnings int) {
			t.Helper()
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if got := s.values("ship_held"); len(got) != 1 || got[reason] != 1 {
				t.Errorf("held for %v, want %s", got, reason)
			}
			if n := s.said("level=WARN"); n != warnings {
				t.Errorf("%d warnings, want %d:\n%s", n, warnings, s.log.String())
			}
		}
		s.store.set(func(string) error { return refusal(0, "", 0) })
		s.run()
		s.fill(20)
		held("Unreachable", 1)
		s.store.set(func(string) error { return refusal(404, "NoSuchBucket", 0) })
		held("NoSuchBucket", 2)
		var n atomic.Int64
		s.store.set(func(string) error { // a store of two halves
			if n.Add(1)%2 == 0 {
				return refusal(0, "", 0)
			}
			return refusal(502, "", 0)
		})
		held("NoSuchBucket", 2)
		s.store.set(nil)
		s.drained(2 * time.Minute)
		synctest.Wait()
		if got := s.values("ship_held"); len(got) != 0 {
			t.Errorf("still held for %v", got)
		}
		s.check(20)
		s.stop()
	})
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

// TestLine: the oldest capture of a lane goes first, and a lane that is full holds up no other.
func TestLine(t *testing.T) {
	l := newLine(8)
	add := func(key string, size int64) { l.add(&parcel{key: key, lane: laneOf(size)}) }
	add("large 1", largeCapture)
	add("large 2", largeCapture)
	for i := range 5 {
		add(fmt.Sprintf("small %d", i+1), 1)
	}
	var got []string
	now := time.Now()
	take := func() (p *parcel) {
		if p = l.next(now); p != nil {
			got = append(got, p.key)
		}
		return p
	}
	first := take()
	for take() != nil { // until all lanes are full
	}
	l.free(first)
	l.later(first, now.Add(time.Minute))
	take()
	now = now.Add(time.Minute)
	l.busy = [shipLanes]int{}
	for take() != nil {
	}
	want := []string{"small 1", "small 2", "small 3", "small 4", "large 1", "small 5", "small 1", "large 2"}
	if !slices.Equal(got, want) {
		t.Errorf("the order is %q, want %q", got, want)
	}
}

// TestShipLanes: large captures on a slow line do not hold up small ones.
func TestShipLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShipping(t, nil)
		slow := make(chan struct{})
		s.store.set(func(key string) error {
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
		s.fill(100)
		s.run()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.e.ship.open.count(); n != 8 {
			t.Errorf("%d are left, want the large ones only", n)
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
	t.Parallel()
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
	t.Parallel()
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

// TestSpoolCorrupt: what a start cannot read is set aside with the reason, and the rest is shipped. The runs
// whose records were damaged have one all the same.
func TestSpoolCorrupt(t *testing.T) {
	t.Parallel()
	s := newShipping(t, nil)
	keys := s.fill(5)
	whole, err := os.ReadFile(filepath.Join(s.spool, keys[3]))
	if err != nil {
		t.Fatal(err)
	}
	flipped := strings.Replace(string(whole), `"lines": 1`, `"lines": 3`, 1) // one bit, and a record all the same
	if flipped == string(whole) {
		t.Fatalf("no line count in %s", whole)
	}
	for i, text := range []string{"{", "", "\x00\x00\x00", flipped} {
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
	recs := s.check(5)
	for i := range 4 {
		rec := recs[fmt.Sprintf("pod-%04d", i)]
		if rec == nil || rec.Verdict.Tail.Cause != bundle.CauseSpoolDamaged || !rec.State.FinishedAtEstimated || len(rec.Objects) > 0 {
			t.Errorf("in place of an unreadable record: %+v", rec)
		}
	}
	aside := 0
	err = filepath.WalkDir(filepath.Join(s.spool, ".set-aside"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !strings.HasSuffix(path, ".reason.txt") {
			aside++
			if why, err := os.ReadFile(path + ".reason.txt"); err != nil || len(why) < 10 {
				t.Errorf("%s: reason %q, %v", path, why, err)
			}
		}
		return err
	})
	if err != nil || aside != 9 {
		t.Errorf("%d files are set aside, want four records, four logs and the one without a record; %v", aside, err)
	}
}

// TestTwoWriters: of two records of one run the more complete one stays, whoever comes first.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
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
		{"the same text, proven later", short, short, false, true, 1, true},
		{"the same text, proven first", short, short, true, false, 1, true},
		{"nothing read, then known to be empty", "", "", false, true, 0, true},
		{"known to be empty, then nothing read", "", "", true, false, 0, true},
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
