package exporter

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// counts say, for each pod that is there, up to which restart count the runs of its containers have their
// records. So runs that come and go while no exporter runs are known by the counts between.
type counts map[podKey]*countedPod

type countedPod struct {
	mirror types.UID
	list   []counted
}

// take takes a line of a run that has its record, or, without a container, of a pod that is gone. It returns
// whether that is news.
func (c counts) take(e ledgerEntry) bool {
	pod := podKey{e.Namespace, e.Pod, e.UID}
	p := c[pod]
	switch {
	case e.Container == "":
		delete(c, pod)
		return p != nil
	case !e.names():
		return false
	case p == nil:
		p = &countedPod{mirror: e.Mirror}
		c[pod] = p
	}
	i := slices.IndexFunc(p.list, func(n counted) bool { return n.container == e.Container })
	switch {
	case i < 0:
		p.list = append(p.list, counted{e.Container, e.RestartCount})
	case p.list[i].restart >= e.RestartCount:
		return false
	default:
		p.list[i].restart = e.RestartCount
	}
	return true
}

// each shows a line for each container.
func (c counts) each(show func(ledgerEntry)) (n int) {
	for pod, p := range c {
		for _, one := range p.list {
			show(ledgerEntry{Done: true, UID: pod.uid, Container: one.container, Namespace: pod.namespace, Pod: pod.name, Mirror: p.mirror, RestartCount: one.restart})
			n++
		}
	}
	return n
}

// count notes that a run of a pod that is there has its record. The line stays until the pod is gone.
func (l *ledger) count(e ledgerEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Done = true
	_, alive := l.alive[e.id()]
	delete(l.alive, e.id())
	delete(l.stored, e.id())
	if news := l.counted.take(e); !news && !alive {
		return nil
	}
	return l.append(e)
}

// gone notes that a pod is gone.
func (l *ledger) gone(pod podKey) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := (ledgerEntry{Done: true, Namespace: pod.namespace, Pod: pod.name, UID: pod.uid}); l.counted.take(e) {
		return l.append(e)
	}
	return nil
}

// countable says whether further runs of a run's container may follow.
func countable(r *run, m moment) bool {
	ended := r.kind == bundle.TypeInit && m.term != nil && m.term.ExitCode == 0
	return !m.podGone && !ended && m.pod.phase != corev1.PodSucceeded && m.pod.phase != corev1.PodFailed
}

// rememberCount takes what an earlier process knew of a container's runs that have their records.
func (t *tracker) rememberCount(pod *podInfo, container string, restart int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ps := t.pods[pod.key()]
	if ps == nil {
		ps = &podState{pod: pod, remembered: true}
		t.pods[pod.key()] = ps
	}
	if n, ok := ps.count(container); !ok || restart > n {
		ps.setCount(container, restart)
	}
}
