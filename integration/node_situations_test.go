package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// said returns what a container wrote, without stamps, in one line.
func (c *cluster) said(b sink.Bucket, rec *bundle.Record) string {
	c.t.Helper()
	var said []string
	for line := range strings.Lines(string(c.text(b, rec))) {
		_, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		said = append(said, text)
	}
	return strings.Join(said, " ")
}

// What a node does to pods by itself: the kubelet evicts one that fills its volume, the scheduler preempts
// one for another that matters more, a static pod ends that the API server only mirrors. Of an eviction the kubelet
// tells when it is over, and removes the log 0.02 to 0.7 s later, so only an open stream has it for sure.
func TestNodeSituations(t *testing.T) {
	c := newCluster(t)
	buckets := c.exportBy("final", "live")

	full := shell("full", `echo hello; /bin/busybox dd if=/dev/zero of=/volume/big bs=1M count=8 2>/dev/null; `+goodbye)
	limit := resource.MustParse("1Mi")
	full.Spec.Volumes = []corev1.Volume{{Name: "volume", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	full.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "volume", MountPath: "/volume"}}
	low := shell("low", goodbye)
	low.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: c.most()}
	c.create(full, low)
	c.static("static", "echo hello; exit 4")
	c.until(2*time.Minute, "the pods to run", func() bool {
		for _, pod := range c.list() {
			if pod.Name == "low" && pod.Status.Phase == corev1.PodRunning {
				return true
			}
		}
		return false
	})
	time.Sleep(time.Second) // it has said hello
	high := c.urgent("high", "echo urgent", c.most())
	c.until(time.Minute, "the new priority class to be known to admission", func() bool {
		_, err := c.kube.CoreV1().Pods(c.namespace).Create(t.Context(), high, metav1.CreateOptions{})
		return err == nil
	})

	var reasons []string // of the eviction
	want := map[string]string{"full": "hello hello", "low": "hello goodbye", "static": "hello", "high": "urgent"}
	for name, b := range buckets {
		for _, rec := range c.ended(b, len(want)) {
			pod, _, _ := strings.Cut(rec.Pod.Name, "-"+nodeName)
			said := strings.TrimSuffix(c.said(b, rec), " goodbye")
			late := pod == "full" && name == "final" && said == "" && rec.Verdict.Tail.Cause == bundle.CauseDeletedBeforeRead
			if late && rec.Pod.Reason == "Evicted" {
				t.Logf("%s: %s: the log was removed before it could be read", name, pod)
				continue
			}
			if said != strings.TrimSuffix(want[pod], " goodbye") || rec.Verdict.Head.State != bundle.Proven {
				t.Errorf("%s: %s: log %q, verdict %+v, reads %+v", name, pod, said, rec.Verdict, rec.Capture.Reads)
			}
			if pod == "full" {
				reasons = append(reasons, rec.Pod.Reason)
			}
			t.Logf("%s: %s: complete %v, exit %v, reason %q/%q, tail %v", name, pod, rec.Verdict.Complete, code(rec), rec.Pod.Reason, rec.State.Reason, rec.Verdict.Tail.Evidence)
		}
	}
	// Now and then the kubelet tells of the exit first, and of the eviction when the record is written already.
	if len(reasons) > 0 && !slices.Contains(reasons, "Evicted") {
		t.Errorf("the pod that fills its volume ended with %q", reasons)
	}
}

func code(rec *bundle.Record) string {
	if rec.State.ExitCode == nil {
		return "unknown"
	}
	return fmt.Sprint(*rec.State.ExitCode)
}

// nodeName is that of the only node.
const nodeName = "kubelogexporter-node"

// most is more than half of the node's processors.
func (c *cluster) most() resource.Quantity {
	c.t.Helper()
	n, err := c.kube.CoreV1().Nodes().Get(c.t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return *resource.NewMilliQuantity(n.Status.Allocatable.Cpu().MilliValue()*6/10, resource.DecimalSI)
}

// urgent is a pod that others have to make room for.
func (c *cluster) urgent(name, script string, cpu resource.Quantity) *corev1.Pod {
	c.t.Helper()
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}, Value: 1000}
	if _, err := c.kube.SchedulingV1().PriorityClasses().Create(c.t.Context(), class, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = c.kube.SchedulingV1().PriorityClasses().Delete(c.t.Context(), class.Name, metav1.DeleteOptions{})
	})
	pod := shell(name, script)
	pod.Spec.PriorityClassName = class.Name
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: cpu}
	return pod
}

// static gives the kubelet a static pod, until the test ends or removes it.
func (c *cluster) static(name, script string) (remove func()) {
	c.t.Helper()
	pod := shell(name, script)
	pod.Namespace = c.namespace
	pod.APIVersion, pod.Kind = "v1", "Pod"
	data, err := json.Marshal(pod)
	if err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.node.StaticPods, c.namespace+"-"+name+".json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		c.t.Fatal(err)
	}
	remove = func() { _ = os.Remove(file) }
	c.t.Cleanup(remove)
	return remove
}

