package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// goodbye writes until it is told to end.
const goodbye = `trap 'echo goodbye; exit 7' TERM; echo hello; while :; do sleep 0.1; done`

func container(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: node.Busybox, Command: []string{"/bin/busybox", "sh", "-c", script}}
}

func (c *cluster) remove(pod string) {
	c.t.Helper()
	if err := c.kube.CoreV1().Pods(c.namespace).Delete(c.t.Context(), pod, metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// What a pod can be and how it can end, all at once: each container run has one record, with its own log.
func TestSituations(t *testing.T) {
	c := newCluster(t)
	b := c.export(objectStore(t))

	layers := shell("layers", "echo main; sleep 1")
	always := corev1.ContainerRestartPolicyAlways
	sidecar := container("sidecar", goodbye)
	sidecar.RestartPolicy = &always
	layers.Spec.InitContainers = []corev1.Container{container("init", "echo init"), sidecar}
	held := shell("held", goodbye)
	held.Finalizers = []string{"kubelogexporter.test/hold"}
	never := shell("never", "true")
	never.Spec.Containers[0].Image, never.Spec.Containers[0].ImagePullPolicy = "kubelogexporter.test/none:1", corev1.PullNever
	c.create(layers, held, never, shell("evicted", goodbye), shell("same", goodbye), shell("debugged", goodbye))
	deadline, zero := int64(4), int32(0)
	if _, err := c.kube.BatchV1().Jobs(c.namespace).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "late"},
		Spec: batchv1.JobSpec{ActiveDeadlineSeconds: &deadline, BackoffLimit: &zero, Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{container("app", goodbye)}},
		}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until(2*time.Minute, "the pods run", func() bool { return c.inPhase(corev1.PodRunning) >= 4 })
	time.Sleep(time.Second) // each has said hello

	c.debug("debugged")
	if err := c.kube.PolicyV1().Evictions(c.namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: c.namespace}}); err != nil {
		t.Fatal(err)
	}
	c.remove("held")
	c.remove("same")
	c.until(2*time.Minute, "the pod to go", func() bool {
		_, err := c.kube.CoreV1().Pods(c.namespace).Get(t.Context(), "same", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.create(shell("same", "echo another; exit 3"))

	want := map[string]string{ // pod/container/type → what its log says
		"layers/init/initContainer": "init", "layers/sidecar/sidecar": "hello goodbye", "layers/app/container": "main",
		"held/app/container": "hello goodbye", "evicted/app/container": "hello goodbye", "late/app/container": "hello goodbye",
		"same/app/container": "hello goodbye", "same/app/container again": "another",
		"debugged/debug/ephemeralContainer": "debugging",
	}
	recs, complete := c.await(b, len(want), 90*time.Second), 0
	for _, rec := range recs {
		name, _, _ := strings.Cut(rec.Pod.Name, "-")
		key := fmt.Sprintf("%s/%s/%s", name, rec.Container.Name, rec.Container.Type)
		if rec.State.ExitCode != nil && *rec.State.ExitCode == 3 {
			key += " again"
		}
		var said []string
		for line := range strings.Lines(string(c.text(b, rec))) {
			_, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			said = append(said, text)
		}
		text, known := want[key]
		delete(want, key)
		if rec.Verdict.Complete {
			complete++
		}
		if !known || text != strings.Join(said, " ") || rec.State.ExitCode == nil || rec.Verdict.Tail.State == bundle.Lost {
			t.Errorf("%s: log %q, want %q; exit code %v, verdict %+v", key, said, text, rec.State.ExitCode, rec.Verdict)
		}
		if t.Failed() {
			record, err := bundle.Encode(rec)
			t.Logf("%s\n%s%v", c.text(b, rec), record, err)
		}
	}
	t.Logf("%d of %d records complete", complete, len(recs))
	for key := range want {
		t.Errorf("%s has no record", key)
	}
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := c.kube.CoreV1().Pods(c.namespace).Patch(context.Background(), "held", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

// debug puts an ephemeral container into a running pod.
func (c *cluster) debug(pod string) {
	c.t.Helper()
	p, err := c.kube.CoreV1().Pods(c.namespace).Get(c.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: node.Busybox, Command: []string{"/bin/busybox", "sh", "-c", "echo debugging"},
	}}}
	if _, err := c.kube.CoreV1().Pods(c.namespace).UpdateEphemeralContainers(c.t.Context(), pod, p, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// When one container's exit restarts all containers of its pod, the kubelet removes the dead ones at once,
// and the API serves them no more. An open stream has their logs, and so have the node's files.
func TestRestartAllContainers(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	buckets := c.exportBy("live", "recover")
	pod, dir := shell("crew", ""), t.TempDir()
	never := corev1.ContainerRestartPolicyNever
	trigger := container("trigger", `echo "trigger $(cat /proc/sys/kernel/random/uuid)"; until rm /told/exit 2>/dev/null; do sleep 0.1; done; exit 88`)
	trigger.VolumeMounts = []corev1.VolumeMount{{Name: "told", MountPath: "/told"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "told", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	trigger.RestartPolicy = &never
	trigger.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
	}}
	pod.Spec.Containers = []corev1.Container{trigger, container("peer", `echo "peer $(cat /proc/sys/kernel/random/uuid)"; sleep 1000`)}
	c.create(pod)
	for n := range int32(2) {
		c.until(2*time.Minute, "both containers to run", func() bool {
			running := 0
			for _, status := range c.list()[0].Status.ContainerStatuses {
				if status.State.Running != nil && status.RestartCount == n {
					running++
				}
			}
			return running == 2
		})
		time.Sleep(3 * time.Second) // streams are opened
		if err := os.WriteFile(filepath.Join(dir, "exit"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range buckets {
		logs := make(map[string]bool)
		for _, rec := range c.ended(b, 4) {
			text := strings.TrimSpace(string(c.text(b, rec)))
			_, said, _ := strings.Cut(text, " ")
			t.Logf("%s: %s %d: %q, exit %v, head %s middle %s tail %s", name, rec.Container.Name, rec.Container.RestartCount, said, rec.State.ExitCode, rec.Verdict.Head.State, rec.Verdict.Middle.State, rec.Verdict.Tail.State)
			if !strings.HasPrefix(said, rec.Container.Name+" ") || strings.Contains(said, "\n") || logs[said] {
				t.Errorf("%s: %s %d has the log %q, reads %+v", name, rec.Container.Name, rec.Container.RestartCount, text, rec.Capture.Reads)
			}
			logs[said] = true
		}
	}
}
