package exporter

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// sentence is what a kubelet says in place of a container's log whose runtime gives no status of it.
func sentence(pod *corev1.Pod) kubetest.Trap {
	return kubetest.Answer("unable to retrieve container logs for " + pod.Status.ContainerStatuses[0].ContainerID)
}

// impatient shortens the waits after which the kubelet is believed.
func impatient(e *Exporter) { e.statusWait, e.lostAfter = 500*time.Millisecond, 10*time.Second }

// The runtime of a node restarts: streams break, and for some seconds the kubelet says of every container that
// it cannot find its log. What runs is followed on when it comes back.
func TestRuntimeRestartsUnderAStream(t *testing.T) {
	t.Parallel()
	for name, words := range map[string]string{"words": "one\n", "silent": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("running")
			start := time.Now()
			c.Print(start, words)
			size := 0
			if words != "" {
				size = len(kubetest.Stamp(start) + " " + words)
			}
			said := sentence(pod)
			w.kube.NextLogs(kubetest.EndAfter(size, "rpc error: code = Unavailable desc = connection error"), said, said, said, said)
			w.kube.SetPod(pod)
			w.begin(impatient, func(o *Options) { live(o); o.Metrics = w.metrics })
			w.until("the kubelet's words", func() bool { return w.kube.Traps() == 0 })
			w.until("a stream", func() bool { return c.Following() > 0 })
			<-time.After(time.Second)
			if n := len(finals(w.records())); n > 0 {
				t.Fatalf("%d records of a run that goes on", n)
			}
			at := time.Now()
			c.Print(at, "last\n")
			c.Exit()
			exit(pod, 3)
			w.kube.SetPod(pod)
			log := kubetest.Stamp(at) + " last\n"
			if words != "" {
				log = kubetest.Stamp(start) + " " + words + log
			}
			rec := w.final(0)
			if got := w.text(rec); got != log || !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
			if rec.State.ExitCode == nil || *rec.State.ExitCode != 3 {
				t.Errorf("state %+v", rec.State)
			}
			w.account()
		})
	}
}

// The same under a pod that is being deleted and takes its time: its last words come after that.
func TestRuntimeRestartsUnderADyingPod(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("dying")
	start := time.Now()
	c.Print(start, "one\n")
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	said := sentence(pod)
	w.kube.NextLogs(kubetest.EndAfter(len(kubetest.Stamp(start)+" one\n"), "rpc error: code = Unavailable desc = connection error"), said, said, said, said, said)
	w.kube.SetPod(pod)
	w.begin(impatient, func(o *Options) { o.Metrics = w.metrics })
	w.until("the kubelet's words", func() bool { return w.kube.Traps() == 0 })
	w.until("a stream", func() bool { return c.Following() > 0 })
	<-time.After(time.Second)
	at := time.Now()
	c.Print(at, "last words\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.want(w.await(1)[0], kubetest.Stamp(start)+" one\n"+kubetest.Stamp(at)+" last words\n")
	w.account()
}

// A pod that has ended and stays is asked for its log until the runtime is back. Other refusals do not count: a
// node that was away says nothing of a log.
func TestRuntimeRestartsUnderAnEndedRun(t *testing.T) {
	t.Parallel()
	broken := func(kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, _ *http.Request) {
			kubetest.Status(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError, "", "not now")
		}
	}
	absent := func(kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, _ *http.Request) {
			kubetest.Status(rw, http.StatusBadRequest, metav1.StatusReasonBadRequest, "", `container "app" in pod "ended" is not available`)
		}
	}
	for name, traps := range map[string]func(said kubetest.Trap) []kubetest.Trap{
		"for some seconds": func(said kubetest.Trap) []kubetest.Trap { return []kubetest.Trap{said, said, said, said, said} },
		"after refusals":   func(said kubetest.Trap) []kubetest.Trap { return []kubetest.Trap{broken, broken, broken, said} },
		"another word": func(kubetest.Trap) []kubetest.Trap {
			return []kubetest.Trap{broken, broken, broken, broken, broken, absent}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, log := w.dead("ended", 3)
			w.kube.NextLogs(traps(sentence(pod))...)
			w.kube.SetPod(pod)
			w.run(nil)
			w.until("the record", func() bool { return len(w.records()) > 0 })
			w.want(w.records()[0], log)
			w.account()
		})
	}
}

// A one-off export says of a container that runs that it runs, and does not take the kubelet's word for its end.
func TestRuntimeRestartsUnderAnExport(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]int{"back in time": 4, "too late": 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("running")
			c.Print(time.Now(), "so far\n")
			for range said {
				w.kube.NextLogs(sentence(pod))
			}
			w.kube.SetPod(pod)
			e := w.exporter(nil)
			defer e.Close() //nolint:errcheck // the test is over
			if err := e.Export(t.Context()); err != nil {
				t.Fatal(err)
			}
			recs, failures := w.records(), e.Progress().Failures
			if said > 10 {
				if len(recs) != 0 || len(failures) != 1 {
					t.Errorf("%d records, failures %v", len(recs), failures)
				}
				return
			}
			if len(recs) != 1 || !recs[0].State.Running || !strings.HasSuffix(w.text(recs[0]), " so far\n") || len(failures) != 0 {
				t.Errorf("%d records, failures %v", len(recs), failures)
			}
		})
	}
}

// What a kubelet ends on its own account has lost its log when its status tells of it: there is nothing to wait for.
func TestPreempting(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("preempted")
	w.kube.SetPod(pod)
	w.run(nil)
	w.until("the log was looked at", func() bool { return len(w.kube.Requests("/log?")) > 0 })
	w.kube.Log("shop", "preempted", "app", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
	})
	exit(pod, 137)
	pod.Status.ContainerStatuses[0].State.Terminated.Message = "last words"
	pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Preempting"
	pod.Status.Message = "Preempted in order to admit critical pod"
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if v := rec.Verdict.Head; v.State != bundle.Lost || v.Cause != bundle.CauseDeletedBeforeRead || rec.State.Message != "last words" || rec.Pod.Reason != "Preempting" {
		t.Errorf("record %+v", rec)
	}
	w.account()
}
