package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// record is the node's own file: it exists from before the first change to the
// machine until after the last one was taken back.
type record struct {
	Before   before
	Options  Options
	Binaries string
	// Complete is set when Up succeeded.
	Complete bool
}

const recordFile = dir + "/node.json"

func supported() error {
	if os.Geteuid() != 0 {
		return errors.New("run a kubernetes node: it needs root, for containers, mounts and a network bridge: use sudo -E, or a virtual machine")
	}
	return nil
}

// progress writes one line per step, with the time since the start.
type progress struct {
	w     io.Writer
	start time.Time
}

func newProgress(w io.Writer) *progress { return &progress{w: w, start: time.Now()} }

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p.w, "node: %6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func readRecord() (record, error) {
	var r record
	data, err := os.ReadFile(recordFile)
	if err != nil {
		return r, fmt.Errorf("read node record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read node record: %w", err)
	}
	return r, nil
}

// write replaces the record in one step, so that a crash leaves the old one.
func (r record) write() error {
	if err := writeJSON(recordFile+".new", r); err != nil {
		return err
	}
	if err := os.Rename(recordFile+".new", recordFile); err != nil {
		return fmt.Errorf("write node record: %w", err)
	}
	return nil
}

func (r record) node() *Node {
	return &Node{
		Kubeconfig: kubeconfig("admin"),
		Kubectl:    filepath.Join(r.Binaries, "kubectl"),
		CA:         pki("ca.crt"),
		Options:    r.Options,
		Logs:       dir + "/log",
		StaticPods: staticPods,
		binaries:   r.Binaries,
	}
}

func open() (*Node, error) {
	r, err := readRecord()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotUp
	}
	if err != nil {
		return nil, err
	}
	if !r.Complete {
		return nil, fmt.Errorf("%w: it is starting, or its start was interrupted", ErrNotUp)
	}
	return r.node(), nil
}

// satisfies reports whether a node with the options have is one with want.
func satisfies(have, want Options) bool {
	return (want.ContainerLogMaxSize == "" || want.ContainerLogMaxSize == have.ContainerLogMaxSize) &&
		(want.ContainerLogMaxFiles == 0 || want.ContainerLogMaxFiles == have.ContainerLogMaxFiles)
}

