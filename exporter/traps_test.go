package exporter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// trapped is a world whose exporter's account is checked at the end: no run is forgotten by any trap.
type trapped struct {
	*world
	metrics *prometheus.Registry
}

func newTrapped(t *testing.T, kube *kubetest.Server) *trapped {
	w := &trapped{world: newWorld(t), metrics: prometheus.NewRegistry()}
	if kube != nil {
		w.kube = kube
	}
	return w
}

func (w *trapped) run(change func(*Options)) *Exporter {
	w.t.Helper()
	return w.start(func(o *Options) {
		o.Metrics = w.metrics
		if change != nil {
			change(o)
		}
	})
}

// values returns the metrics without their prefix, each as the sum over its labels, and by each label's value.
func (w *trapped) values() map[string]float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	value := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "kubelogexporter_")
			value[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			for _, label := range m.GetLabel() {
				value[name+" "+label.GetValue()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return value
}

// account checks the invariant of metrics.go: runs ended = records + pending.
func (w *trapped) account() {
	w.t.Helper()
	w.until("runs_ended_total = archived_total + already_archived_total + unselected_total + runs_open + captures_pending", func() bool {
		value := w.values()
		return value["runs_ended_total"] > 0 &&
			value["runs_ended_total"] == value["archived_total"]+value["already_archived_total"]+value["unselected_total"]+value["runs_open"]+value["captures_pending"]
	})
	if n := w.kube.Traps(); n > 0 {
		w.t.Errorf("%d traps did not go off", n)
	}
}

// dead makes a pod whose container ran for some seconds, printed lines right after its start and has ended.
func (w *trapped) dead(name string, lines int) (pod *corev1.Pod, log string) {
	pod, c := w.pod(name)
	start := time.Now().Add(-20 * time.Second).Truncate(time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
	for i := range lines {
		text := fmt.Sprintf("line %d of %s\n", i, name)
		at := start.Add(100*time.Millisecond + time.Duration(i)*time.Second)
		c.Print(at, text)
		log += kubetest.Stamp(at) + " " + text
	}
	c.Exit()
	exit(pod, 1)
	return pod, log
}

// want checks that a record holds all of a log and says so.
func (w *trapped) want(rec *bundle.Record, log string) {
	w.t.Helper()
	if got := w.text(rec); got != log {
		w.t.Errorf("the log is %q, want %q", got, log)
	}
	if !rec.Verdict.Complete {
		w.t.Errorf("not complete: %+v, reads %+v", rec.Verdict, rec.Capture.Reads)
	}
}

// Each of the kubelet's error texts, in place of a log, after it and within a line: the text is in the
// record and not in the log, and the next read brings the whole log.
func TestTrapErrorTexts(t *testing.T) {
	t.Parallel()
	for i, text := range []string{
		"rpc error: code = Unavailable desc = connection error",
		"container status is nil",
		"failed to try resolving symlinks in path \"/var/log/pods/x/app/0.log\": lstat: no such file or directory",
		"failed to open log file \"/var/log/pods/x/app/0.log\": no such file or directory",
		"failed to create fsnotify watcher: too many open files",
		"failed to read log file \"/var/log/pods/x/app/0.log\": input/output error",
		"failed to get parse function: unsupported log format: \"\\x00\"",
		"context canceled",
		"unable to retrieve container logs for containerd://",
	} {
		for where, n := range map[string]int{"instead": 0, "after a line": 1, "after all": 3} {
			t.Run(fmt.Sprintf("%.30s %s", text, where), func(t *testing.T) {
				t.Parallel()
				w := newTrapped(t, nil)
				pod, log := w.dead(fmt.Sprintf("pod%d", i), 3)
				size := len(log) / 3 * n
				said := text
				if strings.HasSuffix(said, "://") {
					said += strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
				}
				w.kube.NextLogs(kubetest.EndAfter(size, said))
				w.kube.SetPod(pod)
				w.run(nil)
				rec := w.await(1)[0]
				w.want(rec, log)
				if len(rec.Capture.KubeletErrors) != 1 || rec.Capture.KubeletErrors[0] != said {
					t.Errorf("kubelet's errors %q", rec.Capture.KubeletErrors)
				}
				w.account()
			})
		}
	}
}

// A body that ends cleanly too early, anywhere, or breaks there: the closing read, or another one, brings
// the rest.
func TestTrapCutBody(t *testing.T) {
	t.Parallel()
	cuts := map[string]int{"nothing came": 0, "within the first stamp": 9, "within a line": 40, "after a line": -1}
	for where, n := range cuts {
		for how, trap := range map[string]func(int) kubetest.Trap{
			"ended":  func(n int) kubetest.Trap { return kubetest.EndAfter(n, "") },
			"broken": kubetest.BreakAfter,
		} {
			t.Run(where+" "+how, func(t *testing.T) {
				t.Parallel()
				w := newTrapped(t, nil)
				pod, log := w.dead("cut", 3)
				at := n
				if at < 0 {
					at = strings.Index(log, "\n") + 1
				}
				w.kube.NextLogs(trap(at))
				w.kube.SetPod(pod)
				w.run(nil)
				w.want(w.await(1)[0], log)
				w.account()
			})
		}
	}
}

// The same for the stream of a dying pod, which is opened again.
func TestTrapCutStream(t *testing.T) {
	t.Parallel()
	for how, trap := range map[string]kubetest.Trap{
		"ended within a line": kubetest.EndAfter(40, ""), "broken within a line": kubetest.BreakAfter(40),
		"unknown pod": kubetest.NotKnown(), "unreachable": kubetest.Unreachable(),
		"no watcher": kubetest.EndAfter(len(kubetest.Stamp(time.Now())+" one\n"), "failed to create fsnotify watcher: too many open files"),
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("dying")
			now := metav1.Now()
			c.Print(now.Time, "one\ntwo\n")
			pod.DeletionTimestamp = &now
			w.kube.NextLogs(trap)
			w.kube.SetPod(pod)
			w.run(nil)
			w.until("a second request", func() bool { return len(w.kube.Requests("/log?")) > 1 })
			c.Print(now.Add(time.Second), "three\n")
			c.Exit()
			exit(pod, 0)
			w.kube.SetPod(pod)
			rec := w.await(1)[0]
			if got := w.text(rec); strings.Count(got, "\n") != 3 || rec.Verdict.Middle.State != bundle.Proven || rec.Verdict.Tail.State != bundle.Proven {
				t.Errorf("log %q, verdict %+v", got, rec.Verdict)
			}
			w.account()
		})
	}
}

// Two answers with status 404: the kubelet's means "ask again", the API server's that the pod is gone.
func TestTrapNotFound(t *testing.T) {
	t.Parallel()
	t.Run("the kubelet's", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, log := w.dead("known", 2)
		w.kube.NextLogs(kubetest.NotKnown(), kubetest.NotKnown(), kubetest.Unreachable())
		w.kube.SetPod(pod)
		w.run(nil)
		w.want(w.await(1)[0], log)
		w.account()
	})
	t.Run("the API server's", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, _ := w.dead("gone", 2)
		w.kube.NextLogs(func(kubetest.LogHandler) kubetest.LogHandler { // it is deleted at this very moment
			w.kube.DeletePod(pod.Namespace, pod.Name)
			return kubetest.PodNotFound()(nil)
		})
		w.kube.SetPod(pod)
		w.run(nil)
		rec := w.await(1)[0]
		if v := rec.Verdict.Head; v.State != bundle.Lost || v.Cause != bundle.CauseDeletedBeforeRead || len(rec.Objects) != 0 {
			t.Errorf("verdict %+v, objects %v", rec.Verdict, rec.Objects)
		}
		w.account()
	})
}

