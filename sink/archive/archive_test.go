package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// stock is an archive in a directory that a test fills and damages.
type stock struct {
	*Archive
	t    testing.TB
	dir  *sink.Dir
	path string
	enc  *bundle.Encoders
}

func newStock(t testing.TB) *stock {
	t.Helper()
	path := t.TempDir()
	dir, err := sink.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return &stock{New(dir), t, dir, path, bundle.NewEncoders(1)}
}

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// run is a complete run that ended some hours after the first of March began.
func run(namespace, pod, uid, container string, restart int32, hours float64) *bundle.Record {
	end := day.Add(time.Duration(hours * float64(time.Hour)))
	start := end.Add(-30 * time.Minute)
	proven := bundle.Part{State: bundle.Proven}
	return &bundle.Record{
		FormatVersion: bundle.FormatVersion,
		Cluster:       "demo",
		Namespace:     namespace,
		Pod:           bundle.Pod{Name: pod, UID: uid},
		Container: bundle.Container{
			Name: container, Type: bundle.TypeContainer, RestartCount: restart,
			ContainerID: "containerd://" + strings.Repeat(fmt.Sprintf("%x", restart%16), 64),
		},
		State:   bundle.State{StartedAt: &start, FinishedAt: &end},
		Verdict: bundle.Verdict{Complete: true, Head: proven, Middle: proven, Tail: proven},
		Capture: bundle.Capture{ExporterVersion: "test", Policy: "final"},
	}
}

// snapshot makes of a run one that had not ended.
func snapshot(r *bundle.Record) *bundle.Record {
	r.State = bundle.State{Running: true, StartedAt: r.State.FinishedAt}
	r.Verdict.Complete, r.Verdict.Tail = false, bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	return r
}

