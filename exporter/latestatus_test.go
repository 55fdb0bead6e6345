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

// A request for a log names a container and no run, the kubelet goes by a newer status than the one that it has sent,
// and that comes late on a busy node: what is served may be the log of one of the next runs.

const firstWords = "panic: the first run's\n"

// crashed is the state of a run that has crashed.
func crashed(id string, started, finished time.Time) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ContainerID: id, ExitCode: 1, Reason: "Error", StartedAt: metav1.NewTime(started.Truncate(time.Second)), FinishedAt: metav1.NewTime(finished.Truncate(time.Second)),
	}}
}

// late shows another status after some time.
func (w *world) late(after time.Duration, pod *corev1.Pod, change func(*corev1.ContainerStatus)) {
	time.AfterFunc(after, func() {
		change(&pod.Status.ContainerStatuses[0])
		w.kube.SetPod(pod)
	})
}

// ofFirst checks that no record of the first run calls itself complete without its words.
func (w *world) ofFirst(restart int32) {
	w.t.Helper()
	for _, rec := range finals(w.await(1)) {
		if got := w.text(rec); rec.Container.RestartCount == restart && rec.Verdict.Complete && !strings.HasSuffix(got, firstWords) {
			w.t.Errorf("complete: log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
		}
	}
}

// before lets a container have runs before the one that counts as the first, and returns its ID.
func before(pod *corev1.Pod, c *kubetest.Container, runs int32) string {
	for range runs {
		c.Print(time.Now().Add(-time.Hour), "before\n")
		c.Exit()
		c.Restart()
	}
	s := &pod.Status.ContainerStatuses[0]
	s.RestartCount, s.ContainerID = runs, c.ID(int(runs))
	return s.ContainerID
}

// The second run has crashed too and waits to be started again: its log is the current and the previous one.
func TestStatusLateByTwoEnds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		restart int32
		second  string
		waiting bool // the status tells of the first run's back-off
	}{
		"words": {second: "another's\n"}, "words, later": {second: "another's\n", restart: 1},
		"silent": {}, "silent, later": {restart: 1}, "silent, after a back-off": {restart: 1, waiting: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			id := before(pod, c, tt.restart)
			s := &pod.Status.ContainerStatuses[0]
			end := time.Now().Truncate(time.Second).Add(-time.Second)
			c.Print(end.Add(-500*time.Millisecond), firstWords)
			c.Exit()
			if s.State = crashed(id, end.Add(-time.Second), end); tt.waiting {
				backsOff(s)
			}
			c.Restart()
			c.Print(end.Add(700*time.Millisecond), tt.second)
			c.Exit()
			w.kube.Log("shop", pod.Name, "app", inBackOff(c))
			w.kube.SetPod(pod)
			w.late(4*time.Second, pod, func(s *corev1.ContainerStatus) {
				s.RestartCount, s.ContainerID = tt.restart+1, c.ID(int(tt.restart)+1)
				s.State = crashed(s.ContainerID, end, end)
				backsOff(s)
			})
			w.begin(func(e *Exporter) { e.lostAfter = 6 * time.Second }, nil)
			w.ofFirst(tt.restart)
		})
	}
}

