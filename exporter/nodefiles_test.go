package exporter

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// node is a kubelet that serves files, beside a world's API server.
type node struct {
	t    *testing.T
	kube *kubetest.Kubelet
	dir  string
}

func newNode(t *testing.T) *node {
	dir := t.TempDir()
	return &node{t: t, kube: kubetest.NewKubelet(t, dir), dir: dir}
}

// use lets an exporter use the node's files.
func (n *node) use(mode NodeLogs) func(*Options) {
	return func(o *Options) {
		o.NodeLogs = mode
		o.Kube.BearerToken = kubetest.KubeletToken
		o.Kubelets.CAFile, o.Kubelets.Port, o.Kubelets.MaxFiles = n.kube.CAFile(), n.kube.Port(), 5
	}
}

// write puts a file of a run on the node, as the runtime writes it.
func (n *node) write(pod *corev1.Pod, name string, at time.Time, lines ...string) {
	n.t.Helper()
	pod.Status.HostIP = "127.0.0.1"
	dir := n.runs(pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test
	for i, line := range lines {
		if _, err := f.WriteString(kubetest.Stamp(at.Add(time.Duration(i)*time.Microsecond)) + " stdout F " + line + "\n"); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) runs(pod *corev1.Pod) string {
	return filepath.Join(n.dir, "pods", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), "app")
}

// ended makes a pod whose container has written a, which was rotated, and b, and has ended.
func (n *node) ended(w *world, name string) *corev1.Pod {
	pod, c := w.pod(name)
	at := time.Now()
	n.write(pod, "0.log.20260102-030405", at, "a")
	n.write(pod, "0.log", at.Add(time.Millisecond), "b")
	c.Print(at.Add(time.Millisecond), "b\n")
	c.Exit()
	exit(pod, 1)
	return pod
}

func words(text string) string {
	var all []string
	for line := range strings.Lines(text) {
		_, word, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		all = append(all, word)
	}
	return strings.Join(all, " ")
}

// What the kubelet has rotated away from the API is read from its files, and the whole is complete.
func TestNodeFiles(t *testing.T) {
	t.Parallel()
	for _, mode := range []NodeLogs{NodeLogsOff, NodeLogsRecover, NodeLogsPrefer} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			w, n := newWorld(t), newNode(t)
			pod := n.ended(w, "rotated")
			pod.Status.ContainerStatuses[0].State.Terminated.StartedAt.Time = time.Now().Add(-time.Hour) // so that the API proves no head
			w.kube.SetPod(pod)
			w.start(n.use(mode))
			rec := w.await(1)[0]
			want := "a b"
			if mode == NodeLogsOff {
				want = "b"
			}
			if got := words(w.text(rec)); got != want || rec.Verdict.Complete != (mode != NodeLogsOff) {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
			if mode != NodeLogsOff && *rec.Capture.StdoutLines != 2 {
				t.Errorf("%d lines of stdout", *rec.Capture.StdoutLines)
			}
		})
	}
}

