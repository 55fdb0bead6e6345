package exporter

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A deletion that names no UID ends the pod that had the name, and not the one that has it now.
func TestLook(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	e := w.run(nil)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	look := func(name string, deleted bool) {
		t.Helper()
		if err := e.Look(context.Background(), "shop", name, deleted); err != nil {
			t.Fatal(err)
		}
	}
	look("nobody", true)
	look("nobody", false)
	pod, c := w.pod("a")
	w.kube.SetPodQuietly(pod)
	look("a", false)
	w.until("the first one", func() bool { return len(e.tracker.running()) == 1 })
	w.kube.DeletePodQuietly("shop", "a")
	c.Exit()
	next, c := w.pod("a")
	next.UID = types.UID("0b54cd8c-0000-4000-8000-00000000ffff")
	next.Status.ContainerStatuses[0].ContainerID = "containerd://ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
	w.kube.SetPodQuietly(next)
	look("a", true)
	rec := w.await(1)[0]
	if rec.Pod.UID != string(pod.UID) {
		t.Errorf("pod %s has a record", rec.Pod.UID)
	}
	if running := e.tracker.running(); len(running) != 1 || running[0].id.podUID != next.UID {
		t.Errorf("running: %v", running)
	}
	w.kube.Deny("get", "pods", true)
	if err := e.Look(context.Background(), "shop", "a", true); err == nil {
		t.Error("a look that was refused counts")
	}
	<-time.After(200 * time.Millisecond)
	if n := len(e.tracker.running()); n != 1 {
		t.Errorf("%d runs go on", n)
	}
	w.kube.Deny("get", "pods", false)
	c.Exit()
	w.kube.DeletePodQuietly("shop", "a")
	look("a", true)
	w.await(2)
	w.account()
}

// An event may come after the pod is gone, and its logs are archived. It brings nothing back.
func TestLateEventOfAPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.synced(nil)
	pod, c := w.pod("gone")
	w.kube.SetPod(pod)
	w.until("the run to be known", func() bool { return len(e.tracker.running()) == 1 })
	late := pod.DeepCopy()
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.await(1)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.until("the pod to be forgotten", func() bool { return !e.tracker.knows(infoOf(late).key()) })
	if err := e.ObservePod(t.Context(), late, false); err != nil || e.tracker.knows(infoOf(late).key()) {
		t.Errorf("it is back: %v", err)
	}
}

// An event of a namespace that is not asked for brings none of its logs.
func TestEventOfAnotherNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.synced(func(o *Options) { o.Namespaces = []string{"pay"} })
	pod, _ := w.pod("elsewhere")
	w.kube.SetPod(pod)
	for _, err := range []error{e.ObservePod(t.Context(), pod, false), e.Look(t.Context(), pod.Namespace, pod.Name, false)} {
		if err != nil || e.tracker.knows(infoOf(pod).key()) {
			t.Errorf("it is known: %v", err)
		}
	}
}
