package integration

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// policies are the ways to capture that are compared. Reading the node's files takes the rights of the
// administrator here, whom the test runs as.
func policies() map[string]func(*exporter.Options) {
	return map[string]func(*exporter.Options){
		"final":   nil,
		"live":    func(o *exporter.Options) { o.Capture, o.NodeFollows = exporter.CaptureLive, 64 },
		"recover": func(o *exporter.Options) { o.NodeLogs = exporter.NodeLogsRecover },
		"prefer":  func(o *exporter.Options) { o.NodeLogs = exporter.NodeLogsPrefer },
	}
}

// 20 pods that say goodbye on SIGTERM are deleted by force at once. The API keeps nothing of them; an
// open stream or the node's files do.
func TestForceDeletes(t *testing.T) {
	for name, whole := range map[string]int{"live": 20, "recover": 18} {
		t.Run(name, func(t *testing.T) {
			const pods = 20
			c := newCluster(t)
			b := c.exportWith(policies()[name])
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
			got := 0
			for _, rec := range c.await(b, pods, 2*time.Minute) {
				text := c.text(b, rec)
				missing := c.missing(text)
				if bytes.HasSuffix(text, []byte(" goodbye\n")) && missing == 0 {
					got++
				} else if rec.Verdict.Complete {
					t.Errorf("%s is called complete, and is not: %d bytes, %d lines missing", rec.Pod.Name, len(text), missing)
				}
				if !bytes.HasSuffix(text, []byte(" goodbye\n")) {
					t.Logf("%s ends with %q after %+v", rec.Pod.Name, text[max(0, len(text)-60):], rec.Capture.Reads)
				}
				if missing > 0 && rec.Verdict.Middle.State != bundle.Lost {
					t.Errorf("%s: %d lines are missing, verdict %+v", rec.Pod.Name, missing, rec.Verdict)
				}
			}
			if t.Logf("%d of %d logs whole", got, pods); got < whole {
				t.Errorf("%d of %d logs whole, want %d", got, pods, whole)
			}
		})
	}
}

// missing counts the numbers that are missing among the "line n" of a log, up to the highest.
func (c *cluster) missing(text []byte) int {
	c.t.Helper()
	highest, distinct := 0, make(map[int]bool)
	for line := range bytes.Lines(text) {
		_, number, ok := bytes.Cut(line, []byte(" line "))
		if !ok {
			continue
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(number)))
		if err != nil {
			c.t.Fatalf("line %q: %v", line, err)
		}
		distinct[n] = true
		highest = max(highest, n)
	}
	return highest - len(distinct)
}

// 75 MB over 40 s, which the kubelet rotates several times: what the API served last is judged as what
// it is; a stream has every line.
func TestRotatedLog(t *testing.T) {
	const lines = 750_000
	for _, name := range []string{"final", "live", "prefer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			b := c.exportWith(policies()[name])
			c.create(shell("writer", fmt.Sprintf(
				`for s in $(/bin/busybox seq 0 39); do /bin/busybox awk -v s=$s 'BEGIN{for(i=1;i<=%d;i++) printf "%%060d line %%d\n", 0, s*%d+i}'; sleep 0.9; done`, lines/40, lines/40)))
			c.until(3*time.Minute, "the writer to end", func() bool { return c.inPhase(corev1.PodSucceeded) == 1 })
			var rec *bundle.Record
			c.until(time.Minute, "its record", func() bool {
				for _, r := range c.records(b) {
					if !r.State.Running {
						rec = r
					}
				}
				return rec != nil
			})
			c.checkLines(b, rec, lines)
			if name == "live" && rec.Lines != lines {
				t.Errorf("%d of %d lines", rec.Lines, lines)
			}
		})
	}
}

// checkLines checks that what a record says of a log of numbered lines is true.
func (c *cluster) checkLines(b *timed, rec *bundle.Record, lines int64) {
	c.t.Helper()
	first, last, n := int64(0), int64(0), int64(0)
	holes := 0
	for line := range bytes.Lines(c.text(b, rec)) {
		_, number, _ := bytes.Cut(line, []byte(" line "))
		v, err := strconv.ParseInt(string(bytes.TrimSpace(number)), 10, 64)
		if err != nil {
			c.t.Fatalf("line %q", line)
		}
		if n++; n == 1 {
			first = v
		} else if v != last+1 {
			holes++
		}
		last = v
	}
	v := rec.Verdict
	c.t.Logf("lines %d to %d, %d of %d held, %d holes; head %s, middle %s, tail %s, %d objects", first, last, n, lines, holes, v.Head.State, v.Middle.State, v.Tail.State, len(rec.Objects))
	if first != 1 && v.Head.State == bundle.Proven || holes > 0 && v.Middle.State == bundle.Proven || last != lines && v.Tail.State == bundle.Proven {
		c.t.Errorf("the verdict is not true: %+v, reads %+v", v, rec.Capture.Reads)
	}
	if n != rec.Lines {
		c.t.Errorf("the record says %d lines, its objects have %d", rec.Lines, n)
	}
}

// 3,000,000 lines as fast as a container can write them.
func TestBurst(t *testing.T) {
	const lines = 3_000_000
	for _, name := range []string{"final", "live", "prefer"} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			b := c.exportWith(policies()[name])
			c.create(shell("burst", fmt.Sprintf(`exec /bin/busybox awk 'BEGIN{for(i=1;i<=%d;i++) print "line", i}'`, lines)))
			c.until(3*time.Minute, "the writer to end", func() bool { return c.inPhase(corev1.PodSucceeded) == 1 })
			var rec *bundle.Record
			c.until(2*time.Minute, "its record", func() bool {
				for _, r := range c.records(b) {
					if !r.State.Running {
						rec = r
					}
				}
				return rec != nil
			})
			c.checkLines(b, rec, lines)
			for _, r := range rec.Capture.Reads {
				t.Logf("%s %s %d %s", r.Time.Format("05.000"), r.Method, r.RawBytes, r.Result)
			}
		})
	}
}
