package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// openCounter counts how often each object is opened.
type openCounter struct {
	sink.Bucket
	mu    sync.Mutex
	opens map[string]int
}

func (b *openCounter) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	b.mu.Lock()
	b.opens[key]++
	b.mu.Unlock()
	return b.Bucket.Open(ctx, key, off, n)
}

// TestVerifyReadsOnce: segments are named by one snapshot after the other and are read once.
func TestVerifyReadsOnce(t *testing.T) {
	s := newStock(t)
	s.live("worker", "u9", 1, 2, 3, 25, 26, 49, 50, 51)
	b := &openCounter{Bucket: s.dir, opens: map[string]int{}}
	if _, found := verify(t, New(b), VerifyOptions{Level: LevelData}); len(found) > 0 {
		t.Error(found)
	}
	logs := 0
	for key, n := range b.opens {
		if strings.HasSuffix(key, ".zst") {
			logs++
			if n != 1 {
				t.Errorf("%s was read %d times", key, n)
			}
		}
	}
	if logs != 8 {
		t.Errorf("%d of 8 segments were read", logs)
	}
}

// failing is a bucket that fails for some keys and prefixes.
type failing struct {
	sink.Bucket
	fail func(op, key string) error
}

func (b *failing) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := b.fail("open", key); err != nil {
		return nil, err
	}
	body, err := b.Bucket.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &failingBody{body, b, key}, nil
}

type failingBody struct {
	io.ReadCloser
	b   *failing
	key string
}

func (f *failingBody) Read(p []byte) (int, error) {
	if err := f.b.fail("read", f.key); err != nil {
		return 0, err
	}
	return f.ReadCloser.Read(p[:min(len(p), 10)])
}

func (b *failing) Stat(ctx context.Context, key string) (sink.Object, error) {
	if err := b.fail("stat", key); err != nil {
		return sink.Object{}, err
	}
	return b.Bucket.Stat(ctx, key)
}

func (b *failing) List(ctx context.Context, prefix string, o sink.ListOptions) iter.Seq2[sink.Object, error] {
	return func(yield func(sink.Object, error) bool) {
		for obj, err := range b.Bucket.List(ctx, prefix, o) {
			if err := b.fail("list", obj.Key); err != nil {
				yield(sink.Object{}, err)
				return
			}
			if !yield(obj, err) {
				return
			}
		}
	}
}

func TestVerifyUnchecked(t *testing.T) {
	s := fill(t)
	s.age()
	denied := &sink.StoreError{Op: "open", Status: 403, Code: "AccessDenied", Err: errors.New("AccessDenied")}
	const record = "cluster=demo/namespace=b/date=2026-03-01/web/u5/_app.0.000000000000.json"
	log := strings.Replace(strings.Replace(record, "_", "", 1), ".json", ".log.zst", 1)
	for _, c := range []struct {
		name string
		fail func(op, key string) bool
		want []string
	}{
		{"record", func(op, key string) bool { return op == "open" && key == record }, []string{"unchecked " + record}},
		{"log", func(op, key string) bool { return op == "open" && key == log }, []string{"unchecked " + log}},
		{"log, while it is read", func(op, key string) bool { return op == "read" && key == log }, []string{"unchecked " + log}},
		{"day", func(op, key string) bool {
			return op == "list" && strings.HasPrefix(key, "cluster=demo/namespace=b/date=2026-03-01/web/")
		}, []string{"unchecked cluster=demo/namespace=b/date=2026-03-01/"}},
		{"namespace", func(op, key string) bool {
			return op == "list" && strings.HasPrefix(key, "cluster=demo/namespace=b/date")
		}, []string{"unchecked cluster=demo/namespace=b/"}},
		{"everything", func(op, _ string) bool { return op == "list" }, []string{"unchecked "}},
	} {
		b := &failing{s.dir, func(op, key string) error {
			if c.fail(op, key) {
				return denied
			}
			return nil
		}}
		v, found := verify(t, New(b), VerifyOptions{Level: LevelData})
		if !cmp.Equal(found, c.want) || v.Unchecked != 1 || v.Damaged+v.Missing+v.Orphans > 0 {
			t.Errorf("%s: found %q, want %q", c.name, found, c.want)
		}
	}
}

// TestVerifyIsPatient: each request fails a few times before it succeeds, in the middle, too.
func TestVerifyIsPatient(t *testing.T) {
	s := fill(t)
	s.live("worker", "u9", 2, 26)
	s.age()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		failures := map[string]int{}
		b := &failing{s.dir, func(op, key string) error {
			mu.Lock()
			defer mu.Unlock()
			failures[op+key]++
			if n := failures[op+key]; n <= 2 || n == 6 {
				return errors.New("connection reset")
			}
			return nil
		}}
		v, found := verify(t, New(b), VerifyOptions{Level: LevelData})
		if len(found) > 0 || v.Records != 14 || v.Foreign != 2 || v.Objects != 10 {
			t.Errorf("%q, %+v", found, v)
		}
	})
}

// TestVerifyGivesUp: a store that goes away in the middle ends the work, and nothing is called damaged.
func TestVerifyGivesUp(t *testing.T) {
	s := newStock(t)
	for i := range 100 {
		s.add(run("a", fmt.Sprintf("p%d", i), "u", "app", 0, 1), "", bundle.LogOptions{})
	}
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		n := 0
		v, err := New(&failing{s.dir, func(op, _ string) error {
			if op == "open" {
				return away
			}
			return nil
		}}).Verify(t.Context(), VerifyOptions{}, func(f Finding) {
			if n++; f.Kind != FoundUnchecked {
				t.Errorf("%+v", f)
			}
		})
		if !errors.Is(err, away) || n != giveUp || v.Unchecked != giveUp {
			t.Errorf("%v after %d findings", err, n)
		}
	})
}

func TestVerifyStops(t *testing.T) {
	s := fill(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx, VerifyOptions{Level: LevelData}, func(f Finding) { t.Errorf("%+v", f) }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// summing is a bucket that tells checksums.
type summing struct {
	sink.Bucket
	sums map[string]sink.Checksums
}

func (b *summing) Checksums(_ context.Context, key string) (sink.Checksums, error) {
	return b.sums[key], nil
}

func TestVerifyChecksums(t *testing.T) {
	s := newStock(t)
	r := s.add(run("a", "web", "u1", "app", 0, 1), "a log\n", bundle.LogOptions{})
	o := r.Objects[0]
	for _, c := range []struct {
		name     string
		sums     sink.Checksums
		compared int64
		damaged  int64
	}{
		{"none", sink.Checksums{}, 0, 0},
		{"md5", sink.Checksums{MD5: o.StoredMD5}, 1, 0},
		{"other md5", sink.Checksums{MD5: strings.Repeat("0", 32)}, 1, 1},
		{"sha256", sink.Checksums{SHA256: o.StoredSHA256}, 1, 0},
		{"other sha256", sink.Checksums{SHA256: o.RawSHA256, MD5: o.StoredMD5}, 1, 1},
	} {
		v, _ := verify(t, New(&summing{s.dir, map[string]sink.Checksums{o.Key: c.sums}}), VerifyOptions{Level: LevelHead})
		if v.ChecksumsCompared != c.compared || v.ChecksumsNotOffered != 1-c.compared || v.Damaged != c.damaged {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}
