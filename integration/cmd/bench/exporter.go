package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// clusterName is the cluster's name in the archives.
const clusterName = "bench"

// exporterClient is this project's program.
type exporterClient struct {
	seat
	args []string
}

func (c *exporterClient) begin() error {
	args := append([]string{
		c.b.tools.exporter, "run", "--kubeconfig", c.b.node.Kubeconfig, "-n", c.namespace, "--cluster", clusterName,
		"--sink", "dir:" + c.sink(), "--spool", filepath.Join(c.dir, "spool"),
	}, c.args...)
	return c.start("said", args...)
}

func (c *exporterClient) sink() string               { return filepath.Join(c.dir, "sink") }
func (c *exporterClient) seen(pod *corev1.Pod) error { return nil }

func (c *exporterClient) end() {
	for _, p := range c.processes {
		p.end(syscall.SIGTERM)
	}
}

// runs lists the runs that have a final record.
func (c *exporterClient) runs(ctx context.Context) ([]bundle.RunKey, *archive.Archive, error) {
	dir, err := sink.OpenDir(c.sink())
	if err != nil {
		return nil, nil, err
	}
	a := archive.New(dir)
	var keys []bundle.RunKey
	for run, err := range a.Runs(ctx, archive.Query{Cluster: clusterName}) {
		if err != nil {
			return nil, nil, err
		}
		if run.Key == run.Key.Final() {
			keys = append(keys, run.Key)
		}
	}
	return keys, a, nil
}

// settled: it has a record for each run.
func (c *exporterClient) settled(r *round) bool {
	keys, _, err := c.runs(context.Background())
	if err != nil || len(c.processes) == 0 || c.processes[0].ended() {
		return err != nil || c.processes[0].ended()
	}
	return len(keys) >= r.workload.pods*(r.restarts+1)
}

func (c *exporterClient) result(ctx context.Context, r *round) (result, error) {
	res := result{tally: newTally(), usage: c.cost(), ends: make(map[string]int)}
	if err := c.processes[0].err; err != nil {
		return res, fmt.Errorf("run the exporter: %w, see %s", err, c.processes[0].files[1].Name())
	}
	keys, a, err := c.runs(ctx)
	if err != nil {
		return res, err
	}
	for _, key := range keys {
		if r.restarts > 0 && int(key.Restart) > r.restarts {
			continue // it ended while the clients were ended
		}
		if err := c.record(ctx, r, a, key, &res); err != nil {
			return res, err
		}
	}
	if missing := r.workload.pods*(r.restarts+1) - sum(res.ends); missing > 0 {
		res.ends["without record"] = missing
	}
	return res, nil
}

func sum(m map[string]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

// record counts one record's lines and compares them with what its verdict says.
func (c *exporterClient) record(ctx context.Context, r *round, a *archive.Archive, key bundle.RunKey, res *result) error {
	rec, err := a.Record(ctx, key)
	if err != nil {
		return err
	}
	t := newTally()
	if len(rec.Objects) > 0 {
		log, err := a.Log(ctx, rec, archive.LogOptions{Timestamps: true, TailLines: -1})
		if err != nil {
			return err
		}
		err = t.read(log)
		_ = log.Close()
		if err != nil {
			return err
		}
	}
	h := t.pods[rec.Pod.Name]
	missing := 0
	for n := 1; n <= r.written[rec.Pod.Name]; n++ {
		if !h.has(n) && (r.restarts == 0 || n == int(rec.Container.RestartCount)+1) {
			missing++
		}
	}
	if r.restarts > 0 && h != nil && (h.distinct > 1 || !h.has(int(rec.Container.RestartCount)+1)) {
		res.wrong = append(res.wrong, fmt.Sprintf("%s restart %d holds lines of another run", rec.Pod.Name, rec.Container.RestartCount))
	}
	v := rec.Verdict
	switch {
	case v.Complete:
		res.ends["complete"]++
		if missing > 0 {
			res.wrong = append(res.wrong, fmt.Sprintf("%s restart %d is complete, and %d lines are missing: %+v", rec.Pod.Name, rec.Container.RestartCount, missing, v))
		}
	case v.Head.State == bundle.Lost || v.Middle.State == bundle.Lost || v.Tail.State == bundle.Lost:
		res.ends["lost"]++
	case missing > 0:
		res.ends["unproven with lines missing"]++
	default:
		res.ends["unproven"]++
	}
	res.tally.merge(t)
	return c.latency(r, rec, key, res)
}

// latency notes how long it took to the record, if there is a log: that one is lost can be known before
// the container has ended.
func (c *exporterClient) latency(r *round, rec *bundle.Record, key bundle.RunKey, res *result) error {
	info, err := os.Stat(filepath.Join(c.sink(), filepath.FromSlash(key.Record())))
	if err != nil || rec.LastStamp == nil {
		return err
	}
	exit := r.exit[rec.Pod.Name]
	if exit.IsZero() {
		exit = *rec.LastStamp
	}
	res.latency = append(res.latency, info.ModTime().Sub(exit))
	if reads := rec.Capture.Reads; len(reads) > 0 {
		res.ours = append(res.ours, info.ModTime().Sub(reads[0].Time))
	}
	return nil
}

// wait waits until there are so many records.
func (c *exporterClient) wait(ctx context.Context, n int, limit time.Duration) error {
	ok, err := until(ctx, limit, func() bool {
		keys, _, err := c.runs(ctx)
		return err == nil && len(keys) >= n
	})
	if err == nil && !ok {
		err = fmt.Errorf("wait for %d records: not within %s", n, limit)
	}
	return err
}
