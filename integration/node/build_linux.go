package node

import (
	"bufio"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// components are the names under which the one program of integration/cluster
// is started; "ps" then shows what a process is.
func components() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"}
}

// buildArgs is how the components are built: static, because pause runs in an
// empty image; without the snapshotters that need C headers or are not used;
// without debug symbols, which saves a third of the size. The version is the
// Kubernetes release ("v1.37.2"), which a build from a module does not know.
func buildArgs(out, version string) []string {
	const containerd = "github.com/containerd/containerd/v2/cmd/"
	flags := "-s -w"
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", pkg, version, parts[0], parts[1])
	}
	return []string{
		"build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-tags=no_btrfs,no_zfs,no_devmapper", "-ldflags=" + flags, "-o", out,
		".", "./pause", containerd + "containerd", containerd + "containerd-shim-runc-v2", containerd + "ctr",
	}
}

// binaries returns the folder with the built components. They are cached per
// content of the source folder and Go version, so that a second checkout or a
// second run does not build again.
func binaries(ctx context.Context, p *progress) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	version, err := kubernetesVersion(source)
	if err != nil {
		return "", err
	}
	sum, err := sourceHash(ctx, source, version)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	cache = filepath.Join(cache, "kubelogexporter")
	dir := filepath.Join(cache, sum)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	// Left by a build that was killed; the node's lock is held, so nobody
	// else is building.
	stale, err := filepath.Glob(filepath.Join(cache, "building-*"))
	if err != nil {
		return "", err
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return "", fmt.Errorf("remove stale build: %w", err)
		}
	}
	unfinished, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return "", fmt.Errorf("make build folder: %w", err)
	}
	if err := build(ctx, source, buildArgs(unfinished+"/", version), p); err != nil {
		return "", errors.Join(err, os.RemoveAll(unfinished))
	}
	for _, name := range components() {
		if err := os.Symlink("cluster", filepath.Join(unfinished, name)); err != nil {
			return "", fmt.Errorf("link component: %w", err)
		}
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return "", fmt.Errorf("open build folder: %w", err)
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return "", fmt.Errorf("finish build: %w", err)
	}
	return dir, nil
}

// sourceDir finds integration/cluster from anywhere inside the repository. A
// test runs in its package's folder, a command where the user is.
func sourceDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		source := filepath.Join(dir, "integration", "cluster")
		if _, err := os.Stat(filepath.Join(source, "go.mod")); err == nil {
			return source, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find integration/cluster/go.mod above %s: run this inside a checkout of the repository", start)
		}
	}
}

// kubernetesVersion reads the release from the module file.
func kubernetesVersion(source string) (string, error) {
	data, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("find kubernetes version: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "k8s.io/kubernetes" && strings.Count(f[1], ".") == 2 {
			return f[1], nil
		}
	}
	return "", errors.New("find kubernetes version: go.mod does not require k8s.io/kubernetes")
}

func sourceHash(ctx context.Context, source, version string) (string, error) {
	h := sha256.New()
	cmd := exec.CommandContext(ctx, "go", "version")
	cmd.Dir = source
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run go version: %w", err)
	}
	fmt.Fprintf(h, "%s%q", out, buildArgs("", version))
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if name != "go.mod" && name != "go.sum" && (!strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", rel, len(data))
		h.Write(data)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash sources: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// build compiles the components and tells how far it is.
func build(ctx context.Context, source string, args []string, p *progress) error {
	p.say("building Kubernetes, etcd and containerd from their Go modules: about 3000 packages, once; 8 to 10 minutes on 2 cores")
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	// An interrupt lets go build remove its temporary files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write

	var compiled, downloaded atomic.Int64
	var last tail
	var wait sync.WaitGroup
	done := make(chan struct{})
	wait.Go(func() {
		// ReadString, not a Scanner: a Scanner stops at a line that is too
		// long and then the build would block on a full pipe.
		for r := bufio.NewReader(read); ; {
			line, err := r.ReadString('\n')
			switch {
			case strings.HasPrefix(line, "go: downloading"):
				downloaded.Add(1)
			case line != "" && !strings.ContainsAny(line, " :"):
				compiled.Add(1)
			default:
				last.add(line)
			}
			if err != nil {
				return
			}
		}
	})
	wait.Go(func() {
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				p.say("building: %d modules downloaded, %d packages compiled", downloaded.Load(), compiled.Load())
			}
		}
	})
	err := cmd.Run()
	close(done)
	_ = write.Close()
	wait.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("build components: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("build components: %w\n%s", err, last.String())
	}
	p.say("built %d packages", compiled.Load())
	return nil
}

// tail keeps the end of a program's output for its error.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	t.lines = append(t.lines, line)
	if len(t.lines) > 20 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string { return strings.Join(t.lines, "") }

// tools are the programs that come from the distribution.
type tools struct {
	busybox string
	cni     string
}

// findTools returns where the distribution's programs are, and the Debian
// packages of those that are missing.
func findTools() (t tools, missing []string) {
	for program, pkg := range map[string]string{"runc": "runc", "iptables": "iptables", "ip": "iproute2"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if executable(filepath.Join(dir, "bridge")) && executable(filepath.Join(dir, "host-local")) {
			t.cni = dir
			break
		}
	}
	if t.cni == "" {
		missing = append(missing, "containernetworking-plugins")
	}
	for _, file := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if static(file) {
			t.busybox = file
			break
		}
	}
	if t.busybox == "" {
		missing = append(missing, "busybox-static")
	}
	return t, missing
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// static reports whether file is a program without a dynamic linker: the
// Debian package "busybox" has the same path as "busybox-static" and does not
// run in an empty image.
func static(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// installTools installs what is missing.
func installTools(ctx context.Context, p *progress) (tools, error) {
	t, missing := findTools()
	if len(missing) == 0 {
		return t, nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return t, fmt.Errorf("install %s: there is no apt-get here: install these programs by other means", names)
	}
	p.say("installing %s", names)
	// Without the lock timeout a running unattended-upgrades is an error.
	install := append([]string{"-o", "DPkg::Lock::Timeout=120", "install", "-y", "-q", "--no-install-recommends"}, missing...)
	for _, args := range [][]string{{"-q", "update"}, install} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return t, fmt.Errorf("install %s: %w\n%s", names, err, out)
		}
	}
	if t, missing = findTools(); len(missing) > 0 {
		return t, fmt.Errorf("install %s: still missing after apt-get", strings.Join(missing, " "))
	}
	return t, nil
}