// A slow body is waited for.
func TestTrapSlowBody(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, log := w.dead("slow", 5)
	pace := make(chan struct{})
	w.kube.NextLogs(kubetest.Slowly(7, pace))
	w.kube.SetPod(pod)
	w.run(nil)
	for range 5 {
		pace <- struct{}{} // taken when the piece before has been sent
	}
	if n := len(w.records()); n != 0 {
		t.Errorf("%d records while the body is on its way", n)
	}
	close(pace)
	w.want(w.await(1)[0], log)
	w.account()
}

// Watches that end, events that come twice and events that never come.
func TestTrapWatch(t *testing.T) {
	t.Parallel()
	t.Run("told twice", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, log := w.dead("twice", 2)
		w.kube.SetPod(pod)
		w.run(nil)
		for range 20 {
			w.kube.TellAgain(pod.Namespace, pod.Name)
		}
		w.want(w.await(1)[0], log)
		w.kube.TellAgain(pod.Namespace, pod.Name)
		w.kube.DeletePod(pod.Namespace, pod.Name)
		next, nextLog := w.dead("marker", 1)
		w.kube.SetPod(next)
		recs := w.await(2)
		if len(recs) != 2 {
			t.Errorf("%d records of 2 runs", len(recs))
		}
		w.want(byPod(recs, "marker"), nextLog)
		w.account()
	})
	for how, end := range map[string]func(*kubetest.Server){"closed": (*kubetest.Server).CloseWatches, "410": (*kubetest.Server).ExpireWatches} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			alive, _ := w.pod("alive")
			w.kube.SetPod(alive)
			w.run(nil)
			w.until("a watch", func() bool { return w.kube.Watches() > 0 })
			pod, log := w.dead("afterwards", 2)
			end(w.kube)
			w.kube.SetPod(pod)
			w.want(w.await(1)[0], log)
			w.account()
		})
	}
	t.Run("restarts that nobody told", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, c := w.pod("loop")
		w.kube.SetPod(pod)
		w.run(nil)
		w.until("a watch", func() bool { return w.kube.Watches() > 0 })
		for run := range 3 {
			c.Print(time.Now(), fmt.Sprintf("run %d\n", run))
			c.Exit()
			exit(pod, 1)
			w.kube.SetPodQuietly(pod)
			c.Restart()
			restart(pod, c)
			w.kube.SetPodQuietly(pod)
		}
		w.kube.ExpireWatches()
		recs := w.await(3)
		if len(recs) != 3 {
			t.Errorf("%d records of 3 runs", len(recs))
		}
		for _, rec := range recs {
			switch n := rec.Container.RestartCount; n {
			case 2:
				if got := w.text(rec); !strings.HasSuffix(got, " run 2\n") {
					t.Errorf("restart 2 has the log %q", got)
				}
			default:
				if rec.Verdict.Head.State != bundle.Lost || len(rec.Objects) != 0 {
					t.Errorf("restart %d: %+v", n, rec.Verdict)
				}
			}
		}
		w.account()
	})
	t.Run("a deletion that nobody told", func(t *testing.T) {
		t.Parallel()
		w := newTrapped(t, nil)
		pod, c := w.pod("vanished")
		c.Print(time.Now(), "words\n")
		w.kube.SetPod(pod)
		w.run(nil)
		w.until("a watch", func() bool { return w.kube.Watches() > 0 })
		w.kube.DeletePodQuietly(pod.Namespace, pod.Name)
		w.kube.ExpireWatches()
		if rec := w.await(1)[0]; rec.Verdict.Complete || rec.Verdict.Head.State != bundle.Lost {
			t.Errorf("verdict %+v", rec.Verdict)
		}
		w.account()
	})
}

