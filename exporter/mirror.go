package exporter

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A static pod is the kubelet's own. The API shows a mirror of it, with a UID of its own, whose deletion ends nothing:
// the kubelet makes another one. So such a pod is known by the kubelet's UID, which each mirror names.

// mirrorReturns is how long a static pod's mirror that was deleted may stay away: the kubelet makes another one when
// it looks at the pod next, after 60 to 90 s.
const mirrorReturns = 2 * time.Minute

// mayReturn says whether a pod that was deleted is a static one with containers that may go on. If no mirror of it
// is seen soon, it is gone.
func (t *tracker) mayReturn(ps *podState) bool {
	goesOn := func(r *run) bool { return r.term == nil && !r.unseen }
	if ps.pod.mirror == "" || !slices.ContainsFunc(ps.runs, goesOn) {
		return false
	}
	last := ps.pod
	time.AfterFunc(mirrorReturns, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.pods[last.uid] == ps && ps.pod == last {
			t.lose(ps)
		}
	})
	return true
}

// mirrored returns a pod as it is, or a new mirror that has no status yet with the one of the mirror before: it gets
// its own after some seconds.
func (ps *podState) mirrored(pod *podInfo) *podInfo {
	if pod.mirror == "" || len(pod.runs) > 0 || ps.pod == nil {
		return pod
	}
	fresh := *pod
	fresh.runs = ps.pod.runs
	return &fresh
}

// as returns the pod under another UID.
func (p *podInfo) as(uid types.UID) *podInfo {
	other := *p
	other.uid, other.mirror, other.runs = uid, "", slices.Clone(p.runs)
	for i := range other.runs {
		other.runs[i].id.podUID = uid
	}
	return &other
}

// is says whether the pod is known by this UID.
func (p *podInfo) is(uid types.UID) bool { return uid == p.uid || uid == p.mirror }