// A static pod's mirror is deleted by force, which ends nothing: the kubelet makes another one within 90 s, and the
// run has one record. Another static pod's manifest is removed, which ends it; its log goes with its mirror, and the
// kubelet may not tell of its end before, so only an open stream has it for sure.
func TestStaticPods(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	buckets := c.exportBy("final", "live")
	c.static("kept", `echo hello; /bin/busybox sleep 110; echo goodbye; exit 3`)
	remove := c.static("removed", goodbye)
	c.until(2*time.Minute, "the static pods to run", func() bool { return c.inPhase(corev1.PodRunning) == 2 })
	time.Sleep(time.Second) // they have said hello
	now := int64(0)
	if err := c.kube.CoreV1().Pods(c.namespace).Delete(t.Context(), "kept-"+nodeName, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	remove()
	for name, b := range buckets {
		var recs []*bundle.Record
		c.until(4*time.Minute, "the records of two runs", func() bool {
			recs = c.records(b)
			return len(recs) >= 2
		})
		for _, rec := range recs {
			said := c.said(b, rec)
			t.Logf("%s: %s: %q, complete %v, exit %s, tail %+v", name, rec.Pod.Name, said, rec.Verdict.Complete, code(rec), rec.Verdict.Tail)
			kept := strings.HasPrefix(rec.Pod.Name, "kept-")
			if name == "final" && !kept && said == "" && rec.Verdict.Tail.Cause == bundle.CauseDeletedBeforeRead {
				continue
			}
			if said != "hello goodbye" || kept && (!rec.Verdict.Complete || code(rec) != "3") {
				t.Errorf("%s: %s: log %q, exit %s, verdict %+v", name, rec.Pod.Name, said, code(rec), rec.Verdict)
			}
		}
		if len(recs) != 2 {
			t.Errorf("%s: %d records of two runs", name, len(recs))
		}
	}
}

// A node whose kubelet, containerd or API server is away for some seconds: containers that end meanwhile, one
// that goes on, and one that is deleted have their whole logs archived all the same. Two logs nobody can have, and
// they must not be called complete: of a container that ends while containerd is away, which then does not know
// its last lines either; and of a pod that is deleted right before the API server goes.
func TestComponentRestarts(t *testing.T) {
	for _, component := range []string{"kubelet", "containerd", "kube-apiserver"} {
		t.Run(component, func(t *testing.T) { testRestart(t, component) })
	}
}

func testRestart(t *testing.T, component string) {
	c := newCluster(t)
	buckets := c.exportBy("final", "live")
	const count = `i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; /bin/busybox sleep 0.1; done; exit 5`
	lines := map[string]int{"meanwhile": 40, "later": 110}
	for name, n := range lines {
		c.create(shell(name, fmt.Sprintf(count, n)))
	}
	c.create(shell("deleted", goodbye))
	c.until(2*time.Minute, "the pods to run", func() bool { return c.inPhase(corev1.PodRunning) == 3 })
	time.Sleep(time.Second)
	if component == "kube-apiserver" { // nobody can delete a pod without one
		c.remove("deleted")
	}
	deleted := make(chan struct{})
	go func() {
		defer close(deleted)
		time.Sleep(2 * time.Second)
		if component != "kube-apiserver" {
			c.remove("deleted")
		}
	}()
	if err := c.node.Restart(t.Context(), component, 6*time.Second); err != nil {
		t.Fatal(err)
	}
	<-deleted
	for name, b := range buckets {
		for _, rec := range c.ended(b, 3) {
			said := c.said(b, rec)
			t.Logf("%s: %s: %d lines, complete %v, exit %s, reads %d", name, rec.Pod.Name, rec.Lines, rec.Verdict.Complete, code(rec), len(rec.Capture.Reads))
			want := "hello goodbye"
			if n, counts := lines[rec.Pod.Name]; counts {
				numbers := make([]string, n)
				for i := range numbers {
					numbers[i] = strconv.Itoa(i + 1)
				}
				want = strings.Join(numbers, " ")
			}
			cannot := component == "containerd" && rec.Pod.Name == "meanwhile" || component == "kube-apiserver" && rec.Pod.Name == "deleted"
			if cannot && strings.HasPrefix(want, said) && !rec.Verdict.Complete {
				continue
			}
			if said != want {
				t.Errorf("%s: %s: %d lines, %q, verdict %+v, reads %+v", name, rec.Pod.Name, rec.Lines, said, rec.Verdict, rec.Capture.Reads)
			}
		}
	}
}
