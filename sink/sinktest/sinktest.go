// Package sinktest checks that a sink.Bucket does what the interface promises.
// It knows no backend: each of them runs the same tests, on a real store.
package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// TestBucket runs the conformance tests. open returns an empty bucket each time it is called.
func TestBucket(t *testing.T, open func(t *testing.T) sink.Bucket) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b sink.Bucket)
	}{
		{"CreateOnly", testCreateOnly},
		{"ConcurrentPuts", testConcurrentPuts},
		{"Sizes", testSizes},
		{"PutFromOffset", testPutFromOffset},
		{"Ranges", testRanges},
		{"Stat", testStat},
		{"NotFound", testNotFound},
		{"KeyBelowObject", testKeyBelowObject},
		{"OddNames", testOddNames},
		{"InvalidKeys", testInvalidKeys},
		{"CancelledContext", testCancelledContext},
		{"CancelledWithinPut", testCancelledWithinPut},
		{"BrokenBody", testBrokenBody},
		{"ShrinkingBody", testShrinkingBody},
		{"ListOrder", testListOrder},
		{"ListPrefix", testListPrefix},
		{"ListAfter", testListAfter},
		{"ListShallow", testListShallow},
		{"ListPages", testListPages},
		{"ListStrangePrefix", testListStrangePrefix},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t *testing.T, b sink.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), key, bytes.NewReader(data)); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func get(t *testing.T, b sink.Bucket, key string, offset, length int64) []byte {
	t.Helper()
	r, err := b.Open(t.Context(), key, offset, length)
	if err != nil {
		t.Fatalf("open %q from %d, %d bytes: %v", key, offset, length, err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("read %q from %d, %d bytes: %v", key, offset, length, err)
	}
	return data
}

// absent checks that nothing is stored under a key.
func absent(t *testing.T, b sink.Bucket, key string) {
	t.Helper()
	if o, err := b.Stat(t.Context(), key); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("stat %q: got %+v and %v, want ErrNotFound", key, o, err)
	}
	for o, err := range b.List(t.Context(), key, sink.ListOptions{}) {
		t.Errorf("list %q: got %+v and %v, want nothing", key, o, err)
	}
}

// noise returns n bytes that are the same in each run and do not repeat.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data) // never fails
	return data
}

func testCreateOnly(t *testing.T, b sink.Bucket) {
	put(t, b, "a/b.json", []byte("first"))
	before, err := b.Stat(t.Context(), "a/b.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"second", "first", ""} {
		if err := b.Put(t.Context(), "a/b.json", strings.NewReader(other)); !errors.Is(err, sink.ErrExists) {
			t.Errorf("put %q again: got %v, want ErrExists", other, err)
		}
	}
	if got := get(t, b, "a/b.json", 0, -1); string(got) != "first" {
		t.Errorf("after further puts the object is %q, want %q", got, "first")
	}
	if after, err := b.Stat(t.Context(), "a/b.json"); err != nil || after != before {
		t.Errorf("after further puts the object is %+v, %v; want %+v", after, err, before)
	}
}

func testConcurrentPuts(t *testing.T, b sink.Bucket) {
	const writers, rounds = 16, 3
	for round := range rounds {
		key := fmt.Sprintf("race/%d.log", round)
		body := func(i int) []byte { return bytes.Repeat([]byte{byte('A' + i)}, 100_000) }
		errs := make([]error, writers)
		start := make(chan struct{})
		var wait sync.WaitGroup
		for i := range writers {
			wait.Go(func() {
				<-start
				errs[i] = b.Put(t.Context(), key, bytes.NewReader(body(i)))
			})
		}
		close(start)
		wait.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("writers %d and %d both stored %s", winner, i, key)
			case !errors.Is(err, sink.ErrExists):
				t.Errorf("writer %d: got %v, want ErrExists", i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("no writer stored %s", key)
		}
		if got := get(t, b, key, 0, -1); !bytes.Equal(got, body(winner)) {
			t.Errorf("%s has %d bytes that begin with %.8q, want those of writer %d", key, len(got), got, winner)
		}
	}
}

