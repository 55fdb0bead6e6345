package exporter

import (
	"context"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
)

const (
	// lostAfter is how long the kubelet is doubted that cannot find the log of a run whose pod stays. It says so
	// of every container while its runtime restarts, for some seconds; and what its own clean-up has removed,
	// which comes by once a minute, the status shows soon after.
	lostAfter = 90 * time.Second
	// lostTries is how often it is doubted where the log was to be removed: the pod was evicted or deleted.
	lostTries = 3
	// absentTries is how often the kubelet is doubted that knows of no such run.
	absentTries = 5
	// noSuchFile ends the kubelet's texts about a file that is not there.
	noSuchFile = "no such file or directory"
)

// refusals are those of the capture's log. A clean answer ends them.
type refusals struct {
	refused  int       // in a row
	absent   int       // of which the kubelet knew of no such run
	missed   int       // of which it could not find the run's log
	missing  time.Time // since when
	unclear  time.Time // since when closing reads are refused, or do not come to a clean end
	nodeAway bool      // the last one came from a node that cannot be reached
}

// forget begins the count anew.
func (r *refusals) forget() { r.refused, r.absent, r.missed = 0, 0, 0 }

// evicted says whether the kubelet has ended the pod, and so removes its logs: it reports the end once the containers
// have exited, and 0.02 to 0.7 s later they are gone (measured).
func (m moment) evicted() bool { return m.pod.reason == "Evicted" || m.pod.reason == "Preempting" }

// vanishes says whether the kubelet removes the run's log right after its end.
func (m moment) vanishes() bool { return m.dying || m.evicted() }

// unfound handles a kubelet that cannot find the run's log. It says so whenever its runtime gives no status of the
// container, for whatever reason (k8s.io/kubernetes/pkg/kubelet/kuberuntime GetContainerLogs), so of a run that
// goes on it proves nothing: that one's end the status will tell.
func (c *capture) unfound() {
	c.refused++
	if c.missed++; c.missed == 1 {
		c.missing = time.Now()
	}
	switch m := c.run.now(); {
	case m.podGone:
		c.gone = true
	case !m.ended():
	case m.vanishes():
		c.gone = c.missed > lostTries
	case c.e.once: // people wait
		c.gone = c.refused >= oneShotTries && c.missed > lostTries // refusals of another kind may have come before
	default:
		c.gone = time.Since(c.missing) > c.doubts()
	}
}

// fileGone says whether a one-off export was told, in place of a log, that the file of a run that has ended is not there.
// The kubelet removes it before the container, and may be long about that. While a run goes on the same is said between
// the two steps of a rotation. An exporter that runs on waits until the container is gone, too.
func (c *capture) fileGone(res podlog.Result) bool {
	return c.e.once && res.Join == podlog.JoinEmpty && strings.HasSuffix(res.Text, noSuchFile) && c.run.now().ended()
}

// doubts is how long a log that cannot be had is asked for.
func (c *capture) doubts() time.Duration {
	if c.run.now().pod.mirror != "" {
		return max(c.e.lostAfter, mirrorReturns)
	}
	return c.e.lostAfter
}

// refuse handles an error in place of a body.
func (c *capture) refuse(ctx context.Context, err error) {
	c.refused++
	c.nodeAway = false
	switch podlog.Classify(err) {
	case podlog.RefusedPodGone:
		m := c.run.now()
		c.gone = m.podGone || m.pod.mirror == "" || c.e.once // else its next mirror is waited for
	case podlog.RefusedNotThere:
		c.absent++
		c.gone = c.absent > absentTries && c.run.now().ended()
	case podlog.RefusedForbidden:
		c.e.access.forbidden(ctx, c.run.now().pod.namespace, err)
	case podlog.RefusedForNow:
		c.nodeAway = podlog.NodeAway(err)
		if c.refused == 5 {
			c.e.log.Warn("cannot read log, will go on trying", c.attrs("err", err)...)
		}
	}
	if c.run.now().podGone && c.refused > 3 {
		c.gone = true
	}
}

// answered notes that the log was served. Words of the kubelet at its end that it has lost sight of the container
// are no reason to ask again at once.
func (c *capture) answered(res podlog.Result) {
	c.served = true
	if res.Appended > 0 {
		c.consulted = false // the node may have more than when it was asked last
	}
	if res.TextKind == podlog.TextGone {
		c.refused++
		return
	}
	c.forget()
}
