package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// dir holds all state of the node. It is short because the path of a unix
// socket may have 108 bytes only.
const dir = "/var/lib/" + Name

const (
	containerdSocket = dir + "/containerd.sock"
	kubeletConfig    = dir + "/kubelet.json"
	containerdConfig = dir + "/containerd.toml"
	etcdURL          = "http://127.0.0.1:23790"
	// CN of the kubeconfig's context, cluster and user.
	contextName = "kubelogexporter"
)

// staticPods is the folder whose manifests the kubelet runs without an API server.
const staticPods = dir + "/static-pods"

func pki(name string) string        { return filepath.Join(dir, "pki", name) }
func kubeconfig(user string) string { return filepath.Join(dir, user+".kubeconfig") }

func etcdArgs() []string {
	return []string{
		"--name=node",
		"--data-dir=" + dir + "/etcd",
		// Not etcd's usual ports, which another etcd may have.
		"--listen-client-urls=" + etcdURL,
		"--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=http://127.0.0.1:23791",
		"--initial-advertise-peer-urls=http://127.0.0.1:23791",
		"--initial-cluster=node=http://127.0.0.1:23791",
		// The data dies with the node, so it need not survive a power cut.
		"--unsafe-no-fsync",
	}
}

func containerdArgs() []string { return []string{"--config", containerdConfig} }

func apiserverArgs() []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		// Listening on the ClusterIP of kubernetes.default itself replaces
		// kube-proxy. The reconciler would write Endpoints that nobody reads.
		"--bind-address=" + serviceIP,
		"--advertise-address=" + serviceIP,
		"--secure-port=443",
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=" + serviceIP + "/16",
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		// The default prefers the node's host name, which resolves nowhere.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + pki("service-account.key"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--allow-privileged=true",
	}
}

func controllerManagerArgs() []string {
	return []string{
		"--kubeconfig=" + kubeconfig("controller-manager"),
		"--authentication-kubeconfig=" + kubeconfig("controller-manager"),
		"--authorization-kubeconfig=" + kubeconfig("controller-manager"),
		// Our own address, where no other cluster's ports can be.
		"--bind-address=" + IP,
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		// Every controller asks for its ServiceAccount when it starts, and at
		// the default of 20 requests a second that takes seconds.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		"--service-account-private-key-file=" + pki("service-account.key"),
		// What pods find in kube-root-ca.crt.
		"--root-ca-file=" + pki("ca.crt"),
		"--cluster-signing-cert-file=" + pki("ca.crt"),
		"--cluster-signing-key-file=" + pki("ca.key"),
	}
}

func schedulerArgs() []string {
	return []string{
		"--kubeconfig=" + kubeconfig("scheduler"),
		"--authentication-kubeconfig=" + kubeconfig("scheduler"),
		"--authorization-kubeconfig=" + kubeconfig("scheduler"),
		"--bind-address=" + IP,
		"--leader-elect=false",
	}
}

func kubeletArgs() []string {
	return []string{
		"--config=" + kubeletConfig,
		"--kubeconfig=" + kubeconfig("kubelet"),
		"--root-dir=" + dir + "/kubelet",
		"--cert-dir=" + dir + "/kubelet-pki",
		"--hostname-override=" + Name,
		"--node-ip=" + IP,
	}
}

