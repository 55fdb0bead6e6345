package exporter

import (
	"context"
	"errors"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// seal ends a capture: it looks at the pod once more, judges, and commits log and record to the
// spool. After it the run is as good as archived.
func (c *capture) seal(ctx context.Context) {
	if ctx.Err() == nil && !c.looked && !c.run.unseen {
		c.seePod(ctx)
	}
	if ctx.Err() != nil && !(c.followed && c.had()) {
		c.abandon() // the next start reads it; only what a stream has brought is worth a record now
		return
	}
	switch {
	case c.apart && c.e.stopping():
		c.abandon()
		return
	case !c.rejoin(ctx):
		c.refused++
		c.again(c.seal)
		return
	}
	m := c.run.now()
	switch taken, err := c.settleExport(m); {
	case err != nil && ctx.Err() != nil:
		c.abandon()
		return
	case err != nil: // what is held may be all there is
		c.unspooled(err)
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
		c.again(c.seal)
		return
	case !taken:
		c.discard()
		return
	}
	c.resetOthers(ctx, m)
	if !c.had() && c.kept != nil {
		c.reset()
		c.held, c.kept = *c.kept, nil
		c.resetOthers(ctx, m)
	}
	c.drop()
	c.consult(ctx)
	rec := c.record(m, c.running)
	rec.Verdict = c.judge(m)
	key, err := c.commit(rec)
	if err != nil && !errors.Is(err, errSpooled) {
		c.unspooled(err)
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
		switch {
		case ctx.Err() != nil:
			c.abandon()
		case c.atSource():
			c.reset()
			c.again(c.read)
		default: // what is held may be all there is
			c.again(c.seal)
		}
		return
	}
	if err == nil && c.out != nil {
		c.e.metrics.redacted(c.out.newMatches())
	}
	if c.log != nil {
		c.run.holds(c.log.First())
	}
	c.reset()
	c.e.ship.add(key, rec)
	if err == nil {
		c.e.metrics.captured(rec)
		c.report(rec, key)
		c.e.stored(rec.RawBytes, key)
	}
	c.finish()
}

func (c *capture) report(rec *bundle.Record, key string) {
	args := c.attrs("key", key, "lines", rec.Lines, "bytes", rec.RawBytes, "complete", rec.Verdict.Complete)
	if rec.Verdict.Tail.Cause == bundle.CauseSpoolFull && rec.Lines > 0 {
		c.e.log.Error("log cut: there was no room for the rest of it", args...)
		return
	}
	if rec.Lines == 0 && rec.Verdict.Head.State == bundle.Lost {
		c.e.log.Error("log lost", append(args, "cause", rec.Verdict.Head.Cause)...)
		return
	}
	c.e.log.Info("captured", args...)
}

// errOtherPod says that the pod's name belongs to another pod now.
var errOtherPod = errors.New("another pod has the name now")

// seePod reads the pod as it is now: for the record, and because the watch may lag behind what the
// kubelet serves.
func (c *capture) seePod(ctx context.Context) {
	known := c.run.now().pod
	pod, err := c.e.kube.CoreV1().Pods(known.namespace).Get(ctx, known.name, metav1.GetOptions{})
	seen := infoOf(pod) // of an empty one, if it was not got
	c.noting.Lock()
	if err == nil && seen.uid != known.uid {
		err, c.other = errOtherPod, seen.created
	}
	if c.podErr = err; err == nil {
		c.object = pod
	}
	c.noting.Unlock()
	if err == nil {
		c.e.tracker.observe(seen, false)
	}
}

func (c *capture) podError() error {
	c.noting.Lock()
	defer c.noting.Unlock()
	return c.podErr
}

// record puts together what is known of the run, apart from its log. It may be called beside a stream.
func (c *capture) record(m moment, running bool) *bundle.Record {
	pod := m.pod
	rec := &bundle.Record{
		FormatVersion: bundle.FormatVersion,
		Cluster:       c.e.cluster,
		Namespace:     pod.namespace,
		Pod: bundle.Pod{
			Name: pod.name, UID: string(pod.uid), NodeName: pod.node, Labels: pod.labelMap(), Owners: pod.owners,
			Phase: string(pod.phase), Reason: pod.reason, Message: pod.message, DeletionTimestamp: pod.deletion,
		},
		Container: bundle.Container{
			Name: c.run.id.container, Type: c.run.kind, Image: c.run.image, ImageID: c.run.imageID,
			ContainerID: c.run.id.containerID, RestartCount: c.run.restart,
		},
		Objects: []bundle.Object{},
		Capture: bundle.Capture{ExporterVersion: c.e.version, Policy: c.policy()},
	}
	if c.run.unseen {
		rec.Container.ContainerID, rec.Container.ImageID = "", ""
	}
	rec.State = c.state(m, running)
	c.noting.Lock()
	defer c.noting.Unlock()
	rec.Capture.Reads, rec.Capture.KubeletErrors = slices.Clone(c.reads), slices.Clone(c.texts)
	if c.node != nil && c.node.Stdout+c.node.Stderr > 0 {
		rec.Capture.StdoutLines, rec.Capture.StderrLines = &c.node.Stdout, &c.node.Stderr
	}
	if c.object != nil {
		rec.PodObject = podJSON(c.object, c.export.redacted)
	}
	return rec
}

func (c *capture) state(m moment, running bool) bundle.State {
	s := bundle.State{StartedAt: utc(c.run.startedAt)}
	if running {
		s.Running = true
		return s
	}
	if t := m.term; t != nil {
		s.FinishedAt = utc(t.FinishedAt.Time)
		s.ExitCode, s.Signal, s.Reason, s.Message = &t.ExitCode, t.Signal, t.Reason, c.export.redacted(t.Message)
	}
	if s.FinishedAt == nil {
		s.FinishedAtEstimated = true
		s.FinishedAt = utc(c.estimatedEnd(m))
	}
	return s
}

// estimatedEnd stands for an end that the kubelet never reported, or without its time. One that was not reported has
// just been noticed: a container may have been quiet for days. It is the same at every try, or a log would get its
// record on another day. Of an end that is shown without its time, for as long as its pod is there, the last line held
// is the best witness. Without one it is the same time at every look, for the same reason.
func (c *capture) estimatedEnd(m moment) time.Time {
	var last time.Time
	if c.log != nil {
		last = c.log.Last()
	}
	switch {
	case m.term == nil || m.pod.created.IsZero() && last.IsZero():
		if c.noticed.IsZero() {
			c.noticed = time.Now()
		}
		if last.After(c.noticed) { // by the node's clock
			return last
		}
		return c.noticed
	case !last.IsZero():
		return last
	}
	return c.run.since(m)
}

// since is when a run began, or its pod if that is not known.
func (r *run) since(m moment) time.Time {
	if r.startedAt.IsZero() {
		return m.pod.created
	}
	return r.startedAt
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