func testSizes(t *testing.T, b sink.Bucket) {
	for _, size := range []int{0, 1, 64 << 10, 5<<20 + 1} {
		key := fmt.Sprintf("size/%d.log.zst", size)
		want := noise(size)
		put(t, b, key, want)
		if got := get(t, b, key, 0, -1); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d other bytes", size, len(got))
		}
		if o, err := b.Stat(t.Context(), key); err != nil || o.Size != int64(size) {
			t.Errorf("stat of %d bytes: %+v, %v", size, o, err)
		}
	}
}

func testPutFromOffset(t *testing.T, b sink.Bucket) {
	body := strings.NewReader("head and body")
	if _, err := body.Seek(9, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "offset", body); err != nil {
		t.Fatal(err)
	}
	if got := get(t, b, "offset", 0, -1); string(got) != "body" {
		t.Errorf("got %q, want %q: the bytes from the offset on", got, "body")
	}
}

func testRanges(t *testing.T, b sink.Bucket) {
	const text = "0123456789"
	put(t, b, "ten", []byte(text))
	put(t, b, "none", nil)
	for _, test := range []struct {
		key            string
		offset, length int64
		want           string
	}{
		{"ten", 0, -1, text},
		{"ten", 0, 10, text},
		{"ten", 0, 1, "0"},
		{"ten", 3, 4, "3456"},
		{"ten", 9, 1, "9"},
		{"ten", 4, -1, "456789"},
		{"ten", 8, 100, "89"},
		{"ten", 0, 100, text},
		{"ten", 10, -1, ""},
		{"ten", 10, 5, ""},
		{"ten", 1000, -1, ""},
		{"ten", 1000, 5, ""},
		{"ten", 0, 0, ""},
		{"ten", 5, 0, ""},
		{"none", 0, -1, ""},
		{"none", 0, 5, ""},
		{"none", 5, -1, ""},
	} {
		if got := get(t, b, test.key, test.offset, test.length); string(got) != test.want {
			t.Errorf("%s from %d, %d bytes: got %q, want %q", test.key, test.offset, test.length, got, test.want)
		}
	}
	if r, err := b.Open(t.Context(), "ten", -1, 5); err == nil {
		t.Errorf("a negative offset: no error")
		_ = r.Close()
	}
}

func testStat(t *testing.T, b sink.Bucket) {
	start := time.Now()
	put(t, b, "dir/obj.json", []byte("{}"))
	o, err := b.Stat(t.Context(), "dir/obj.json")
	if err != nil {
		t.Fatal(err)
	}
	if o.Key != "dir/obj.json" || o.Size != 2 {
		t.Errorf("got %+v, want key dir/obj.json and 2 bytes", o)
	}
	// A minute, because the store may be another machine and S3 gives whole seconds.
	if d := o.ModTime.Sub(start); d < -time.Minute || d > time.Minute {
		t.Errorf("the object's time is %s, it was put at %s", o.ModTime, start)
	}
	for l, err := range b.List(t.Context(), "dir/", sink.ListOptions{}) {
		if err != nil || l.Key != o.Key || l.Size != o.Size || l.ETag != o.ETag || l.ModTime.Sub(o.ModTime).Abs() >= time.Second {
			t.Errorf("list says %+v, %v; stat says %+v", l, err, o)
		}
	}
}

func testNotFound(t *testing.T, b sink.Bucket) {
	put(t, b, "dir/sub/obj", []byte("x"))
	for _, key := range []string{"obj", "dir/obj", "dir/sub/ob", "dir/sub/objs", "dir/sub", "dir"} {
		if _, err := b.Stat(t.Context(), key); !errors.Is(err, sink.ErrNotFound) {
			t.Errorf("stat %q: got %v, want ErrNotFound", key, err)
		}
		for _, r := range [][2]int64{{0, -1}, {3, -1}, {0, 5}, {3, 5}, {0, 0}} {
			rc, err := b.Open(t.Context(), key, r[0], r[1])
			if !errors.Is(err, sink.ErrNotFound) {
				t.Errorf("open %q from %d, %d bytes: got %v, want ErrNotFound", key, r[0], r[1], err)
			}
			if err == nil {
				_ = rc.Close()
			}
		}
	}
}

