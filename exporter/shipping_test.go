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
	"strings"
	"sync"
	"testing"
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

// commit puts a capture into the spool, and returns its key. The run is counted as one that was taken up.
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
	if s.e.ship.counts(run.Record()) {
		s.e.metrics.observed.Inc()
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
	s.account()
	return recs
}

// account compares the runs that were taken up, by this process, with what became of them.
func (s *shipping) account() {
	s.t.Helper()
	runs, sum := s.metric("runs_ended_total"), 0.0
	for _, name := range []string{"archived_total", "already_archived_total", "unselected_total", "runs_open", "captures_pending"} {
		sum += s.metric(name)
	}
	if runs != sum {
		s.t.Errorf("%v runs were taken up, %v are accounted for", runs, sum)
	}
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

// values returns the values of a metric that are not 0, by its one label.
func (s *shipping) values(name string) map[string]float64 {
	s.t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); f.GetName() == "kubelogexporter_"+name && v != 0 {
				all[m.GetLabel()[0].GetValue()] = v
			}
		}
	}
	return all
}

func (s *shipping) said(what string) int { return strings.Count(s.log.String(), what) }

func (s *shipping) drained(d time.Duration) {
	s.t.Helper()
	select {
	case <-s.e.ship.open.none():
	case <-time.After(d):
		s.t.Fatalf("%d are left after %s", s.e.ship.open.count(), d)
	}
}
