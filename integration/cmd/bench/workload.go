package main

import (
	"context"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

// workload is a way to die. Every pod of it writes lines of the form
//
//	line 0000001 POD text .
//
// numbered from 1, so that each line that is missing, twice or cut can be told from what a client has.
type workload struct {
	name, title string
	pods        int
	script      string
	lines       int  // per pod; 0: as many as the container's log file holds
	restarts    int  // of each pod; line n is that of the nth run
	together    bool // all clients may look at the same pods
	large       bool // so much text that CPU time per GB means something
	act         func(context.Context, *round) error
}

// crashRuns is how many runs of each crashing pod count.
const crashRuns = 4

func allWorkloads() []string {
	var names []string
	for _, w := range workloads(1) {
		names = append(names, w.name)
	}
	return append(names, costName)
}

// workloads returns the workloads, or a part of each.
func workloads(scale float64) []workload {
	part := func(n int) int { return max(1, int(math.Round(float64(n)*scale))) }
	burst, seconds := part(3_000_000), part(40)
	const perSecond = 12_500
	const lastWords = `i=0; p() { i=$((i+1)); printf 'line %07d %s %s .\n' $i $HOSTNAME "$1"; }
trap 'p "last words"; exit 0' TERM; while :; do p "at work"; sleep 0.5; done`
	return []workload{
		{
			name: "graceful", title: fmt.Sprintf("%d pods deleted together, each prints a last line on SIGTERM", part(40)), pods: part(40),
			script: lastWords,
			act:    func(ctx context.Context, r *round) error { return r.delete(ctx, 3*time.Second, 30) },
		},
		{
			name: "single", title: fmt.Sprintf("%d pods deleted one after the other, each prints a last line on SIGTERM", part(20)), pods: part(20),
			together: true, // one pod ends at a time, which is no contest
			script:   lastWords,
			act:      func(ctx context.Context, r *round) error { return r.deleteEach(ctx, 3*time.Second) },
		},
		{
			name: "force", title: fmt.Sprintf("%d pods force-deleted (grace 0) while they write 10 lines a second", part(20)), pods: part(20),
			script: `i=0; while :; do i=$((i+1)); printf 'line %07d %s text .\n' $i $HOSTNAME; sleep 0.1; done`,
			act:    func(ctx context.Context, r *round) error { return r.delete(ctx, 5*time.Second, 0) },
		},
		{
			name: "burst", title: fmt.Sprintf("%d lines as fast as they can be written, then exit 0", burst), pods: 1, lines: burst, large: true,
			script: fmt.Sprintf(`/bin/busybox awk -v pod=$HOSTNAME 'BEGIN{for(i=1;i<=%d;i++) printf "line %%07d %%s 0123456789abcdef0123456789 .\n", i, pod}'`, burst),
			act:    func(ctx context.Context, r *round) error { return r.awaitEnded(ctx, 10*time.Minute) },
		},
		{
			name: "steady", title: fmt.Sprintf("%.0f MB over %d s", float64(seconds*perSecond)*150/1e6, seconds), pods: 1, lines: seconds * perSecond, large: true,
			// 150 bytes a line, without the stamp; the kubelet rotates at 10 MiB
			script: fmt.Sprintf(`for s in $(/bin/busybox seq 0 %d); do
/bin/busybox awk -v pod=$HOSTNAME -v s=$s 'BEGIN{for(i=1;i<=%[2]d;i++) printf "line %%07d %%s %%0120d .\n", s*%[2]d+i, pod, i*7919}'; sleep 0.9; done`, seconds-1, perSecond),
			act: func(ctx context.Context, r *round) error { return r.awaitEnded(ctx, 10*time.Minute) },
		},
		{
			name: "crash", title: fmt.Sprintf("%d pods that crash at once, %d runs of each", part(20), crashRuns), pods: part(20), restarts: crashRuns - 1,
			// Beside each other the clients see the same restarts; while the pods wait, none costs anything.
			together: true,
			script:   `n=$(cat /state/n 2>/dev/null); n=$((n+1)); echo $n >/state/n; printf 'line %07d %s boot .\n' $n $HOSTNAME; exit 1`,
			act:      func(ctx context.Context, r *round) error { return r.awaitRestarts(ctx, 5*time.Minute) },
		},
	}
}

// pod is one pod of the workload.
func (w workload) pod(i int) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%02d", w.name, i)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "app", Image: node.Busybox, Command: []string{"/bin/busybox", "sh", "-c", w.script},
				VolumeMounts: []corev1.VolumeMount{{Name: "state", MountPath: "/state"}},
			}},
			Volumes: []corev1.Volume{{Name: "state", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
		},
	}
	if w.restarts > 0 {
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	return pod
}
