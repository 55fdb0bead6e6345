package exporter

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// unreachable answers as the API server does whose connection to a kubelet fails.
func unreachable(rw http.ResponseWriter, _ *http.Request) {
	kubetest.Status(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError, "",
		`Get "https://10.0.0.7:10250/containerLogs/shop/away/app?timestamps=true": dial tcp 10.0.0.7:10250: connect: no route to host`)
}

// A node that cannot be reached until its pod is gone has lost the log, and what a stream had brought
// before is kept, up to its last stamp.
func TestNodeLost(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"final": nil, "live": live} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("away")
			c.Print(time.Now(), "before\n")
			w.kube.SetPod(pod)
			w.start(change)
			w.until("the log was looked at", func() bool { return len(w.kube.Requests("/log?")) > 0 })
			w.kube.Log("shop", "away", "app", unreachable)
			c.Exit() // the API server's connection to the kubelet breaks, which looks like an end
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("two more tries", func() bool { return len(w.kube.Requests("/log?")) > 3 })
			w.kube.DeletePod(pod.Namespace, pod.Name)
			rec := w.await(1)[0]
			if rec.Verdict.Tail.State != bundle.Lost || rec.Verdict.Tail.Cause != bundle.CauseNodeLost {
				t.Errorf("verdict %+v", rec.Verdict)
			}
			if want := name == "live"; strings.HasSuffix(w.text(rec), " before\n") != want || (rec.Verdict.Tail.After != nil) != want {
				t.Errorf("log %q, verdict %+v", w.text(rec), rec.Verdict)
			}
		})
	}
}

// A node is removed from the cluster, and its pods after it: what was not read before is lost with it.
func TestNodeRemoved(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("removed")
	c.Print(time.Now(), "before\n")
	w.kube.SetPod(pod)
	w.run(nil)
	w.until("the log was looked at", func() bool { return len(w.kube.Requests("/log?")) > 0 })
	w.kube.Log("shop", "removed", "app", kubetest.NodeRemoved()(nil))
	now := metav1.Now()
	pod.DeletionTimestamp, pod.Status.Phase = &now, corev1.PodFailed
	w.kube.SetPod(pod)
	w.until("two tries", func() bool { return len(w.kube.Requests("/log?")) > 2 })
	if n := len(w.records()); n > 0 {
		t.Errorf("%d records while the pod is there", n)
	}
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if v := w.await(1)[0].Verdict; v.Head.State != bundle.Lost || v.Head.Cause != bundle.CauseNodeLost || v.Tail.Cause != bundle.CauseNodeLost {
		t.Errorf("verdict %+v", v)
	}
	w.account()
}

// A node that cannot be reached is asked by one capture at a time, however many of its pods are dying, and
// holds up no other node. When it is back, every one of them has its stream in time.
func TestNodeAwayIsAskedByOne(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	const pods = 20
	var mu sync.Mutex
	away, asking, most, requests := true, 0, 0, 0
	logs := make(map[string]*kubetest.Container)
	dying := make(map[string]*corev1.Pod)
	now := metav1.Now()
	for i := range pods {
		pod, c := w.pod("away" + strings.Repeat("x", i))
		c.Print(now.Time, "one\n")
		w.kube.Log(pod.Namespace, pod.Name, "app", func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			refuse := away
			asking++
			requests++
			most = max(most, asking)
			mu.Unlock()
			if refuse {
				<-time.After(100 * time.Millisecond)
				kubetest.Unreachable()(nil)(rw, r)
			}
			mu.Lock()
			asking--
			mu.Unlock()
			if !refuse {
				c.Serve(rw, r)
			}
		})
		pod.DeletionTimestamp = &now
		w.kube.SetPod(pod)
		logs[pod.Name], dying[pod.Name] = c, pod
	}
	w.run(nil)
	<-time.After(2 * time.Second) // until all of them know
	mu.Lock()
	most, requests = 0, 0
	mu.Unlock()
	other, c := w.pod("z")
	c.Print(now.Time, "one\n")
	other.Spec.NodeName, other.DeletionTimestamp = "another", &now
	w.kube.SetPod(other)
	w.until("a stream on another node", func() bool { return c.Following() > 0 })
	<-time.After(2 * time.Second)
	mu.Lock()
	if most != 1 || requests < 3 || requests > 12 {
		t.Errorf("%d requests to a node that is away, %d at a time", requests, most)
	}
	away = false
	mu.Unlock()
	back := time.Now()
	for name, c := range logs {
		w.until("a stream of "+name, func() bool { return c.Following() > 0 })
	}
	if took := time.Since(back); took > 3*time.Second {
		t.Errorf("it took %s to open streams again", took)
	}
	for name, pod := range dying {
		logs[name].Print(time.Now(), "last\n")
		logs[name].Exit()
		exit(pod, 0)
		w.kube.SetPod(pod)
	}
	for _, rec := range w.await(pods) {
		if rec.Lines != 2 || rec.Verdict.Tail.State != bundle.Proven {
			t.Errorf("%s: %d lines, verdict %+v", rec.Pod.Name, rec.Lines, rec.Verdict)
		}
	}
	w.account()
}

// A pod that the kubelet evicts has lost its containers when its status tells of it. The record says
// so, and keeps the termination message.
func TestEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("evicted")
	w.kube.SetPod(pod)
	w.start(nil)
	w.until("the log was looked at", func() bool { return len(w.kube.Requests("/log?")) > 0 })
	w.kube.Log("shop", "evicted", "app", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "unable to retrieve container logs for "+c.ID(0))
	})
	exit(pod, 137)
	pod.Status.ContainerStatuses[0].State.Terminated.Message = "last words"
	pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, "Evicted"
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if v := rec.Verdict.Head; v.State != bundle.Lost || v.Cause != bundle.CauseDeletedBeforeRead || rec.State.Message != "last words" || rec.Pod.Reason != "Evicted" {
		t.Errorf("record %+v", rec)
	}
}

// A kubelet that has lost sight of a container names it in the status only, not in its end.
func TestContainerStatusUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("unknown")
	c.Print(time.Now(), "words\n")
	w.kube.SetPod(pod)
	w.start(nil)
	c.Exit()
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}}
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if *rec.State.ExitCode != 137 || rec.Container.ContainerID != c.ID(0) || rec.Lines != 1 {
		t.Errorf("record %+v", rec)
	}
}

// Restarts between two looks give a record each, and the last one its log.
func TestUnseenRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("fast")
	status := pod.Status.ContainerStatuses
	pod.Status.ContainerStatuses = nil // not started yet
	w.kube.SetPod(pod)
	e := w.start(nil)
	w.until("the pod is seen", func() bool { return e.Ready() == nil })
	pod.Status.ContainerStatuses = status
	for n := range 4 {
		c.Print(time.Now(), fmt.Sprintf("run %d\n", n))
		c.Exit()
		exit(pod, 1)
		c.Restart()
		restart(pod, c)
	}
	w.kube.SetPod(pod)
	for _, rec := range w.await(4) {
		switch n := rec.Container.RestartCount; {
		case n == 3 && !strings.HasSuffix(w.text(rec), " run 3\n"), n < 3 && rec.Verdict.Head.Cause != bundle.CauseUnseenRuns, n > 3:
			t.Errorf("restart %d: log %q, verdict %+v", n, w.text(rec), rec.Verdict)
		}
	}
	pod.Status.ContainerStatuses[0].RestartCount = 2 // the kubelet has counted anew
	w.kube.SetPod(pod)
	<-time.After(200 * time.Millisecond)
	if n := len(w.records()); n != 4 {
		t.Errorf("%d records", n)
	}
}
