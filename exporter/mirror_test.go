package exporter

import (
	"strconv"
	"sync/atomic"
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
	t.Parallel()
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
			if running := e.tracker.running(); len(running) != 1 || running[0].pod.pod.name != "forged" {
				t.Errorf("running: %v", running)
			}
			if n := len(w.kube.Requests("follow=true")); policy == CaptureFinal && n > 0 {
				t.Errorf("%d streams, though nothing was about to end", n)
			}
			w.account()
		})
	}
}

// A static pod whose mirror was deleted has ended if no other mirror comes, or the pod of another manifest, or if the
// status told the end of all of its containers.
func TestMirrorAway(t *testing.T) {
	const moment = time.Millisecond
	type step = func(*mirrored)
	pause := func(d time.Duration) step { return func(*mirrored) { time.Sleep(d) } }
	seen := func(mirror types.UID, change ...func(*podInfo)) step {
		return func(m *mirrored) { m.see(mirror, false, change...) }
	}
	deleted := func(mirror types.UID, change ...func(*podInfo)) step {
		return func(m *mirrored) { m.see(mirror, true, change...) }
	}
	finds := func(what string) step { return func(m *mirrored) { m.finds.Store(what) } }
	silent := func(p *podInfo) { p.runs = nil }
	looped := func(p *podInfo) { p.runs[0].slot, p.runs[0].term = slotPrevious, &corev1.ContainerStateTerminated{} }
	exited := func(p *podInfo) { p.runs[0].term = &corev1.ContainerStateTerminated{} }
	ended := func(p *podInfo) { exited(p); p.phase = corev1.PodFailed }
	again := func(m *mirrored) { m.version--; m.see("a", false) }
	other := func(p *podInfo) {
		p.uid = "other"
		p.runs[0].id = runID{podUID: "other", container: "app", containerID: "y"}
	}
	known := func(m *mirrored) {
		e := ledgerEntry{UID: staticUID, Container: "app", ContainerID: "x", Namespace: "shop", Pod: "static", Mirror: "a"}
		pod, run := e.run()
		m.tr.remember(pod, run, "")
		m.tr.vanished("")
	}
	for name, tt := range map[string]struct {
		steps []step
		gone  bool
	}{
		"away":                       {steps: []step{seen("a"), deleted("a"), pause(mirrorReturns - moment)}},
		"away for long":              {steps: []step{seen("a"), deleted("a"), pause(mirrorReturns + moment)}, gone: true},
		"away for long, not known":   {steps: []step{seen("a"), finds("error"), deleted("a"), pause(mirrorReturns + moment)}},
		"away for long, known later": {steps: []step{seen("a"), finds("error"), deleted("a"), pause(mirrorReturns + moment), finds(""), pause(mirrorReturns)}, gone: true},
		"back":                       {steps: []step{seen("a"), deleted("a"), pause(moment), seen("b"), pause(2 * mirrorReturns)}},
		"back, without a status":     {steps: []step{seen("a"), deleted("a"), pause(moment), seen("b", silent), pause(2 * mirrorReturns)}},
		"back, away":                 {steps: []step{seen("a"), deleted("a"), pause(mirrorReturns / 2), seen("b"), deleted("b"), pause(mirrorReturns - moment)}},
		"back unseen":                {steps: []step{seen("a"), finds("b"), deleted("a"), pause(2 * mirrorReturns)}},
		"told late of the first":     {steps: []step{seen("a"), seen("b"), deleted("a"), pause(2 * mirrorReturns)}},
		"in a crash loop":            {steps: []step{seen("a", looped), deleted("a", looped), pause(mirrorReturns - moment)}},
		"ended":                      {steps: []step{seen("a", ended), deleted("a", ended)}, gone: true},
		"between two runs":           {steps: []step{seen("a", exited), deleted("a", exited), pause(mirrorReturns - moment)}},
		"told late of an old state":  {steps: []step{seen("a"), deleted("a"), again, pause(mirrorReturns + moment)}, gone: true},
		"the manifest was changed":   {steps: []step{seen("a"), deleted("a"), pause(moment), seen("b", other)}, gone: true},
		"known from before":          {steps: []step{known, pause(mirrorReturns - moment), seen("b", silent), pause(2 * mirrorReturns)}},
		"known from before, gone":    {steps: []step{known, pause(mirrorReturns + moment)}, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mirrored{}
				m.finds.Store("")
				m.tr = newTracker(func(r *run, _ priority) bool {
					m.gone = m.gone || r.id.podUID == staticUID && !r.moment().reachable()
					return true
				}, func(*run) {}, func(*run) {}, func(*run) {})
				m.tr.lookFor = func(p *podInfo) {
					if m.finds.Load() == "b" {
						m.see("b", false)
					}
					m.tr.noMirror(p, m.finds.Load() != "error")
				}
				for _, step := range tt.steps {
					step(m)
					synctest.Wait()
				}
				if m.gone != tt.gone {
					t.Errorf("it counts as gone: %v", m.gone)
				}
				for _, ps := range m.tr.pods {
					if n, _ := ps.count("app"); len(ps.runs) != 1 || n != 0 {
						t.Errorf("%d runs, counted up to %d", len(ps.runs), n)
					}
				}
			})
		})
	}
}

// A static pod's runs that the restart count has passed over are known like any other's.
func TestMirrorUnseenRuns(t *testing.T) {
	m := &mirrored{tr: newTracker(func(*run, priority) bool { return true }, func(*run) {}, func(*run) {}, func(*run) {})}
	running := func(container string, restart int32) func(*podInfo) {
		return func(p *podInfo) {
			p.runs[0].id.container, p.runs[0].restart = container, restart
		}
	}
	m.see("a", false, running("init", 0))
	m.see("a", false, running("app", 2))
	unseen := 0
	for _, ps := range m.tr.pods {
		for _, r := range ps.runs {
			if r.unseen {
				unseen++
			}
		}
	}
	if unseen != 2 {
		t.Errorf("%d runs were passed over, want 2", unseen)
	}
}

// mirrored is a tracker that sees a static pod, and what a look at the API server finds of it.
type mirrored struct {
	tr      *tracker
	version int
	finds   atomic.Value // a string
	gone    bool
}

func (m *mirrored) see(mirror types.UID, deleted bool, change ...func(*podInfo)) {
	m.version++
	pod := &podInfo{
		namespace: "shop", name: "static", uid: staticUID, mirror: mirror, version: strconv.Itoa(m.version),
		runs: []view{{id: runID{podUID: staticUID, container: "app", containerID: "x"}, slot: slotCurrent}},
	}
	for _, change := range change {
		change(pod)
	}
	m.tr.observe(pod, deleted)
}