// Rotations under a stream: what the kubelet leaves out is not had, and the record says so. What the newest
// file still holds at the end is had, although no stream ever saw it.
func TestTrapRotation(t *testing.T) {
	t.Parallel()
	lines := func(w *trapped, rec *bundle.Record) (words string) {
		for line := range strings.Lines(w.text(rec)) {
			words += line[strings.Index(line, " "):]
		}
		return strings.ReplaceAll(strings.TrimRight(words, "!\n"), "\n", "")
	}
	for how, tt := range map[string]struct {
		rotate   func(c *kubetest.Container, at time.Time)
		want     string
		complete bool // the log can be read as a whole again
	}{
		"none": {func(*kubetest.Container, time.Time) {}, " one last", true},
		"a line is lost": {func(c *kubetest.Container, at time.Time) {
			c.Rotate(at, "lost\n")
			for c.Following() == 0 {
				<-time.After(time.Millisecond)
			}
		}, " one last", false},
		"the exit comes first": {func(c *kubetest.Container, at time.Time) {
			c.RotateAndExit(at, "final\n")
		}, " one final last", false},
	} {
		for mode, capture := range map[string]Capture{"live": CaptureLive, "dying": CaptureFinal} {
			t.Run(how+" "+mode, func(t *testing.T) {
				t.Parallel()
				w := newTrapped(t, nil)
				pod, c := w.pod("big")
				now := metav1.Now()
				if mode == "dying" {
					pod.DeletionTimestamp = &now
				}
				c.Print(now.Time, "one\n")
				w.kube.SetPod(pod)
				w.run(func(o *Options) { o.Capture, o.RotateAt = capture, 400 })
				w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
				w.until("the stream's first line", func() bool { return c.Following() > 0 })
				tt.rotate(c, now.Add(time.Millisecond))
				c.Print(now.Add(1500*time.Millisecond), "last"+strings.Repeat("!", 300)+"\n")
				c.Exit()
				exit(pod, 0)
				w.kube.SetPod(pod)
				rec := w.await(1)[0]
				if got := lines(w, rec); got != tt.want || rec.Verdict.Complete != tt.complete {
					t.Errorf("log %q, verdict %+v", got, rec.Verdict)
				}
				w.account()
			})
		}
	}
}

