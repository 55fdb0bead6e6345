package exporter

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// NodeLogs says what the kubelets' own log files are used for. Reading them takes the right to get
// nodes/log, which lets its holder read all of /var/log on every node.
type NodeLogs string

// The uses.
const (
	// NodeLogsOff never asks a kubelet.
	NodeLogsOff NodeLogs = "off"
	// NodeLogsRecover asks for what the API cannot give or prove: rotated files, pods that are gone.
	NodeLogsRecover NodeLogs = "recover"
	// NodeLogsPrefer reads files first, wherever there are some.
	NodeLogsPrefer NodeLogs = "prefer"
)

const (
	// salvageFor is how long the files of a pod that is gone are looked for: the kubelet's own clean-up
	// comes by once a minute.
	salvageFor = 70 * time.Second
	// salvageEvery is the pause between two looks at files that vanish 0.6 s after their container's exit.
	salvageEvery = 100 * time.Millisecond
	// salvageQuiet is after how long without anything new a container that has been told to end is taken
	// to have ended: a pod that is deleted by force is killed after 2 s.
	salvageQuiet = 5 * time.Second
	// salvageTries is how often the files of a pod that is gone are asked for before they are given up:
	// a busy kubelet may not answer at once.
	salvageTries = 3
)

// nodeFiles reads the kubelets' files, and tells once in a while why it cannot.
type nodeFiles struct {
	client *nodelog.Client
	prefer bool
	log    *slog.Logger

	mu   sync.Mutex
	told map[error]time.Time
}

// newNodeFiles returns nil if the kubelets' files are not to be used.
func newNodeFiles(o Options, kube *rest.Config) (*nodeFiles, error) {
	if o.NodeLogs == "" || o.NodeLogs == NodeLogsOff {
		return nil, nil //nolint:nilnil // nil is off
	}
	k := o.Kubelets
	k.Config, k.MaxSize = kube, orDefault(o.RotateAt, cautiousRotateAt)
	client, err := nodelog.New(k)
	if err != nil {
		return nil, err
	}
	return &nodeFiles{client: client, prefer: o.NodeLogs == NodeLogsPrefer, log: o.Log, told: make(map[error]time.Time)}, nil
}

// tell says why files cannot be read, unless it is only that there are none.
func (n *nodeFiles) tell(host string, err error) {
	for kind, fix := range map[error]string{
		nodelog.ErrForbidden: "kubectl create clusterrole kubelogexporter-node-logs --verb=get --resource=nodes/log, and bind it to this identity",
		nodelog.ErrUntrusted: "name the authority that signs the kubelets' certificates with --kubelet-ca",
		nodelog.ErrDisabled:  "set enableSystemLogHandler in the kubelets' configuration, or --node-logs=off",
	} {
		if !errors.Is(err, kind) {
			continue
		}
		n.mu.Lock()
		recently := time.Since(n.told[kind]) < 10*time.Minute
		if !recently {
			n.told[kind] = time.Now()
		}
		n.mu.Unlock()
		if !recently {
			n.log.Warn("cannot read the log files of a node; logs are read through the API only", "host", host, "err", err, "fix", fix)
		}
	}
}

// fetch reads the run's files from its node, from the last second held on, and joins them with what is
// held. It returns how many bytes were new.
func (c *capture) fetch(ctx context.Context) (more int64, err error) {
	m := c.run.now()
	host := m.pod.hostIP
	if host == "" {
		return 0, nodelog.ErrNotFound // it never came to a node
	}
	ctx, watched, done := c.watchdog(ctx, false)
	defer done()
	r, err := c.e.nodeFiles.client.Open(ctx, host, nodelog.Run{
		Namespace: m.pod.namespace, Pod: m.pod.name, UID: string(m.pod.uid), Container: c.run.id.container, Restart: c.run.restart,
	}, c.since())
	if err != nil {
		c.e.nodeFiles.tell(host, err)
		return 0, err
	}
	defer r.Close() //nolint:errcheck // the read's own error is the one that counts
	if err := c.open(); err != nil {
		return 0, err
	}
	fresh := c.log.Bytes() == 0
	if fresh {
		witness, _ := c.run.witnessedHead()
		c.log.Seek(witness)
	}
	c.log.RefuseHoles = false
	res, err := c.log.Read(watched(r))
	if fresh || res.Appended > 0 || err != nil {
		c.note("node", res, err) // and not each look that brings nothing
	}
	c.joined(res)
	c.tail = bundle.Part{}
	if err != nil {
		c.node = nil
		return res.Appended, err
	}
	rep := r.Report()
	late := m.term != nil && time.Since(m.term.FinishedAt.Time) > 2*time.Second
	joined := fresh || res.Join == podlog.JoinExact && res.Missed == 0
	if rep.Tail && rep.Middle && late && joined {
		c.tail = bundle.Part{State: bundle.Proven, Evidence: rep.Evidence}
	}
	switch {
	case fresh:
		c.node = &rep
	case c.node != nil: // what was there before counts on
		rep.Head, rep.Middle = c.node.Head, c.node.Middle && rep.Middle && joined
		rep.Stdout, rep.Stderr = 0, 0 // of the overlap too, so that the sum is not known
		c.node = &rep
	}
	c.served, c.asked = true, m.slot
	return res.Appended, nil
}