// The first run waits to be started again, and the status tells late; or the kubelet names the run before it, whose
// container or file is removed by then. No other run has the current log.
func TestStatusLateByABackOff(t *testing.T) {
	t.Parallel()
	const noFile = `failed to try resolving symlinks in path "/var/log/pods/shop_loop/app/0.log": lstat`
	for name, tt := range map[string]struct {
		restart int32
		told    time.Duration
		named   bool     // the kubelet names the run before in place of the previous log
		noFile  []string // what it says before that
	}{
		"once": {told: 4 * time.Second}, "again": {told: 4 * time.Second, restart: 1},
		"the one before is removed": {told: time.Hour, restart: 1, named: true},
		"its file is":               {told: time.Hour, restart: 1, named: true, noFile: []string{noFile, noFile}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var mu sync.Mutex
			pod, c := w.pod("loop")
			id := before(pod, c, tt.restart)
			end := time.Now().Truncate(time.Second).Add(-time.Second)
			c.Print(end.Add(300*time.Millisecond), firstWords)
			c.Exit()
			s := &pod.Status.ContainerStatuses[0]
			if tt.restart > 0 {
				s.LastTerminationState = crashed(c.ID(0), end.Add(-time.Hour), end.Add(-time.Hour))
			}
			s.State = crashed(id, end, end)
			w.kube.Log("shop", pod.Name, "app", inBackOff(c))
			if tt.named {
				answers := append(tt.noFile, "unable to retrieve container logs for "+c.ID(0))
				w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("previous") != "true" {
						c.Serve(rw, r)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					_, _ = io.WriteString(rw, answers[0])
					answers = answers[min(1, len(answers)-1):]
				})
			}
			w.kube.SetPod(pod)
			w.late(tt.told, pod, backsOff)
			w.start(nil)
			if rec := w.final(tt.restart); !rec.Verdict.Complete || !strings.HasSuffix(w.text(rec), firstWords) {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// inBackOff serves a container's log, as that of a run which waits to be started again: it is the previous one, too.
func inBackOff(c *kubetest.Container) kubetest.LogHandler {
	return func(rw http.ResponseWriter, r *http.Request) { c.Serve(rw, asCurrent(r)) }
}

// asCurrent asks for the current log, whatever was asked for.
func asCurrent(r *http.Request) *http.Request {
	q := r.URL.Query()
	q.Del("previous")
	r = r.Clone(r.Context())
	r.URL.RawQuery = q.Encode()
	return r
}

// While the status is waited for, the pod is replaced by another one of its name, which the watch does not tell either:
// that the new one has no previous log says nothing of the old one's.
func TestStatusLateAndAnotherPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("same")
	end := time.Now().Truncate(time.Second).Add(-time.Second)
	c.Print(end.Add(300*time.Millisecond), firstWords)
	c.Exit()
	c.Restart()
	c.Exit() // silent, in its back-off
	pod.Status.ContainerStatuses[0].State = crashed(c.ID(0), end, end)
	next, silent := w.pod("another")
	next.Name = pod.Name
	var once sync.Once
	replaced := func(h kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, r *http.Request) {
			h(rw, r)
			if r.URL.Query().Get("previous") == "true" {
				once.Do(func() {
					w.kube.DeletePodQuietly(pod.Namespace, pod.Name)
					w.kube.SetPodQuietly(next)
					w.kube.Log(pod.Namespace, pod.Name, "app", silent.Serve)
				})
			}
		}
	}
	w.kube.Log(pod.Namespace, pod.Name, "app", replaced(inBackOff(c)))
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.statusWait = 2 * time.Second }, nil)
	w.ofFirst(0)
}

// Two more runs have begun: the previous log is the second one's. The status knows of none of them, or of one.
func TestStatusLateByTwoStarts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		restart       int32
		second, third string
		told          bool
	}{
		"words": {second: "another's\n", third: "a third one's\n"}, "words, later": {second: "another's\n", third: "a third one's\n", restart: 1},
		"the third is silent": {second: "another's\n"}, "the second is silent": {third: "a third one's\n"},
		"silent": {}, "silent, later": {restart: 1}, "one is told": {second: "another's\n", third: "a third one's\n", told: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("loop")
			id := before(pod, c, tt.restart)
			end := time.Now().Truncate(time.Second).Add(-3 * time.Second)
			c.Print(end.Add(300*time.Millisecond), firstWords)
			c.Exit()
			s := &pod.Status.ContainerStatuses[0]
			s.State = crashed(id, end, end)
			if tt.told {
				restart(pod, c)
				s.State.Running.StartedAt = metav1.NewTime(end)
			}
			c.Restart()
			c.Print(end.Add(700*time.Millisecond), tt.second)
			c.Exit()
			c.Restart() // crashLoopBackOff.maxContainerRestartPeriod: 1s
			c.Print(end.Add(1900*time.Millisecond), tt.third)
			w.kube.SetPod(pod)
			w.late(4*time.Second, pod, func(s *corev1.ContainerStatus) {
				s.State = crashed(c.ID(int(tt.restart)+1), end, end)
				restart(pod, c)
				s.RestartCount, s.ContainerID = tt.restart+2, c.ID(int(tt.restart)+2)
			})
			w.begin(func(e *Exporter) { e.lostAfter = 6 * time.Second }, nil)
			w.ofFirst(tt.restart)
		})
	}
}

