package nodelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// three is a node with two rotated files, one of them compressed, and a current one.
func three(t *testing.T, maxFiles int) *node {
	n := newNode(t, maxFiles)
	n.write(900)
	n.rotate()
	n.write(600)
	n.rotate()
	n.write(300)
	return n
}

func TestRead(t *testing.T) {
	n := three(t, 5)
	text, report, err := n.read(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if text != n.all() {
		t.Error(difference(text, n.all()))
	}
	if !report.whole() {
		t.Errorf("not whole: %q", report.Evidence)
	}
	if report.Stdout != 1440 || report.Stderr != 360 {
		t.Errorf("%d and %d lines, want 1440 and 360", report.Stdout, report.Stderr)
	}
	if len(report.Files) != 3 || !strings.HasSuffix(report.Files[0].Name, ".gz") || report.Files[2].Name != "3.log" || report.Files[2].Bytes != int64(len(n.files[2])) {
		t.Errorf("files %+v", report.Files)
	}
	for _, r := range n.kubelet.Requests() {
		if strings.Contains(r, "/33.log") || strings.Contains(r, "/2.log") {
			t.Errorf("asked for %s", r)
		}
	}
	if got := len(n.kubelet.Requests()); got != 7 { // list, 3 files, list, the end, list
		t.Errorf("%d requests: %q", got, n.kubelet.Requests())
	}
}

// How many rotated files prove that none was removed: those that the kubelet never leaves after it
// has removed one.
func TestHead(t *testing.T) {
	for _, maxFiles := range []int{2, 3, 5} {
		for rotations := range maxFiles + 1 {
			n := newNode(t, maxFiles)
			n.maxSize = 500
			for range rotations {
				n.write(20)
				n.rotate()
			}
			n.write(3)
			steps := n.rotation()
			for i := range len(steps) + 2 {
				if i > 1 {
					steps[i-2]()
				}
				if i == 1 {
					n.write(20)
				}
				text, report, err := n.read(time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("%d files, %d rotations, step %d", maxFiles, rotations, i)
				n.check(name, text, report)
				if report.Head && n.removed > 0 {
					t.Errorf("%s: claims a head, %d files were removed", name, n.removed)
				}
				if want := rotations <= maxFiles-2; i == 0 && report.whole() != want {
					t.Errorf("%s: whole %v, want %v: %q", name, report.whole(), want, report.Evidence)
				}
			}
		}
	}
}

// Whatever the kubelet and the runtime do, at whichever request: nothing comes twice, and nothing is
// missing that is not admitted.
func TestMoving(t *testing.T) {
	type act struct {
		name string
		do   func(n *node) []func()
		// whole: nothing is lost, so the report has to say so.
		whole bool
	}
	rotation := func(n *node) []func() { return []func(){n.rotate} }
	acts := []act{
		{"write", func(n *node) []func() { return []func(){func() { n.write(500) }} }, true},
		{"rotate", rotation, true},
		{"rotate and write", func(n *node) []func() { return []func(){n.rotate, func() { n.write(400) }} }, true},
		{"write, rotate and write at once", func(n *node) []func() {
			return []func(){func() { n.write(100); n.rotate(); n.write(400) }}
		}, true},
		{"rotate step by step", (*node).rotation, true},
		{"rotate twice", func(n *node) []func() { return []func(){func() { n.rotate(); n.write(50); n.rotate() }} }, true},
		{"rotate twice at two requests", func(n *node) []func() { return []func(){n.rotate, func() { n.write(50); n.rotate() }} }, true},
		{"rotate everything away", func(n *node) []func() {
			return []func(){func() {
				for range 7 {
					n.rotate()
					n.write(700)
				}
			}}
		}, false},
		{"delete", func(n *node) []func() { return []func(){func() { n.must(os.RemoveAll(n.dir)) }} }, false},
	}
	for _, old := range []bool{true, false} {
		for _, a := range acts {
			t.Run(fmt.Sprintf("%s, old %v", a.name, old), func(t *testing.T) {
				for at := range 11 {
					n := three(t, 6)
					n.old = old
					steps := a.do(n)
					n.kubelet.Before(func(i int, _ http.ResponseWriter, r *http.Request) bool {
						defer n.asked(r)
						if i >= at && len(steps) > 0 {
							steps[0]()
							steps = steps[1:]
						}
						return false
					})
					text, report, err := n.read(time.Time{})
					if a.name == "delete" && err != nil {
						if !errors.Is(err, ErrNotFound) {
							t.Errorf("at %d: %v", at, err)
						}
						continue
					}
					if err != nil {
						t.Errorf("at %d: %v", at, err)
						continue
					}
					name := fmt.Sprintf("at %d", at)
					if len(steps) == 0 { // all was done while it was read
						n.check(name, text, report)
					}
					if a.whole && (!report.Middle || !report.Tail) {
						t.Errorf("%s: %q, %q", name, report.Evidence, n.kubelet.Requests())
					}
				}
			})
		}
	}
}

// Random mixtures of all of it.
func TestMovingRandom(t *testing.T) {
	rounds := 60 // thousands of them passed
	if testing.Short() {
		rounds = 10
	}
	for seed := range uint64(rounds) {
		random := rand.New(rand.NewPCG(seed, 0))
		n := newNode(t, 2+random.IntN(5))
		n.old = random.IntN(2) == 0
		for range random.IntN(5) {
			n.write(random.IntN(900))
			n.rotate()
		}
		n.write(random.IntN(900))
		var steps []func()
		left, lists := random.IntN(25), 2 // more is an error
		n.kubelet.Before(func(i int, w http.ResponseWriter, r *http.Request) bool {
			defer n.asked(r)
			for ; left > 0 && random.IntN(2) == 0; left-- {
				if len(steps) > 0 {
					steps[0]()
					steps = steps[1:]
					continue
				}
				switch random.IntN(3) {
				case 0:
					n.write(random.IntN(600))
				case 1:
					n.write(random.IntN(10))
					steps = n.rotation()
				default:
					n.rotate()
				}
			}
			if list := strings.HasSuffix(r.URL.Path, "/"); left > 0 && i > 0 && random.IntN(8) == 0 && (!list || lists > 0) {
				if list {
					lists--
				}
				cut(w, r, n.dir)
				return true
			}
			if left <= 0 {
				for _, step := range steps {
					step()
				}
				steps = nil
			}
			return false
		})
		text, report, err := n.read(time.Time{})
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		if left <= 0 && len(steps) == 0 {
			n.check(fmt.Sprintf("seed %d", seed), text, report)
		}
	}
}

// cut answers with half of what was asked for, and ends the connection.
func cut(w http.ResponseWriter, r *http.Request, dir string) {
	if strings.HasSuffix(r.URL.Path, "/") {
		panic(http.ErrAbortHandler)
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.Base(r.URL.Path)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	status, from := http.StatusOK, 0
	if from, _ = strconv.Atoi(strings.Trim(r.Header.Get("Range"), "bytes=-")); from > 0 && from < len(data) {
		data, status = data[from:], http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+len(data)-1, from+len(data)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data[:len(data)/2])
	kubetest.Flush(w)
	panic(http.ErrAbortHandler)
}

// A body that breaks is read on from where it broke, whatever has happened to the name.
func TestBrokenBody(t *testing.T) {
	for _, rotate := range []bool{false, true} {
		for at := range 8 {
			n := three(t, 6)
			broken := 0
			n.kubelet.Before(func(i int, w http.ResponseWriter, r *http.Request) bool {
				if i < at || broken == 3 || strings.HasSuffix(r.URL.Path, "/") {
					return false
				}
				if broken++; broken == 2 && rotate {
					n.rotate()
				}
				cut(w, r, n.dir)
				return true
			})
			text, report, err := n.read(time.Time{})
			if err != nil || text != n.all() || !report.whole() {
				t.Errorf("at %d, rotate %v: %v, %q, %s", at, rotate, err, report.Evidence, difference(text, n.all()))
			}
		}
	}
}

// A body that always breaks is an error, with the bytes that came.
func TestBrokenForGood(t *testing.T) {
	n := three(t, 6)
	n.kubelet.Before(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/3.log") {
			return false
		}
		w.Header().Set("Content-Length", "100")
		kubetest.Flush(w)
		panic(http.ErrAbortHandler)
	})
	text, report, err := n.read(time.Time{})
	older, _ := reference(n.files[:2])
	if !errors.Is(err, ErrUnavailable) || text != older || report.Tail || report.whole() {
		t.Errorf("%v, %+v, %s", err, report, difference(text, older))
	}
}

// A proxy or an old server may ignore Range.
func TestRangeIgnored(t *testing.T) {
	n := three(t, 6)
	n.kubelet.Before(func(i int, _ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		if i == 5 {
			n.write(100)
			n.rotate()
			n.write(100)
		}
		return false
	})
	text, report, err := n.read(time.Time{})
	if err != nil || text != n.all() || !report.whole() {
		t.Errorf("%v, %q, %s", err, report.Evidence, difference(text, n.all()))
	}
}

// The runtime flushes to the old file after it has opened the new one.
func TestLateFlush(t *testing.T) {
	n := three(t, 6)
	n.old = false
	n.rotate()
	newest := n.rotated()
	suffix := strings.TrimPrefix(newest[len(newest)-1], n.path(""))
	n.must(os.Chtimes(n.path(suffix), time.Now(), time.Now()))
	late := "2026-11-23T10:01:00Z stdout F late\n"
	n.kubelet.Before(func(i int, _ http.ResponseWriter, _ *http.Request) bool {
		if i == 6 { // all four files are open
			n.append(suffix, late)
			n.files[len(n.files)-2] += late
		}
		return false
	})
	text, report, err := n.read(time.Time{})
	if err != nil || text != n.all() || !strings.Contains(text, " late\n") {
		t.Errorf("%v, %q, %s", err, report.Evidence, difference(text, n.all()))
	}
}

func TestSince(t *testing.T) {
	n := newNode(t, 3)
	n.old = false
	var ends []time.Time
	for range 4 { // the first one is removed, and the second compressed
		n.write(100)
		modified := n.clock.Truncate(time.Second).Add(time.Second)
		n.must(os.Chtimes(n.path(""), modified, modified))
		ends = append(ends, n.clock)
		n.rotate()
	}
	n.write(100)
	rotated := n.rotated()
	modified := ends[3].Truncate(time.Second)
	n.must(os.Chtimes(rotated[0], modified, modified)) // when it was compressed
	for _, test := range []struct {
		since time.Time
		first int // file
		whole bool
	}{
		{time.Time{}, 2, false},
		{ends[1], 2, false},
		{ends[2], 2, true}, // the first line is older
		{ends[3].Add(700 * time.Millisecond), 3, true},
		{ends[3].Add(5 * time.Second), 4, true},
	} {
		text, report, err := n.read(test.since)
		want, _ := reference(n.files[test.first:])
		if err != nil || text != want || report.whole() != test.whole {
			t.Errorf("since %v: %v, whole %v, %q, %s", test.since, err, report.whole(), report.Evidence, difference(text, want))
		}
	}
}

func TestErrors(t *testing.T) {
	n := three(t, 5)
	for status, want := range map[int]error{
		http.StatusForbidden: ErrForbidden, http.StatusUnauthorized: ErrForbidden, http.StatusNotFound: ErrNotFound,
		http.StatusMethodNotAllowed: ErrDisabled, http.StatusInternalServerError: ErrUnavailable, http.StatusServiceUnavailable: ErrUnavailable,
		http.StatusMovedPermanently: ErrUnavailable,
	} {
		n.kubelet.Deny(status)
		_, _, err := n.read(time.Time{})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), n.kubelet.Host()) || !strings.Contains(err.Error(), "shop_web-0_1f2e/app") {
			t.Errorf("%d: %v", status, err)
		}
		t.Log(err)
	}
	n.kubelet.Deny(0)
	open := func(o Options, change func(r *Run)) error {
		o.Config.TLSClientConfig.ServerName = "api.invalid" // not to be used
		if o.Port == 0 {
			o.Port = n.kubelet.Port()
		}
		c, err := New(o)
		if err != nil {
			return err
		}
		run := testRun()
		if change != nil {
			change(&run)
		}
		r, err := c.Open(context.Background(), n.kubelet.Host(), run, time.Time{})
		if err == nil {
			_ = r.Close()
		}
		return err
	}
	untrusting := n.kubelet.Config()
	untrusting.CAData = nil
	wrong := n.kubelet.Config()
	wrong.BearerToken = "wrong"
	for name, test := range map[string]struct {
		o      Options
		change func(r *Run)
		want   error
	}{
		"certificate": {o: Options{Config: untrusting}, want: ErrUntrusted},
		"CA file":     {o: Options{Config: untrusting, CAFile: n.kubelet.CAFile()}},
		"skip":        {o: Options{Config: untrusting, InsecureSkipVerify: true}},
		"token":       {o: Options{Config: wrong}, want: ErrForbidden},
		"port":        {o: Options{Config: n.kubelet.Config(), Port: 1}, want: ErrUnavailable},
		"pod":         {o: Options{Config: n.kubelet.Config()}, change: func(r *Run) { r.UID = "other" }, want: ErrNotFound},
		"restart":     {o: Options{Config: n.kubelet.Config()}, change: func(r *Run) { r.Restart = 9 }, want: ErrNotFound},
	} {
		if err := open(test.o, test.change); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		} else {
			t.Log(err)
		}
	}
	if err := open(Options{Config: n.kubelet.Config()}, func(r *Run) { r.Container = "../../x" }); err == nil {
		t.Error("took a name that leaves the directory")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.client().Open(ctx, n.kubelet.Host(), testRun(), time.Time{}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}

// A token file is read again when it has changed; that is client-go's, so only its use is tested.
func TestTokenFile(t *testing.T) {
	n := three(t, 5)
	config := n.kubelet.Config()
	config.BearerToken, config.BearerTokenFile = "", filepath.Join(t.TempDir(), "token")
	n.must(os.WriteFile(config.BearerTokenFile, []byte(kubetest.KubeletToken+"\n"), 0o600))
	c, err := New(Options{Config: config, Port: n.kubelet.Port()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Open(context.Background(), n.kubelet.Host(), testRun(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	var b bytes.Buffer
	if _, err := io.Copy(&b, r); err != nil || b.String() != n.all() {
		t.Errorf("%v, %s", err, difference(b.String(), n.all()))
	}
}

func TestMalformedIsNotWhole(t *testing.T) {
	for text, whole := range map[string]bool{
		"2026-11-23T10:00:00Z stdout F a\n":                                           true,
		"2026-11-23T10:00:00Z stdout P a\n":                                           true, // how a last line without a newline is written
		"2026-11-23T10:00:00Z stdout F a\nrubbish\n2026-11-23T10:00:00Z stdout F b\n": false,
		"2026-11-23T10:00:00Z stdout F a":                                             false,
		"{\"log\":\"a\",\"stream\":\"stdout\",\"time\":\"2026-11-23T10:00:00Z\"}\n":   false,
		"": true,
	} {
		n := newNode(t, 5)
		n.append("", text)
		_, report, err := n.read(time.Time{})
		if err != nil || report.whole() != whole {
			t.Errorf("%q: %v, whole %v: %q", text, err, report.whole(), report.Evidence)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	n := newNode(b, 5)
	for len(n.files[0]) < 64<<20 {
		n.write(100_000)
	}
	c := n.client()
	b.SetBytes(int64(len(n.files[0])))
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.Open(context.Background(), n.kubelet.Host(), testRun(), time.Time{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}
