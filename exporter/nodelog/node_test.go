package nodelog

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// testRun is the run that tests read.
func testRun() Run {
	return Run{Namespace: "shop", Pod: "web-0", UID: "1f2e", Container: "app", Restart: 3}
}

// node plays what the runtime and the kubelet do with the files of one run.
type node struct {
	t       testing.TB
	kubelet *kubetest.Kubelet
	dir     string
	max     int
	maxSize int64
	half    bool // the latest entry is a piece of a line
	old     bool // files look as if nobody had written to them for an hour

	asking  []string // files, as they were at the latest request for one
	files   []string // text of all files there ever were, oldest first
	removed int      // of them, the oldest
	n       int
	clock   time.Time
}

func newNode(t testing.TB, maxFiles int) *node {
	root := t.TempDir()
	n := &node{
		t: t, kubelet: kubetest.NewKubelet(t, root), dir: filepath.Join(root, "pods", "shop_web-0_1f2e", "app"),
		max: maxFiles, maxSize: 1, old: true, clock: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC),
	}
	n.must(os.MkdirAll(n.dir, 0o755))
	// Neighbours that are not to be read.
	n.must(os.WriteFile(filepath.Join(n.dir, "33.log"), []byte("2026-01-02T03:04:05Z stdout F other\n"), 0o600))
	n.must(os.WriteFile(filepath.Join(n.dir, "2.log.20260102-150405.gz"), []byte("other"), 0o600))
	n.reopen()
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Error(err)
	}
}

func (n *node) client() *Client {
	c, err := New(Options{Config: n.kubelet.Config(), Port: n.kubelet.Port(), MaxFiles: n.max, MaxSize: n.maxSize})
	if err != nil {
		n.t.Fatal(err)
	}
	c.quiet, c.pause = 2*time.Millisecond, time.Millisecond
	return c
}

func (n *node) path(suffix string) string { return filepath.Join(n.dir, "3.log"+suffix) }

// write appends numbered lines to the current file. Every fifth is cut in two; the second half comes
// with the next line, which may be in another file.
func (n *node) write(lines int) {
	var b strings.Builder
	for range lines {
		n.n++
		n.clock = n.clock.Add(7 * time.Millisecond)
		stamp := n.clock.Format(time.RFC3339Nano)
		if n.half {
			fmt.Fprintf(&b, "%s stderr F half\n", stamp)
		}
		if n.half = n.n%5 == 0; n.half {
			fmt.Fprintf(&b, "%s stderr P %07d \n", stamp, n.n)
			continue
		}
		fmt.Fprintf(&b, "%s stdout F %07d %s\n", stamp, n.n, strings.Repeat("x", n.n%90))
	}
	n.append("", b.String())
	n.files[len(n.files)-1] += b.String()
}

func (n *node) append(suffix, text string) {
	f, err := os.OpenFile(n.path(suffix), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		n.t.Error(err)
		return
	}
	_, err = f.WriteString(text)
	n.must(err)
	n.must(f.Close())
	n.age(suffix)
}

func (n *node) age(suffix string) {
	if n.old {
		past := time.Now().Add(-time.Hour)
		n.must(os.Chtimes(n.path(suffix), past, past))
	}
}

func (n *node) reopen() {
	n.must(os.WriteFile(n.path(""), nil, 0o600))
	n.age("")
	n.files = append(n.files, "")
}

func (n *node) rotated() []string {
	found, err := filepath.Glob(n.path(".2*"))
	n.must(err)
	slices.Sort(found)
	return found
}

