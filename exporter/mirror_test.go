package exporter

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// staticUID is what the kubelet makes of a manifest.
const staticUID = "8a1d3c7b2f4e5a69708192a3b4c5d6e7"

// mirror makes a pod the mirror of a static one.
func mirror(pod *corev1.Pod, uid types.UID) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.UID, pod.Annotations = uid, map[string]string{corev1.MirrorPodAnnotationKey: staticUID}
	return pod
}

// A static pod's mirror is deleted, and the kubelet makes another one: its container goes on, and its run has one
// record. Another pod with the same annotation has its own.
func TestMirrorDeleted(t *testing.T) {
	for _, policy := range []Capture{CaptureFinal, CaptureLive} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			e := w.run(func(o *Options) { o.Capture = policy })
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			pod, c := w.pod("static-node")
			c.Print(time.Now(), "one\n")
			first := mirror(pod, "0b54cd8c-0000-4000-8000-00000000000a")
			w.kube.SetPod(first)
			forged, _ := w.pod("forged")
			w.kube.SetPod(mirror(forged, "0b54cd8c-0000-4000-8000-0000000000ff"))
			w.until("both runs", func() bool { return len(e.tracker.running()) == 2 })
			w.dies(first)
			w.kube.DeletePod("shop", pod.Name)
			c.Print(time.Now(), "two\n")
			next := mirror(pod, "0b54cd8c-0000-4000-8000-00000000000b")
			empty := next.DeepCopy()
			empty.Status = corev1.PodStatus{Phase: corev1.PodPending}
			w.kube.SetPod(empty)
			<-time.After(300 * time.Millisecond) // the kubelet takes seconds
			w.kube.SetPod(next)
			c.Print(time.Now(), "three\n")
			c.Exit()
			exit(next, 3)
			next.Status.Phase = corev1.PodFailed
			w.kube.SetPod(next)
			rec := w.await(1)[0]
			if got := w.words(rec); got != "one two three" || !rec.Verdict.Complete || rec.State.ExitCode == nil || *rec.State.ExitCode != 3 {
				t.Errorf("log %q, verdict %+v, exit code %v", got, rec.Verdict, rec.State.ExitCode)
			}
			if rec.Pod.UID != staticUID || rec.Pod.DeletionTimestamp != nil {
				t.Errorf("UID %s, deleted at %v", rec.Pod.UID, rec.Pod.DeletionTimestamp)
			}
			if running := e.tracker.running(); len(running) != 1 || running[0].id.podUID != "0b54cd8c-0000-4000-8000-0000000000ff" {
				t.Errorf("running: %v", running)
			}
			if n := len(w.kube.Requests("follow=true")); policy == CaptureFinal && n > 0 {
				t.Errorf("%d streams, though nothing was about to end", n)
			}
			w.account()
		})
	}
}

// A static pod whose mirror is deleted has ended if no other mirror comes, and not before.
func TestMirrorDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handed []moment
		tr := newTracker(func(r *run, _ priority) bool { handed = append(handed, r.moment()); return true }, func(*run) {}, func(*run) {}, func(*run) {})
		pod := &podInfo{namespace: "shop", name: "static", uid: staticUID, mirror: "a", version: "1", runs: []view{{id: runID{podUID: staticUID, container: "app", containerID: "x"}, slot: slotCurrent}}}
		seen := func(version string, deleted bool) {
			next := *pod
			next.version = version
			tr.observe(&next, deleted)
		}
		seen("1", false)
		seen("2", true)
		time.Sleep(mirrorReturns / 2)
		seen("3", false)
		time.Sleep(mirrorReturns)
		if len(handed) > 0 {
			t.Fatalf("it counts as gone, though another mirror came: %+v", handed)
		}
		seen("4", true)
		time.Sleep(mirrorReturns - 1)
		if len(handed) > 0 {
			t.Fatalf("it counts as gone at once: %+v", handed)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if len(handed) != 1 || !handed[0].podGone || handed[0].reachable() {
			t.Errorf("handed out: %+v", handed)
		}
	})
}