// testKeyBelowObject asks for keys below an object, which no directory can hold and no store needs to.
func testKeyBelowObject(t *testing.T, b sink.Bucket) {
	put(t, b, "obj", []byte("x"))
	if _, err := b.Stat(t.Context(), "obj/below"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("stat: got %v, want ErrNotFound", err)
	}
	if _, err := b.Open(t.Context(), "obj/below", 0, -1); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("open: got %v, want ErrNotFound", err)
	}
	for o, err := range b.List(t.Context(), "obj/", sink.ListOptions{}) {
		t.Errorf("list: got %+v, %v, want nothing", o, err)
	}
}

func testOddNames(t *testing.T, b sink.Bucket) {
	keys := []string{
		"a b/c  d", " lead", "trail ", "cluster=x/namespace=y", "a+b", "a%20b", "100%", "%41", "%2F", "a&b=c", "a#b", "a?b=c",
		"comma,semi;colon:", `quo'te"s`, "(a)[b]{c}", "!$@^`|~*", "<tag>&amp;", "_under", "-dash", "x...", "x..y", "ünïcödé/日本語/🪵",
		"\u00e9", "e\u0301", strings.Repeat("n", 255) + "/" + strings.Repeat("m", 255),
	}
	for _, key := range keys {
		put(t, b, key, []byte(key))
	}
	for _, key := range keys {
		if got := get(t, b, key, 0, -1); string(got) != key {
			t.Errorf("%q holds %q", key, got)
		}
		if o, err := b.Stat(t.Context(), key); err != nil || o.Key != key {
			t.Errorf("stat %q: %+v, %v", key, o, err)
		}
	}
	checkList(t, b, "", sink.ListOptions{}, keys...)
	for _, key := range keys {
		if folder, _, ok := strings.Cut(key, "/"); ok {
			checkList(t, b, folder+"/", sink.ListOptions{}, key)
		}
	}
}

func testInvalidKeys(t *testing.T, b sink.Bucket) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a/./b", ".hidden", "a/.hidden",
		`a\b`, `..\a`, "a\x00b", "a\nb", "a\x7f", "a\u0085b", "a\xffb", strings.Repeat("x", 256), "a/" + strings.Repeat("x", 256) + "/b",
		strings.Repeat("12345678/", 113) + "12345678",
	} {
		if err := b.Put(t.Context(), key, strings.NewReader("x")); !errors.Is(err, sink.ErrInvalidKey) {
			t.Errorf("put %q: got %v, want ErrInvalidKey", key, err)
		}
		if _, err := b.Stat(t.Context(), key); !errors.Is(err, sink.ErrInvalidKey) {
			t.Errorf("stat %q: got %v, want ErrInvalidKey", key, err)
		}
		if _, err := b.Open(t.Context(), key, 0, -1); !errors.Is(err, sink.ErrInvalidKey) {
			t.Errorf("open %q: got %v, want ErrInvalidKey", key, err)
		}
	}
	checkList(t, b, "", sink.ListOptions{})
}

func testCancelledContext(t *testing.T, b sink.Bucket) {
	put(t, b, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Put(ctx, "new", strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("put: got %v, want context.Canceled", err)
	}
	if _, err := b.Stat(ctx, "there"); !errors.Is(err, context.Canceled) {
		t.Errorf("stat: got %v, want context.Canceled", err)
	}
	if _, err := b.Open(ctx, "there", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("open: got %v, want context.Canceled", err)
	}
	errs := 0
	for o, err := range b.List(ctx, "", sink.ListOptions{}) {
		if errs++; !errors.Is(err, context.Canceled) {
			t.Errorf("list: got %+v, %v, want context.Canceled", o, err)
		}
	}
	if errs != 1 {
		t.Errorf("list yielded %d times, want one error", errs)
	}
	absent(t, b, "new")
}