// All containers of the pod were restarted, and the first run was removed: there is no previous log.
func TestStatusLateByARestartOfAll(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		words time.Duration // of the second run, after the whole second in which the first one ended; none if 0
		told  time.Duration // after the start
		gone  int           // the read after which the pod is deleted by force; none if 0
	}{
		"words":                       {words: 1500 * time.Millisecond, told: 3 * time.Second},
		"words at once":               {words: 700 * time.Millisecond, told: 3 * time.Second},
		"words at once, told in time": {words: 700 * time.Millisecond, told: 350 * time.Millisecond},
		"words, and the pod is gone":  {words: 1500 * time.Millisecond, told: time.Hour, gone: 2},
		"silent":                      {told: 3 * time.Second},
		"silent, and the pod is gone": {told: time.Hour, gone: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("all") // c's only run stands for the second one
			restartsAllContainers(pod)
			end := time.Now().Truncate(time.Second).Add(-2 * time.Second)
			s := &pod.Status.ContainerStatuses[0]
			s.ContainerID = c.ID(7)
			s.State = crashed(s.ContainerID, end, end)
			if tt.words > 0 {
				c.Print(end.Add(tt.words), "another's\n")
			}
			w.kube.SetPod(pod)
			var reads atomic.Int64
			w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
				c.Serve(rw, r)
				if !r.URL.Query().Has("limitBytes") && reads.Add(1) == int64(tt.gone) {
					w.kube.DeletePod(pod.Namespace, pod.Name)
				}
			})
			w.late(tt.told, pod, restartedAll(c))
			w.start(nil)
			w.ofFirst(0)
		})
	}
}

// The same under a stream: the next one is the second run's.
func TestStatusLateByARestartOfAllUnderAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("all")
	restartsAllContainers(pod)
	c.Print(time.Now(), firstWords)
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	<-time.After(100 * time.Millisecond)
	_, second := w.pod("second")
	w.kube.Log("shop", pod.Name, "app", second.Serve)
	second.Print(time.Now().Add(300*time.Millisecond), "another's\n")
	c.Exit()
	w.late(6*time.Second, pod, restartedAll(second))
	if rec := w.final(0); strings.Contains(w.text(rec), "another's") {
		t.Errorf("log %q, verdict %+v", w.text(rec), rec.Verdict)
	}
}

// A live log of such a pod, of which a stream had ended when it was empty, is stored all the same.
func TestSegmentsOfAPodThatRestartsAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("all")
	restartsAllContainers(pod)
	var cut atomic.Bool
	w.kube.Log("shop", pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
		if !r.URL.Query().Has("follow") || cut.Swap(true) {
			c.Serve(rw, r)
		}
	})
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.segmentEvery, e.statusWait = 100*time.Millisecond, time.Second }, live)
	w.until("a second stream", func() bool { return c.Following() > 0 })
	c.Print(time.Now(), "words\n")
	w.until("a segment", func() bool { return len(w.records()) > 0 })
}

func restartsAllContainers(pod *corev1.Pod) {
	pod.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
}

// restartedAll shows the run after a restart of all containers.
func restartedAll(second *kubetest.Container) func(*corev1.ContainerStatus) {
	return func(s *corev1.ContainerStatus) {
		s.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "RestartingAllContainers"}}
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Truncate(time.Second))}}
		s.RestartCount, s.ContainerID = s.RestartCount+1, second.ID(0)
	}
}

// The second run has begun when the pod is deleted; the status knows of the first one's end, or not even of that.
func TestStatusLateOfADyingPod(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ended  bool
		second string
		told   time.Duration // when the status tells of the second run
	}{
		"ended": {true, "another's\n", 1500 * time.Millisecond}, "ended, silent": {true, "", 1500 * time.Millisecond},
		"runs": {false, "another's\n", 700 * time.Millisecond}, "runs, until the end": {false, "another's\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("dying")
			e := w.start(nil)
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
			start := time.Now().Truncate(time.Second)
			s := &pod.Status.ContainerStatuses[0]
			s.State.Running.StartedAt = metav1.NewTime(start)
			c.Print(time.Now(), firstWords)
			c.Exit()
			<-time.After(300 * time.Millisecond)
			if tt.ended {
				s.State = crashed(c.ID(0), start, start)
			}
			c.Restart()
			c.Print(time.Now(), tt.second)
			w.dies(pod)
			<-time.After(200 * time.Millisecond)
			s.State = crashed(c.ID(0), start, start)
			restart(pod, c)
			if tt.told > 0 {
				<-time.After(tt.told)
				w.kube.SetPod(pod)
			}
			<-time.After(700 * time.Millisecond)
			c.Print(time.Now(), "another's last\n")
			c.Exit()
			<-time.After(300 * time.Millisecond)
			exit(pod, 0)
			w.kube.SetPod(pod)
			<-time.After(700 * time.Millisecond)
			c.Remove()
			w.kube.DeletePod(pod.Namespace, pod.Name)
			w.ofFirst(0)
		})
	}
}

