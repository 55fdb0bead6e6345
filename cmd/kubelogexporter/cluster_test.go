package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// cluster is a script's cluster.
type cluster struct {
	*kubetest.Server
	pods map[string]*pod

	terminated *exec.Cmd // the last one

	kubelet *kubetest.Kubelet // nil until there is a file on its node
	varLog  string            // of that node
}

type pod struct {
	*corev1.Pod
	log *kubetest.Container
}

// add NAMESPACE NAME [KEY=VALUE] starts a pod with one container, app.
func (c *cluster) add(ts *testscript.TestScript, args []string) {
	n := len(c.pods) + 1
	id := func(run int) string { return fmt.Sprintf("containerd://%012x%052x", n*1000+run, 0) }
	p := &pod{log: kubetest.NewContainer(id), Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: args[0], Name: args[1], UID: types.UID(fmt.Sprintf("0b54cd8c-0000-4000-8000-%012x", n))},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "app"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}}
	for _, label := range args[2:] {
		k, v, ok := strings.Cut(label, "=")
		if !ok {
			ts.Fatalf("label %q", label)
		}
		p.Labels = map[string]string{k: v}
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "app", ContainerID: id(0), Image: "registry.example/app:1",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Truncate(time.Second))}},
	}}
	c.pods[args[0]+"/"+args[1]] = p
	c.Log(args[0], args[1], "app", p.log.Serve)
	c.SetPod(p.Pod)
}

// print NAMESPACE NAME LINE... adds lines to a pod's log.
func (c *cluster) print(args []string) {
	c.pods[args[0]+"/"+args[1]].log.Print(time.Now(), strings.Join(args[2:], "\n")+"\n")
}

// delete NAMESPACE NAME marks a pod as deleted; its container goes on until exit.
func (c *cluster) delete(args []string) {
	p := c.pods[args[0]+"/"+args[1]]
	now := metav1.Now()
	p.DeletionTimestamp = &now
	c.SetPod(p.Pod)
}

// exit NAMESPACE NAME CODE [quietly] ends a pod's container; quietly, so that no watch shows it.
func (c *cluster) exit(ts *testscript.TestScript, args []string) {
	p := c.pods[args[0]+"/"+args[1]]
	code, err := strconv.ParseInt(args[2], 10, 32)
	ts.Check(err)
	reason, phase := "Completed", corev1.PodSucceeded
	if code != 0 {
		reason, phase = "Error", corev1.PodFailed
	}
	s := &p.Status.ContainerStatuses[0]
	p.log.Exit()
	s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ContainerID: s.ContainerID, ExitCode: int32(code), Reason: reason,
		StartedAt: s.State.Running.StartedAt, FinishedAt: metav1.NewTime(time.Now().Truncate(time.Second)),
	}}
	p.Status.Phase = phase
	if len(args) > 3 {
		c.SetPodQuietly(p.Pod)
		return
	}
	c.SetPod(p.Pod)
}

// nodefile NAMESPACE NAME FILE LINE... puts a log file of a pod on its node, where $KUBELET_CA and $KUBELET_PORT
// lead to it. The container is made to have started an hour ago, so that the API proves no head of its log.
func (c *cluster) nodeFile(t *testing.T, ts *testscript.TestScript, args []string) {
	if c.kubelet == nil {
		c.varLog = ts.MkAbs("node")
		c.kubelet = kubetest.NewKubelet(t, c.varLog)
		c.kubelet.Anyone()
		ts.Setenv("KUBELET_CA", c.kubelet.CAFile())
		ts.Setenv("KUBELET_PORT", strconv.Itoa(c.kubelet.Port()))
	}
	p := c.pods[args[0]+"/"+args[1]]
	dir := filepath.Join(c.varLog, "pods", fmt.Sprintf("%s_%s_%s", p.Namespace, p.Name, p.UID), "app")
	ts.Check(os.MkdirAll(dir, 0o700))
	var text strings.Builder
	for _, line := range args[3:] {
		fmt.Fprintf(&text, "%s stdout F %s\n", kubetest.Stamp(time.Now()), line)
	}
	ts.Check(os.WriteFile(filepath.Join(dir, args[2]), []byte(text.String()), 0o600))
	p.Status.HostIP = c.kubelet.Host()
	if running := p.Status.ContainerStatuses[0].State.Running; running != nil {
		running.StartedAt = metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	}
	c.SetPod(p.Pod)
}

// remove NAMESPACE NAME deletes a pod, so that no watch shows it.
func (c *cluster) remove(args []string) {
	c.pods[args[0]+"/"+args[1]].log.Exit()
	c.DeletePodQuietly(args[0], args[1])
}

// sampleRun is one run of the sample archive.
type sampleRun struct {
	cluster, namespace, pod, uid, container string
	restart                                 int32
	reason                                  string
	code                                    int32
	finished                                string
	log                                     string
	verdict                                 bundle.Verdict
	running                                 bool
	podObject                               string
}

