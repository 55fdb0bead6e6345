package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Load gives the node an image, so that pods with the pull policy IfNotPresent
// or Never find it. The argument is the path of a tar file (an OCI layout or
// the output of "docker save") or else the name of an image in the local
// Docker daemon. containerd's names are full ones: "app:dev" from Docker
// becomes docker.io/library/app:dev, which is what "app:dev" in a pod means.
func (n *Node) Load(ctx context.Context, image string) error {
	if info, err := os.Stat(image); err == nil && info.Mode().IsRegular() {
		f, err := os.Open(image)
		if err != nil {
			return fmt.Errorf("load image: %w", err)
		}
		defer f.Close()
		return n.importArchive(ctx, f)
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return fmt.Errorf("load image %s: there is no such file, and no docker to ask for an image of this name", image)
	}
	save := exec.CommandContext(ctx, "docker", "save", image)
	var message bytes.Buffer
	save.Stderr = &message
	out, err := save.StdoutPipe()
	if err != nil {
		return fmt.Errorf("load image %s: %w", image, err)
	}
	if err := save.Start(); err != nil {
		return fmt.Errorf("load image %s: %w", image, err)
	}
	imported := n.importArchive(ctx, out)
	// Otherwise docker blocks on the pipe if ctr gave up early.
	_, _ = io.Copy(io.Discard, out)
	if err := save.Wait(); err != nil {
		return fmt.Errorf("load image %s: docker save: %w: %s", image, err, bytes.TrimSpace(message.Bytes()))
	}
	return imported
}

func (n *Node) ctr(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(n.binaries, "ctr"), append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)...)
}

func (n *Node) importArchive(ctx context.Context, archive io.Reader) error {
	cmd := n.ctr(ctx, "images", "import", "-")
	cmd.Stdin = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import image: %w: %s", err, bytes.TrimSpace(out))
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// The kubelet sees an image when containerd's CRI plugin has heard of it,
	// a moment later; it then bears this label.
	for {
		out, err := n.ctr(ctx, "images", "list").Output()
		if err != nil {
			return fmt.Errorf("list images: %w", err)
		}
		seen := true
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "REF") && !strings.Contains(line, "io.cri-containerd.image=managed") {
				seen = false
			}
		}
		if seen {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("import image: containerd's CRI plugin does not take note of it")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// loadOwn makes and imports the images that every node has.
func loadOwn(ctx context.Context, n *Node, t tools) error {
	pause, err := os.ReadFile(filepath.Join(n.binaries, "pause"))
	if err != nil {
		return fmt.Errorf("make pause image: %w", err)
	}
	busybox, err := os.ReadFile(t.busybox)
	if err != nil {
		return fmt.Errorf("make busybox image: %w", err)
	}
	applets, err := exec.CommandContext(ctx, t.busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("make busybox image: %w", err)
	}
	for _, m := range []image{pauseImage(pause), busyboxImage(busybox, strings.Fields(string(applets)))} {
		var archive bytes.Buffer
		if err := m.writeArchive(&archive); err != nil {
			return err
		}
		if err := n.importArchive(ctx, &archive); err != nil {
			return fmt.Errorf("load %s: %w", m.name, err)
		}
	}
	return nil
}
