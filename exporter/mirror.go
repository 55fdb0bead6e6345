package exporter

import (
	"cmp"
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A static pod is the kubelet's own. The API shows a mirror of it, with a UID of its own, whose deletion ends nothing:
// the kubelet makes another one. So such a pod is known by the kubelet's UID, which each mirror names.

// mirrorReturns is how long a static pod's mirror that was deleted may stay away: the kubelet makes another one when
// it looks at the pod next, after 60 to 90 s.
const mirrorReturns = 2 * time.Minute

// path names the pod among those that are there.
func (p *podInfo) path() string { return p.namespace + "/" + p.name }

// mirrors makes the pod, as its mirror shows it, the static one.
func (p *podInfo) mirrors(static types.UID) {
	p.mirror, p.uid = p.uid, static
	for i := range p.runs {
		p.runs[i].id.podUID = static
	}
}

// mirrored returns a pod as it is, or a new mirror that has no status yet with what the one before told: it gets its
// own after some seconds.
func (ps *podState) mirrored(pod *podInfo) *podInfo {
	if pod.mirror == "" || len(pod.runs) > 0 || ps.pod == nil {
		return pod
	}
	fresh := *pod
	fresh.runs, fresh.hostIP = ps.pod.runs, cmp.Or(pod.hostIP, ps.pod.hostIP)
	return &fresh
}

// earlierMirror says whether a pod is a mirror that another one has followed already.
func (ps *podState) earlierMirror(pod *podInfo) bool {
	return pod.mirror != "" && ps.pod != nil && ps.pod.mirror != "" && pod.mirror != ps.pod.mirror
}

// mirrorAway is the wait for the next mirror of a static pod.
type mirrorAway struct {
	ps    *podState
	timer *time.Timer
}

// mayReturn says whether a pod that was deleted is a static one that has not ended. Then its mirror is waited for.
func (t *tracker) mayReturn(ps *podState) bool {
	if ps.pod.mirror == "" || ps.pod.phase == corev1.PodSucceeded || ps.pod.phase == corev1.PodFailed {
		return false
	}
	t.await(ps)
	return true
}

// await lets somebody look after some time whether a static pod has a mirror again.
func (t *tracker) await(ps *podState) {
	pod := ps.pod
	t.mirrorBack(pod)
	if t.away == nil {
		t.away = make(map[string]mirrorAway)
	}
	ps.away = true
	t.away[pod.path()] = mirrorAway{ps, time.AfterFunc(mirrorReturns, func() { t.lookFor(pod) })}
}

// mirrorBack ends the wait for a mirror of that name. A static pod that was waited for and is not the one which has
// the name now has ended: its manifest was changed.
func (t *tracker) mirrorBack(pod *podInfo) {
	name := pod.path()
	away, ok := t.away[name]
	if !ok {
		return
	}
	away.timer.Stop()
	delete(t.away, name)
	away.ps.away = false
	if away.ps.pod.uid != pod.uid {
		t.lose(away.ps)
	}
}

// noMirror notes that no mirror of a static pod has come, or that it is not known whether one has.
func (t *tracker) noMirror(pod *podInfo, sure bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch away, ok := t.away[pod.path()]; {
	case !ok || away.ps.pod.uid != pod.uid || t.closed: // it has come, or another
	case sure:
		delete(t.away, pod.path())
		t.lose(away.ps)
	default:
		t.await(away.ps)
	}
}

// lookForMirror asks the API server for a static pod's mirror: the watch may be behind, or broken.
func (e *Exporter) lookForMirror(known *podInfo) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTakes)
	defer cancel()
	pod, err := e.kube.CoreV1().Pods(known.namespace).Get(ctx, known.name, metav1.GetOptions{})
	if e.stopping() {
		return // what is known is in the ledger
	}
	if err == nil {
		e.see(infoOf(pod), false)
	}
	e.tracker.noMirror(known, err == nil || apierrors.IsNotFound(err))
}
