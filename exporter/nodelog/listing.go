package nodelog

import (
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// listing is what a directory held of one run.
type listing struct {
	current bool            // <N>.log is there
	stamps  []string        // of the rotated files, oldest first, in the order of the kubelet's sort.Strings
	zipped  map[string]bool // which of them are there as .gz
}

// parseListing reads the page that http.FileServer makes of a directory (dirList in net/http/fs.go).
func parseListing(page string, restart int32) listing {
	l := listing{zipped: make(map[string]bool)}
	base := strconv.Itoa(int(restart)) + ".log"
	for {
		_, rest, ok := strings.Cut(page, `<a href="`)
		if !ok {
			break
		}
		link, after, ok := strings.Cut(rest, `"`)
		if !ok {
			break
		}
		page = after
		name, err := url.PathUnescape(html.UnescapeString(link))
		if err != nil {
			continue
		}
		suffix, ours := strings.CutPrefix(strings.TrimPrefix(name, "./"), base)
		if !ours {
			continue
		}
		if suffix == "" {
			l.current = true
			continue
		}
		stamp, zipped := strings.CutSuffix(suffix, ".gz")
		if !isRotation(stamp) {
			continue // .tmp, or another restart's file that begins with the same digits
		}
		stamp = stamp[1:]
		if zipped {
			l.zipped[stamp] = true
		}
		// The kubelet renames the finished .gz into place and then removes the plain file
		// (compressLog), so for a moment, or after a crash, one stamp has both.
		if !slices.Contains(l.stamps, stamp) {
			l.stamps = append(l.stamps, stamp)
		}
	}
	slices.Sort(l.stamps)
	return l
}

// isRotation tells whether s is a dot and a rotation's time, "20060102-150405".
func isRotation(s string) bool {
	const form = ".20060102-150405"
	if len(s) != len(form) {
		return false
	}
	for i := range s {
		digit := s[i] >= '0' && s[i] <= '9'
		if wanted := form[i] >= '0' && form[i] <= '9'; digit != wanted || !digit && s[i] != form[i] {
			return false
		}
	}
	return true
}

// name gives the name under which a file can be opened; the empty stamp is the current file's.
func (l listing) name(restart int32, stamp string) string {
	name := strconv.Itoa(int(restart)) + ".log"
	if stamp == "" {
		return name
	}
	name += "." + stamp
	if l.zipped[stamp] {
		name += ".gz"
	}
	return name
}
