package exporter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// These tests measure what an exporter needs of memory at its peak. The fake cluster is in this process and
// the exporter in a child, so that only the exporter is measured. The environment variable switches them on;
// "full" measures the sizes that are promised, which takes minutes, and any other value smaller ones.
const (
	memoryVar = "KUBELOGEXPORTER_MEMORY"
	childVar  = "KUBELOGEXPORTER_MEMORY_CHILD" // what the child does: run, live, segments (live, and stored all the time) or export
	hostVar   = "KUBELOGEXPORTER_MEMORY_HOST"
	caVar     = "KUBELOGEXPORTER_MEMORY_CA"
	dirVar    = "KUBELOGEXPORTER_MEMORY_DIR"
	storeVar  = "KUBELOGEXPORTER_MEMORY_STORE" // an S3 endpoint; empty means a directory
)

func needMemoryTests(t *testing.T) {
	t.Helper()
	if os.Getenv(memoryVar) == "" {
		t.Skip("measures memory for minutes; " + memoryVar + "=1 switches it on")
	}
	debug.SetMemoryLimit(math.MaxInt64) // a GOMEMLIMIT is the child's
}

// TestMemoryChild is the exporter of the tests below, in a process of its own. It says when it has seen
// every pod, or has exported all, and goes on until its standard input ends.
func TestMemoryChild(t *testing.T) {
	mode := os.Getenv(childVar)
	if mode == "" {
		return // nobody's child
	}
	var bucket sink.Bucket
	bucket, err := sink.OpenDir(os.Getenv(dirVar) + "/bucket")
	if endpoint := os.Getenv(storeVar); endpoint != "" {
		bucket, err = s3test.Open(t, endpoint, sink.ObjectOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Kube:   &rest.Config{Host: os.Getenv(hostVar), TLSClientConfig: rest.TLSClientConfig{CAData: []byte(os.Getenv(caVar))}},
		Bucket: bucket, Spool: os.Getenv(dirVar) + "/spool", Cluster: "test", Version: "test",
		Grace: time.Second, Log: slog.New(slog.DiscardHandler),
	}
	if mode == "live" || mode == "segments" {
		o.Capture = CaptureLive
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if mode == "segments" {
		e.segmentEvery = 50 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	if mode == "export" {
		if err := e.Export(ctx); err != nil {
			t.Fatal(err)
		}
		fmt.Println("ready")
		<-ended
		return
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	for e.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
	fmt.Println("ready")
	<-ended
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// child is a running exporter.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.Closer
	ready  chan struct{}
	bucket *sink.Dir
	killed bool
}

func startChild(t *testing.T, mode string, kube *kubetest.Server) *child {
	t.Helper()
	return startChildIn(t, mode, kube, t.TempDir(), "")
}

// startChildIn starts an exporter whose spool and bucket are in a directory, or whose bucket is in a store.
func startChildIn(t *testing.T, mode string, kube *kubetest.Server, dir, store string) *child {
	t.Helper()
	bucket, err := sink.OpenDir(dir + "/bucket")
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, ready: make(chan struct{}), bucket: bucket}
	c.cmd = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemoryChild$", "-test.timeout=0") //nolint:gosec // this very program
	c.cmd.Env = append(os.Environ(), childVar+"="+mode, hostVar+"="+kube.Config().Host, caVar+"="+string(kube.Config().CAData), dirVar+"="+dir, storeVar+"="+store)
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.stdin = in
	go func() {
		var said []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if said = append(said, lines.Text()); lines.Text() == "ready" {
				close(c.ready)
				return
			}
		}
		t.Logf("the child said %q", said)
	}()
	t.Cleanup(func() {
		_ = c.stdin.Close()
		if err := c.cmd.Wait(); err != nil && !c.killed && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return c
}

func (c *child) awaitReady(d time.Duration) {
	c.t.Helper()
	select {
	case <-c.ready:
	case <-time.After(d):
		c.t.Fatalf("not ready after %v; peak %d MiB", d, c.peak()>>20)
	}
}

// peak returns the most that the child has ever held in memory.
func (c *child) peak() int64 {
	c.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return kib << 10
		}
	}
	c.t.Fatal("no VmHWM: this needs Linux")
	return 0
}

func (c *child) below(limit int64) {
	c.t.Helper()
	peak := c.peak()
	c.t.Logf("peak %d MiB, limit %d MiB", peak>>20, limit>>20)
	if peak > limit {
		c.t.Errorf("peak %d MiB, limit %d MiB", peak>>20, limit>>20)
	}
}

// records counts the records in the child's bucket.
func (c *child) records() int {
	n := 0
	for o, err := range c.bucket.List(context.Background(), "", sink.ListOptions{}) {
		if err == nil && strings.HasSuffix(o.Key, ".json") {
			n++
		}
	}
	return n
}

func (c *child) until(what string, d time.Duration, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(d); !ok(); {
		if time.Now().After(end) {
			c.t.Fatalf("%s did not come true in %v; %d records, peak %d MiB", what, d, c.records(), c.peak()>>20)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// A thousand containers on forty nodes, all followed at once, all written to, and then all deleted.
func TestMemoryOfThousandStreams(t *testing.T) {
	needMemoryTests(t)
	for mode, capture := range map[string]string{"live": "live", "dying": "run"} {
		t.Run(mode, func(t *testing.T) {
			const pods, limit = 1000, 256 << 20
			kube := kubetest.NewHTTP2(t)
			all, logs := make([]*corev1.Pod, pods), make([]*kubetest.Container, pods)
			for i := range pods {
				all[i] = realisticPod(i, fmt.Sprintf("node-%d", i%40))
				logs[i] = kubetest.NewContainer(func(int) string { return all[i].Status.ContainerStatuses[0].ContainerID })
				kube.Log(all[i].Namespace, all[i].Name, "app", logs[i].Serve)
				kube.SetPod(all[i])
			}
			c := startChild(t, capture, kube)
			c.awaitReady(time.Minute)
			now := metav1.Now()
			if mode == "dying" {
				for _, pod := range all {
					pod.DeletionTimestamp = &now
					kube.SetPod(pod)
				}
			}
			following := func() bool {
				for _, l := range logs {
					if l.Following() == 0 {
						return false
					}
				}
				return true
			}
			c.until("a stream of every container", time.Minute, following)
			for round := range 10 {
				text := strings.Repeat(strings.Repeat(strconv.Itoa(round), 120)+"\n", 100)
				for _, l := range logs {
					l.Print(now.Add(time.Duration(round)*time.Second), text)
				}
				c.until("every line read", time.Minute, following)
			}
			for i, pod := range all {
				logs[i].Exit()
				exit(pod, 0)
				kube.SetPod(pod)
				if mode == "dying" {
					kube.DeletePod(pod.Namespace, pod.Name)
				}
			}
			c.until("a record of every run", 3*time.Minute, func() bool { return c.records() == pods })
			c.below(limit)
		})
	}
}

// A log of 5 GB: what is held does not grow with it.
func TestMemoryOfLongLog(t *testing.T) {
	needMemoryTests(t)
	const limit = 128 << 20
	size := int64(512 << 20)
	if os.Getenv(memoryVar) == "full" {
		size = 5 << 30
	}
	kube := kubetest.New(t)
	pod := realisticPod(0, "node")
	exit(pod, 0)
	log := generated{start: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), size: size}
	kube.Log(pod.Namespace, pod.Name, "app", log.serve)
	kube.SetPod(pod)
	c := startChild(t, "export", kube)
	start := time.Now()
	c.awaitReady(15 * time.Minute)
	t.Logf("%d MiB in %v", size>>20, time.Since(start).Round(time.Second))
	if n := c.records(); n != 1 {
		t.Errorf("%d records", n)
	}
	c.below(limit)
}

// generated is a long log that is made while it is read.
type generated struct {
	start time.Time
	size  int64
}

// step is the time between two lines, lineSize the length of each.
const (
	step     = 40 * time.Microsecond
	lineSize = 200
)

func (g generated) serve(w http.ResponseWriter, r *http.Request) {
	first := int64(0)
	if at, err := time.Parse(time.RFC3339, r.URL.Query().Get("sinceTime")); err == nil {
		first = max(0, int64(at.Sub(g.start)/step))
	}
	buf := make([]byte, 0, 64<<10)
	for i := first; i < g.size/lineSize; i++ {
		from := len(buf)
		buf = g.start.Add(time.Duration(i)*step).AppendFormat(buf, "2006-01-02T15:04:05.000000000Z07:00 ")
		for mixed := uint64(i); len(buf)-from < lineSize-17; { //nolint:gosec // not negative
			mixed = mixed*0x9E3779B97F4A7C15 + 1
			buf = strconv.AppendUint(append(buf, " id="...), mixed>>32, 16)
		}
		for len(buf)-from < lineSize-1 {
			buf = append(buf, '.')
		}
		if buf = append(buf, '\n'); len(buf)+lineSize > cap(buf) || i == g.size/lineSize-1 {
			if _, err := w.Write(buf); err != nil {
				return
			}
			buf = buf[:0]
		}
	}
}

// Every pod of a very large cluster.
func TestMemoryOfManyPods(t *testing.T) {
	needMemoryTests(t)
	limits := map[int]int64{30_000: 300 << 20}
	if os.Getenv(memoryVar) == "full" {
		limits = map[int]int64{150_000: 700 << 20}
	}
	for pods, limit := range limits {
		t.Run(strconv.Itoa(pods), func(t *testing.T) {
			kube := kubetest.New(t)
			line := func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "2026-11-23T10:00:00.000000001Z the first line\n")
			}
			var makers sync.WaitGroup
			for part := range 2 {
				makers.Go(func() {
					for i := part; i < pods; i += 2 {
						pod := realisticPod(i, fmt.Sprintf("node-%d", i%1500))
						kube.Log(pod.Namespace, pod.Name, "app", line)
						kube.SetPod(pod)
					}
				})
			}
			makers.Wait()
			c := startChild(t, "run", kube)
			start := time.Now()
			c.awaitReady(15 * time.Minute)
			t.Logf("every pod seen after %v, peak %d MiB; lists %d, watches that list %d", time.Since(start).Round(time.Second), c.peak()>>20,
				len(kube.Requests("limit=")), len(kube.Requests("sendInitialEvents=true")))
			c.until("the probes", 10*time.Minute, func() bool { return len(kube.Requests("limitBytes=")) >= pods })
			t.Logf("every log probed after %v", time.Since(start).Round(time.Second))
			c.below(limit)
		})
	}
}

// realisticPod makes a running pod of some 7 KB of JSON, as a cluster with a few controllers has them.
func realisticPod(i int, node string) *corev1.Pod {
	var env []corev1.EnvVar
	for n := range 24 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprintf("SETTING_NUMBER_%d", n), Value: fmt.Sprintf("the value of %d in pod %d", n, i)})
	}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz"}}, PeriodSeconds: 10, TimeoutSeconds: 1, FailureThreshold: 3}
	amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("512Mi")}
	id := fmt.Sprintf("containerd://%016x%048x", i+1, i)
	start := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	name := fmt.Sprintf("checkout-service-%04d-%010x", i/40, i)
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("team-%d", i%200), Name: name, UID: types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i)),
			Labels: map[string]string{"app.kubernetes.io/name": "checkout-service", "app.kubernetes.io/instance": "production", "pod-template-hash": fmt.Sprintf("%010x", i/40)},
			Annotations: map[string]string{
				"prometheus.io/scrape": "true", "kubectl.kubernetes.io/restartedAt": start.String(), "checksum/config": strings.Repeat("ab12", 16),
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name[:22], UID: types.UID(fmt.Sprintf("%08x-1111-4000-8000-000000000000", i/40)), Controller: &yes}},
			ManagedFields: []metav1.ManagedFieldsEntry{
				{Manager: "kube-controller-manager", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(managed(1200))},
				{Manager: "kubelet", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", Subresource: "status", FieldsV1: metav1.NewFieldsV1(managed(900))},
			},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "checkout", RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example.com/shop/checkout:v1.2.3", Env: env, ReadinessProbe: probe, LivenessProbe: probe,
				Resources:    corev1.ResourceRequirements{Limits: amount, Requests: amount},
				VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/checkout"}, {Name: "kube-api-access", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
			Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}}}}},
			Tolerations: []corev1.Toleration{
				{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
				{Key: "node.kubernetes.io/unreachable", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.0.0.7", PodIP: "10.244.1.7", StartTime: &start, QOSClass: corev1.PodQOSGuaranteed,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "app", ContainerID: id, Image: "registry.example.com/shop/checkout:v1.2.3", ImageID: "registry.example.com/shop/checkout@sha256:" + strings.Repeat("0f", 32),
				Ready: true, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}},
			}},
		},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: start})
	}
	return pod
}

// managed makes the JSON of a field set, of about n bytes.
func managed(n int) string {
	b := []byte(`{"f:metadata":{`)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, `"f:field-%d":{".":{}},`, i)
	}
	return string(b[:len(b)-1]) + "}}"
}

// The pods of these tests are as large as real ones.
func TestRealisticPod(t *testing.T) {
	data := podJSON(realisticPod(1, "node"), strings.TrimSpace)
	if whole := len(data) + 2100; whole < 5000 || whole > 10000 { // podJSON leaves out managedFields
		t.Errorf("the pod has %d bytes of JSON", whole)
	}
}
