package exporter

import (
	"fmt"
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

// The status shows that a run was replaced, and the kubelet is further: what it calls the previous log is
// then another run's, which must not be taken for this one's.
func TestPreviousOfTheNextRun(t *testing.T) {
	t.Parallel()
	at := time.Now().Add(-30 * time.Second).Truncate(time.Second) // of the start and the end of the first run
	line := func(after time.Duration, text string) string {
		return kubetest.Stamp(at.Add(after)) + " " + text + "\n"
	}
	first := line(100*time.Millisecond, "run 0")
	second := line(700*time.Millisecond, "run 1")
	late := line(900*time.Millisecond, "run 1")
	for name, tt := range map[string]struct {
		previous, current string
		want              string
		complete          bool
	}{
		"it is this run's":                         {first, second, first, true},
		"it is this run's, and the next is silent": {first, "", first, false},
		"the second has died":                      {late, late, "", false},
		"the third has started":                    {late, line(11*time.Second, "run 2"), late, false},
		"the third has started, and is silent":     {late, "", late, false},
		"the second was silent, and has died":      {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("double")
			pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = at
			exit(pod, 1)
			pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = at
			restart(pod, c)
			pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = at
			w.kube.Log("shop", "double", "app", func(rw http.ResponseWriter, r *http.Request) {
				text := tt.current
				if r.URL.Query().Get("previous") == "true" {
					text = tt.previous
				}
				_, _ = io.WriteString(rw, text)
			})
			w.kube.SetPod(pod)
			w.run(nil)
			rec := w.final(0)
			if got := w.text(rec); got != tt.want || rec.Verdict.Complete != tt.complete {
				t.Errorf("log %q, verdict %+v", got, rec.Verdict)
			}
			if tt.previous != "" && tt.want == "" && rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
				t.Errorf("cause %s", rec.Verdict.Head.Cause)
			}
		})
	}
}

// The look at a running container's first line is answered with the next run's log, before the status tells of
// the end: that says nothing about this run's beginning.
func TestWitnessOfTheNextRun(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("witness")
	now := time.Now()
	c.Print(now, "mine\n")
	w.kube.NextLogs(kubetest.Answer(kubetest.Stamp(now.Add(1200*time.Millisecond)) + " my successor's\n"))
	w.kube.SetPod(pod)
	w.run(nil)
	w.until("a look at the first line", func() bool { return w.kube.Traps() == 0 })
	<-time.After(50 * time.Millisecond)
	c.Exit()
	exit(pod, 1)
	pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = now.Truncate(time.Second)
	c.Restart()
	c.Print(now.Add(1200*time.Millisecond), "my successor's\n")
	restart(pod, c)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = now.Add(1200 * time.Millisecond).Truncate(time.Second)
	w.kube.SetPod(pod)
	w.want(w.final(0), kubetest.Stamp(now)+" mine\n")
}

// Bodies that are cut before their first byte are no empty log.
func TestTwoEmptyBodies(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("cut")
	at := time.Now()
	c.Print(at, "words\n")
	pod.Status.Phase = corev1.PodSucceeded
	ends(w.world, pod, c)
	w.kube.NextLogs(kubetest.EndAfter(0, ""), kubetest.EndAfter(0, ""))
	w.run(nil)
	w.honest(kubetest.Stamp(at) + " words\n")
}

// The last bytes of a log are waited for, also if the exporter's clock is ahead of the node's.
func TestClosingWithAClockAhead(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("ahead")
	at := time.Now().Add(-4 * time.Second)
	status := &pod.Status.ContainerStatuses[0]
	status.State.Running.StartedAt = metav1.NewTime(at.Truncate(time.Second))
	c.Print(at, "first\n")
	w.kube.SetPod(pod)
	e := w.run(nil)
	w.until("a look at the first line", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
	w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, r *http.Request) {
			h(rw, r)
			time.AfterFunc(400*time.Millisecond, func() { c.Print(at.Add(time.Second), "last\n") })
		}
	})
	exit(pod, 0)
	status.State.Terminated.FinishedAt = metav1.NewTime(at.Add(time.Second).Truncate(time.Second))
	pod.Status.Phase = corev1.PodSucceeded
	w.kube.SetPod(pod)
	w.honest(fmt.Sprintf("%s first\n%s last\n", kubetest.Stamp(at), kubetest.Stamp(at.Add(time.Second))))
}

// dyingEnded returns a dying pod whose container has ended while its first words were streamed, and its status does not tell.
func (w *world) dyingEnded() (*corev1.Pod, *kubetest.Container) {
	pod, c := w.pod("dying")
	c.Print(justStarted(pod).Add(300*time.Millisecond), firstWords)
	w.kube.SetPod(pod)
	w.start(nil)
	w.dies(pod)
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Exit()
	return pod, c
}

// The log's file is removed some time before its container is, and the kubelet has two sentences for that. All streams
// had come to a clean end right before it.
func TestFileGoneBeforeItsContainer(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no link": `failed to try resolving symlinks in path "/var/log/pods/x/app/0.log": lstat /var/log/pods/x: no such file or directory`,
		"no file": `failed to open log file "/var/log/pods/x/app/0.log": open /var/log/pods/x/app/0.log: no such file or directory`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.dyingEnded()
			<-time.After(200 * time.Millisecond)
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, text) })
			<-time.After(2 * removalTakes)
			c.Remove()
			w.kube.Log("shop", pod.Name, "app", c.Serve)
			exit(pod, 0)
			w.kube.SetPod(pod)
			if rec := w.final(0); !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// The kubelet is slow to say that a dying pod's container is gone. All streams had come to a clean end before: the longer
// they had, the less it is doubted that the container had ended by then.
func TestSlowToTellOfTheRemoval(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ends, takes time.Duration
		complete    bool
	}{
		"after many ends": {600 * time.Millisecond, removalTakes + 100*time.Millisecond, true},
		"after few":       {150 * time.Millisecond, removalTakes + 300*time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.dyingEnded()
			<-time.After(tt.ends)
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				<-time.After(tt.takes)
				c.Serve(rw, r)
			})
			c.Remove()
			<-time.After(2 * tt.takes)
			exit(pod, 0)
			w.kube.SetPod(pod)
			if rec := w.final(0); rec.Verdict.Complete != tt.complete || !strings.HasSuffix(w.text(rec), firstWords) {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}