// consult asks the node for the whole log where the API could not give or prove it, and takes the
// better one.
func (c *capture) consult(ctx context.Context) {
	if c.e.nodeFiles == nil || c.consulted || c.running || c.run.unseen || ctx.Err() != nil {
		return
	}
	c.consulted = true
	// A head that was read from there is not proven any better by a second read.
	head := func() bool { return c.node != nil || c.judgeHead(c.run.now()).State == bundle.Proven }
	if c.had() && head() && c.judgeMiddle().State == bundle.Proven && c.tail.State == bundle.Proven && (c.own || !c.nextRuns) {
		return
	}
	if c.had() && (c.own || !c.nextRuns) {
		if first, _ := c.out.beginning(); !first.IsZero() {
			c.run.witnessHead(first) // the node may have removed it since
		}
	}
	c.keep()
	_, err := c.fetch(ctx)
	switch old := c.kept; {
	case err == nil && (!old.had() || old.nextRuns && !old.own || c.log.Bytes() >= old.log.Bytes() || c.mends(old)):
		if old.had() && old.tail.State == bundle.Proven && c.log.EndsWith(old.log) {
			c.tail, c.quiet = old.tail, old.quiet
		}
		c.drop()
	default:
		if tail := c.tail; err == nil && tail.State == bundle.Proven && old.had() && old.log.EndsWith(c.log) {
			old.tail = tail
		}
		c.reset()
		c.held, c.kept = *old, nil
	}
}

// mends says whether what was read from the node covers what the API gave, and is known to be whole, or has no hole where
// that has one, or a line that nobody wrote: a line that was cut at a hole, or that came twice, makes it the longer one.
func (c *capture) mends(old *held) bool {
	covers := c.node != nil && c.node.Middle && !c.log.First().After(old.log.First()) && !c.log.Last().Before(old.log.Last())
	return covers && (old.middle.State != bundle.Proven || old.differs || c.judge(c.run.now()).Complete)
}

// salvage reads the files of a run that the API cannot name any more, as long as they are there. The
// container of a pod that was deleted by force may still run: its files are read again until they vanish.
func (c *capture) salvage(ctx context.Context) {
	if c.e.nodeFiles == nil || c.run.unseen || c.consulted {
		return
	}
	c.consulted = true
	refused, pause, fresh := 0, salvageEvery, time.Now()
	for end := time.Now().Add(salvageFor); time.Now().Before(end); {
		start := time.Now()
		more, err := c.fetch(ctx)
		m := c.run.now()
		switch {
		case err == nil && more > 0:
			refused, pause, fresh = 0, salvageEvery, time.Now()
		case err == nil && time.Since(fresh) > salvageQuiet:
			return
		case err == nil:
			refused, pause = 0, min(pause*5/4, 5*salvageEvery)
		case errors.Is(err, nodelog.ErrForbidden), errors.Is(err, nodelog.ErrUntrusted), errors.Is(err, nodelog.ErrDisabled), ctx.Err() != nil:
			return
		default:
			if refused++; c.had() || refused >= salvageTries {
				return
			}
		}
		replaced := m.slot == slotNone && !m.podGone
		if err == nil && (replaced || c.tail.State == bundle.Proven) {
			return // nobody writes to the files any more
		}
		select {
		case <-time.After(max(pause, time.Since(start))):
		case <-ctx.Done():
		}
	}
}
