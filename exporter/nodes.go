package exporter

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
)

const (
	// dyingWait is how often a node that cannot be reached is asked for the log of a dying pod, once it has been away
	// for dyingFor. A kubelet that comes back ends such a pod within seconds. Before, it may only have restarted.
	dyingWait = 2 * time.Second
	dyingFor  = 30 * time.Second
)

// nodes counts the streams that are open on each node, and knows which nodes cannot be reached: those are asked by
// one capture at a time, for all. Each request to them may hang, and they come back to many at once.
type nodes struct {
	mu         sync.Mutex
	open       map[string]int
	away       map[string]*absence
	live, most int // how many streams there may be for running pods, and for all
}

// absence is the time in which a node cannot be reached.
type absence struct {
	since, asked time.Time // asked is when it was asked last, or its last refusal came
	asking       int       // requests that have no answer yet
	spread       float64   // of the wait, so that nodes that went away together are not asked together
}

// due is when the node may be asked again: after as long as it has been away, within bounds.
func (a *absence) due(dying bool) time.Time {
	away := a.asked.Sub(a.since)
	wait := min(max(away, firstBackoff), lastBackoff)
	switch {
	case dying && away < dyingFor:
		wait = min(wait, pollDying)
	case dying:
		wait = min(wait, dyingWait)
	}
	return a.asked.Add(time.Duration(float64(wait) * a.spread))
}

// jittered spreads a wait by a quarter to both sides.
func jittered(d time.Duration) time.Duration { return time.Duration(float64(d) * spread()) }

func spread() float64 { return 0.75 + rand.Float64()/2 } //nolint:gosec // no secret

// admit says whether a node may be asked now. Whoever is admitted asks it.
func (n *nodes) admit(node string, dying bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.away[node]
	if a == nil {
		return true
	}
	if a.asking > 0 || time.Now().Before(a.due(dying)) {
		return false
	}
	a.asked = time.Now()
	return true
}

// ask notes that a request is on its way, and returns what its answer is told to: an error, or nil.
func (n *nodes) ask(node string) (answered func(error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.away[node]
	if asked != nil {
		asked.asking++
	}
	return func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if asked != nil {
			asked.asking--
		}
		var status apierrors.APIStatus
		switch {
		case err != nil && podlog.NodeAway(err):
			if n.away[node] == nil {
				n.away[node] = &absence{since: time.Now()}
			}
			n.away[node].asked, n.away[node].spread = time.Now(), spread()
		case err == nil, errors.As(err, &status):
			delete(n.away, node)
		}
	}
}

// wait is how long a capture waits that was not admitted, or was refused.
func (n *nodes) wait(node string, dying bool) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.away[node]
	if a == nil {
		return jittered(firstBackoff)
	}
	wait := rand.N(pollDying) //nolint:gosec // no secret
	if a.asking > 0 {
		return pollDying + wait
	}
	return max(time.Until(a.due(dying)), 0) + wait
}

// parked puts a step off if the run's node cannot be reached and it is not this capture's turn to ask.
func (c *capture) parked(step func(context.Context)) bool {
	m := c.run.now()
	if m.podGone || c.e.nodes.admit(m.pod.node, m.dying) {
		return false
	}
	c.nodeAway = true
	if c.e.once {
		c.refused++
	}
	c.again(step)
	return true
}

// take asks for a stream on a node. Dying pods may use more of them.
func (n *nodes) take(node string, dying bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	limit := n.live
	if dying {
		limit = n.most
	}
	if n.open[node] >= limit {
		return false
	}
	n.open[node]++
	return true
}

func (n *nodes) give(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open[node]--; n.open[node] <= 0 {
		delete(n.open, node)
	}
}
