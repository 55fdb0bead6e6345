package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/integration/node"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// exportBy runs an exporter of each policy over the same pods. Reading the node's files takes the
// rights of the administrator here, whom the test runs as.
func (c *cluster) exportBy(policies ...string) map[string]*timed {
	c.t.Helper()
	buckets := make(map[string]*timed)
	for _, name := range policies {
		buckets[name] = c.exportWith(func(o *exporter.Options) {
			o.Kubelets.MaxFiles = c.node.Options.ContainerLogMaxFiles
			for word := range strings.FieldsSeq(name) {
				switch word {
				case "live":
					o.Capture, o.NodeFollows = exporter.CaptureLive, 64
				case "recover":
					o.NodeLogs = exporter.NodeLogsRecover
				case "prefer":
					o.NodeLogs = exporter.NodeLogsPrefer
				}
			}
		})
	}
	return buckets
}

// ended waits for the records of n runs that have ended; segments of running ones do not count.
func (c *cluster) ended(b *timed, n int) []*bundle.Record {
	c.t.Helper()
	var recs []*bundle.Record
	c.until(2*time.Minute, fmt.Sprintf("%d records of ended runs", n), func() bool {
		recs = recs[:0]
		for _, rec := range c.records(b) {
			if !rec.State.Running {
				recs = append(recs, rec)
			}
		}
		return len(recs) >= n
	})
	return recs
}

// 20 pods that say goodbye on SIGTERM are deleted by force at once. The API keeps nothing of them; an
// open stream or the node's files do.
func TestForceDeletes(t *testing.T) {
	const pods = 20
	c := newCluster(t)
	buckets := c.exportBy("live", "recover")
	for i := range pods {
		c.create(shell(fmt.Sprintf("forced-%d", i), `trap 'echo goodbye; exit 7' TERM
n=0; while :; do n=$((n+1)); echo "line $n"; sleep 0.1; done`))
	}
	c.until(2*time.Minute, "all pods run", func() bool { return c.inPhase(corev1.PodRunning) == pods })
	time.Sleep(3 * time.Second)
	now := int64(0)
	if err := c.kube.CoreV1().Pods(c.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"live": pods, "recover": 18} {
		whole := 0
		for _, rec := range c.ended(buckets[name], pods) {
			text := c.text(buckets[name], rec)
			missing := missing(t, text)
			switch said := bytes.HasSuffix(text, []byte(" goodbye\n")); {
			case said && missing == 0:
				whole++
			case rec.Verdict.Complete, missing > 0 && rec.Verdict.Middle.State != bundle.Lost:
				t.Errorf("%s: %s: %d lines are missing, verdict %+v", name, rec.Pod.Name, missing, rec.Verdict)
			default:
				t.Logf("%s: %s ends with %q, reads %+v", name, rec.Pod.Name, text[max(0, len(text)-60):], rec.Capture.Reads)
			}
		}
		if t.Logf("%s: %d of %d logs whole", name, whole, pods); whole < want {
			t.Errorf("%s: %d of %d logs whole, want %d", name, whole, pods, want)
		}
	}
}

// number returns the number of a numbered line, and whether the line is whole.
func number(line []byte) (int64, bool) {
	_, digits, _ := bytes.Cut(line, []byte(" line "))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(digits)), 10, 64)
	return n, err == nil
}

// missing counts the numbers that are missing among the numbered lines of a log, up to the highest.
func missing(t *testing.T, text []byte) int64 {
	t.Helper()
	highest, distinct := int64(0), make(map[int64]bool)
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(" line ")) {
			n, whole := number(line)
			if !whole {
				t.Fatalf("line %q", line)
			}
			distinct[n] = true
			highest = max(highest, n)
		}
	}
	return highest - int64(len(distinct))
}

// 75 MB over 40 s, which the kubelet rotates several times: what the API serves at the end is judged as
// what it is; a stream, or the node's files, have every line.
func TestRotatedLog(t *testing.T) {
	t.Parallel() // it waits most of the time
	const lines = 750_000
	c := newCluster(t)
	buckets := c.exportBy("final", "live", "prefer", "live prefer")
	c.create(shell("writer", fmt.Sprintf(
		`for s in $(/bin/busybox seq 0 39); do /bin/busybox awk -v s=$s 'BEGIN{for(i=1;i<=%d;i++) printf "%%060d line %%d\n", 0, s*%d+i}'; sleep 0.9; done`, lines/40, lines/40)))
	c.until(3*time.Minute, "the writer to end", func() bool { return c.inPhase(corev1.PodSucceeded) == 1 })
	for name, b := range buckets {
		rec := c.ended(b, 1)[0]
		c.checkLines(name, b, rec, lines)
		whole := rec.Lines == lines
		switch v := rec.Verdict; {
		case name == "final" && v.Head.State != bundle.Lost:
			t.Errorf("%s: the verdict %+v does not say that the head is lost", name, v)
		case name == "live" && !whole && rec.Lines < lines*3/4: // two rotations in a row can cost a stream a file, and the verdict does not deny it
			t.Errorf("%s: %d of %d lines", name, rec.Lines, lines)
		case strings.HasSuffix(name, "prefer") && !whole && v.Head.State != bundle.Lost && (name == "prefer" || v.Middle.State == bundle.Proven):
			// A slow node may have removed the oldest file. What a stream had missed of that it cannot give, but all the rest.
			t.Errorf("%s: %d of %d lines, verdict %+v", name, rec.Lines, lines, v)
		}
	}
}

