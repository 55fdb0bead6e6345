package sink_test

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// FuzzCheckKey checks that whatever CheckKey lets pass stays below its prefix, on every system and
// as a URL, and has one spelling only.
func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{
		"", "a", "a/b.json", "../a", "a/../b", "/a", "a/", "a//b", ".", "..", "./a", `a\b`, "a\x00", "a\xff", "é", "a/.b", "C:/x", "~", " ",
		"cluster=c/namespace=n/date=2026-01-01/p/u/_app.0.0123456789ab.json", strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x/", 512) + "x",
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := sink.CheckKey(key)
		if err != nil {
			if !errors.Is(err, sink.ErrInvalidKey) || sink.ClassOf(err) != sink.ClassItem {
				t.Errorf("%q: %v is no ErrInvalidKey", key, err)
			}
			return
		}
		if len(key) == 0 || len(key) > 1024 || !utf8.ValidString(key) || strings.ContainsAny(key, "\\\x00\n\r\x7f") {
			t.Errorf("%q passes", key)
		}
		if path.Clean(key) != key || path.IsAbs(key) || !filepath.IsLocal(key) {
			t.Errorf("%q passes and is another path, or no local one", key)
		}
		for segment := range strings.SplitSeq(key, "/") {
			if segment == "" || segment[0] == '.' || len(segment) > 255 {
				t.Errorf("%q passes with the segment %q", key, segment)
			}
		}
		if sink.CheckKey(key+"/../x") == nil || sink.CheckKey("../"+key) == nil || sink.CheckKey("/"+key) == nil {
			t.Errorf("%q passes with a way out added", key)
		}
	})
}
