package exporter

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// honest checks that a record that calls itself complete holds all of a log.
func (w *trapped) honest(log string) {
	w.t.Helper()
	rec := w.await(1)[0]
	if got := w.text(rec); rec.Verdict.Complete && got != log {
		w.t.Errorf("complete, and the log is %q, want %q: %+v", got, log, rec.Verdict)
	}
	w.account()
}

// Two reads in a row are cut cleanly, the second one later than the first: it joins exactly, brings more,
// and proves nothing about the end. Only a read that brings nothing new does.
func TestTrapTwoCutReads(t *testing.T) {
	t.Parallel()
	for how, ends := range map[string][2]int{"the second brings more": {2, 3}, "the first brings nothing": {0, 2}} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, log := w.dead("cut", 5)
			size := len(log) / 5
			w.kube.NextLogs(kubetest.EndAfter(ends[0]*size, ""), kubetest.EndAfter(ends[1]*size, ""))
			w.kube.SetPod(pod)
			w.begin(func(e *Exporter) { e.statusWait = time.Second }, func(o *Options) { o.Metrics = w.metrics })
			w.honest(log)
		})
	}
}

// A log was polled while its container ran, and the read after the end is cut where the last poll ended: it brings
// nothing new, and nothing else has been read since the end.
func TestTrapCutWhereThePollEnded(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("polled")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever // so that nobody asks whose log it is
	first := time.Now()
	c.Print(first, "first\n")
	w.kube.SetPod(pod)
	e := w.begin(func(e *Exporter) { e.nodes.live = 0 }, func(o *Options) { o.Metrics, o.Capture = w.metrics, CaptureLive })
	w.arrived(e)
	log := kubetest.Stamp(first) + " first\n"
	w.kube.NextLogs(kubetest.EndAfter(len(log), ""))
	last := time.Now()
	c.Print(last, "last\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.want(w.await(1)[0], log+kubetest.Stamp(last)+" last\n") // the next read is honest
	w.account()
}

// The only stream of a log was cut before it brought anything, and the container was removed before the next one:
// nothing shows that the log was empty, from its beginning or to its end.
func TestTrapCutBeforeAnything(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("silenced")
	c.Print(time.Now(), "first\n")
	w.kube.NextLogs(kubetest.EndAfter(0, ""))
	w.kube.SetPod(pod)
	w.run(live)
	w.until("the stream to be cut", func() bool { return w.kube.Traps() == 0 })
	c.Remove()
	exit(pod, 0)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	rec := w.await(1)[0]
	if v := rec.Verdict; v.Head.State == bundle.Proven || v.Middle.State == bundle.Proven || v.Tail.State == bundle.Proven {
		t.Errorf("verdict %+v", v)
	}
}

// stdout and stderr are stamped apart: the very last line can carry a stamp from the second before. A
// closing read with the last stamp's second as sinceTime never sees it.
func TestTrapLateLineOfTheSecondBefore(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("two-streams")
	start := time.Now().Add(-20 * time.Second).Truncate(time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
	at := start.Add(time.Second)
	c.Print(at, "from stdout\n")
	seen := len(kubetest.Stamp(at) + " from stdout\n")
	c.Print(at.Add(-time.Microsecond), "from stderr\n")
	c.Exit()
	exit(pod, 0)
	w.kube.NextLogs(kubetest.EndAfter(seen, "")) // the last bytes are still on their way to the file
	w.kube.SetPod(pod)
	w.run(nil)
	w.honest(strings.Join([]string{
		kubetest.Stamp(at) + " from stdout\n", kubetest.Stamp(at.Add(-time.Microsecond)) + " from stderr\n",
	}, ""))
}

// A dying pod's stream is cut cleanly, and so are the next ones, before they bring anything. No kubelet that
// has the log serves nothing of it, so that is no end.
func TestTrapEmptyStreams(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("dying")
	first := time.Now()
	c.Print(first, "first\n")
	w.kube.SetPod(pod)
	e := w.run(nil)
	w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
	log := kubetest.Stamp(first) + " first\n"
	empty := make([]kubetest.Trap, 60)
	empty[0] = kubetest.EndAfter(len(log), "")
	for i := range empty[1:] {
		empty[1+i] = kubetest.EndAfter(0, "")
	}
	w.kube.NextLogs(empty...)
	w.dies(pod)
	w.until("most streams to be cut", func() bool { return w.kube.Traps() < 10 })
	at := time.Now()
	c.Print(at, "last\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.honest(log + kubetest.Stamp(at) + " last\n")
}

// A dying pod's stream is cut cleanly after its container's exit, far from the end of the log, and the container
// is removed before the next request.
func TestTrapCutAfterTheExit(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("dying")
	var log strings.Builder
	for i := range 100 {
		at := time.Now()
		c.Print(at, fmt.Sprintf("line %d\n", i))
		fmt.Fprintf(&log, "%s line %d\n", kubetest.Stamp(at), i)
	}
	c.Exit()
	w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
		cut := kubetest.EndAfter(log.Len()/10, "")(h)
		return func(rw http.ResponseWriter, r *http.Request) {
			cut(rw, r)
			c.Remove()
		}
	})
	w.dies(pod)
	w.run(nil)
	w.until("the stream and the word", func() bool { return len(w.kube.Requests("follow=true")) > 1 })
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.honest(log.String())
}

// A dying pod's stream is cut cleanly. Before the next request is answered the container writes its last
// line and ends, and the pod is gone. What the answer says then was not so when the stream ended.
func TestTrapLateAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(w *trapped, pod *corev1.Pod, rw http.ResponseWriter, r *http.Request){
		"the pod is gone": func(w *trapped, pod *corev1.Pod, rw http.ResponseWriter, r *http.Request) {
			w.kube.DeletePod(pod.Namespace, pod.Name)
			kubetest.PodNotFound()(nil)(rw, r)
		},
		"the container is gone": func(_ *trapped, pod *corev1.Pod, rw http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(rw, "unable to retrieve container logs for %s", pod.Status.ContainerStatuses[0].ContainerID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("dying")
			first := time.Now()
			c.Print(first, "first\n")
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			log := kubetest.Stamp(first) + " first\n"
			w.kube.NextLogs(kubetest.EndAfter(len(log), ""), func(kubetest.LogHandler) kubetest.LogHandler {
				return func(rw http.ResponseWriter, r *http.Request) {
					<-time.After(300 * time.Millisecond)
					c.Print(time.Now(), "last\n")
					c.Exit()
					exit(pod, 0)
					w.kube.SetPod(pod)
					<-time.After(700 * time.Millisecond)
					answer(w, pod, rw, r)
				}
			})
			w.dies(pod)
			rec := w.await(1)[0]
			if rec.Verdict.Complete && !strings.HasSuffix(w.text(rec), " last\n") {
				t.Errorf("complete, and the log is %q: %+v", w.text(rec), rec.Verdict)
			}
			w.account()
		})
	}
}

