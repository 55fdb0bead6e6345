package sink

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of keys: S3's for the whole, and MinIO's and most file systems' for a segment.
const (
	maxKey     = 1024
	maxSegment = 255
)

// CheckKey says whether key may name an object: a relative path of segments that every store and
// every file system takes, and that cannot lead out of its prefix. The error wraps ErrInvalidKey.
// Segments that begin with a dot are left to the stores' own files.
func CheckKey(key string) error {
	bad := func(rule string) error { return fmt.Errorf("%w %q: %s", ErrInvalidKey, key, rule) }
	switch {
	case key == "":
		return bad("it is empty")
	case len(key) > maxKey:
		return bad(fmt.Sprintf("it has %d bytes, more than %d", len(key), maxKey))
	case !utf8.ValidString(key):
		return bad("it is not valid UTF-8")
	case strings.Contains(key, `\`):
		return bad(`it holds a "\"`)
	case strings.IndexFunc(key, unicode.IsControl) >= 0:
		return bad("it holds a control character")
	}
	for segment := range strings.SplitSeq(key, "/") {
		switch {
		case segment == "":
			return bad("it holds an empty segment")
		case segment[0] == '.':
			return bad("a segment begins with a dot")
		case len(segment) > maxSegment:
			return bad(fmt.Sprintf("a segment has %d bytes, more than %d", len(segment), maxSegment))
		}
	}
	return nil
}

// matchesNothing says that no key can begin with prefix: such a listing is empty, and nobody is
// asked, because to a directory "/" or "../" would mean something.
func matchesNothing(prefix string) bool {
	return prefix != "" && CheckKey(strings.TrimSuffix(prefix, "/")) != nil
}