func sampleRuns() []sampleRun {
	proven := bundle.Part{State: bundle.Proven}
	complete := bundle.Verdict{Complete: true, Head: proven, Middle: proven, Tail: proven}
	late := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseNotWitnessed, Evidence: []string{"the log was first seen too late to exclude a rotation before it"}}
	rotated := bundle.Part{State: bundle.Lost, Cause: bundle.CauseRotated, Evidence: []string{"the first line seen while the container ran is no longer served"}}
	gone := bundle.Part{State: bundle.Lost, Cause: bundle.CauseDeletedBeforeRead}
	still := bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
	const cartObject = `{"metadata":{"name":"cart-7c5d"},"spec":{"initContainers":[{"name":"migrate"}],"containers":[{"name":"app"},{"name":"proxy"}]}}`
	const payObject = `{"metadata":{"annotations":{"kubectl.kubernetes.io/default-container":"proxy"}},"spec":{"containers":[{"name":"app"},{"name":"proxy"}]}}`
	const cart, pay = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
	return []sampleRun{
		{"prod", "shop", "cart-7c5d", cart, "migrate", 0, "Completed", 0, "2026-01-02T03:00:00Z", "2026-01-02T02:59:59.500000000Z migrated\n", complete, false, cartObject},
		{"prod", "shop", "cart-7c5d", cart, "app", 0, "Error", 1, "2026-01-02T03:10:00Z", "2026-01-02T03:09:58.100000000Z first\n2026-01-02T03:09:59.200000000Z boom\n", complete, false, cartObject},
		{"prod", "shop", "cart-7c5d", cart, "app", 1, "OOMKilled", 137, "2026-01-02T03:20:00Z", "2026-01-02T03:19:57.100000000Z a\n2026-01-02T03:19:58.200000000Z b\n2026-01-02T03:19:59.300000000Z c\n", bundle.Verdict{Head: late, Middle: proven, Tail: proven}, false, cartObject},
		{"prod", "shop", "cart-7c5d", cart, "proxy", 0, "Completed", 0, "2026-01-02T03:30:00Z", "", complete, false, cartObject},
		{"prod", "pay", "pay-0", pay, "app", 4, "Error", 2, "2026-01-03T00:00:00Z", "", bundle.Verdict{Head: gone, Middle: gone, Tail: gone}, false, payObject},
		{"prod", "pay", "pay-0", pay, "proxy", 0, "Error", 143, "2026-01-03T00:00:01Z", "2026-01-03T00:00:00.500000000Z bye", bundle.Verdict{Head: rotated, Middle: proven, Tail: proven}, false, payObject},
		{"prod", "pay", "web-1", "33333333-0000-4000-8000-000000000003", "web", 0, "", 0, "", "2026-01-04T00:00:00.000000000Z up\n", bundle.Verdict{Head: proven, Middle: proven, Tail: still}, true, ""},
	}
}

// writeSample writes the sample archive into a directory.
func writeSample(dir string) error {
	b, err := sink.OpenDir(dir)
	if err != nil {
		return err
	}
	for i, s := range sampleRuns() {
		if err := s.write(b, i); err != nil {
			return err
		}
	}
	return nil
}

func (s sampleRun) write(b sink.Bucket, i int) error {
	started := time.Date(2026, 1, 2, 2, 59, 0, 0, time.UTC)
	r := &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: s.cluster, Namespace: s.namespace,
		Pod: bundle.Pod{Name: s.pod, UID: s.uid, NodeName: "node-1", Owners: []bundle.Owner{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "x"}}},
		Container: bundle.Container{
			Name: s.container, Type: bundle.TypeContainer, Image: "registry.example/app:1", RestartCount: s.restart,
			ContainerID: fmt.Sprintf("containerd://%012x%052x", 0xa0+i, 0),
		},
		State:     bundle.State{StartedAt: &started, Running: s.running},
		Verdict:   s.verdict,
		Capture:   bundle.Capture{Policy: "final", ExporterVersion: "test"},
		PodObject: json.RawMessage(s.podObject),
	}
	if !s.running {
		t, err := time.Parse(time.RFC3339, s.finished)
		if err != nil {
			return err
		}
		r.State.FinishedAt, r.State.ExitCode, r.State.Reason = &t, &s.code, s.reason
	}
	var objects []*bytes.Buffer
	w := bundle.NewLogWriter(bundle.LogOptions{Next: func() (io.Writer, error) {
		objects = append(objects, new(bytes.Buffer))
		return objects[len(objects)-1], nil
	}})
	if _, err := io.WriteString(w, s.log); err != nil {
		return err
	}
	sum, err := w.Close()
	if err != nil {
		return err
	}
	if err := r.SetLog(sum, bundle.Zstd); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return err
	}
	for i, o := range r.Objects {
		if err := b.Put(context.Background(), o.Key, bytes.NewReader(objects[i].Bytes())); err != nil {
			return err
		}
	}
	data, err := bundle.Encode(r)
	if err != nil {
		return err
	}
	k, err := bundle.KeyOf(r)
	if err != nil {
		return err
	}
	return b.Put(context.Background(), k.Record(), bytes.NewReader(data))
}