// rotation returns the steps of rotateLog in pkg/kubelet/logs/container_log_manager.go. Between any
// two of them somebody may look.
func (n *node) rotation() []func() {
	n.clock = n.clock.Add(10 * time.Second)
	next := n.clock.In(time.FixedZone("", 3600)).Format(".20060102-150405")
	var plain, stamp string
	return []func(){
		func() {
			there := n.rotated()
			for i := range max(0, len(there)-max(0, n.max-2)) {
				n.must(os.Remove(there[i]))
				n.removed++
			}
			for _, name := range n.rotated() {
				if !strings.HasSuffix(name, ".gz") {
					plain = name
					stamp = strings.TrimPrefix(name, n.path(""))
				}
			}
		},
		func() {
			if plain != "" {
				n.must(os.WriteFile(plain+".tmp", []byte("half"), 0o600))
			}
		},
		func() {
			if plain == "" {
				return
			}
			data, err := os.ReadFile(plain)
			n.must(err)
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = z.Write(data)
			n.must(z.Close())
			n.must(os.WriteFile(plain+".tmp", b.Bytes(), 0o600))
			n.must(os.Rename(plain+".tmp", plain+".gz"))
			n.age(stamp + ".gz")
		},
		func() {
			if plain != "" {
				n.must(os.Remove(plain))
			}
		},
		func() { n.must(os.Rename(n.path(""), n.path(next))) },
		n.reopen,
	}
}

func (n *node) rotate() {
	for _, step := range n.rotation() {
		step()
	}
}

// all is the text of all files there ever were.
func (n *node) all() string {
	text, _ := reference(n.files)
	return text
}

func (n *node) read(since time.Time) (string, Report, error) {
	r, err := n.client().Open(context.Background(), n.kubelet.Host(), testRun(), since)
	if err != nil {
		return "", Report{}, err
	}
	defer func() { _ = r.Close() }()
	text, err := io.ReadAll(r)
	return string(text), r.Report(), err
}

// asked notes what there was when a file was asked for. What is written after the last such request
// cannot be in the text, and is not claimed to be.
func (n *node) asked(r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/") {
		n.asking = slices.Clone(n.files)
	}
}

// whole says whether the report claims everything.
func (r Report) whole() bool { return r.Head && r.Middle && r.Tail }

// check compares what was read with what was written: nothing twice, nothing out of order, nothing
// that was not written, and nothing missing that the report does not admit.
func (n *node) check(name, got string, report Report) {
	n.t.Helper()
	want := n.all()
	if got == want {
		return
	}
	least := want
	if len(n.asking) > 0 {
		least, _ = reference(n.asking)
	}
	if strings.HasPrefix(want, got) && strings.HasPrefix(got, least) {
		return
	}
	if report.whole() {
		n.t.Errorf("%s: the report says whole, and the text is not: %s", name, difference(got, want))
	}
	if report.Head && !strings.HasPrefix(got, want[:min(len(want), 60)]) {
		n.t.Errorf("%s: the report says that the head is there: %s", name, difference(got, want))
	}
	orphan := func(line string) bool { return len(line) == len("2026-11-23T10:00:00.000000000Z half\n") }
	inner := got
	if first, rest, _ := strings.Cut(got, "\n"); orphan(first + "\n") {
		inner = rest // its first half was lost with the file before
	}
	if report.Middle && !strings.Contains(want, inner) {
		n.t.Errorf("%s: the report says that the middle is whole: %s", name, difference(got, want))
	}
	tail := got[max(0, len(got)-60):]
	if last := strings.LastIndexByte(strings.TrimSuffix(tail, "\n"), '\n'); last >= 0 {
		tail = tail[last:] // a gap may be before the last line
	}
	if report.Tail && strings.LastIndex(want, tail)+len(tail) < len(least) {
		n.t.Errorf("%s: the report says that the tail is there: %s", name, difference(got, want))
	}
	rest := "\n" + want
	for line := range strings.Lines(got) {
		text := strings.TrimSuffix(line, "\n") // a gap may follow and have cut it
		at := strings.Index(rest, "\n"+text)
		if at < 0 && orphan(line) && !report.whole() {
			continue
		}
		if at < 0 {
			n.t.Errorf("%s: %.60q comes twice, out of order, or was never written: %q", name, line, report.Evidence)
			return
		}
		rest = rest[at+1+len(text):]
		rest = rest[max(0, strings.IndexByte(rest, '\n')):]
	}
}

func difference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return fmt.Sprintf("%d bytes, want %d; they part at %d: %.80q, want %.80q", len(got), len(want), i, got[i:], want[i:])
}
