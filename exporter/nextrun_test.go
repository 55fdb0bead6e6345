package exporter

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// justStarted shows a container that began at the whole second before now.
func justStarted(pod *corev1.Pod) (start time.Time) {
	start = time.Now().Truncate(time.Second).Add(-time.Second)
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
	return start
}

// firstStreamed lets an exporter stream the first words of a run that has just begun.
func (w *world) firstStreamed() (pod *corev1.Pod, c *kubetest.Container, start time.Time) {
	w.t.Helper()
	pod, c = w.pod("loop")
	start = justStarted(pod)
	w.kube.SetPod(pod)
	e := w.start(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Print(start.Add(300*time.Millisecond), firstWords)
	w.arrived(e)
	return pod, c, start
}

// backsOff shows that a run waits to be started again.
func backsOff(s *corev1.ContainerStatus) {
	s.LastTerminationState = s.State
	s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
}

// nextBacksOff shows that the next run has crashed and waits to be started again.
func nextBacksOff(c *kubetest.Container, at time.Time) func(*corev1.ContainerStatus) {
	return func(s *corev1.ContainerStatus) {
		s.RestartCount, s.ContainerID = 1, c.ID(1)
		s.State = crashed(c.ID(1), at, at)
		backsOff(s)
	}
}

// A stream has brought a whole file and the next one; the run has ended and waits to be started again, which the status
// tells late. The kubelet serves the last file only, as the current and as the previous log.
func TestRotatedStreamInABackOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("burst")
	start := justStarted(pod)
	w.kube.SetPod(pod)
	w.start(func(o *Options) { live(o); o.RotateAt = 64 << 10 })
	w.until("a stream", func() bool { return c.Following() > 0 })
	c.Print(start.Add(300*time.Millisecond), strings.Repeat(strings.Repeat("x", 1000)+"\n", 80))
	w.until("the first file is read", func() bool { return c.Following() > 0 })
	<-time.After(200 * time.Millisecond)
	c.Rotate(start.Add(500*time.Millisecond), "")
	c.Print(start.Add(600*time.Millisecond), firstWords)
	w.until("the second file is read", func() bool { return c.Following() > 0 })
	<-time.After(200 * time.Millisecond)
	w.kube.Log("shop", pod.Name, "app", inBackOff(c))
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start)
	w.kube.SetPod(pod)
	c.Exit()
	w.late(2*time.Second, pod, backsOff)
	if rec := w.final(0); rec.Lines != 81 {
		t.Errorf("%d lines, complete %v, verdict %+v, reads %+v", rec.Lines, rec.Verdict.Complete, rec.Verdict, rec.Capture.Reads)
	}
}

// A stream has brought the whole log of the run. The next one ran, died at once and is in its back-off when the status
// tells of the first one's end.
func TestStreamThenTwoEnds(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{"served": false, "the kubelet is away for a moment": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c, start := w.firstStreamed()
			var once sync.Once
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); refused && q.Get("previous") == "true" && !q.Has("limitBytes") {
					miss := false
					if once.Do(func() { miss = true }); miss {
						unreachable(rw, r)
						return
					}
				}
				inBackOff(c)(rw, r)
			})
			c.Exit()
			c.Restart()
			c.Print(start.Add(700*time.Millisecond), "another's\n")
			c.Exit()
			s := &pod.Status.ContainerStatuses[0]
			s.State = crashed(c.ID(0), start, start)
			w.kube.SetPod(pod)
			w.late(3*time.Second, pod, nextBacksOff(c, start))
			w.hasFirst(0)
		})
	}
}

// The same without a stream: the run's log is read in time, and the next run dies before it is asked what the previous
// log is.
func TestReadThenTwoEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	start := justStarted(pod)
	c.Print(start.Add(300*time.Millisecond), firstWords)
	c.Exit()
	var once sync.Once
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		inBackOff(c)(rw, r)
		once.Do(func() {
			c.Restart()
			c.Print(start.Add(700*time.Millisecond), "another's\n")
			c.Exit()
		})
	})
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start)
	w.kube.SetPod(pod)
	w.late(3*time.Second, pod, nextBacksOff(c, start))
	w.start(nil)
	w.hasFirst(0)
}

