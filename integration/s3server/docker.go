package s3server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Where the Docker daemon that EnsureDocker starts leaves its traces. Its data are where every
// dockerd has them, so that a later start by the system finds the same images.
const (
	dockerState = "/var/lib/kubelogexporter-docker"
	dockerLock  = "/run/kubelogexporter-docker.lock"
)

// EnsureDocker makes sure that a Docker daemon answers. If none does, and this is root on a Debian,
// it installs docker.io and starts the daemon, which then goes on after this program; elsewhere the
// error says what to do. Several programs may call it at once.
func EnsureDocker(ctx context.Context, log io.Writer) error {
	if answers(ctx) {
		return nil
	}
	why := func() error {
		switch _, err := exec.LookPath("apt-get"); {
		case os.Getenv("DOCKER_HOST") != "":
			return errors.New("no Docker daemon answers at DOCKER_HOST")
		case runtime.GOOS != "linux" || err != nil:
			return errors.New("no Docker daemon answers: start Docker")
		case os.Getuid() != 0:
			return errors.New("no Docker daemon answers: start Docker (sudo systemctl start docker), or run this as root")
		}
		return nil
	}
	if err := why(); err != nil {
		return fmt.Errorf("set up Docker: %w", err)
	}
	unlock, err := flock(ctx, dockerLock)
	if err != nil {
		return fmt.Errorf("set up Docker: %w", err)
	}
	defer unlock()
	if answers(ctx) {
		return nil
	}
	daemon, err := installDocker(ctx, log)
	if err == nil {
		err = startDocker(ctx, daemon, log)
	}
	if err != nil {
		return fmt.Errorf("set up Docker: %w", err)
	}
	return nil
}

// answers says whether a Docker daemon answers.
func answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").Run() == nil
}

// flock takes a lock that the kernel drops when its holder dies. The file stays: removing it would
// let two programs hold locks on two files of one name.
func flock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // our own names only
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor fits
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, ctx.Err()), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// installDocker returns the daemon's path, after installing what is missing: a machine may have the
// client without the daemon, or the other way round.
func installDocker(ctx context.Context, log io.Writer) (daemon string, err error) {
	find := func() string {
		_, err := exec.LookPath("docker")
		for _, name := range []string{"dockerd", "/usr/sbin/dockerd"} { // sbin is not in everybody's PATH
			if path, derr := exec.LookPath(name); err == nil && derr == nil {
				return path
			}
		}
		return ""
	}
	if daemon := find(); daemon != "" {
		return daemon, nil
	}
	fmt.Fprintln(log, "installing docker.io")
	// Without the lock timeout a running unattended-upgrades is an error.
	install := []string{"-o", "DPkg::Lock::Timeout=120", "install", "-y", "-q", "--no-install-recommends", "docker.io"}
	for _, args := range [][]string{{"-q", "update"}, install} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("install docker.io: %w\n%s", err, out)
		}
	}
	if daemon := find(); daemon != "" {
		return daemon, nil
	}
	return "", errors.New("install docker.io: there is no dockerd after it")
}

// startDocker starts the daemon and waits until it answers. It needs no flags: where the system has
// cgroup v1 and no systemd, dockerd finds that out, and it leaves other bridges' iptables rules alone.
func startDocker(ctx context.Context, daemon string, log io.Writer) error {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		fmt.Fprintln(log, "starting Docker by systemd")
		if out, err := exec.CommandContext(ctx, "systemctl", "start", "docker").CombinedOutput(); err != nil {
			return fmt.Errorf("start docker: %w\n%s", err, out)
		}
		if !answers(ctx) {
			return errors.New("start docker: it was started and does not answer: see journalctl -u docker")
		}
		return nil
	}
	if err := os.MkdirAll(dockerState, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dockerState, "dockerd.log")
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // a constant
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // the daemon has its own descriptor
	fmt.Fprintf(log, "starting %s, its log is %s\n", daemon, name)
	// Not CommandContext, and a session of its own: the daemon outlives this program and its terminal.
	cmd := exec.Command(daemon) //nolint:gosec,noctx // see above
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start docker: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the daemon, or with this program
	limit := time.After(time.Minute)
	for !answers(ctx) {
		select {
		case err := <-ended:
			return fmt.Errorf("start docker: it ended: %w\n%s", err, lastLines(name))
		case <-limit:
			return fmt.Errorf("start docker: no answer within a minute\n%s", lastLines(name))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// lastLines returns the end of a log, for an error.
func lastLines(name string) []byte {
	data, err := os.ReadFile(name) //nolint:gosec // our own file
	if err != nil {
		return nil
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}
