package exporter

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// runID identifies a container run. restartCount is no identity: the kubelet recomputes it from the
// names of log files when the runtime forgot a container.
type runID struct {
	podUID      types.UID
	container   string
	containerID string
}

// unseenID begins what stands for the container ID of a run that a restart count has passed over.
const unseenID = "unseen/"

// slot tells how the kubelet can be asked for a run: requests name a container, not a run.
type slot int

const (
	slotNone     slot = iota // out of the kubelet's reach
	slotCurrent              // a request without previous
	slotPrevious             // a request with previous
)

// view is what a pod's status says about one run at one moment.
type view struct {
	id        runID
	unseen    bool // a restart count has passed over this run; its container ID was never seen
	kind      bundle.ContainerType
	restart   int32
	image     string
	imageID   string
	startedAt time.Time
	slot      slot
	term      *corev1.ContainerStateTerminated // nil while the run goes on
}

// views lists the runs that a pod's status shows: for each container the current run and the one
// before it. Containers that never started have no run and no log.
func views(pod *corev1.Pod) []view {
	sidecars := make(map[string]bool)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
		}
	}
	var vs []view
	for _, s := range pod.Status.InitContainerStatuses {
		kind := bundle.TypeInit
		if sidecars[s.Name] {
			kind = bundle.TypeSidecar
		}
		vs = appendViews(vs, pod.UID, kind, s)
	}
	for _, s := range pod.Status.ContainerStatuses {
		vs = appendViews(vs, pod.UID, bundle.TypeContainer, s)
	}
	for _, s := range pod.Status.EphemeralContainerStatuses {
		vs = appendViews(vs, pod.UID, bundle.TypeEphemeral, s)
	}
	return vs
}

func appendViews(vs []view, uid types.UID, kind bundle.ContainerType, s corev1.ContainerStatus) []view {
	v := view{kind: kind, restart: s.RestartCount, image: shared(s.Image), imageID: shared(s.ImageID), slot: slotCurrent}
	v.id = runID{podUID: uid, container: shared(s.Name)}
	switch {
	case s.State.Running != nil && s.ContainerID != "":
		v.id.containerID = s.ContainerID
		v.startedAt = s.State.Running.StartedAt.Time
		vs = append(vs, v)
	case s.State.Terminated != nil && s.State.Terminated.ContainerID != "":
		vs = append(vs, v.ended(s.State.Terminated))
	case s.State.Terminated != nil && s.ContainerID != "":
		t := *s.State.Terminated // ContainerStatusUnknown: the kubelet has lost sight of the container
		t.ContainerID = s.ContainerID
		vs = append(vs, v.ended(&t))
	}
	last := s.LastTerminationState.Terminated
	if last == nil || last.ContainerID == "" || last.ContainerID == v.id.containerID {
		return vs
	}
	// In CrashLoopBackOff the status shows the dead run both as its container and as the last one,
	// with that run's own count; otherwise the count belongs to the run after it. A request with
	// previous finds it in either case (kubelet_pods.go validateContainerLogStatus).
	v.slot = slotPrevious
	if last.ContainerID != s.ContainerID && v.restart > 0 {
		v.restart--
	}
	return append(vs, v.ended(last))
}

func (v view) ended(t *corev1.ContainerStateTerminated) view {
	v.id.containerID = t.ContainerID
	v.startedAt = t.StartedAt.Time
	v.term = t
	return v
}

// startLag is more than a run's first line is older than its start, which a busy runtime notes some time after it.
const startLag = 2 * time.Second

// follows says whether a stamp is that of a run before this one: from before such a run's end, or from well before
// this one's start.
func (r *run) follows(stamp time.Time) bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	earlier := slices.ContainsFunc(r.pod.runs, func(o *run) bool {
		return o.id.container == r.id.container && o.restart < r.restart && o.term != nil && stamp.Before(o.term.FinishedAt.Time)
	})
	return !stamp.IsZero() && (earlier || stamp.Before(r.startedAt.Add(-startLag)))
}

// restartable says whether the container may have a successor by now.
func (m moment) restartable() bool {
	return m.pod.phase != corev1.PodSucceeded && m.pod.phase != corev1.PodFailed && !m.dying && !m.podGone && !m.final
}

// ended says whether the run is known to be over, or out of reach.
func (m moment) ended() bool { return m.term != nil || !m.reachable() }

// reachable says whether the kubelet may serve the run's log.
func (m moment) reachable() bool { return !m.podGone && m.slot != slotNone }

// nextStart returns when the first later run of the container began that is known, in whole seconds; zero if none is.
func (r *run) nextStart() (at time.Time) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	for _, o := range r.pod.runs {
		later := o.id.container == r.id.container && o.restart > r.restart && !o.startedAt.IsZero()
		if later && (at.IsZero() || o.startedAt.Before(at)) {
			at = o.startedAt
		}
	}
	return at
}

// endedBefore says whether a stamp is from after the second in which the run is known to have ended.
func (m moment) endedBefore(at time.Time) bool {
	return m.term != nil && !m.term.FinishedAt.IsZero() && at.After(m.term.FinishedAt.Add(time.Second))
}

// nextFrom returns when a later run that is known may have written its first line at the earliest: not before this one's
// end. It is zero if none is known.
func (r *run) nextFrom() time.Time {
	next := r.nextStart()
	if next.IsZero() {
		return next
	}
	from := next.Add(-startLag)
	if t := r.now().term; t != nil && t.FinishedAt.After(from) {
		return t.FinishedAt.Time
	}
	return from
}

// nextMayHave says whether a line with this stamp may be that of a later run that is known.
func (r *run) nextMayHave(at time.Time) bool {
	from := r.nextFrom()
	return !from.IsZero() && !at.Before(from)
}

// overAt returns a time in whole seconds at which a run had ended, zero if none is known: if its end was never shown,
// the start of a later one.
func (m moment) overAt(r *run) time.Time {
	if m.term != nil {
		return m.term.FinishedAt.Time
	}
	return r.nextStart()
}

// laterFrom returns a time before which no later run has written anything, zero if none is known.
func (m moment) laterFrom(r *run) time.Time {
	if m.term != nil {
		return m.term.FinishedAt.Time
	}
	return r.nextFrom()
}