// The run before last is asked for late: the kubelet gives the last one's log by its name, and no look at another log is
// answered. But that log has its record already.
func TestLogThatTheNextRunHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	start := time.Now().Truncate(time.Second).Add(-20 * time.Second)
	c.Exit()
	c.Restart()
	c.Print(start.Add(300*time.Millisecond), "another's\n")
	c.Exit()
	s := &pod.Status.ContainerStatuses[0]
	s.RestartCount, s.ContainerID = 1, c.ID(1)
	s.LastTerminationState = crashed(c.ID(0), start.Add(-time.Second), start)
	s.State = crashed(c.ID(1), start, start.Add(5*time.Second))
	var recorded atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Has("limitBytes") || q.Get("previous") == "true" && !recorded.Load() {
			_, _ = io.WriteString(rw, `failed to open log file "x": no such file or directory`)
			return
		}
		inBackOff(c)(rw, r)
	})
	w.kube.SetPod(pod)
	w.start(nil)
	if rec := w.final(1); !rec.Verdict.Complete {
		t.Errorf("the last run: verdict %+v", rec.Verdict)
	}
	recorded.Store(true)
	if rec := w.final(0); rec.Lines != 0 || rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// A container that failed once in silence has done its work: it is not started again, and others of its pod go on. So
// no status ever tells of another run.
func TestNotStartedAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"live": live, "final": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("work")
			c.Exit()
			c.Restart()
			pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			start := justStarted(pod)
			s := &pod.Status.ContainerStatuses[0]
			s.RestartCount, s.ContainerID = 1, c.ID(1)
			s.LastTerminationState = crashed(c.ID(0), start.Add(-time.Minute), start.Add(-time.Minute))
			w.kube.SetPod(pod)
			w.start(change)
			if change != nil {
				w.until("a stream", func() bool { return c.Following() > 0 })
			} else {
				w.until("a look", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
			}
			c.Print(start.Add(300*time.Millisecond), firstWords)
			s.State = crashed(c.ID(1), start, start)
			s.State.Terminated.ExitCode, s.State.Terminated.Reason = 0, "Completed"
			w.kube.SetPod(pod)
			c.Exit()
			begun := time.Now()
			rec := w.final(1)
			if took := time.Since(begun); took > 15*time.Second || !rec.Verdict.Complete {
				t.Errorf("after %s: log %q, verdict %+v, reads %+v", took, w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// TestStatusLateByABackOff under a stream.
func TestStatusLateByABackOffUnderAStream(t *testing.T) {
	t.Parallel()
	for name, runs := range map[string]int32{"once": 0, "again": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			id := before(pod, c, runs)
			start := justStarted(pod)
			s := &pod.Status.ContainerStatuses[0]
			if runs > 0 {
				s.LastTerminationState = crashed(c.ID(0), start.Add(-time.Hour), start.Add(-time.Hour))
			}
			w.kube.SetPod(pod)
			w.start(live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			c.Print(start.Add(300*time.Millisecond), firstWords)
			w.until("the words are read", func() bool { return c.Following() > 0 })
			w.kube.Log("shop", pod.Name, "app", inBackOff(c))
			s.State = crashed(id, start, start)
			w.kube.SetPod(pod)
			c.Exit()
			w.late(3*time.Second, pod, backsOff)
			if rec := w.final(runs); !rec.Verdict.Complete || !strings.HasSuffix(w.text(rec), firstWords) {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// endable serves a container's log; its streams end cleanly when told.
func endable(c *kubetest.Container, end <-chan struct{}) kubetest.LogHandler {
	return func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		follow := q.Has("follow")
		q.Del("follow")
		r = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
		c.Serve(rw, r)
		if follow {
			kubetest.Flush(rw)
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
	}
}

// A stream of a silent container ends, for the kubelet was restarted. Meanwhile the container has its say, the pod fails
// and is replaced by another one of its name, silent, which the watch does not tell yet.
func TestSilentStreamAndNamesake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("web-0")
	start := justStarted(pod)
	end := make(chan struct{})
	w.kube.Log("shop", pod.Name, "app", endable(c, end))
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	<-time.After(200 * time.Millisecond)
	c.Print(start.Add(900*time.Millisecond), firstWords)
	c.Exit()
	pod.Status.Phase = corev1.PodFailed
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), start, start)
	w.kube.SetPod(pod)
	w.another(pod)
	close(end)
	w.until("the record", func() bool { return len(finals(w.of(string(pod.UID)))) > 0 })
	if rec := finals(w.of(string(pod.UID)))[0]; rec.Verdict.Complete {
		t.Errorf("complete: log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// TestNamesakeAtTheFirstRead, and the API server does not answer when it is asked for the pod.
func TestNamesakeAndNoAnswer(t *testing.T) {
	t.Parallel()
	for name, words := range map[string]string{"words": "another's\n", "silent": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			rec := w.namesake(corev1.PodFailed, words, func() { w.kube.Deny("get", "pods", true) })
			if rec.Verdict.Complete {
				t.Errorf("complete: log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// A stream has brought the log of the next run. The run's own can be had by name, also after the status has told.
func TestOursByNameAfterAStreamOfTheNextRun(t *testing.T) {
	t.Parallel()
	for name, inTime := range map[string]bool{"told in time": true, "the kubelet is away for a moment, and told late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("late")
			start := justStarted(pod)
			c.Print(start.Add(300*time.Millisecond), firstWords)
			c.Exit()
			c.Restart()
			c.Print(start.Add(700*time.Millisecond), "another's\n")
			end := make(chan struct{})
			var mu sync.Mutex
			away := false
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				refuse := away && r.URL.Query().Has("limitBytes")
				mu.Unlock()
				if refuse {
					unreachable(rw, r)
					return
				}
				endable(c, end)(rw, r)
			})
			w.kube.SetPod(pod)
			w.start(live)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			<-time.After(300 * time.Millisecond)
			s := &pod.Status.ContainerStatuses[0]
			s.State = crashed(c.ID(0), start, start)
			next := func(s *corev1.ContainerStatus) {
				restart(pod, c)
				s.State.Running.StartedAt = metav1.NewTime(start)
			}
			if inTime {
				next(s)
			} else {
				mu.Lock()
				away = true
				mu.Unlock()
				w.late(2*time.Second, pod, func(s *corev1.ContainerStatus) {
					next(s)
					mu.Lock()
					away = false
					mu.Unlock()
				})
			}
			w.kube.SetPod(pod)
			close(end)
			if rec := w.final(0); !strings.HasSuffix(w.text(rec), firstWords) || strings.Contains(w.text(rec), "another's") {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// A stream has brought the whole log of the run, and the kubelet has shown that it was this run's. Then the status tells
// of the next run, which has died already: the kubelet calls that one's log the previous one.
func TestStreamThenAnotherByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c, start := w.firstStreamed()
	s := &pod.Status.ContainerStatuses[0]
	s.State = crashed(c.ID(0), start, start)
	w.kube.SetPod(pod)
	c.Exit()
	<-time.After(200 * time.Millisecond)
	c.Restart()
	c.Print(start.Add(700*time.Millisecond), "another's\n")
	c.Exit()
	w.kube.Log("shop", pod.Name, "app", inBackOff(c))
	restart(pod, c)
	s.State.Running.StartedAt = metav1.NewTime(start)
	w.kube.SetPod(pod)
	w.hasFirst(0)
}

// A stream has brought the whole log of the run, and the next one was refused, for it brought another's: the next run has
// died already. The status tells of its start only, so the kubelet's previous log is not the one that the status means.
func TestRefusedStreamThenAnotherByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c, start := w.firstStreamed()
	w.kube.Log("shop", pod.Name, "app", inBackOff(c))
	c.Exit()
	c.Restart()
	c.Print(start.Add(700*time.Millisecond), "another's\n")
	c.Exit()
	w.until("a second stream", func() bool { return len(w.kube.Requests("follow=true")) > 1 })
	<-time.After(200 * time.Millisecond)
	s := &pod.Status.ContainerStatuses[0]
	s.State = crashed(c.ID(0), start, start)
	restart(pod, c)
	s.State.Running.StartedAt = metav1.NewTime(start)
	w.kube.SetPod(pod)
	if rec := w.final(0); rec.Verdict.Complete || rec.Lines != 1 || !strings.HasSuffix(w.text(rec), firstWords) {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The first line of a run was seen while it went on. Later it has been replaced twice, which the status does not tell
// yet: by the run's name the kubelet gives the next one's log, once. It is not stored as this one's.
func TestByNameAnotherThanWasSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	start := time.Now().Truncate(time.Second).Add(-20 * time.Second)
	s := &pod.Status.ContainerStatuses[0]
	s.State.Running.StartedAt = metav1.NewTime(start)
	c.Print(start.Add(300*time.Millisecond), firstWords)
	w.kube.SetPod(pod)
	w.start(nil)
	w.until("a look", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
	<-time.After(200 * time.Millisecond)
	c.Exit()
	c.Restart()
	c.Print(start.Add(5*time.Second), "another's\n")
	c.Exit()
	c.Restart()
	c.Print(start.Add(15*time.Second), "a third one's\n")
	var once sync.Once
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		serve := q.Get("previous") != "true"
		if !serve && !q.Has("limitBytes") {
			once.Do(func() { serve = true })
		}
		if serve {
			c.Serve(rw, r)
			return
		}
		_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
	})
	s.State = crashed(c.ID(0), start, start)
	restart(pod, c)
	s.State.Running.StartedAt = metav1.NewTime(start.Add(4 * time.Second))
	w.kube.SetPod(pod)
	w.late(2*time.Second, pod, func(s *corev1.ContainerStatus) {
		s.State = crashed(c.ID(1), start.Add(4*time.Second), start.Add(5*time.Second))
		restart(pod, c)
	})
	if rec := w.final(0); rec.Lines != 0 || rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The second run's log was read, and before its end was proven the third one has begun, which the status does not tell
// yet: by the first run's name the kubelet gives the second one's log, once. It is not stored as both.
func TestByNameWhatTheNextRunHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	start := time.Now().Truncate(time.Second).Add(-20 * time.Second)
	c.Exit()
	c.Restart()
	c.Print(start.Add(5*time.Second), firstWords)
	c.Exit()
	s := &pod.Status.ContainerStatuses[0]
	s.RestartCount, s.ContainerID = 1, c.ID(1)
	s.LastTerminationState = crashed(c.ID(0), start, start)
	s.State = crashed(c.ID(1), start.Add(4*time.Second), start.Add(5*time.Second))
	var read, given sync.Once
	var third atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		look, serve := q.Has("limitBytes"), q.Get("previous") != "true"
		if !serve && !look && third.Load() {
			given.Do(func() { serve = true })
		}
		if !serve {
			_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
			return
		}
		c.Serve(rw, r)
		if !look {
			read.Do(func() {
				time.AfterFunc(300*time.Millisecond, func() {
					c.Restart()
					c.Print(start.Add(15*time.Second), "a third one's\n")
					third.Store(true)
				})
			})
		}
	})
	w.kube.SetPod(pod)
	w.start(nil)
	w.late(3*time.Second, pod, func(s *corev1.ContainerStatus) { restart(pod, c) })
	w.hasFirst(1)
	if rec := w.final(0); rec.Lines != 0 || rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
		t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
	}
}
