package exporter

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// Subjects lists the container runs that a pod's status shows, as selections see them: for each container
// the current run and the one before it.
func Subjects(pod *corev1.Pod) []selection.Subject {
	p := infoOf(pod)
	var all []selection.Subject
	for _, v := range p.runs {
		all = append(all, subjectOf(p, v))
	}
	return all
}

// subjectOf says what selections ask of a run.
func subjectOf(p *podInfo, v view) selection.Subject {
	s := selection.Subject{
		Namespace: p.namespace, Pod: p.name, UID: string(p.uid), Node: p.node, ServiceAccount: p.account,
		Labels: selection.Labels(p.labels), Phase: string(p.phase),
		Container: v.id.container, ContainerKind: string(v.kind), Image: v.image, Restart: v.restart, StartedAt: v.startedAt,
	}
	if len(p.owners) > 0 && !p.loose {
		s.OwnerKind, s.OwnerName = p.owners[0].Kind, p.owners[0].Name
	}
	if t := v.term; t != nil {
		s.Ended, s.ExitCode, s.Signal, s.Reason, s.FinishedAt = true, t.ExitCode, t.Signal, t.Reason, t.FinishedAt.Time
	}
	return s
}
