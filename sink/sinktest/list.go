package sinktest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// checkList compares the keys of a listing with those wanted, which it sorts first.
func checkList(t *testing.T, b sink.Bucket, prefix string, o sink.ListOptions, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	for obj, err := range b.List(t.Context(), prefix, o) {
		if err != nil {
			t.Errorf("list %q %+v: %v", prefix, o, err)
			return
		}
		got = append(got, obj.Key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list %q %+v (-want +got):\n%s", prefix, o, diff)
	}
}

// tree holds the traps of ordering: "-" and "." come before "/", "0" after it. So a folder's objects
// stand between others, and a walk that sorts names without their slash puts them elsewhere.
func tree(t *testing.T, b sink.Bucket) []string {
	t.Helper()
	keys := []string{
		"a-b/x", "a.b/x", "a/x", "a/y/z", "a/y-/z", "a/y.log", "a0", "ab/x", "b", "b-", "c/d/e/f", "date=2026-01-01/p",
		"date=2026-01-02/p", "date=2026-01-02/q", "Z", "_", "~",
	}
	for _, key := range keys {
		put(t, b, key, []byte(key))
	}
	slices.Sort(keys)
	return keys
}

func testListOrder(t *testing.T, b sink.Bucket) {
	checkList(t, b, "", sink.ListOptions{})
	checkList(t, b, "", sink.ListOptions{Shallow: true})
	keys := tree(t, b)
	checkList(t, b, "", sink.ListOptions{}, keys...)
	for obj, err := range b.List(t.Context(), "", sink.ListOptions{}) {
		if err != nil || obj.Size != int64(len(obj.Key)) || obj.ModTime.IsZero() {
			t.Errorf("list: %+v, %v: want the object's size and time", obj, err)
		}
	}
}

func testListPrefix(t *testing.T, b sink.Bucket) {
	tree(t, b)
	for prefix, want := range map[string][]string{
		"a":                 {"a-b/x", "a.b/x", "a/x", "a/y/z", "a/y-/z", "a/y.log", "a0", "ab/x"},
		"a/":                {"a/x", "a/y/z", "a/y-/z", "a/y.log"},
		"a/y":               {"a/y/z", "a/y-/z", "a/y.log"},
		"a/y/":              {"a/y/z"},
		"a/y/z":             {"a/y/z"},
		"c/d":               {"c/d/e/f"},
		"c/d/e/f":           {"c/d/e/f"},
		"date=2026-01-02/":  {"date=2026-01-02/p", "date=2026-01-02/q"},
		"date=2026-01-0":    {"date=2026-01-01/p", "date=2026-01-02/p", "date=2026-01-02/q"},
		"nothing":           nil,
		"a/nothing":         nil,
		"nothing/at/all":    nil,
		"b/":                nil,
		"date=2026-01-02/z": nil,
	} {
		checkList(t, b, prefix, sink.ListOptions{}, want...)
	}
}

// testListAfter tries each key, and places between keys, as the start of a listing.
func testListAfter(t *testing.T, b sink.Bucket) {
	keys := tree(t, b)
	starts := append([]string{"\x01", "a", "a/", "a/y", "a/y/", "a/zzz", "a/y/z/z", "date=2026-01-01/", "date=2026-01-01/zzz", "date=2026-01-02", "zzz", "~~"}, keys...)
	for _, after := range starts {
		for _, prefix := range []string{"", "a", "a/", "date="} {
			var want []string
			for _, key := range keys {
				if key > after && len(key) >= len(prefix) && key[:len(prefix)] == prefix {
					want = append(want, key)
				}
			}
			checkList(t, b, prefix, sink.ListOptions{After: after}, want...)
		}
	}
}

func testListShallow(t *testing.T, b sink.Bucket) {
	tree(t, b)
	shallow := sink.ListOptions{Shallow: true}
	for prefix, want := range map[string][]string{
		"":                {"Z", "_", "a-b/", "a.b/", "a/", "a0", "ab/", "b", "b-", "c/", "date=2026-01-01/", "date=2026-01-02/", "~"},
		"a":               {"a-b/", "a.b/", "a/", "a0", "ab/"},
		"a/":              {"a/x", "a/y/", "a/y-/", "a/y.log"},
		"a/y":             {"a/y/", "a/y-/", "a/y.log"},
		"c":               {"c/"},
		"c/":              {"c/d/"},
		"c/d/":            {"c/d/e/"},
		"c/d/e/":          {"c/d/e/f"},
		"date=":           {"date=2026-01-01/", "date=2026-01-02/"},
		"date=2026-01-02": {"date=2026-01-02/"},
		"nothing":         nil,
		"nothing/":        nil,
	} {
		checkList(t, b, prefix, shallow, want...)
	}
	for obj, err := range b.List(t.Context(), "c", shallow) {
		if err != nil || obj != (sink.Object{Key: "c/"}) {
			t.Errorf("a folder is %+v, %v: want nothing but its key", obj, err)
		}
	}
	checkList(t, b, "date=", sink.ListOptions{Shallow: true, After: "date=2026-01-01/"}, "date=2026-01-02/")
	checkList(t, b, "date=", sink.ListOptions{Shallow: true, After: "date=2026-01-01"}, "date=2026-01-01/", "date=2026-01-02/")
	checkList(t, b, "date=", sink.ListOptions{Shallow: true, After: "date=2026-01-01/a"}, "date=2026-01-02/")
	checkList(t, b, "a", sink.ListOptions{Shallow: true, After: "a/"}, "a0", "ab/")
	checkList(t, b, "", sink.ListOptions{Shallow: true, After: "b"}, "b-", "c/", "date=2026-01-01/", "date=2026-01-02/", "~")
}

// testListPages lists more objects than a store gives at once: S3's pages have 1,000.
func testListPages(t *testing.T, b sink.Bucket) {
	var keys []string
	for i := range 1100 {
		keys = append(keys, fmt.Sprintf("pages/%02d/%04d", i%20, i))
	}
	next := make(chan string)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for key := range next {
				put(t, b, key, nil)
			}
		})
	}
	for _, key := range keys {
		next <- key
	}
	close(next)
	wait.Wait()
	if t.Failed() {
		return
	}
	slices.Sort(keys)
	checkList(t, b, "pages/", sink.ListOptions{}, keys...)
	checkList(t, b, "pages/", sink.ListOptions{After: keys[49]}, keys[50:]...)
	for _, stop := range []int{1, 999, 1000, 1001} {
		n := 0
		for obj, err := range b.List(t.Context(), "pages/", sink.ListOptions{}) {
			if err != nil || obj.Key != keys[n] {
				t.Fatalf("object %d: got %s, %v, want %s", n, obj.Key, err, keys[n])
			}
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("stop after %d objects: got %d", stop, n)
		}
	}
}

// testListStrangePrefix lists prefixes that no key can have. They match nothing, least of all
// something outside.
func testListStrangePrefix(t *testing.T, b sink.Bucket) {
	put(t, b, "a/b", []byte("x"))
	for _, prefix := range []string{"/", "//", "/a", "..", "../", ".", "./", "a//", "a/../", "a/..", ".tmp/", ".lock", "a\x00", `a\`, "a/b/"} {
		checkList(t, b, prefix, sink.ListOptions{})
		checkList(t, b, prefix, sink.ListOptions{Shallow: true})
	}
}
