package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/archive"
)

// costName is the comparison of CPU times.
const costName = "cost"

// costTries is how often each takes its turn; the median counts.
const costTries = 3

// cost is what it took to have the logs of some ended containers once, compressed.
type cost struct {
	who   string
	tries []usage
	bytes int64 // of text, in each try
}

func (c cost) cpu() time.Duration {
	var all []time.Duration
	for _, u := range c.tries {
		all = append(all, u.cpu)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// perGB is in CPU seconds.
func (c cost) perGB() float64 { return c.cpu().Seconds() / (float64(c.bytes) / 1e9) }

// pipeline is what the costs are compared with.
const pipeline = "kubectl logs --timestamps | zstd -3"

// cost lets some pods write much and end, and compares what it costs to read and compress their logs:
// by the exporter, and by kubectl and zstd. They take turns; nobody else reads meanwhile.
func (b *bench) cost(ctx context.Context) error {
	lines := max(1000, int(400_000*b.scale))
	w := workload{name: costName, pods: 4, lines: lines, script: fmt.Sprintf(`/bin/busybox awk -v pod=$HOSTNAME 'BEGIN{for(i=1;i<=%d;i++)
printf "line %%07d %%s {\"level\":\"info\",\"msg\":\"request served\",\"path\":\"/api/v1/orders\",\"status\":200,\"trace\":\"%%08x%%08x\"} .\n", i, pod, rand()*4294967295, rand()*4294967295}'`, lines)}
	b.say("%d pods that wrote %d lines each and have ended: CPU time to read and compress their logs", w.pods, lines)
	namespace := fmt.Sprintf("bench-cost-%x", time.Now().UnixNano()&0xffffff)
	if err := b.makeNamespace(ctx, namespace); err != nil {
		return err
	}
	defer b.dropNamespace(namespace)
	for i := range w.pods {
		if _, err := b.kube.CoreV1().Pods(namespace).Create(ctx, w.pod(i), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create pod: %w", err)
		}
	}
	ended, err := until(ctx, 5*time.Minute, func() bool {
		list, err := b.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Succeeded"})
		return err == nil && len(list.Items) == w.pods
	})
	if err != nil || !ended {
		return fmt.Errorf("wait for the pods of %s: %w", costName, err)
	}
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	costs := []cost{{who: pipeline}, {who: ourFinal}, {who: ourFiles}}
	for try := range costTries {
		for i := range costs {
			if err := b.costTry(ctx, &costs[i], namespace, w, try); err != nil {
				return err
			}
			c := costs[i]
			b.say("  %-36s %.2f s CPU for %.1f MB", c.who, c.tries[try].cpu.Seconds(), float64(c.bytes)/1e6)
		}
	}
	b.costs = costs
	return nil
}

func (b *bench) costTry(ctx context.Context, c *cost, namespace string, w workload, try int) error {
	dir, err := b.folder(namespace, fmt.Sprintf("%d-%s", try, strings.NewReplacer(" ", "-", "|", "").Replace(c.who)))
	if err != nil {
		return err
	}
	var u usage
	var bytes int64
	if c.who == pipeline {
		u, bytes, err = b.pipeline(ctx, namespace, w, dir)
	} else {
		u, bytes, err = b.exporterCost(ctx, c.who, namespace, w, dir)
	}
	if err != nil {
		return fmt.Errorf("measure %s: %w", c.who, err)
	}
	c.tries, c.bytes = append(c.tries, u), bytes
	return os.RemoveAll(dir)
}

// exporterCost runs the exporter until it has a record for each pod.
func (b *bench) exporterCost(ctx context.Context, who, namespace string, w workload, dir string) (usage, int64, error) {
	c, ok := newClient(who, b, namespace, dir).(*exporterClient)
	if !ok {
		return usage{}, 0, fmt.Errorf("%s is not the exporter", who)
	}
	if err := c.begin(); err != nil {
		return usage{}, 0, err
	}
	err := c.wait(ctx, w.pods, 5*time.Minute)
	c.end()
	if err == nil {
		err = c.processes[0].err
	}
	if err != nil {
		return usage{}, 0, err
	}
	keys, a, err := c.runs(ctx)
	if err != nil {
		return usage{}, 0, err
	}
	var bytes int64
	for _, key := range keys {
		rec, err := a.Record(ctx, key)
		if err != nil {
			return usage{}, 0, err
		}
		log, err := a.Log(ctx, rec, archive.LogOptions{Timestamps: true, TailLines: -1})
		if err != nil {
			return usage{}, 0, err
		}
		n, err := io.Copy(io.Discard, log)
		_ = log.Close()
		if err != nil {
			return usage{}, 0, err
		}
		bytes += n
	}
	return c.cost(), bytes, nil
}

// pipeline runs kubectl and zstd, as a user would type them, for one pod after the other.
func (b *bench) pipeline(ctx context.Context, namespace string, w workload, dir string) (usage, int64, error) {
	var u usage
	var bytes int64
	for i := range w.pods {
		pod, file := w.pod(i).Name, filepath.Join(dir, strconv.Itoa(i)+".zst")
		read, write, err := os.Pipe()
		if err != nil {
			return u, 0, err
		}
		kubectl := exec.CommandContext(ctx, b.tools.kubectl, "--kubeconfig", b.node.Kubeconfig, "-n", namespace, "logs", "--timestamps", pod) //nolint:gosec // as above
		kubectl.Stdout = write
		zstd := exec.CommandContext(ctx, b.tools.zstd, "-3", "-q", "-o", file) //nolint:gosec // as above
		zstd.Stdin = read
		if err := kubectl.Start(); err != nil {
			return u, 0, err
		}
		if err := zstd.Start(); err != nil {
			return u, 0, err
		}
		_, _ = read.Close(), write.Close()
		for _, cmd := range []*exec.Cmd{kubectl, zstd} {
			if err := cmd.Wait(); err != nil {
				return u, 0, err
			}
			u.add(&process{cmd: cmd})
		}
		list := exec.CommandContext(ctx, b.tools.zstd, "-dcq", file) //nolint:gosec // as above
		var n counter
		list.Stdout = &n
		if err := list.Run(); err != nil {
			return u, 0, err
		}
		bytes += int64(n)
	}
	return u, bytes, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
