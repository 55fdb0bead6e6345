package exporter

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
)

// podJSON encodes a pod for a record: without managedFields, and with the values of literal environment variables
// masked, because people put passwords there. Termination messages may be pieces of the log, and are redacted like it;
// so are commands, arguments, probes and annotations, where secrets are, too.
func podJSON(pod *corev1.Pod, redacted func(string) string) json.RawMessage {
	pod = pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	pod.ManagedFields = nil
	delete(pod.Annotations, "kubectl.kubernetes.io/last-applied-configuration") // the same values again
	for name, value := range pod.Annotations {
		pod.Annotations[name] = redacted(value)
	}
	for _, c := range containersOf(pod) {
		maskContainer(c, redacted)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			for _, t := range []*corev1.ContainerStateTerminated{list[i].State.Terminated, list[i].LastTerminationState.Terminated} {
				if t != nil {
					t.Message = redacted(t.Message)
				}
			}
		}
	}
	data, err := json.Marshal(pod)
	if err != nil {
		return nil // a pod that the API server sent can be encoded
	}
	return data
}

// containersOf lists the containers of a pod, of any kind.
func containersOf(pod *corev1.Pod) (all []*corev1.Container) {
	for i := range pod.Spec.InitContainers {
		all = append(all, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		all = append(all, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return all
}

// maskContainer masks the literal values of a container's environment and redacts what it is started and asked with.
func maskContainer(c *corev1.Container, redacted func(string) string) {
	for i := range c.Env {
		if c.Env[i].Value != "" {
			c.Env[i].Value = "(masked)"
		}
	}
	words := func(list []string) {
		for i := range list {
			list[i] = redacted(list[i])
		}
	}
	asked := func(exec *corev1.ExecAction, get *corev1.HTTPGetAction) {
		if exec != nil {
			words(exec.Command)
		}
		if get != nil {
			get.Path = redacted(get.Path)
			for i := range get.HTTPHeaders {
				get.HTTPHeaders[i].Value = redacted(get.HTTPHeaders[i].Value)
			}
		}
	}
	words(c.Command)
	words(c.Args)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			asked(p.Exec, p.HTTPGet)
		}
	}
	if c.Lifecycle == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if h != nil {
			asked(h.Exec, h.HTTPGet)
		}
	}
}