// A read has a line twice that was written once, and the next one shows that it lies, or there is none: the files are
// read instead, and do not vouch for it.
func TestNodeFilesInPlaceOfALie(t *testing.T) {
	t.Parallel()
	for how, tt := range map[string]struct {
		mode    NodeLogs
		refuses bool
	}{
		"recover": {mode: NodeLogsRecover}, "prefer": {mode: NodeLogsPrefer}, "no further read": {NodeLogsRecover, true},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w, n := newWorld(t), newNode(t)
			pod, c := w.pod("twice")
			at := time.Now().Add(-5 * time.Second)
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(at.Truncate(time.Second))
			n.write(pod, "0.log", at, "a", "b")
			c.Print(at, "a\n")
			c.Print(at.Add(time.Microsecond), "b\n")
			c.Exit()
			exit(pod, 0)
			pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(at.Add(2 * time.Second))
			var asked atomic.Int32
			w.kube.Log(pod.Namespace, pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				first := asked.Add(1) == 1
				if !first && tt.refuses {
					kubetest.Status(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError, "pods", "no")
					return
				}
				c.Serve(rw, r)
				if first {
					_, _ = rw.Write([]byte(kubetest.Stamp(at.Add(time.Microsecond)) + " b\n"))
				}
			})
			w.kube.SetPod(pod)
			w.begin(func(e *Exporter) { e.lostAfter = time.Second }, n.use(tt.mode))
			rec := w.await(1)[0]
			if got := words(w.text(rec)); got != "a b" || !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// How many files a kubelet keeps is not known unless somebody says so: that there are few proves nothing.
func TestNodeFilesProveNoHeadByDefault(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod := n.ended(w, "rotated")
	pod.Status.ContainerStatuses[0].State.Terminated.StartedAt.Time = time.Now().Add(-time.Hour)
	w.kube.SetPod(pod)
	w.start(func(o *Options) {
		n.use(NodeLogsPrefer)(o)
		o.Kubelets.MaxFiles = 0
	})
	rec := w.await(1)[0]
	if v := rec.Verdict; words(w.text(rec)) != "a b" || v.Head.State != bundle.Unproven || v.Middle.State != bundle.Proven {
		t.Errorf("log %q, verdict %+v", words(w.text(rec)), rec.Verdict)
	}
}

// A first line that was seen while the container ran, and that the node's files do not have, was removed, however
// many files a kubelet is said to keep. A later one that was seen says nothing.
func TestNodeFilesAndFirstLook(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		lines []string // in the rotated file
		state bundle.PartState
	}{
		"removed": {state: bundle.Lost},
		"earlier": {lines: []string{"z", "a"}, state: bundle.Proven},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, n := newWorld(t), newNode(t)
			pod, c := w.pod("rotated")
			at := time.Now()
			pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = at.Add(-time.Hour)
			pod.Status.HostIP = "127.0.0.1"
			c.Print(at, "a\n")
			w.kube.SetPod(pod)
			e := w.start(n.use(NodeLogsPrefer))
			w.until("the first look", func() bool {
				for _, r := range e.tracker.running() {
					seen, _ := r.witnessedHead()
					return !seen.IsZero()
				}
				return false
			})
			if len(tt.lines) > 0 {
				n.write(pod, "0.log.20260102-030405", at.Add(-time.Microsecond), tt.lines...)
			}
			n.write(pod, "0.log", at.Add(time.Millisecond), "b")
			c.Rotate(at, "")
			c.Print(at.Add(time.Millisecond), "b\n")
			c.Exit()
			exit(pod, 1)
			w.kube.SetPod(pod)
			rec := w.await(1)[0]
			if got := words(w.text(rec)); rec.Verdict.Head.State != tt.state || got != strings.Join(append(tt.lines, "b"), " ") {
				t.Errorf("log %q, verdict %+v", got, rec.Verdict)
			}
		})
	}
}

