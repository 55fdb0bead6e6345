package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// bridge connects the pods and carries the node's addresses. The kubelet
	// refuses a loopback address, and dummy interfaces are missing from some
	// kernels.
	bridge   = "kle0"
	podRange = "10.97.0.0/16"

	// cgroup is the parent of the cgroups of all pods, in every hierarchy.
	cgroup = "/" + Name
)

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// addressesFree refuses a machine that is in our address ranges already, for
// example because another cluster runs on it.
func addressesFree() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		used, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		for _, ours := range []string{serviceIP + "/16", podRange} {
			if netip.MustParsePrefix(ours).Overlaps(used) {
				return fmt.Errorf("use address range %s: this machine has %s already: stop the other cluster or network first", ours, used)
			}
		}
	}
	return nil
}

// forwarding lists the iptables rules of the node, without the -A or -D.
func forwarding() [][]string {
	return [][]string{
		// Docker sets the policy of FORWARD to DROP, and where br_netfilter is
		// loaded that hits packets between two pods too.
		{"filter", "FORWARD", "-i", bridge, "-j", "ACCEPT"},
		{"filter", "FORWARD", "-o", bridge, "-j", "ACCEPT"},
		// Nobody outside knows a route back to a pod's address.
		{"nat", "POSTROUTING", "-s", podRange, "!", "-o", bridge, "-j", "MASQUERADE"},
	}
}

func iptables(ctx context.Context, action string, rule []string) error {
	// -w: wait for Docker, which changes rules at the same time.
	return run(ctx, "iptables", append([]string{"-w", "-t", rule[0], action}, rule[1:]...)...)
}

func addNetwork(ctx context.Context) error {
	for _, args := range [][]string{
		// A bridge without an address of its own takes the lowest of its
		// ports' and changes it when pods come and go, while the pods
		// remember the gateway's old one.
		{"link", "add", "name", bridge, "address", "0a:58:0a:61:00:01", "type", "bridge"},
		{"address", "add", IP + "/16", "dev", bridge},
		{"address", "add", serviceIP + "/32", "dev", bridge},
		{"link", "set", bridge, "up"},
	} {
		if err := run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("switch on forwarding: %w", err)
	}
	for _, rule := range forwarding() {
		if err := iptables(ctx, "-A", rule); err != nil {
			return err
		}
	}
	return nil
}

func removeNetwork(ctx context.Context) error {
	if _, err := exec.LookPath("iptables"); err == nil {
		for _, rule := range forwarding() {
			// More than once, because a crash between two starts may have
			// added it twice. -D fails when there is none left.
			for iptables(ctx, "-C", rule) == nil {
				if err := iptables(ctx, "-D", rule); err != nil {
					return err
				}
			}
		}
	}
	ports, err := filepath.Glob("/sys/class/net/" + bridge + "/brif/*")
	if err != nil {
		return err
	}
	// The kernel removes a veth when its pod's network namespace goes, but
	// some time later.
	for _, link := range append(ports, "/sys/class/net/"+bridge) {
		if _, err := os.Stat(link); err != nil {
			continue
		}
		if err := run(ctx, "ip", "link", "delete", filepath.Base(link)); err != nil {
			if _, gone := os.Stat(link); gone == nil {
				return err
			}
		}
	}
	return nil
}

// mount is one line of mountinfo(5).
type mount struct{ point, kind string }

func mounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(data)), nil
}

func parseMounts(text string) []mount {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var all []mount
	for line := range strings.Lines(text) {
		head, rest, _ := strings.Cut(line, " - ")
		fields, kinds := strings.Fields(head), strings.Fields(rest)
		if len(fields) > 4 && len(kinds) > 0 {
			all = append(all, mount{point: unescape.Replace(fields[4]), kind: kinds[0]})
		}
	}
	return all
}

// unmountAll unmounts everything below the node's folder: volumes, root file
// systems, network namespaces.
func unmountAll() error {
	// A mount can hide another one at the same place, so look again.
	for range 20 {
		all, err := mounts()
		if err != nil {
			return err
		}
		found := false
		for _, m := range slices.Backward(all) {
			if !strings.HasPrefix(m.point, dir+"/") {
				continue
			}
			found = true
			// Lazily: the process that held it open may still be going.
			if err := syscall.Unmount(m.point, syscall.MNT_DETACH|0x8 /* UMOUNT_NOFOLLOW */); err != nil && !errors.Is(err, syscall.EINVAL) {
				return fmt.Errorf("unmount %s: %w", m.point, err)
			}
		}
		if !found {
			return nil
		}
	}
	return fmt.Errorf("unmount below %s: mounts keep coming back", dir)
}

// hierarchies returns the mount points of the cgroup hierarchies: one with
// cgroup v2, one per controller with v1.
func hierarchies() ([]mount, error) {
	all, err := mounts()
	return slices.DeleteFunc(all, func(m mount) bool { return m.kind != "cgroup" && m.kind != "cgroup2" }), err
}

// addCgroups makes the pods' parent cgroup, which the kubelet wants to find.
func addCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("find cgroups: none are mounted at /sys/fs/cgroup")
	}
	for _, h := range all {
		if h.kind == "cgroup2" {
			// The kubelet checks that these reach its root. One by one: a
			// kernel without one of them refuses the whole line. In a hybrid
			// set-up the v2 hierarchy has none of them, and that is fine.
			for _, c := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
				_ = os.WriteFile(h.point+"/cgroup.subtree_control", []byte("+"+c), 0)
			}
		}
		if err := os.MkdirAll(h.point+cgroup, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		// A v1 cpuset starts empty and then accepts no process.
		for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
			if h.kind != "cgroup" {
				break
			}
			if data, err := os.ReadFile(h.point + file); err == nil {
				if err := os.WriteFile(h.point+cgroup+file, data, 0); err != nil {
					return fmt.Errorf("make cpuset: %w", err)
				}
			}
		}
	}
	return nil
}

// inCgroups returns the processes of all pods.
func inCgroups() []process {
	all, err := hierarchies()
	if err != nil {
		return nil
	}
	var found []process
	for _, h := range all {
		// Cgroups disappear while we walk; what is left is found next time.
		_ = filepath.WalkDir(h.point+cgroup, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			for _, word := range strings.Fields(string(data)) {
				pid, err := strconv.Atoi(word)
				if err != nil || pid <= 1 {
					continue
				}
				if _, started, err := procStat(pid); err == nil {
					found = append(found, process{Name: "container", PID: pid, Start: started})
				}
			}
			return nil
		})
	}
	return found
}

func removeCgroups(ctx context.Context) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		var dirs []string
		_ = filepath.WalkDir(h.point+cgroup, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := removeCgroup(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroup tries for a while: a killed process leaves its cgroup only when
// its parent has reaped it.
func removeCgroup(ctx context.Context, path string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := syscall.Rmdir(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", path, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
