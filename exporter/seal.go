package exporter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// errSpooled says that this very run is in the spool already, sealed before and not shipped yet.
var errSpooled = errors.New("already in the spool")

// seal ends a capture: it looks at the pod once more, judges, and commits log and record to the
// spool. After it the run is as good as archived.
func (c *capture) seal(ctx context.Context) {
	if ctx.Err() == nil && !c.looked {
		c.seePod(ctx)
	}
	if ctx.Err() != nil && !(c.followed && c.had()) {
		c.abandon() // the next start reads it; only what a dying pod's stream has brought is not to be had again
		return
	}
	m := c.run.now()
	if c.foreign(m) {
		c.reset()
	}
	rec := c.record(m)
	rec.Verdict = c.judge(m)
	key, err := c.commit(rec)
	if err != nil && !errors.Is(err, errSpooled) {
		c.refused++
		c.e.log.Warn("cannot spool, will try again", c.attrs("err", err)...)
		c.reset()
		c.again(c.read)
		return
	}
	c.reset()
	c.e.ship.add(key)
	if err == nil {
		c.e.metrics.captured(rec)
		c.report(rec, key)
		c.e.tally.add(func(t *tally) { t.bytes += rec.RawBytes; t.keys = append(t.keys, key) })
	}
	c.finish()
}

func (c *capture) report(rec *bundle.Record, key string) {
	args := c.attrs("key", key, "lines", rec.Lines, "bytes", rec.RawBytes, "complete", rec.Verdict.Complete)
	if rec.Lines == 0 && rec.Verdict.Head.State == bundle.Lost {
		c.e.log.Error("log lost", append(args, "cause", rec.Verdict.Head.Cause)...)
		return
	}
	c.e.log.Info("captured", args...)
}

// commit writes the log objects and then the record to the spool.
func (c *capture) commit(rec *bundle.Record) (string, error) {
	if c.out != nil {
		if err := c.out.seal(c.e.compression, rec); err != nil {
			return "", err
		}
	}
	run, err := bundle.KeyOf(rec)
	if err != nil {
		return "", err
	}
	key := run.Record()
	if _, err := c.e.spool.Stat(context.Background(), key); err == nil {
		return key, errSpooled
	}
	if c.out != nil {
		if err := c.out.publish(rec); err != nil {
			return "", err
		}
	}
	return key, putRecord(c.e.spool, key, rec)
}

func putRecord(spool *sink.Dir, key string, rec *bundle.Record) error {
	data, err := bundle.Encode(rec)
	if err != nil {
		return err
	}
	return spool.Put(context.Background(), key, bytes.NewReader(data)) // a local write, not to be cut short by a stop
}

// errOtherPod says that the pod's name belongs to another pod now.
var errOtherPod = errors.New("another pod has the name now")

// seePod reads the pod as it is now: for the record, and because the watch may lag behind what the
// kubelet serves.
func (c *capture) seePod(ctx context.Context) {
	known := c.run.now().pod
	pod, err := c.e.kube.CoreV1().Pods(known.Namespace).Get(ctx, known.Name, metav1.GetOptions{})
	if err == nil && pod.UID != known.UID {
		err = errOtherPod
	}
	c.podMu.Lock()
	if c.podErr = err; err == nil {
		c.object = pod
	}
	c.podMu.Unlock()
	if err == nil {
		small, _ := slim(pod)
		c.e.tracker.observe(small.(*corev1.Pod), false) //nolint:forcetypeassert // slim of a pod is a pod
	}
}

func (c *capture) podError() error {
	c.podMu.Lock()
	defer c.podMu.Unlock()
	return c.podErr
}

// record puts together what is known of the run, apart from its log.
func (c *capture) record(m moment) *bundle.Record {
	pod := m.pod
	rec := &bundle.Record{
		FormatVersion: bundle.FormatVersion,
		Cluster:       c.e.cluster,
		Namespace:     pod.Namespace,
		Pod: bundle.Pod{
			Name: pod.Name, UID: string(pod.UID), NodeName: pod.Spec.NodeName, Labels: pod.Labels,
			Phase: string(pod.Status.Phase), Reason: pod.Status.Reason, Message: pod.Status.Message,
		},
		Container: bundle.Container{
			Name: c.run.id.container, Type: c.run.kind, Image: c.run.image, ImageID: c.run.imageID,
			ContainerID: c.run.id.containerID, RestartCount: c.run.restart,
		},
		Objects: []bundle.Object{},
		Capture: bundle.Capture{ExporterVersion: c.e.version, Policy: c.e.policy, Reads: c.reads, KubeletErrors: c.texts},
	}
	if t := pod.DeletionTimestamp; t != nil {
		rec.Pod.DeletionTimestamp = utc(t.Time)
	}
	for _, o := range pod.OwnerReferences {
		rec.Pod.Owners = append(rec.Pod.Owners, bundle.Owner{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: string(o.UID)})
	}
	rec.State = c.state(m)
	c.podMu.Lock()
	defer c.podMu.Unlock()
	if c.object != nil {
		rec.PodObject = podJSON(c.object)
	}
	return rec
}

