package exporter

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	v := view{kind: kind, restart: s.RestartCount, image: s.Image, imageID: s.ImageID, slot: slotCurrent}
	v.id = runID{podUID: uid, container: s.Name}
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

// slim is the informer's transform: of each pod it keeps what runs are told from and what a record
// needs when the pod is gone, about a tenth of the object. The rest is read again at capture.
func slim(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil // a DeletedFinalStateUnknown holds a pod that was slimmed before
	}
	s := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			Labels: pod.Labels, OwnerReferences: pod.OwnerReferences, CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp, Annotations: slimAnnotations(pod.Annotations),
		},
		Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName, RestartPolicy: pod.Spec.RestartPolicy},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message, HostIP: pod.Status.HostIP,
			InitContainerStatuses:      slimStatuses(pod.Status.InitContainerStatuses),
			ContainerStatuses:          slimStatuses(pod.Status.ContainerStatuses),
			EphemeralContainerStatuses: slimStatuses(pod.Status.EphemeralContainerStatuses),
		},
	}
	for _, c := range pod.Spec.InitContainers {
		s.Spec.InitContainers = append(s.Spec.InitContainers, corev1.Container{Name: c.Name, RestartPolicy: c.RestartPolicy})
	}
	return s, nil
}

// staticUID is the annotation that holds the UID under which the kubelet knows a static pod; the API
// knows it by its mirror's.
const staticUID = "kubernetes.io/config.hash"

func slimAnnotations(in map[string]string) map[string]string {
	if uid, ok := in[staticUID]; ok {
		return map[string]string{staticUID: uid}
	}
	return nil
}

func slimStatuses(in []corev1.ContainerStatus) []corev1.ContainerStatus {
	if in == nil {
		return nil
	}
	out := make([]corev1.ContainerStatus, len(in))
	for i, s := range in {
		out[i] = corev1.ContainerStatus{
			Name: s.Name, State: s.State, LastTerminationState: s.LastTerminationState,
			RestartCount: s.RestartCount, Image: s.Image, ImageID: s.ImageID, ContainerID: s.ContainerID,
		}
	}
	return out
}