// writeConfigs writes the files that the components read.
func writeConfigs(o Options, t tools) error {
	for _, user := range []string{"admin", "controller-manager", "scheduler", "kubelet"} {
		if err := writeKubeconfig(user); err != nil {
			return err
		}
	}
	if err := writeJSON(kubeletConfig, kubeletSettings(o)); err != nil {
		return err
	}
	if err := os.WriteFile(containerdConfig, []byte(containerdSettings(t)), 0o600); err != nil {
		return fmt.Errorf("write containerd config: %w", err)
	}
	return writeJSON(filepath.Join(dir, "cni", "10-"+Name+".conflist"), map[string]any{
		"cniVersion": "1.0.0",
		"name":       Name,
		"plugins": []any{map[string]any{
			"type":      "bridge",
			"bridge":    bridge,
			"isGateway": true,
			// A pod may reach itself through a Service's address.
			"hairpinMode": true,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": dir + "/cni-addresses",
				"ranges":  []any{[]any{map[string]any{"subnet": podRange, "gateway": IP}}},
				"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// writeKubeconfig writes a kubeconfig with the certificates inside, so that it
// can be copied. JSON is YAML.
func writeKubeconfig(user string) error {
	var files [3][]byte
	for i, name := range []string{"ca.crt", user + ".crt", user + ".key"} {
		data, err := os.ReadFile(pki(name))
		if err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
		files[i] = data
	}
	// encoding/json writes []byte as base64, just as a kubeconfig wants it.
	return writeJSON(kubeconfig(user), map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": contextName,
		"clusters": []any{map[string]any{"name": contextName, "cluster": map[string]any{
			"server": APIServer, "certificate-authority-data": files[0],
		}}},
		"users": []any{map[string]any{"name": contextName, "user": map[string]any{
			"client-certificate-data": files[1], "client-key-data": files[2],
		}}},
		"contexts": []any{map[string]any{"name": contextName, "context": map[string]any{
			"cluster": contextName, "user": contextName,
		}}},
	})
}

func kubeletSettings(o Options) map[string]any {
	settings := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"address":                  IP,
		"healthzBindAddress":       IP,
		// As on a production node: callers need a token or certificate and
		// RBAC on nodes/log and the like.
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": pki("ca.crt")},
		},
		"authorization":     map[string]any{"mode": "Webhook"},
		"tlsCertFile":       pki("kubelet-server.crt"),
		"tlsPrivateKeyFile": pki("kubelet-server.key"),

		"cgroupDriver": "cgroupfs",
		"cgroupRoot":   cgroup,
		// Test machines and continuous integration often have cgroup v1,
		// which the kubelet refuses by default since 1.35.
		"failCgroupV1":           false,
		"failSwapOn":             false,
		"enforceNodeAllocatable": []string{},
		// Lowering it needs a right that containers do not have.
		"oomScoreAdj": 0,

		"containerLogMaxSize":  o.ContainerLogMaxSize,
		"containerLogMaxFiles": o.ContainerLogMaxFiles,

		"staticPodPath": staticPods,
		// How soon a volume that is too full is seen.
		"volumeStatsAggPeriod": "5s",
		// How soon a new static pod is seen.
		"fileCheckFrequency": "1s",
		"maxPods":            250,
		// Chains for kube-proxy, which is not here; they would stay behind.
		"makeIPTablesUtilChains": false,
		"volumePluginDir":        dir + "/volume-plugins",
		// A full disk is the developer's business, not a reason to evict
		// pods or to delete images that exist nowhere else.
		"evictionHard": map[string]string{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
			"imagefs.available": "0%", "imagefs.inodesFree": "0%",
		},
		"imageGCHighThresholdPercent": 100,
	}
	// There is no cluster DNS; pods ask the host's servers. The stub that
	// systemd-resolved puts in /etc/resolv.conf is 127.0.0.53, in a pod the
	// pod itself.
	const resolved = "/run/systemd/resolve/resolv.conf"
	if _, err := os.Stat(resolved); err == nil {
		settings["resolvConf"] = resolved
	}
	return settings
}

// containerdSettings keeps everything that containerd and its shims write
// below dir.
func containerdSettings(t tools) string {
	return fmt.Sprintf(`version = 3
root = '%[1]s/containerd/root'
state = '%[1]s/containerd/state'
# Both have places of their own outside of our folder (/var/run/nri, /etc/cdi
# hooks, /run/containerd/tracing) and nothing here needs them.
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[grpc]
  address = '%[2]s'

[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/containerd/opt'

[plugins.'io.containerd.shim.v1.manager']
  # At most 42 bytes.
  socket_dir = '%[1]s/s'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%[3]s'

[plugins.'io.containerd.cri.v1.runtime']
  # Lowering it needs a right that containers do not have.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  tolerate_missing_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%[4]s']
    conf_dir = '%[1]s/cni'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      Root = '%[1]s/runc'
      SystemdCgroup = false
`, dir, containerdSocket, Pause, t.cni)
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return nil
}
