package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// deployed is the namespace of the manifests.
const deployed = "kubelogexporter"

var (
	// deploying is held while something is deployed: the manifests' namespace and names are the same each time.
	deploying sync.Mutex //nolint:gochecknoglobals // tests that run side by side
	// imageLoaded says that the node has this project's image.
	imageLoaded bool //nolint:gochecknoglobals // likewise
)

// deploy applies an overlay of deploy/, as a user would write one, until the test ends. The pods archive
// into the returned bucket.
func (c *cluster) deploy(overlay string) sink.Bucket {
	c.t.Helper()
	deploying.Lock()
	c.t.Cleanup(deploying.Unlock)
	if !imageLoaded {
		c.loadImage()
	}
	s := sharedMinIO(c.t)
	name := fmt.Sprintf("deployed-%d", time.Now().UnixNano())
	bucket := bucketOn(c.t, s, name, "")
	endpoint := s.Endpoint
	if s.HostPort != 0 { // a pod's localhost is its own
		endpoint = fmt.Sprintf("http://%s:%d", node.IP, s.HostPort)
	}
	dir := c.t.TempDir()
	manifests, err := filepath.Abs("../deploy")
	if err == nil {
		manifests, err = filepath.Rel(dir, manifests)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	overlay = strings.ReplaceAll(overlay, "DEPLOY", manifests) + fmt.Sprintf(`
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: kubelogexporter, namespace: kubelogexporter}
    data:
      KUBELOGEXPORTER_CLUSTER: test
      KUBELOGEXPORTER_SINK: s3://%s
      KUBELOGEXPORTER_S3_ENDPOINT: %s
      KUBELOGEXPORTER_S3_PATH_STYLE: "on"
secretGenerator:
- name: kubelogexporter-s3
  literals: [AWS_ACCESS_KEY_ID=%s, AWS_SECRET_ACCESS_KEY=%s]
`, name, endpoint, s.AccessKey, s.SecretKey)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if out, err := c.kubectl("apply", "-k", dir); err != nil {
		c.t.Fatalf("apply: %v\n%s\n%s", err, out, overlay)
	}
	c.t.Cleanup(func() {
		args := append(c.kubectlArgs(), "delete", "-k", dir, "--ignore-not-found", "--timeout=120s")
		if out, err := exec.Command(c.node.Kubectl, args...).CombinedOutput(); err != nil { //nolint:noctx // the test's context has ended
			c.t.Errorf("delete: %v\n%s", err, out)
		}
	})
	return bucket
}

// loadImage builds this project's image and gives it to the node.
func (c *cluster) loadImage() {
	c.t.Helper()
	if out, err := c.command("make", "-s", "-C", "..", "image"); err != nil {
		c.t.Fatalf("make image: %v\n%s", err, out)
	}
	if err := c.node.Load(c.t.Context(), "kubelogexporter:dev"); err != nil {
		c.t.Fatal(err)
	}
	imageLoaded = true
}

func (c *cluster) kubectlArgs() []string { return []string{"--kubeconfig", c.node.Kubeconfig} }

func (c *cluster) kubectl(args ...string) (string, error) {
	return c.command(c.node.Kubectl, slices.Concat(c.kubectlArgs(), args)...)
}

func (c *cluster) command(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(c.t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// The CronJob of deploy/ runs by hand and then by its schedule: what ended is archived once, and of what runs each run
// archives what the one before has not.
func TestCronJob(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	c.create(shell("ended", "echo done"),
		shell("runs", `trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done`))
	bucket := c.deploy(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kubelogexporter
resources: [DEPLOY/cronjob]
patches:
- target: {kind: CronJob}
  patch: |
    - {op: replace, path: /spec/schedule, value: "* * * * *"}
    - {op: add, path: /spec/suspend, value: true}`)
	c.until(2*time.Minute, "a pod to end and one to run", func() bool {
		return c.inPhase(corev1.PodSucceeded) == 1 && c.inPhase(corev1.PodRunning) == 1
	})
	c.runJob("by-hand")
	before, _ := c.countedOnce(bucket, "runs")
	if out, err := c.kubectl("-n", deployed, "patch", "cronjob", "kubelogexporter", "-p", `{"spec": {"suspend": false}}`); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.until(4*time.Minute, "a run of the CronJob", func() bool {
		list, err := c.kube.BatchV1().Jobs(deployed).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(j batchv1.Job) bool { return j.Name != "by-hand" && c.completed(&j) })
	})
	if n := c.endedOnce(bucket, "ended", "done"); n != 1 {
		t.Errorf("the run that ended has %d records", n)
	}
	if lines, _ := c.countedOnce(bucket, "runs"); before == 0 || lines <= before {
		t.Errorf("%d lines of the pod that runs, and %d after the run before", lines, before)
	}
}

// runJob runs the deployed CronJob once, by hand.
func (c *cluster) runJob(name string) {
	c.t.Helper()
	if out, err := c.kubectl("-n", deployed, "create", "job", name, "--from=cronjob/kubelogexporter"); err != nil {
		c.t.Fatalf("create job: %v\n%s", err, out)
	}
	c.until(2*time.Minute, "the job's end", func() bool {
		j, err := c.kube.BatchV1().Jobs(deployed).Get(c.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		return c.completed(j)
	})
}

// completed says whether a job has done its work. It must not fail.
func (c *cluster) completed(j *batchv1.Job) bool {
	c.t.Helper()
	if j.Status.Failed > 0 {
		out, _ := c.kubectl("-n", deployed, "logs", "job/"+j.Name)
		c.t.Fatalf("job %s failed:\n%s", j.Name, out)
	}
	return j.Status.CompletionTime != nil
}

// endedOnce returns how many records the runs of a pod that has ended have, and checks its log.
func (c *cluster) endedOnce(bucket sink.Bucket, pod, log string) (records int) {
	c.t.Helper()
	for _, rec := range c.records(bucket) {
		if rec.Pod.Name != pod {
			continue
		}
		if records++; !rec.Verdict.Complete || c.said(bucket, rec) != log {
			c.t.Errorf("%s: %q, verdict %+v", pod, c.said(bucket, rec), rec.Verdict)
		}
	}
	return records
}

// countedOnce checks that what is archived of a pod that counts and runs on is all of it, each line stored once.
// It returns how far it has come, and in how many objects.
func (c *cluster) countedOnce(bucket sink.Bucket, pod string) (lines, objects int) {
	c.t.Helper()
	stored := make(map[string]int) // by how many lines there are in it
	for _, rec := range c.records(bucket) {
		if rec.Pod.Name != pod {
			continue
		}
		for i, word := range strings.Fields(c.said(bucket, rec)) {
			if word != fmt.Sprint(i+1) {
				c.t.Fatalf("line %d of %s is %q", i+1, pod, word)
			}
			lines = max(lines, i+1)
		}
		for _, o := range rec.Objects {
			stored[o.Key] = int(o.Lines)
		}
	}
	sum := 0
	for _, n := range stored {
		sum += n
	}
	if sum != lines {
		c.t.Errorf("%d lines of %s are stored of %d in the log: %v", sum, pod, lines, stored)
	}
	return lines, len(stored)
}

// The CronJob with a configuration file runs one of its exports: it archives what that one takes, and leaves
// alone what is another's.
func TestCronJobOfOneExport(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	c.create(shell("first", "echo first"), shell("second", "echo second"),
		shell("runs", `trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.2; done`))
	bucket := c.deploy(strings.ReplaceAll(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kubelogexporter
resources: [DEPLOY/cronjob]
components: [DEPLOY/config-file]
patches:
- target: {kind: CronJob}
  patch: |-
    - {op: add, path: /spec/suspend, value: true}
    - {op: add, path: /spec/jobTemplate/spec/template/spec/containers/0/args/-, value: --export=second}
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: kubelogexporter-config}
    data:
      config.yaml: |
        apiVersion: kubelogexporter.dev/v1alpha1
        kind: Config
        exports:
        - {name: first, selection: {namespaces: [NAMESPACE], pods: [first]}}
        - {name: second, selection: {namespaces: [NAMESPACE]}}`, "NAMESPACE", c.namespace))
	c.until(2*time.Minute, "two pods to end and one to run", func() bool {
		return c.inPhase(corev1.PodSucceeded) == 2 && c.inPhase(corev1.PodRunning) == 1
	})
	before := 0
	for n := range 2 {
		c.runJob(fmt.Sprintf("by-hand-%d", n))
		lines, objects := c.countedOnce(bucket, "runs")
		if lines <= before || objects != n+1 {
			t.Errorf("after job %d there are %d lines of the pod that runs, in %d objects, and were %d", n, lines, objects, before)
		}
		before = lines
		if first, second := c.endedOnce(bucket, "first", "first"), c.endedOnce(bucket, "second", "second"); first != 0 || second != 1 {
			t.Errorf("after job %d: %d records of the other export's run, %d of its own", n, first, second)
		}
	}
}

// The Deployment with a configuration file remembers its schedules when its pod, and with it the spool, is
// gone, and tells about them.
func TestDeployedSchedule(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	c.deploy(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kubelogexporter
resources: [DEPLOY]
components: [DEPLOY/config-file]
patches:
- patch: |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: kubelogexporter-config}
    data:
      config.yaml: |
        apiVersion: kubelogexporter.dev/v1alpha1
        kind: Config
        exports:
        - {name: often, selection: {namespaces: [nowhere]}, schedule: {cron: "@every 10s"}}
        - {name: never, selection: {namespaces: [elsewhere]}, schedule: {cron: "@every 1h"}}`)
	defer func() {
		if t.Failed() {
			out, _ := c.kubectl("-n", deployed, "logs", "deploy/kubelogexporter")
			t.Log(out)
		}
	}()
	starts := func() map[string]string {
		lease, err := c.kube.CoordinationV1().Leases(deployed).Get(t.Context(), "kubelogexporter-schedules", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return lease.Annotations
	}
	const often, never = "schedule.kubelogexporter.dev/often", "schedule.kubelogexporter.dev/never"
	wait := func(what string, ok func() bool) {
		t.Helper()
		c.until(time.Minute, what, func() bool {
			if ok() {
				return true
			}
			time.Sleep(500 * time.Millisecond)
			return false
		})
	}
	wait("a start", func() bool { return starts()[often] > starts()[never] && starts()[never] != "" })
	before := starts()
	out, err := c.kubectl("-n", deployed, "exec", "deploy/kubelogexporter", "--", "/kubelogexporter", "schedules")
	if err != nil || !strings.Contains(out, "often    @every 10s") || !strings.Contains(out, before[often][:16]) {
		t.Errorf("schedules says %v\n%s\nthe lease says %v", err, out, before)
	}
	if out, err := c.kubectl("-n", deployed, "delete", "pod", "-l", "app.kubernetes.io/name=kubelogexporter"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	from := time.Now().UTC().Format(time.RFC3339)
	wait("a start of the next pod", func() bool { return starts()[often] > from })
	if after := starts()[never]; after != before[never] {
		t.Errorf("the schedule that is not due is counted from %s, and was from %s", after, before[never])
	}
	if out, err := c.kubectl("-n", deployed, "logs", "deploy/kubelogexporter"); err != nil || strings.Contains(out, `"level":"WARN"`) {
		t.Errorf("%v\n%s", err, out)
	}
}
