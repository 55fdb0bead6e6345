package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// client is somebody who wants the logs.
type client interface {
	name() string
	// begin starts what runs before the pods do.
	begin() error
	// seen tells it how a pod is.
	seen(pod *corev1.Pod) error
	// settled says that it has all that it will have, now that every container has ended.
	settled(r *round) bool
	// end ends its processes. It may be called twice.
	end()
	result(ctx context.Context, r *round) (result, error)
}

// result is what a client has of a round, and what that cost.
type result struct {
	tally   *tally
	ends    map[string]int  // verdicts or exit codes
	latency []time.Duration // from the last line to the record
	ours    []time.Duration // from the end of the first read, which is the kubelet's doing, to the record
	wrong   []string
	usage
}

// The clients.
const (
	ourFinal  = "kubelogexporter"
	ourLive   = "kubelogexporter live"
	ourFiles  = "kubelogexporter node-logs"
	withCtl   = "kubectl logs -f"
	withStern = "stern"
	withGet   = "GET when terminated"
)

func clientNames() []string {
	return []string{ourFinal, ourLive, ourFiles, withCtl, withStern, withGet}
}

func newClient(name string, b *bench, namespace, dir string) client {
	s := seat{b: b, namespace: namespace, dir: dir, label: name}
	switch name {
	case ourFinal:
		return &exporterClient{seat: s}
	case ourLive:
		return &exporterClient{seat: s, args: []string{"--capture", "live"}}
	case ourFiles:
		return &exporterClient{seat: s, args: []string{"--node-logs", "prefer", "--container-log-max-files", strconv.Itoa(b.node.Options.ContainerLogMaxFiles)}}
	case withCtl:
		return &kubectlClient{seat: s, followed: make(map[string]bool)}
	case withStern:
		return &streamClient{seat: s, signal: os.Interrupt}
	}
	return &streamClient{seat: s, signal: syscall.SIGTERM}
}

// seat is what all clients have.
type seat struct {
	b         *bench
	namespace string
	dir       string
	label     string
	processes []*process

	size  int64 // of all files in dir, when it last changed
	since time.Time
}

func (s *seat) name() string { return s.label }

func (s *seat) start(file string, args ...string) error {
	p, err := start(filepath.Join(s.dir, file), args...)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return err
}

func (s *seat) cost() usage {
	var u usage
	for _, p := range s.processes {
		u.add(p)
	}
	return u
}

// quiet says that nothing was written for some seconds.
func (s *seat) quiet() bool {
	var size int64
	_ = filepath.WalkDir(s.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if size != s.size || s.since.IsZero() {
		s.size, s.since = size, time.Now()
	}
	return time.Since(s.since) > 6*time.Second
}

// read counts the lines of a file, and how long after the last one it was written, if it has that.
func (s *seat) read(r *round, res *result, file string) error {
	t := newTally()
	if err := t.file(file); err != nil {
		return err
	}
	res.tally.merge(t)
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	for pod, h := range t.pods {
		if r.restarts > 0 || h.has(r.written[pod]) && len(t.pods) == 1 {
			res.latency = append(res.latency, max(0, info.ModTime().Sub(h.last))) // file systems round down
		}
	}
	return nil
}

// streamClient is one process that looks at the whole namespace: stern, or the plain client.
type streamClient struct {
	seat
	signal os.Signal
}

func (c *streamClient) begin() error {
	if c.label == withStern {
		return c.start("all", c.b.tools.stern, "--kubeconfig", c.b.node.Kubeconfig, "-n", c.namespace, ".", "--timestamps=default", "--color=never", "--output=raw", "--max-log-requests=200")
	}
	return c.start("said", c.b.tools.self, plainMode, "--kubeconfig", c.b.node.Kubeconfig, "--namespace", c.namespace, "--dir", c.dir)
}

func (c *streamClient) seen(*corev1.Pod) error { return nil }
func (c *streamClient) settled(*round) bool    { return c.quiet() }

func (c *streamClient) end() {
	for _, p := range c.processes {
		p.end(c.signal)
	}
}

func (c *streamClient) result(_ context.Context, r *round) (result, error) {
	res := result{tally: newTally(), usage: c.cost(), ends: make(map[string]int)}
	for _, p := range c.processes {
		res.ends[p.exitWords()]++
	}
	files, err := filepath.Glob(filepath.Join(c.dir, "*"))
	if err != nil {
		return res, err
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".err") {
			continue
		}
		if err := c.read(r, &res, file); err != nil {
			return res, err
		}
	}
	if c.label == withStern {
		res.latency = nil // one file for all pods tells nothing of each
	}
	return res, nil
}

// kubectlClient follows each run of each pod with a kubectl of its own.
type kubectlClient struct {
	seat
	followed map[string]bool
}

func (c *kubectlClient) begin() error { return nil }

func (c *kubectlClient) seen(pod *corev1.Pod) error {
	for _, s := range pod.Status.ContainerStatuses {
		key := fmt.Sprintf("%s.%d", pod.Name, s.RestartCount)
		if c.followed[key] || s.State.Running == nil && s.State.Terminated == nil {
			continue
		}
		c.followed[key] = true
		if err := c.start(key, c.b.tools.kubectl, "--kubeconfig", c.b.node.Kubeconfig, "-n", c.namespace, "logs", "-f", "--timestamps", pod.Name, "-c", s.Name); err != nil {
			return err
		}
	}
	return nil
}

// settled: a follow ends with its container.
func (c *kubectlClient) settled(*round) bool {
	for _, p := range c.processes {
		if !p.ended() {
			return c.quiet()
		}
	}
	return true
}

func (c *kubectlClient) end() {
	for _, p := range c.processes {
		p.end(os.Interrupt)
	}
}

func (c *kubectlClient) result(_ context.Context, r *round) (result, error) {
	res := result{tally: newTally(), usage: c.cost(), ends: make(map[string]int)}
	for _, p := range c.processes {
		res.ends[p.exitWords()]++
		if err := c.read(r, &res, p.files[0].Name()); err != nil {
			return res, err
		}
	}
	return res, nil
}