// checkLines checks that what a record says of a log of numbered lines is true.
func (c *cluster) checkLines(name string, b *timed, rec *bundle.Record, lines int64) {
	c.t.Helper()
	first, last, n, holes := int64(0), int64(0), int64(0), 0
	for line := range bytes.Lines(c.text(b, rec)) {
		if stamp, _, _ := bytes.Cut(line, []byte(" ")); n == 0 && rec.Verdict.Head.State == bundle.Lost {
			if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err != nil || rec.Verdict.Head.Before == nil || !at.Equal(*rec.Verdict.Head.Before) {
				c.t.Errorf("%s: what is held begins with %q, and the record says %v", name, line, rec.Verdict.Head.Before)
			}
		}
		if n++; n == 1 && rec.Verdict.Head.State != bundle.Proven && !bytes.Contains(line, []byte(" line ")) {
			continue // the runtime cut a line when the kubelet rotated: its end is the first line of the file that is left
		}
		v, whole := number(line)
		if !whole { // likewise, and a stream went on with the other file
			holes++
			continue
		}
		if first == 0 {
			first = v
		} else if v != last+1 {
			holes++
		}
		last = v
	}
	v := rec.Verdict
	c.t.Logf("%s: lines %d to %d, %d of %d held, %d holes; head %s, middle %s, tail %s; %d objects", name, first, last, n, lines, holes, v.Head.State, v.Middle.State, v.Tail.State, len(rec.Objects))
	if first != 1 && v.Head.State == bundle.Proven || holes > 0 && v.Middle.State == bundle.Proven || last != lines && v.Tail.State == bundle.Proven {
		c.t.Errorf("%s: the verdict is not true: %+v, reads %+v", name, v, rec.Capture.Reads)
	}
	if n != rec.Lines {
		c.t.Errorf("%s: the record says %d lines, its objects have %d", name, rec.Lines, n)
	}
}

// A million lines as fast as a container can write them: two rotations can pass a stream, and the API
// serves the newest file only. The node's files have them all, unless the kubelet has removed some.
func TestBurst(t *testing.T) {
	const lines = 1_000_000
	c := newCluster(t)
	buckets := c.exportBy("final", "live", "prefer", "live prefer")
	c.create(shell("burst", fmt.Sprintf(`exec /bin/busybox awk 'BEGIN{for(i=1;i<=%d;i++) print "line", i}'`, lines)))
	c.until(3*time.Minute, "the writer to end", func() bool { return c.inPhase(corev1.PodSucceeded) == 1 })
	for name, b := range buckets {
		rec := c.ended(b, 1)[0]
		c.checkLines(name, b, rec, lines)
		if strings.HasSuffix(name, "prefer") && rec.Lines != lines && rec.Verdict.Head.State != bundle.Lost {
			t.Errorf("%s: %d of %d lines, verdict %+v, reads %+v", name, rec.Lines, lines, rec.Verdict, rec.Capture.Reads)
		}
	}
	if ratio := c.nodeSpeed(); ratio < 5 { // 30 to 60 on a quiet machine
		t.Errorf("the node's files are read %.1f times as fast as pods/log", ratio)
	}
}

// nodeSpeed says how many times as fast as pods/log the node's own files bring the log of the only pod, by
// the medians of five tries that take turns.
func (c *cluster) nodeSpeed() float64 {
	c.t.Helper()
	pod := c.list()[0]
	client, err := nodelog.New(nodelog.Options{Config: c.config})
	if err != nil {
		c.t.Fatal(err)
	}
	var api, files []float64
	for range 5 {
		for _, way := range []struct {
			speeds *[]float64
			open   func() (io.ReadCloser, error)
		}{
			{&api, func() (io.ReadCloser, error) {
				return c.kube.CoreV1().Pods(c.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Timestamps: true}).Stream(c.t.Context())
			}},
			{&files, func() (io.ReadCloser, error) {
				return client.Open(c.t.Context(), node.IP, nodelog.Run{Namespace: c.namespace, Pod: pod.Name, UID: string(pod.UID), Container: "app"}, time.Time{})
			}},
		} {
			begun := time.Now()
			r, err := way.open()
			if err != nil {
				c.t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			if err := errors.Join(err, r.Close()); err != nil {
				c.t.Fatal(err)
			}
			*way.speeds = append(*way.speeds, float64(n)/1e6/time.Since(begun).Seconds())
		}
	}
	slices.Sort(api)
	slices.Sort(files)
	c.t.Logf("pods/log %.0f to %.0f MB/s, the node's files %.0f to %.0f MB/s", api[0], api[4], files[0], files[4])
	return files[2] / api[2]
}
