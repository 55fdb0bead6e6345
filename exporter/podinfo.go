package exporter

import (
	"slices"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// podInfo is what is kept of every pod in the cluster: what its runs are told from, and what a record
// needs when the pod is gone. A tenth of the object, and a third of a corev1.Pod that holds no more than
// this; the rest is read again at capture. It never changes.
type podInfo struct {
	namespace, name string
	uid             types.UID // of a static pod the kubelet's own, which its mirror's annotation tells
	mirror          types.UID // metadata.uid of a static pod's mirror; empty for all others
	version         string
	created         time.Time
	labels          []string // key, value, key, value …
	owners          []bundle.Owner
	restartsAll     bool // a container's end may restart all of them, and remove what they were (RestartAllContainers)
	never           bool // no container is started again
	untilSuccess    bool // none is that has succeeded
	loose           bool // none of the owners is its controller; otherwise the first is
	deletion        *time.Time
	node, hostIP    string
	account         string // the service account
	phase           corev1.PodPhase
	reason, message string
	runs            []view
}

func infoOf(pod *corev1.Pod) *podInfo {
	p := &podInfo{
		namespace: shared(pod.Namespace), name: pod.Name, uid: pod.UID, version: pod.ResourceVersion, created: pod.CreationTimestamp.Time,
		labels: flat(pod.Labels), node: shared(pod.Spec.NodeName), hostIP: shared(pod.Status.HostIP), account: shared(pod.Spec.ServiceAccountName),
		phase: corev1.PodPhase(shared(string(pod.Status.Phase))), reason: pod.Status.Reason, message: pod.Status.Message, runs: views(pod),
	}
	if static := pod.Annotations[corev1.MirrorPodAnnotationKey]; bundle.IsUID(static) {
		p.mirrors(types.UID(static))
	}
	p.restartsAll = slices.ContainsFunc(pod.Spec.InitContainers, restartsAll) || slices.ContainsFunc(pod.Spec.Containers, restartsAll)
	if !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0 }) && !p.restartsAll {
		p.never = pod.Spec.RestartPolicy == corev1.RestartPolicyNever
		p.untilSuccess = pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure
	}
	p.loose = metav1.GetControllerOf(pod) == nil
	for _, o := range pod.OwnerReferences {
		owner := bundle.Owner{APIVersion: shared(o.APIVersion), Kind: shared(o.Kind), Name: shared(o.Name), UID: shared(string(o.UID))}
		if o.Controller != nil && *o.Controller {
			p.owners = slices.Insert(p.owners, 0, owner)
			continue
		}
		p.owners = append(p.owners, owner)
	}
	if t := pod.DeletionTimestamp; t != nil && p.mirror == "" { // a mirror's deletion ends nothing: the kubelet makes another
		p.deletion = utc(t.Time)
	}
	return p
}

func restartsAll(c corev1.Container) bool {
	return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
		return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
	})
}

// shared returns a string that other pods have too, as far as it is in memory already: names of nodes,
// images, labels and owners are most of what the pods of a large cluster take.
func shared(s string) string { return unique.Make(s).Value() }

// flat writes a map of labels as a list, which takes a third of the memory.
func flat(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	list := make([]string, 0, 2*len(m))
	for k, v := range m {
		list = append(list, shared(k), shared(v))
	}
	return list
}

func (p *podInfo) labelMap() map[string]string {
	if len(p.labels) == 0 {
		return nil
	}
	m := make(map[string]string, len(p.labels)/2)
	for kv := range slices.Chunk(p.labels, 2) {
		m[kv[0]] = kv[1]
	}
	return m
}

func (p *podInfo) dying() bool { return p.deletion != nil }

// podKey tells pods apart. The UID alone does not where it is a static pod's: two nodes may run the same manifest,
// and anybody may write an annotation.
type podKey struct {
	namespace, name string
	uid             types.UID
}

func (p *podInfo) key() podKey { return podKey{p.namespace, p.name, p.uid} }

// GetObjectMeta lets an informer file the pod by its name.
func (p *podInfo) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, UID: p.uid, ResourceVersion: p.version}
}

// slim is the informer's transform.
func slim(obj any) (any, error) {
	if pod, ok := obj.(*corev1.Pod); ok {
		return infoOf(pod), nil
	}
	return obj, nil // slimmed before, or a DeletedFinalStateUnknown that holds such a one
}