// Two rotations that a slow stream sees at once: the file between is never served, and the newest one twice.
func TestTrapRepeatedFile(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("fast")
	now := time.Now()
	c.Print(now, "one\n")
	w.kube.SetPod(pod)
	w.run(func(o *Options) { o.Capture, o.RotateAt = CaptureLive, 1 })
	w.until("the stream's first line", func() bool { return c.Following() > 0 })
	c.RotateTwice(now.Add(time.Millisecond), "never served\n", "three\nfour\n")
	c.Print(now.Add(time.Second), "five\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	got := w.text(rec)
	for _, word := range []string{"one", "three", "four", "five"} {
		if !strings.Contains(got, " "+word+"\n") {
			t.Errorf("%q is missing in %q", word, got)
		}
	}
	if rec.Verdict.Complete || rec.Verdict.Middle.State == bundle.Proven {
		t.Errorf("verdict %+v", rec.Verdict)
	}
	w.account()
}

// A rotation right before the end leaves an empty log. Nothing of it is proven then, not even its end.
func TestTrapRotatedEmpty(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("emptied")
	c.Print(time.Now(), "one\n")
	w.kube.SetPod(pod)
	w.run(nil)
	w.until("a look at the first line", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
	<-time.After(50 * time.Millisecond)
	c.Rotate(time.Now(), "two\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	for _, part := range []bundle.Part{rec.Verdict.Head, rec.Verdict.Middle, rec.Verdict.Tail} {
		if part.State != bundle.Lost || part.Cause != bundle.CauseRotated {
			t.Errorf("verdict %+v", rec.Verdict)
		}
	}
	w.account()
}

// A log that is shorter than a file may still have lost one to a rotation, if it was written faster than a
// stream can be read.
func TestTrapRotatedBurst(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("burst")
	now := time.Now()
	c.Print(now, strings.Repeat("fast\n", 20)) // some 700 bytes with their stamps
	w.kube.SetPod(pod)
	w.run(func(o *Options) { o.Capture, o.RotateAt = CaptureLive, 2000 })
	w.until("the stream's first line", func() bool { return c.Following() > 0 })
	c.Rotate(now.Add(time.Millisecond), "and lost\n")
	c.Print(now.Add(3*time.Second), "last\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	if rec := w.await(1)[0]; rec.Verdict.Complete || rec.Verdict.Middle.State == bundle.Proven {
		t.Errorf("log %q, verdict %+v", w.text(rec), rec.Verdict)
	}
	w.account()
}