// A container prints nothing, is followed, ends and restarts before the status tells of more than its end. The
// closing read brings its successor's log, which is not its own.
func TestTrapSuccessorOfSilence(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("silent")
	w.kube.SetPod(pod)
	w.run(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	c.Restart()
	c.Print(time.Now(), "my successor's\n")
	w.until("a closing read", func() bool { return len(w.kube.Requests("/log?")) > len(w.kube.Requests("follow=true")) })
	<-time.After(300 * time.Millisecond)
	restart(pod, c)
	w.kube.SetPod(pod)
	if rec := w.final(0); rec.Lines != 0 {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The same where the first read still finds nothing, and the closing read finds the successor's log.
func TestTrapSuccessorOfSilenceLater(t *testing.T) {
	t.Parallel()
	for how, count := range map[string]int32{"first run": 0, "later run": 1} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("silent")
			status := &pod.Status.ContainerStatuses[0]
			status.RestartCount = count
			status.State.Running.StartedAt.Time = status.State.Running.StartedAt.Add(time.Second) // so that nothing speaks against the head
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.statusWait = time.Second }, nil)
			w.until("the log to be looked at", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
				return func(rw http.ResponseWriter, r *http.Request) {
					h(rw, r)
					if count == 0 {
						return
					}
					c.Restart()
					c.Print(time.Now().Add(1100*time.Millisecond), "my successor's\n")
				}
			}, func(h kubetest.LogHandler) kubetest.LogHandler {
				return func(rw http.ResponseWriter, r *http.Request) {
					h(rw, r)
					if count > 0 {
						return
					}
					c.Restart()
					c.Print(time.Now().Add(1100*time.Millisecond), "my successor's\n")
				}
			})
			c.Exit()
			exit(pod, 1)
			w.kube.SetPod(pod)
			if rec := w.final(count); rec.Verdict.Complete && rec.Lines != 0 {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// The closing read meets a kubelet, a runtime or an API server that is only starting: it is made again, and proves
// the tail.
func TestTrapClosingRefused(t *testing.T) {
	t.Parallel()
	whole := func(h kubetest.LogHandler) kubetest.LogHandler { return h }
	for name, traps := range map[string][]kubetest.Trap{
		"node away":     {kubetest.Unreachable(), kubetest.Unreachable()},
		"no container":  {kubetest.NotKnown()},
		"broken":        {kubetest.BreakAfter(10), kubetest.BreakAfter(0)},
		"error text":    {kubetest.EndAfter(0, "rpc error: code = Unavailable desc = connection error")},
		"runtime blind": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, log := w.dead("pod", 3)
			if traps == nil {
				traps = []kubetest.Trap{sentence(pod), sentence(pod), sentence(pod)}
			}
			w.kube.NextLogs(append([]kubetest.Trap{whole}, traps...)...)
			w.kube.SetPod(pod)
			w.run(nil)
			w.want(w.await(1)[0], log)
			if n := w.kube.Traps(); n > 0 {
				t.Errorf("%d traps were not met", n)
			}
			w.account()
		})
	}
}