func up(ctx context.Context, o Options) (*Node, error) {
	p := newProgress(o.Log)
	unlock, err := lock(ctx, p)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := installTools(ctx, p)
	if err != nil {
		return nil, err
	}
	bin, err := binaries(ctx, p)
	if err != nil {
		return nil, err
	}
	if n, err := open(); err == nil {
		_, unhealthy := status(ctx)
		switch {
		case unhealthy != nil:
			p.say("the running node is not healthy: %v", unhealthy)
		case n.binaries != bin:
			p.say("the running node was built from other sources")
		case !satisfies(n.Options, o):
			p.say("the running node rotates logs at %s, %d files", n.Options.ContainerLogMaxSize, n.Options.ContainerLogMaxFiles)
		default:
			p.say("the node is up already")
			return n.use()
		}
		if unhealthy == nil {
			if err := unused(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	if err := clean(ctx, p); err != nil {
		return nil, fmt.Errorf("remove old node: %w", err)
	}
	if o.ContainerLogMaxSize == "" {
		o.ContainerLogMaxSize = "10Mi"
	}
	if o.ContainerLogMaxFiles == 0 {
		o.ContainerLogMaxFiles = 5
	}
	n, err := create(ctx, o, bin, t, p)
	if err != nil {
		p.say("start failed, removing what there is")
		return nil, errors.Join(fmt.Errorf("start node: %w", err), clean(context.WithoutCancel(ctx), p))
	}
	p.say("the node is up")
	return n.use()
}

// create starts everything on a clean machine.
func create(ctx context.Context, o Options, bin string, t tools, p *progress) (*Node, error) {
	if err := addressesFree(); err != nil {
		return nil, err
	}
	b, err := lookBefore()
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"", "run", "log", "pki", "cni", "static-pods"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make state folder: %w", err)
		}
	}
	o.Log = nil // belongs to this call only
	r := record{Before: b, Options: o, Binaries: bin}
	if err := r.write(); err != nil {
		return nil, err
	}
	if err := writeCertificates(filepath.Join(dir, "pki")); err != nil {
		return nil, err
	}
	if err := writeConfigs(o, t); err != nil {
		return nil, err
	}
	if err := addNetwork(ctx); err != nil {
		return nil, err
	}
	if err := addCgroups(); err != nil {
		return nil, err
	}
	if err := startAll(ctx, r.node(), t, p); err != nil {
		return nil, err
	}
	r.Complete = true
	return r.node(), r.write()
}

// startAll starts the components, each as soon as what it needs is there.
func startAll(ctx context.Context, n *Node, t tools, p *progress) error {
	api, err := newClient()
	if err != nil {
		return err
	}
	p.say("starting etcd, kube-apiserver and containerd")
	if _, err := start(n.binaries, "etcd", etcdArgs()...); err != nil {
		return err
	}
	containerd, err := start(n.binaries, "containerd", containerdArgs()...)
	if err != nil {
		return err
	}
	// The API server itself waits for etcd.
	apiserver, err := start(n.binaries, "kube-apiserver", apiserverArgs()...)
	if err != nil {
		return err
	}
	if err := containerd.wait(ctx, 30*time.Second, containerdReady); err != nil {
		return err
	}
	// Before the kubelet, which otherwise starts a pull that must fail and
	// waits ten seconds before the next look.
	if err := loadOwn(ctx, n, t); err != nil {
		return err
	}
	if err := apiserver.wait(ctx, time.Minute, api.ready); err != nil {
		return err
	}
	p.say("the API server is ready, starting kube-controller-manager, kube-scheduler and kubelet")
	controllers, err := start(n.binaries, "kube-controller-manager", controllerManagerArgs()...)
	if err != nil {
		return err
	}
	scheduler, err := start(n.binaries, "kube-scheduler", schedulerArgs()...)
	if err != nil {
		return err
	}
	kubelet, err := start(n.binaries, "kubelet", kubeletArgs()...)
	if err != nil {
		return err
	}
	if err := controllers.wait(ctx, time.Minute, api.serviceAccountExists); err != nil {
		return err
	}
	if err := scheduler.wait(ctx, time.Minute, api.schedulerReady); err != nil {
		return err
	}
	p.say("waiting for the kubelet to report the node as Ready")
	return kubelet.wait(ctx, 2*time.Minute, api.nodeReady)
}

func down(ctx context.Context, log io.Writer) error {
	p := newProgress(log)
	unlock, err := lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	// Nobody can make use of a node that does not work.
	if _, unhealthy := status(ctx); unhealthy == nil {
		if err := unused(ctx, p); err != nil {
			return err
		}
	}
	if err := clean(ctx, p); err != nil {
		return fmt.Errorf("stop node: %w", err)
	}
	if err := os.Remove(usersFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop node: %w", err)
	}
	p.say("nothing is left of the node")
	return nil
}

// clean removes whatever there is of a node. Every step is safe to repeat, and
// the record goes last, so that an interrupted clean can be taken up again.
func clean(ctx context.Context, p *progress) error {
	r, err := readRecord()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// No record, no change to the machine; a folder may still be there
		// from before the record was written.
	case err != nil:
		return err
	default:
		p.say("stopping the node")
	}
	if err := killAll(ctx); err != nil {
		return err
	}
	if err := unmountAll(); err != nil {
		return err
	}
	if err := removeNetwork(ctx); err != nil {
		return err
	}
	if err := removeCgroups(ctx); err != nil {
		return err
	}
	if err == nil {
		if err := r.Before.restore(); err != nil {
			return err
		}
	}
	return removeDir()
}

// removeDir removes the node's folder, the record last.
func removeDir() error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); path != recordFile {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove state folder: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	return nil
}
