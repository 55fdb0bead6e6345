package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

// tools are the programs that are compared, by their paths.
type tools struct {
	self, exporter, kubectl, stern, zstd string
}

// build builds the programs. The node's own kubectl is part of a program of 200 MB that holds all of
// Kubernetes and takes long to start; a fair kubectl is built on its own, of the same version.
func (b *bench) build(ctx context.Context) error {
	b.say("building the exporter, kubectl and stern; the first time some minutes")
	root, err := output(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	b.root = root
	if b.tools.self, err = os.Executable(); err != nil {
		return err
	}
	bin, err := b.folder("bin")
	if err != nil {
		return err
	}
	for _, it := range []struct {
		path   *string
		name   string
		folder string
		pkg    string
	}{
		{&b.tools.exporter, "kubelogexporter", ".", "./cmd/kubelogexporter"},
		{&b.tools.kubectl, "kubectl", "integration/cluster", "k8s.io/kubernetes/cmd/kubectl"},
		{&b.tools.stern, "stern", "integration/tools/stern", "github.com/stern/stern"},
	} {
		*it.path = filepath.Join(bin, it.name)
		if _, err := output(ctx, filepath.Join(root, it.folder), "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w", "-o", *it.path, it.pkg); err != nil {
			return fmt.Errorf("build %s: %w", it.name, err)
		}
	}
	if b.tools.zstd, err = exec.LookPath("zstd"); err != nil {
		b.say("installing zstd")
		if _, err := output(ctx, "", "apt-get", "install", "-y", "-q", "--no-install-recommends", "zstd"); err != nil {
			return err
		}
		b.tools.zstd, err = exec.LookPath("zstd")
	}
	return err
}

// output runs a command in a folder and returns what it printed.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // commands of this program
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("run %s: %w\n%s%s", filepath.Base(args[0]), err, out, exit.Stderr)
		}
		return "", fmt.Errorf("run %s: %w", filepath.Base(args[0]), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// about says what was measured where: pairs of a name and a value, without anything of this machine
// that identifies it.
func (b *bench) about(ctx context.Context) ([][2]string, error) {
	server, err := b.kube.Discovery().ServerVersion()
	if err != nil {
		return nil, err
	}
	n, err := b.kube.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	stern, err := output(ctx, filepath.Join(b.root, "integration/tools/stern"), "go", "list", "-m", "-f", "{{.Version}}", "github.com/stern/stern")
	if err != nil {
		return nil, err
	}
	zstd, err := output(ctx, "", b.tools.zstd, "--version")
	if err != nil {
		return nil, err
	}
	commit, err := output(ctx, b.root, "git", "describe", "--always", "--dirty")
	if err != nil {
		commit = "unknown"
	}
	kernel, err := output(ctx, "", "uname", "-sr")
	if err != nil {
		return nil, err
	}
	zstd, _, _ = strings.Cut(strings.Trim(zstd, "* "), ", by")
	return [][2]string{
		{"processor", fmt.Sprintf("%s, %d cores", field("/proc/cpuinfo", "model name"), runtime.NumCPU())},
		{"memory", memory()},
		{"kernel", release(kernel)},
		{"Kubernetes, kubectl", server.GitVersion},
		{"container runtime", n.Status.NodeInfo.ContainerRuntimeVersion},
		{"containerLogMaxSize, -Files", fmt.Sprintf("%s, %d", b.node.Options.ContainerLogMaxSize, b.node.Options.ContainerLogMaxFiles)},
		{"stern", stern},
		{"zstd", zstd},
		{"Go", runtime.Version()},
		{"KubeLogExporter", commit},
	}, nil
}

// release is a kernel's name and version, without what a distribution or a machine's owner adds to it.
func release(kernel string) string {
	kernel, _, _ = strings.Cut(kernel, "-")
	return kernel
}

func memory() string {
	kb, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%.0f GiB", float64(kb)/(1<<20))
}

// field returns a value from a file of /proc.
func field(file, name string) string {
	f, err := os.Open(file) //nolint:gosec // in /proc
	if err != nil {
		return "unknown"
	}
	defer f.Close() //nolint:errcheck // read only
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
