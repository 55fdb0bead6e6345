//go:build linux

package node

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLifecycle takes the machine's node through its life: start, use, stop,
// crash, recovery. It asks for consent because it stops a running node.
func TestLifecycle(t *testing.T) {
	if os.Getenv("CI") != "true" && os.Getenv("KUBELOGEXPORTER_INTEGRATION") == "" {
		t.Skip("starts and stops a Kubernetes node: set KUBELOGEXPORTER_INTEGRATION=1 and run as root on Linux: KUBELOGEXPORTER_INTEGRATION=1 go test -v ./integration/node")
	}
	if err := supported(); err != nil {
		t.Fatal(err)
	}
	ctx, log := t.Context(), t.Output()

	if err := Down(ctx, log); err != nil {
		t.Fatal(err)
	}
	clean := traces(t)
	n, err := Up(ctx, Options{Log: log, ContainerLogMaxSize: "1Mi"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.Close()
		if err := Down(context.WithoutCancel(ctx), log); err != nil {
			t.Error(err)
		}
	})
	runPod(t, n)

	again, err := Up(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.Options != n.Options {
		t.Errorf("second Up got %+v, want the running node's %+v", again.Options, n.Options)
	}
	// The node is in use, so Down waits until its context ends.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := Down(short, log); err == nil {
		t.Fatal("Down stopped a node that is in use")
	}
	_ = again.Close()

	// A crash: no program has the chance to clean up, pods still run.
	startPod(t, n, "survivor", "sleep 1000")
	for _, name := range []string{"kubelet", "containerd", "kube-apiserver"} {
		kill(t, name)
	}
	if _, err := Status(ctx); err == nil {
		t.Error("Status is nil without kubelet, containerd and API server")
	}
	_ = n.Close()
	if n, err = Up(ctx, Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	runPod(t, n)

	_ = n.Close()
	startPod(t, n, "last", "sleep 1000")
	if err := Down(ctx, log); err != nil {
		t.Fatal(err)
	}
	if now := traces(t); !maps.Equal(now, clean) {
		for _, what := range slices.Sorted(maps.Keys(now)) {
			if now[what] != clean[what] {
				t.Errorf("%s after Down: %s\nbefore Up: %s", what, now[what], clean[what])
			}
		}
	}
	if _, err := Status(ctx); err == nil {
		t.Error("Status is nil after Down")
	}
}

func kubectl(t *testing.T, n *Node, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), n.Kubectl, append([]string{"--kubeconfig", n.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startPod returns when the pod's container has started.
func startPod(t *testing.T, n *Node, name, script string) {
	t.Helper()
	kubectl(t, n, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {
		"restartPolicy": "Never",
		"containers": [{"name": "main", "image": %q, "command": ["sh", "-c", %q]}]}}`, name, Busybox, script),
		"apply", "-f", "-")
	kubectl(t, n, "", "wait", "pod/"+name, "--for=condition=PodReadyToStartContainers", "--timeout=60s")
}

// runPod runs a pod to its end. It talks to the API server with its own token.
func runPod(t *testing.T, n *Node) {
	t.Helper()
	startPod(t, n, "talker", `exec 2>&1 # the order of two streams is not kept
		token=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)
		for i in 1 2 3 4 5; do echo line $i; done
		wget -q -O - --header "Authorization: Bearer $token" `+APIServer+`/apis/authentication.k8s.io/ &&
		wget -O - --header "Authorization: Bearer $token" `+APIServer+`/api/v1/pods`)
	kubectl(t, n, "", "wait", "pod/talker", "--for=jsonpath={.status.containerStatuses[0].state.terminated}", "--timeout=60s")
	log := kubectl(t, n, "", "logs", "talker")
	for _, want := range []string{"line 1\nline 2\nline 3\nline 4\nline 5\n", `"APIGroup"`, "403 Forbidden"} {
		if !strings.Contains(log, want) {
			t.Errorf("log of the pod lacks %q:\n%s", want, log)
		}
	}
	kubectl(t, n, "", "delete", "pod", "talker", "--timeout=60s")
}

func kill(t *testing.T, name string) {
	t.Helper()
	records, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(records, func(p process) bool { return p.Name == name })
	if i < 0 || !records[i].alive() {
		t.Fatalf("%s does not run", name)
	}
	if err := syscall.Kill(records[i].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for records[i].alive() {
		time.Sleep(time.Millisecond)
	}
}

// traces describes what a node can leave behind. Other containers may come and
// go at the same time, so it looks only at what can be the node's.
func traces(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	marks, err := marked()
	if err != nil {
		t.Fatal(err)
	}
	found["processes"] = fmt.Sprint(append(marks, inCgroups()...))
	all, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(m mount) bool { return !strings.Contains(m.point, Name) && !strings.Contains(m.point, "/cni-") })
	found["mounts"] = fmt.Sprint(all)
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	found["interfaces"] = ""
	for _, i := range interfaces {
		_, err := os.Stat("/sys/class/net/" + i.Name + "/master")
		if i.Name == bridge || strings.HasPrefix(i.Name, "veth") && err != nil {
			found["interfaces"] += " " + i.Name
		}
	}
	rules, err := exec.CommandContext(t.Context(), "iptables-save").Output()
	if err != nil {
		t.Logf("cannot compare iptables: %v", err)
	}
	found["iptables"] = ""
	for line := range strings.Lines(string(rules)) {
		if strings.Contains(line, bridge) || strings.Contains(line, "KUBE") {
			found["iptables"] += line
		}
	}
	for _, folder := range append(sharedFolders(), dir, "/run/containerd/s", "/etc/cni", "/run/netns", "/opt/containerd", "/var/lib/containerd") {
		entries, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(folder)
		found[folder] = fmt.Sprint(entries, err == nil)
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/" + Name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat("/sys/fs/cgroup/" + Name) // cgroup v2
	found["cgroups"] = fmt.Sprint(cgroups, err == nil)
	locks, err := filepath.Glob("/run/" + Name + "*")
	if err != nil {
		t.Fatal(err)
	}
	found["lock files"] = fmt.Sprint(locks)
	for _, name := range sharedSettings() {
		data, _ := os.ReadFile("/proc/sys/" + name)
		found[name] = string(data)
	}
	return found
}