// A silent run is followed, and its pod deleted right after its end; a further stream is the second run's.
func TestStatusLateOfASilentRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("silent")
	s := &pod.Status.ContainerStatuses[0]
	w.kube.SetPod(pod)
	w.start(live)
	w.until("a stream", func() bool { return c.Following() > 0 })
	<-time.After(300 * time.Millisecond)
	start := s.State.Running.StartedAt
	c.Exit()
	end := time.Now()
	c.Restart()
	<-time.After(500 * time.Millisecond)
	c.Print(time.Now(), "another's\n")
	w.dies(pod)
	<-time.After(3 * time.Second)
	c.Print(time.Now(), "another's last\n")
	c.Exit()
	<-time.After(300 * time.Millisecond)
	s.State = crashed(c.ID(0), start.Time, end)
	restart(pod, c)
	exit(pod, 0)
	w.kube.SetPod(pod)
	c.Remove()
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.until("two records", func() bool { return len(finals(w.records())) > 1 })
	for _, rec := range finals(w.records()) {
		if rec.Container.RestartCount == 0 && rec.Verdict.Complete && rec.Lines > 0 {
			t.Errorf("complete: log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
		}
	}
}

// A stream is opened for a run that ended right before, and brings the log of the next one, which began at once.
func TestStatusLateUnderAStreamOfTheNextRun(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"runs": true, "waits": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("late")
			s := &pod.Status.ContainerStatuses[0]
			start := justStarted(pod)
			w.kube.SetPod(pod)
			c.Print(start.Add(300*time.Millisecond), firstWords)
			c.Exit()
			c.Restart()
			c.Print(start.Add(700*time.Millisecond), "another's\n")
			w.start(live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			w.kube.Log("shop", pod.Name, "app", inBackOff(c)) // the first run's is gone
			s.State = crashed(c.ID(0), start, start)
			w.kube.SetPod(pod)
			<-time.After(300 * time.Millisecond)
			restart(pod, c)
			if c.Exit(); !told {
				s.State = crashed(c.ID(1), start, start)
				backsOff(s)
			}
			w.kube.SetPod(pod)
			if rec := w.final(0); w.text(rec) != "" || rec.Verdict.Head.Cause != bundle.CauseReplacedBeforeRead {
				t.Errorf("log %q, verdict %+v, reads %+v", w.text(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// A stream is opened for a run that one or two others have followed already, and brings the log of the last of them.
func TestStatusLateUnderItsFirstStream(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ restarts int }{"once": {1}, "twice": {2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("late")
			start := time.Now().Truncate(time.Second).Add(-20 * time.Second)
			pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(start)
			w.kube.SetPod(pod)
			c.Print(start.Add(time.Second), firstWords)
			for n := range tt.restarts {
				at := metav1.NewTime(start.Add(time.Duration(n+1) * 4 * time.Second))
				c.Exit()
				c.Restart()
				c.Print(at.Add(2*time.Second), "another's\n")
				exit(pod, 1)
				pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt = at
				restart(pod, c)
				pod.Status.ContainerStatuses[0].State.Running.StartedAt = at
			}
			w.start(live)
			w.until("a stream", func() bool { return c.Following() > 0 })
			w.kube.SetPod(pod)
			w.until("the run's record", func() bool { return len(finals(w.records())) > 0 })
			for _, rec := range w.records() {
				if got := w.text(rec); rec.Container.RestartCount == 0 && (got != "" || tt.restarts == 1) && !strings.HasSuffix(got, firstWords) {
					t.Errorf("log %q, running %v, verdict %+v, reads %+v", got, rec.State.Running, rec.Verdict, rec.Capture.Reads)
				}
			}
		})
	}
}