func (c *capture) state(m moment) bundle.State {
	s := bundle.State{StartedAt: utc(c.run.startedAt)}
	if c.running {
		s.Running = true
		return s
	}
	if t := m.term; t != nil {
		s.FinishedAt = utc(t.FinishedAt.Time)
		s.ExitCode, s.Signal, s.Reason, s.Message = &t.ExitCode, t.Signal, t.Reason, t.Message
	}
	if s.FinishedAt == nil {
		// The kubelet never reported the end: the last line held is the best witness of it.
		s.FinishedAtEstimated = true
		s.FinishedAt = utc(time.Now())
		if c.log != nil && !c.log.Last().IsZero() {
			s.FinishedAt = utc(c.log.Last())
		}
	}
	return s
}

// judge says for head, middle and tail what is proven. It errs on the side of doubt.
func (c *capture) judge(m moment) bundle.Verdict {
	v := bundle.Verdict{}
	switch {
	case !c.had():
		part := bundle.Part{State: bundle.Lost, Cause: lostCause(m)}
		v.Head, v.Middle, v.Tail = part, part, part
	default:
		v.Head, v.Middle, v.Tail = c.judgeHead(m), c.middle, c.judgeTail(m)
	}
	v.Complete = v.Head.State == bundle.Proven && v.Middle.State == bundle.Proven && v.Tail.State == bundle.Proven
	return v
}

// had says whether the kubelet served this run's log, be it an empty one.
func (c *capture) had() bool { return c.log != nil && (c.log.Bytes() > 0 || c.served) }

func lostCause(m moment) bundle.Cause {
	switch {
	case m.podGone:
		return bundle.CauseDeletedBeforeRead
	case m.slot == slotNone:
		return bundle.CauseReplacedBeforeRead
	case m.dying:
		return bundle.CauseDeletedBeforeRead
	}
	return bundle.CauseKubeletError
}

// judgeHead compares the first line held with the first line that was seen while the run went on.
func (c *capture) judgeHead(m moment) bundle.Part {
	first := c.log.First()
	witness, ok := c.run.witnessedHead()
	switch {
	case c.log.Bytes() == 0 && witness.IsZero() && (c.run.seenEmpty() || lived(c.run, m) < 2*time.Second):
		return bundle.Part{State: bundle.Proven, Evidence: []string{"the kubelet served an empty log, and it was empty from the start"}}
	case !witness.IsZero() && !witness.Equal(first):
		return bundle.Part{
			State: bundle.Lost, Cause: bundle.CauseRotated, After: utc(witness), Before: utc(first),
			Evidence: []string{"the first line seen while the container ran is no longer served"},
		}
	case ok:
		return bundle.Part{State: bundle.Proven, Evidence: []string{"the first line is the one that was seen right after the start"}}
	}
	return bundle.Part{
		State: bundle.Unproven, Cause: bundle.CauseNotWitnessed,
		Evidence: []string{"the log was first seen too late to exclude a rotation before it"},
	}
}

// judgeTail takes the closing read's judgement only where the run's end is known.
func (c *capture) judgeTail(m moment) bundle.Part {
	switch {
	case c.tail.State == "":
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"no closing read was possible"}}
	case c.tail.State == bundle.Proven && !c.followed && c.asked != m.slot && !m.podGone:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"the container restarted while its log was read"}}
	case m.term == nil && c.tail.State == bundle.Proven:
		return bundle.Part{State: bundle.Unproven, Cause: bundle.CauseTailUnproven, Evidence: []string{"the kubelet never reported the end"}}
	}
	return c.tail
}

// lived is how long a run lasted; very long if that is not known.
func lived(r *run, m moment) time.Duration {
	if m.term == nil || m.term.FinishedAt.IsZero() || r.startedAt.IsZero() {
		return 1<<63 - 1
	}
	return m.term.FinishedAt.Sub(r.startedAt)
}

// foreign says whether what was read may be another run's, so that it must not be stored as this
// one's: the name or the slot that was asked for had moved on by the end of the reading. Then only
// stamps can vouch for the bytes: a log that begins before the second in which this run ended
// cannot be its successor's.
func (c *capture) foreign(m moment) bool {
	if c.log == nil || c.log.Bytes() == 0 {
		return false
	}
	moved := errors.Is(c.podError(), errOtherPod)
	if !c.followed && !m.podGone && c.asked != m.slot {
		moved = true
	}
	first := c.log.First()
	switch {
	case first.IsZero():
		return moved
	case first.Before(c.run.startedAt.Add(-time.Second)):
		return true // older than the run: its predecessor's
	case m.term == nil || m.term.FinishedAt.IsZero():
		return moved
	case first.After(m.term.FinishedAt.Add(time.Second)):
		return true // younger than the run
	}
	return moved && !first.Before(m.term.FinishedAt.Time)
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// podJSON encodes a pod for a record: without managedFields, and with the values of literal
// environment variables masked, because people put passwords there.
func podJSON(pod *corev1.Pod) json.RawMessage {
	pod = pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	pod.ManagedFields = nil
	delete(pod.Annotations, "kubectl.kubernetes.io/last-applied-configuration") // the same values again
	mask := func(env []corev1.EnvVar) {
		for i := range env {
			if env[i].Value != "" {
				env[i].Value = "(masked)"
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		mask(pod.Spec.InitContainers[i].Env)
	}
	for i := range pod.Spec.Containers {
		mask(pod.Spec.Containers[i].Env)
	}
	for i := range pod.Spec.EphemeralContainers {
		mask(pod.Spec.EphemeralContainers[i].Env)
	}
	data, err := json.Marshal(pod)
	if err != nil {
		return nil // a pod that the API server sent can be encoded
	}
	return data
}
