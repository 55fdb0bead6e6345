package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

// 30 MB in bursts, so that the kubelet rotates, compresses and perhaps removes: what its file server
// gives is what the container wrote, while it writes and afterwards.
func TestNodeLog(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	config := c.account("reader")
	const bursts, each = 3, 100_000
	c.create(shell("rotates", fmt.Sprintf(
		`for b in $(/bin/busybox seq 0 %d); do /bin/busybox awk -v b=$b 'BEGIN{for(i=0;i<%d;i++) printf "%%08d %%0100d\n", b*%d+i, i}'; /bin/busybox sleep 12; done`, bursts-1, each, each)))
	var pod corev1.Pod
	phase := func(want corev1.PodPhase) func() bool {
		return func() bool {
			pod = c.list()[0]
			return pod.Status.Phase == want
		}
	}
	c.until(2*time.Minute, "the pod to run", phase(corev1.PodRunning))
	run := nodelog.Run{Namespace: c.namespace, Pod: pod.Name, UID: string(pod.UID), Container: "app"}
	client, err := nodelog.New(nodelog.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Open(t.Context(), pod.Status.HostIP, run, time.Time{}); !errors.Is(err, nodelog.ErrForbidden) {
		t.Errorf("without the right: %v", err)
	} else {
		t.Log(err)
	}
	c.grantNodeLogs("reader")
	c.until(2*time.Minute, "the right to arrive", func() bool { // the kubelet remembers a refusal for 30 s
		r, err := client.Open(t.Context(), pod.Status.HostIP, run, time.Time{})
		if err == nil {
			_ = r.Close()
		}
		return err == nil
	})
	reads := 0
	for ; !phase(corev1.PodSucceeded)(); reads++ {
		c.readNode(client, run, -1)
		time.Sleep(300 * time.Millisecond)
	}
	t.Logf("%d reads while it ran", reads)
	time.Sleep(time.Second)
	begun := time.Now()
	report, size := c.readNode(client, run, bursts*each)
	t.Logf("%d bytes in %s: %+v", size, time.Since(begun), report)
	if !report.Middle || !report.Tail || len(report.Files) < 2 || report.Stdout != bursts*each {
		t.Errorf("%+v", report)
	}
}

// readNode reads the run and checks that it is the numbered lines from the first one held on, to the
// last of n if that is not negative.
func (c *cluster) readNode(client *nodelog.Client, run nodelog.Run, n int) (nodelog.Report, int) {
	c.t.Helper()
	r, err := client.Open(c.t.Context(), node.IP, run, time.Time{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatal(err)
	}
	report := r.Report()
	next := -1
	for line := range strings.Lines(string(data)) {
		var number int
		if _, text, _ := strings.Cut(line, " "); len(text) == 110 {
			_, _ = fmt.Sscanf(text[:8], "%d", &number)
		} else {
			c.t.Fatalf("line %.200q", line)
		}
		if next >= 0 && number != next {
			c.t.Fatalf("line %d after %d, %+v", number, next-1, report)
		}
		if next < 0 && number != 0 && report.Head {
			c.t.Fatalf("begins at %d, and says that this is the head: %+v", number, report)
		}
		next = number + 1
	}
	if !report.Middle || n >= 0 && next != n {
		c.t.Fatalf("ends at %d: %+v", next, report)
	}
	return report, len(data)
}

// grantNodeLogs lets an account of the namespace read the files of all nodes.
func (c *cluster) grantNodeLogs(account string) {
	c.t.Helper()
	meta := metav1.ObjectMeta{Name: c.namespace + "-nodelogs"}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/log"}, Verbs: []string{"get"}}}}
	if _, err := c.kube.RbacV1().ClusterRoles().Create(c.t.Context(), role, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = c.kube.RbacV1().ClusterRoles().Delete(context.Background(), meta.Name, metav1.DeleteOptions{})
	})
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: c.namespace}},
	}
	if _, err := c.kube.RbacV1().ClusterRoleBindings().Create(c.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = c.kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), meta.Name, metav1.DeleteOptions{})
	})
}