// The kubelet has read to the end of the file and asks its runtime for the container, which takes long: the last
// line, the exit and the removal come before the answer.
func TestTrapSlowRuntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("slow")
	var removed atomic.Bool
	first := kubetest.Stamp(time.Now())
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if removed.Load() {
			_, _ = fmt.Fprintf(rw, "unable to retrieve container logs for %s", c.ID(0))
			return
		}
		_, _ = fmt.Fprintf(rw, "%s first\n", first)
		if r.URL.Query().Get("follow") != "true" {
			return
		}
		_ = http.NewResponseController(rw).Flush()
		<-time.After(600 * time.Millisecond) // the second line is written
		removed.Store(true)
		_, _ = fmt.Fprintf(rw, "rpc error: code = NotFound desc = an error occurred when try to find container %q: not found", strings.TrimPrefix(c.ID(0), "containerd://"))
	})
	e := w.start(nil)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	w.dies(pod)
	w.until("the container to be removed", removed.Load)
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if rec := w.await(1)[0]; rec.Verdict.Tail.State != bundle.Unproven || rec.Lines != 1 {
		t.Errorf("%d lines, verdict %+v", rec.Lines, rec.Verdict)
	}
}

// The runtime has lost sight of a dying pod's container for a while, or what lies between it and us ends each stream at
// once and cleanly. Then the container prints, and ends.
func TestTrapStreamsEndForAWhile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		last           int // lines
		removed, files bool
	}{
		"and it can be read":                 {last: 1},
		"and all of it can be read":          {last: 1000},
		"and it is removed":                  {last: 1, removed: true},
		"and the node's files are looked at": {last: 1, files: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, n := newTrapped(t, nil), newNode(t)
			pod, c := w.pod("dying")
			at := time.Now()
			first, last := "first", strings.Repeat(strings.Repeat("x", 99)+"\n", tt.last-1)+"last\n"
			c.Print(at, first+"\n")
			change := func(*Options) {}
			if tt.files { // which are asked for a head that is unproven
				change = n.use(NodeLogsRecover)
				pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = at.Add(-time.Hour).Truncate(time.Second)
				n.write(pod, "0.log", at, first)
			}
			w.kube.SetPod(pod)
			var blind atomic.Bool
			blind.Store(true)
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); blind.Load() && q.Has("follow") {
					q.Del("follow")
					r.URL.RawQuery = q.Encode()
				}
				c.Serve(rw, r)
			})
			e := w.run(change)
			w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			w.dies(pod)
			streams := func() int { return len(w.kube.Requests("follow=true")) }
			w.until("the streams to end", func() bool { n := streams(); <-time.After(200 * time.Millisecond); return n > 0 && n == streams() })
			blind.Store(false)
			if tt.removed || tt.files {
				<-time.After(2 * endWait) // more than a second later, by whole seconds, and after the files were looked at
			}
			at = time.Now()
			c.Print(at, last)
			c.Exit()
			exit(pod, 0)
			if tt.removed {
				c.Remove()
			}
			if tt.files {
				n.write(pod, "0.log", at, "last")
			}
			w.kube.SetPod(pod)
			rec := w.final(0)
			if got := w.text(rec); rec.Verdict.Complete == tt.removed || !tt.removed && !strings.HasSuffix(got, " last\n") {
				t.Errorf("%d lines, verdict %+v, reads %+v", rec.Lines, rec.Verdict, rec.Capture.Reads)
			}
			w.account()
		})
	}
}

// A node goes away between the reads and the closing reads of a one-off export, which waits for it for a while and
// not for ever: what was read is archived, and the tails are not called proven.
func TestTrapClosingOfOneOff(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	const pods = 4
	for i := range pods {
		pod, _ := w.dead(fmt.Sprintf("pod%d", i), 3)
		pod.UID = types.UID(fmt.Sprintf("0b54cd8c-0000-4000-9000-%012x", i))
		w.kube.SetPod(pod)
	}
	away := make([]kubetest.Trap, pods, 20*pods)
	for len(away) < cap(away) {
		away = append(away, kubetest.Unreachable())
	}
	w.kube.NextLogs(away...)
	e := w.exporter(nil)
	if err := e.Export(t.Context()); err != nil {
		t.Errorf("export: %v", err)
	}
	recs := w.records()
	for _, rec := range recs {
		if rec.Lines != 3 || rec.Verdict.Tail.State != bundle.Unproven {
			t.Errorf("%d lines, verdict %+v", rec.Lines, rec.Verdict)
		}
	}
	if p := e.Progress(); len(recs) != pods || len(p.Failures) > 0 {
		t.Errorf("%d records of %d, failures %v", len(recs), pods, p.Failures)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