// add stores a run and its log as an exporter does.
func (s *stock) add(r *bundle.Record, text string, o bundle.LogOptions) *bundle.Record {
	s.t.Helper()
	var files []*bytes.Buffer
	o.Encoders = s.enc
	o.Next = func() (io.Writer, error) {
		files = append(files, &bytes.Buffer{})
		return files[len(files)-1], nil
	}
	w := bundle.NewLogWriter(o)
	if _, err := io.WriteString(w, text); err != nil {
		s.t.Fatal(err)
	}
	sum, err := w.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.SetLog(sum, o.Compression); err != nil {
		s.t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		s.t.Fatal(err)
	}
	for i, obj := range r.Objects {
		s.put(obj.Key, files[i].Bytes())
	}
	b, err := bundle.Encode(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(keyOf(s.t, r).Record(), b)
	return r
}

func (s *stock) put(key string, b []byte) {
	s.t.Helper()
	if err := s.dir.Put(s.t.Context(), key, bytes.NewReader(b)); err != nil {
		s.t.Fatal(err)
	}
}

// damage changes a stored file behind the bucket's back.
func (s *stock) damage(key string, change func([]byte) []byte) {
	s.t.Helper()
	name := filepath.Join(s.path, filepath.FromSlash(key))
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		s.t.Fatal(err)
	}
	if b = change(b); b == nil {
		return
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func keyOf(t testing.TB, r *bundle.Record) bundle.RunKey {
	t.Helper()
	k, err := bundle.KeyOf(r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// short names a run in a few letters.
func short(k bundle.RunKey) string {
	s := fmt.Sprintf("%s %s/%s/%s.%d", k.Date[8:], k.Namespace, k.UID, k.Container, k.Restart)
	if !k.Snapshot.IsZero() {
		s += "@" + k.Snapshot.Format("15")
	}
	return s
}

func runs(t testing.TB, seq iter.Seq2[Run, error]) []string {
	t.Helper()
	var got []string
	for r, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, short(r.Key))
	}
	return got
}

func records(t testing.TB, seq iter.Seq2[*bundle.Record, error]) []string {
	t.Helper()
	var got []string
	for r, err := range seq {
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		got = append(got, short(keyOf(t, r)))
	}
	return got
}

// fill stores some runs: a pod that restarts, one of the same name after it, other pods and snapshots.
func fill(t testing.TB) *stock {
	s := newStock(t)
	for _, r := range []*bundle.Record{
		run("a", "web", "u1", "app", 0, 1), run("a", "web", "u1", "app", 1, 30), run("a", "web", "u1", "proxy", 0, 30),
		run("a", "web", "u2", "app", 0, 31), run("a", "web", "u2", "app", 1, 60),
		run("a", "webb", "u3", "app", 0, 2), run("a", "api", "u4", "app", 0, 50),
		run("b", "web", "u5", "app", 0, 3),
		snapshot(run("a", "web", "u2", "app", 1, 32)), snapshot(run("a", "web", "u2", "app", 1, 50)),
		snapshot(run("b", "job", "u6", "app", 0, 5)), snapshot(run("b", "job", "u6", "app", 0, 29)),
	} {
		text := ""
		if r.State.FinishedAt != nil { // the time of a snapshot is that of its last line, here its start
			text = "a log\n"
		}
		s.add(r, text, bundle.LogOptions{})
	}
	s.put("cluster=demo/namespace=a/date=2026-03-01/web/u1/notes.txt", []byte("not ours"))
	s.put("somewhere/else", []byte("not ours"))
	return s
}

func TestFolders(t *testing.T) {
	s := fill(t)
	ctx := t.Context()
	for _, c := range []struct {
		list func() ([]string, error)
		want []string
	}{
		{func() ([]string, error) { return s.Clusters(ctx) }, []string{"demo"}},
		{func() ([]string, error) { return s.Namespaces(ctx, "demo") }, []string{"a", "b"}},
		{func() ([]string, error) { return s.Namespaces(ctx, "dem") }, nil},
		{func() ([]string, error) { return s.Days(ctx, "demo", "b") }, []string{"2026-03-01", "2026-03-02"}},
	} {
		got, err := c.list()
		if err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("%v, %v, want %v", got, err, c.want)
		}
	}
}

func TestRuns(t *testing.T) {
	s := fill(t)
	all := []string{
		"03 a/u4/app.0", "03 a/u2/app.1",
		"02 a/u1/app.1", "02 a/u1/proxy.0", "02 a/u2/app.0",
		"01 a/u1/app.0", "01 a/u3/app.0",
		"02 b/u6/app.0@05", "01 b/u5/app.0",
	}
	for _, c := range []struct {
		name string
		q    Query
		want []string
	}{
		{"all", Query{}, all},
		{"cluster", Query{Cluster: "demo"}, all},
		{"other cluster", Query{Cluster: "dem"}, nil},
		{"namespaces", Query{Namespaces: []string{"b", "none", "a", "b"}}, all},
		{"namespace", Query{Namespaces: []string{"b"}}, all[7:]},
		{"pod", Query{Pod: "web"}, []string{all[1], all[2], all[3], all[4], all[5], all[8]}},
		{"uid", Query{Pod: "web", UID: "u1"}, []string{all[2], all[3], all[5]}},
		{"uid alone", Query{UID: "u1"}, []string{all[2], all[3], all[5]}},
		{"container", Query{Container: "proxy"}, all[3:4]},
		{"snapshots", Query{Pod: "web", UID: "u2", Snapshots: true}, []string{all[1], "03 a/u2/app.1@02", all[4], "02 a/u2/app.1@08"}},
		{"since", Query{Since: day.Add(48 * time.Hour)}, all[:2]},
		{"until", Query{Until: day.Add(24 * time.Hour)}, []string{all[5], all[6], "01 b/u6/app.0@05", all[8]}},
		{"no day", Query{Since: day.Add(72 * time.Hour)}, nil},
	} {
		if diff := cmp.Diff(c.want, runs(t, s.Runs(t.Context(), c.q))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if c.name == "since" || c.name == "until" {
			continue
		}
		if diff := cmp.Diff(c.want, records(t, s.Records(t.Context(), c.q))); diff != "" {
			t.Errorf("%s: records (-want +got):\n%s", c.name, diff)
		}
	}
	// Records goes by the time, Runs by the day.
	q := Query{Since: day.Add(30 * time.Hour), Until: day.Add(50 * time.Hour)}
	if diff := cmp.Diff([]string{"02 a/u1/app.1", "02 a/u1/proxy.0", "02 a/u2/app.0", "02 a/u2/app.1@08"}, records(t, s.Records(t.Context(), q))); diff != "" {
		t.Errorf("since and until (-want +got):\n%s", diff)
	}
	for _, q := range []Query{{Pod: "../x"}, {Cluster: "a/b"}, {Namespaces: []string{".."}}, {UID: "/"}, {Container: "A"}} {
		for _, err := range s.Runs(t.Context(), q) {
			if err == nil {
				t.Errorf("%+v found something", q)
			}
		}
	}
}

func TestRunsStops(t *testing.T) {
	s := fill(t)
	for n := range 9 {
		i := 0
		for range s.Runs(t.Context(), Query{}) {
			if i++; i > n {
				break
			}
		}
		i = 0
		for range s.Records(t.Context(), Query{Pod: "web"}) {
			if i++; i > n {
				break
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.Records(ctx, Query{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

func TestDamagedRecords(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"cut":         func(b []byte) []byte { return b[:len(b)/2] },
		"empty":       func([]byte) []byte { return []byte{} },
		"another run": func(b []byte) []byte { return bytes.Replace(b, []byte(`"uid": "u3"`), []byte(`"uid": "u9"`), 1) },
		"huge":        func(b []byte) []byte { return append(b, make([]byte, bundle.MaxRecordSize)...) },
	} {
		s := fill(t)
		key := keyOf(t, run("a", "webb", "u3", "app", 0, 2)).Record()
		s.damage(key, change)
		good := 0
		var bad []error
		for _, err := range s.Records(t.Context(), Query{}) {
			if err != nil {
				bad = append(bad, err)
				continue
			}
			good++
		}
		var damaged *DamagedError
		if good != 8 || len(bad) != 1 || !errors.As(bad[0], &damaged) || damaged.Key != key || !strings.Contains(bad[0].Error(), key) {
			t.Errorf("%s: %d good ones, %v", name, good, bad)
		}
	}
}

// brokenBucket fails where a test says so.
type brokenBucket struct {
	sink.Bucket
	list, open error
}

func (b brokenBucket) List(ctx context.Context, prefix string, o sink.ListOptions) iter.Seq2[sink.Object, error] {
	if b.list == nil || o.Shallow {
		return b.Bucket.List(ctx, prefix, o)
	}
	return func(yield func(sink.Object, error) bool) { yield(sink.Object{}, b.list) }
}

func (b brokenBucket) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if b.open != nil {
		return nil, b.open
	}
	return b.Bucket.Open(ctx, key, off, n)
}

func TestBrokenBucket(t *testing.T) {
	s := fill(t)
	broken := errors.New("service unavailable")
	for _, q := range []Query{{}, {Pod: "web"}} {
		var errs []error
		for _, err := range New(brokenBucket{Bucket: s.dir, list: broken}).Records(t.Context(), q) {
			errs = append(errs, err)
		}
		if len(errs) != 1 || !errors.Is(errs[0], broken) {
			t.Errorf("%+v: %v", q, errs)
		}
	}
	for _, err := range New(brokenBucket{Bucket: s.dir, open: broken}).Records(t.Context(), Query{}) {
		var damaged *DamagedError
		if !errors.Is(err, broken) || errors.As(err, &damaged) {
			t.Errorf("%v", err)
		}
	}
	if _, err := s.Record(t.Context(), keyOf(t, run("z", "z", "z", "z", 0, 0))); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestFind(t *testing.T) {
	s := fill(t)
	ctx := t.Context()
	pod, err := s.Find(ctx, Query{Pod: "web", Namespaces: []string{"a"}})
	if err != nil || pod.UID != "u2" || pod.Namespace != "a" || pod.Cluster != "demo" {
		t.Fatalf("%+v, %v", pod, err)
	}
	for back, want := range []string{"03 a/u2/app.1", "02 a/u2/app.0", ""} {
		got, err := pod.Latest("", back)
		if want == "" != errors.Is(err, sink.ErrNotFound) || want != "" && short(got.Key) != want {
			t.Errorf("%d back: %s, %v", back, short(got.Key), err)
		}
	}
	if _, err := pod.Latest("db", 0); !errors.Is(err, sink.ErrNotFound) {
		t.Error(err)
	}
	old, err := s.Find(ctx, Query{Pod: "web", UID: "u1"})
	if err != nil || !cmp.Equal(old.Containers(), []string{"app", "proxy"}) {
		t.Fatalf("%+v, %v", old, err)
	}
	if _, err := old.Latest("", 0); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "app, proxy") {
		t.Error(err)
	}
	if got, err := old.WithRestart("app", 0); err != nil || short(got.Key) != "01 a/u1/app.0" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := old.WithRestart("app", 2); !errors.Is(err, sink.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Find(ctx, Query{Pod: "web"}); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), "demo/a, demo/b") {
		t.Error(err)
	}
	if _, err := s.Find(ctx, Query{Pod: "none"}); !errors.Is(err, sink.ErrNotFound) {
		t.Error(err)
	}
	if pod, err := s.Find(ctx, Query{Pod: "job", Snapshots: true}); err != nil || len(pod.Runs) != 2 {
		t.Errorf("%v, %v", pod, err)
	} else if _, err := pod.Latest("", 1); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("two snapshots of one run were taken for two runs: %v", err)
	}
	// Many pods of one name on one day: the one that started last is the newest.
	for i, hours := range []float64{10, 12, 11} {
		s.add(run("c", "db-0", fmt.Sprint("u", i), "db", 0, hours), "", bundle.LogOptions{})
	}
	if pod, err := s.Find(ctx, Query{Pod: "db-0"}); err != nil || pod.UID != "u1" {
		t.Errorf("%v, %v", pod, err)
	}
}

// TestManyRuns reads more records than are loaded at a time, in order.
func TestManyRuns(t *testing.T) {
	s := newStock(t)
	var want []string
	for i := range 50 {
		r := s.add(run("a", fmt.Sprintf("pod-%02d", i), fmt.Sprintf("u%02d", i), "app", 0, 1), "", bundle.LogOptions{})
		want = append(want, short(keyOf(t, r)))
	}
	if got := records(t, s.Records(t.Context(), Query{})); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// slowBucket counts how many objects are being opened at once.
type slowBucket struct {
	sink.Bucket
	now, most atomic.Int32
}

func (b *slowBucket) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	now := b.now.Add(1)
	defer b.now.Add(-1)
	for most := b.most.Load(); now > most && !b.most.CompareAndSwap(most, now); most = b.most.Load() {
	}
	time.Sleep(time.Second) // of the bubble's clock
	return b.Bucket.Open(ctx, key, off, n)
}

// TestRecordsInParallel: several records are loaded at once, but not too many, and all loading has
// ended when the iteration has.
func TestRecordsInParallel(t *testing.T) {
	s := newStock(t)
	for i := range 3 * parallel {
		s.add(run("a", fmt.Sprintf("pod-%02d", i), "u", "app", 0, 1), "", bundle.LogOptions{})
	}
	synctest.Test(t, func(t *testing.T) {
		slow := &slowBucket{Bucket: s.dir}
		n := 0
		for range New(slow).Records(t.Context(), Query{}) {
			if n++; n == parallel {
				break
			}
		}
		if slow.now.Load() != 0 {
			t.Error("something is still being loaded")
		}
		if most := slow.most.Load(); most != parallel {
			t.Errorf("%d at once, not %d", most, parallel)
		}
	})
}