// The files of a pod that was deleted by force are read until they vanish.
func TestForceDeletedFromFiles(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod, _ := w.pod("forced")
	n.write(pod, "0.log", time.Now(), "one")
	w.kube.SetPod(pod)
	e := w.start(n.use(NodeLogsRecover))
	w.until("the pod is seen", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes")) > 0 })
	w.kube.DeletePod(pod.Namespace, pod.Name)
	<-time.After(300 * time.Millisecond)
	n.write(pod, "0.log", time.Now(), "two")
	<-time.After(500 * time.Millisecond)
	if err := os.RemoveAll(n.runs(pod)); err != nil {
		t.Fatal(err)
	}
	rec := w.await(1)[0]
	if got := words(w.text(rec)); got != "one two" || rec.Verdict.Tail.State != bundle.Unproven || rec.Verdict.Head.State != bundle.Proven {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
}

// An evicted pod's files are read as soon as the API has nothing of it any more, not after it was asked again.
func TestEvictedFromFiles(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod, c := w.pod("evicted")
	n.write(pod, "0.log", time.Now(), "one", "two")
	c.Exit()
	c.Remove()
	exit(pod, 137)
	pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
	e := w.start(n.use(NodeLogsRecover))
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	asked := make(chan int, 1)
	n.kube.Before(func(int, http.ResponseWriter, *http.Request) bool {
		select {
		case asked <- len(w.kube.Requests("/log?")):
		default:
		}
		return false
	})
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := words(w.text(rec)); got != "one two" || <-asked > 1 {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
}

// All containers were restarted, and what the API serves is the second run's, as the status tells before the first one's
// record is written, or later: that one's log is in its file.
func TestRestartOfAllFromFiles(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]time.Duration{"told": 350 * time.Millisecond, "told late": 4 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, n := newWorld(t), newNode(t)
			pod, c := w.pod("all")
			restartsAllContainers(pod)
			end := time.Now().Truncate(time.Second)
			s := &pod.Status.ContainerStatuses[0]
			s.ContainerID = c.ID(7)
			s.State = crashed(s.ContainerID, end, end)
			n.write(pod, "0.log", end.Add(-300*time.Millisecond), "first")
			c.Print(end.Add(700*time.Millisecond), "another's\n")
			w.kube.SetPod(pod)
			w.late(told, pod, func(s *corev1.ContainerStatus) {
				s.LastTerminationState = crashed(c.ID(7), end, end)
				s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(end)}}
				s.RestartCount, s.ContainerID = 1, c.ID(0)
			})
			w.start(n.use(NodeLogsRecover))
			if rec := w.final(0); words(w.text(rec)) != "first" {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// A finished pod that is deleted before it could be read is read from its files.
func TestDeletedFinishedPodFromFiles(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod := n.ended(w, "finished")
	w.kube.Log("shop", "finished", "app", func(rw http.ResponseWriter, r *http.Request) { // the pod goes while it is asked for
		w.kube.DeletePod(pod.Namespace, pod.Name)
		kubetest.Status(rw, http.StatusNotFound, "NotFound", "pods", "pods not found")
	})
	w.kube.SetPod(pod)
	w.start(n.use(NodeLogsRecover))
	rec := w.await(1)[0]
	if got := words(w.text(rec)); got != "a b" {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
}

// A missing right is told, with what grants it, and the API's answer is taken.
func TestNodeFilesForbidden(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	n.kube.Deny(http.StatusForbidden)
	w.kube.SetPod(n.ended(w, "denied"))
	w.start(n.use(NodeLogsPrefer))
	rec := w.await(1)[0]
	if got := words(w.text(rec)); got != "b" {
		t.Errorf("log %q", got)
	}
	w.stop()
	if text := w.log.String(); !strings.Contains(text, "nodes/log") {
		t.Errorf("the missing right is not told in %q", text)
	}
}

// The kubelet rotates a log when its container has ended, and then the API serves nothing of it. What was streamed is more
// than the node still has, and ends as its files do.
func TestNodeFilesProveAStreamsTail(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod, c := w.pod("rotated")
	at := time.Now()
	n.write(pod, "0.log.20260102-030405", at.Add(time.Microsecond), "two", "three")
	n.write(pod, "0.log", at)
	w.kube.SetPod(pod)
	w.start(func(o *Options) {
		n.use(NodeLogsRecover)(o)
		live(o)
	})
	w.until("a stream", func() bool { return c.Following() > 0 })
	for i, word := range []string{"one\n", "two\n", "three\n"} {
		c.Print(at.Add(time.Duration(i)*time.Microsecond), word)
	}
	w.until("what is printed to be read", func() bool { return c.Following() > 0 })
	<-time.After(3 * time.Second) // the files are old enough to have all of it
	c.RotateAndExit(at, "")
	exit(pod, 0)
	pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = at
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := words(w.text(rec)); got != "one two three" || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
}

// A stream has missed what the kubelet rotated away, and the node's files have it, but not the stream's first line any more:
// what is read from them is more, and does not hide that it begins later.
func TestNodeFilesLackAStreamsHead(t *testing.T) {
	t.Parallel()
	w, n := newWorld(t), newNode(t)
	pod, c := w.pod("rotated")
	at := time.Now()
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = at.Add(-time.Hour)
	n.write(pod, "0.log.20260102-030405", at.Add(time.Microsecond), "two", "three")
	n.write(pod, "0.log", at.Add(3*time.Microsecond), "four")
	w.kube.SetPod(pod)
	w.start(func(o *Options) {
		n.use(NodeLogsRecover)(o)
		live(o)
	})
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Print(at, "one\n")
	w.until("what is printed to be read", func() bool { return c.Following() > 0 })
	<-time.After(time.Second)
	c.Rotate(at, "")
	c.Print(at.Add(3*time.Microsecond), "four\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if v := rec.Verdict; words(w.text(rec)) != "two three four" || v.Head.State != bundle.Lost || !v.Head.After.Equal(at) {
		t.Errorf("log %q, verdict %+v, reads %+v", words(w.text(rec)), rec.Verdict, rec.Capture.Reads)
	}
}
