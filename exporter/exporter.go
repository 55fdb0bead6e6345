package exporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Options are everything an Exporter is told. They are not changed after New.
type Options struct {
	// Kube says how to reach the API server. Its rate limits are ignored: the exporter limits itself.
	Kube *rest.Config
	// Bucket is where the archive is.
	Bucket sink.Bucket
	// Spool is the directory that holds captures until they are in the bucket. One process per spool.
	Spool string
	// Cluster names the cluster in keys and records.
	Cluster string
	// Namespaces limit the watch; empty means those that the exports name or, if an export may take runs of
	// any, every namespace that the identity may see.
	Namespaces []string
	// DefaultNamespace is watched if nothing else may be.
	DefaultNamespace string
	// Selector picks pods by their labels; nil means all.
	Selector labels.Selector
	// Pods picks pods by name; empty means all.
	Pods []string
	// Exports say which of these are captured and how. Empty means one that takes all of them, with
	// Compression and Capture.
	Exports []Export
	// Only, if it is not empty, names the one export whose runs are captured. Then Export keeps to its windows, and
	// otherwise to none.
	Only        string
	Compression bundle.Compression
	Capture     Capture
	// NodeLogs says what the kubelets' own files are used for; empty means NodeLogsOff. Kubelets says how
	// to reach them; its Config is taken from Kube, its MaxSize from RotateAt.
	NodeLogs NodeLogs
	Kubelets nodelog.Options
	// Follows and Reads bound the streams of dying pods and all other reads; 0 means the default.
	Follows, Reads int
	// LiveFollows bounds the streams of running pods on all nodes together, NodeFollows those on each
	// node; 0 means the default. Logs beyond the limit of a node are read every few seconds.
	LiveFollows, NodeFollows int
	// RotateAt is the size in bytes below which no kubelet of the cluster rotates a log: the smallest
	// containerLogMaxSize. 0 means a cautious 1 MiB; the kubelet's own default is 10 MiB.
	RotateAt int64
	// ReadRate bounds the bytes of log per second that are read from the API server, 0 is no limit. What vanishes
	// within seconds is never held up: the logs of pods that are being deleted, and of runs that may be replaced.
	ReadRate int64
	// Archived is told of each record of an ended run that this exporter has stored, with its JSON. It must
	// return at once. Nil tells nobody.
	Archived func(key string, record []byte)
	// Uploads bounds the captures that are uploaded at a time, without the large ones, which have a quarter as many
	// places beside; 0 means the default.
	Uploads int
	// SpoolMaxBytes bounds the spool, 0 is no limit; SpoolMinFree is what is left free on its file system, 0
	// means 64 MiB. A spool that is full keeps what it has; logs stay at their source as long as they can.
	SpoolMaxBytes, SpoolMinFree int64
	// Grace is how long Run goes on after its context ended, to finish what is open; 0 means 20 s.
	Grace   time.Duration
	Version string
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil keeps the metrics to itself
}

// Capture is a policy: when logs are read.
type Capture string

// The policies.
const (
	// CaptureFinal reads a log when its container has ended, or its pod begins to be deleted.
	CaptureFinal Capture = "final"
	// CaptureLive follows every log from its container's start, or its first sight, on.
	CaptureLive Capture = "live"
)

// What else stands as a policy in a record.
const (
	policySweep  = "sweep"
	policyExport = "export"
)

// errStopping says that the exporter was told to end.
var errStopping = errors.New("the exporter stops")

// Defaults for the limits. A follow costs the node one inotify instance, of which many systems allow
// 128 per user, and other programs want some; a read costs it CPU for as long as it lasts.
const (
	defaultFollows     = 2048 // a drain of many nodes: each node has a limit of its own, see dyingFollows
	defaultReads       = 64
	defaultLiveFollows = 4096
	defaultNodeFollows = 32
	defaultUploads     = 16
	defaultGrace       = 20 * time.Second
	// dyingFollows is how many streams a node serves at most, those of dying pods included.
	dyingFollows = 96
	// maxEncoders bounds the compression that goes on at a time: each encoder holds some 10 MiB.
	maxEncoders = 4
	// cautiousRotateAt is far below any containerLogMaxSize that is in use.
	cautiousRotateAt = 1 << 20
)

// Exporter captures the logs of container runs that end. Make it with New, use it once, with Run or
// with Export, and Close it.
type Exporter struct {
	kube        kubernetes.Interface
	source      podlog.Source
	bucket      sink.Bucket
	spool       *sink.Dir
	unlock      func() error
	cluster     string
	version     string
	exports     atomic.Pointer[exports]
	undecidable rate.Sometimes // to tell of
	encoders    *bundle.Encoders
	opts        Options
	log         *slog.Logger

	tracker   *tracker
	queue     *queue
	nodes     *nodes
	beside    *semaphore.Weighted // bytes for reads beside streams
	nodeFiles *nodeFiles          // nil if they are not to be used
	ledger    *ledger
	begun     time.Time     // when Run was called
	known     time.Time     // when an earlier process last wrote the ledger; zero if there was none
	rate      *rate.Limiter // nil is no limit
	rotateAt  int64
	// These are the constants of the same names, but for tests.
	segmentEvery, renewAfter time.Duration
	segmentsToDouble         int
	maxNamed                 int
	statusWait, lostAfter    time.Duration
	pollLive                 time.Duration
	settleDying, rescope     time.Duration
	stopped                  chan struct{} // closed when Run's context has ended
	ship                     *shipper
	space                    *space
	outputs                  outputs
	leftovers                leftovers
	places                   places
	snapshots                map[runID]string // the youngest that were in the spool at the start; not changed later
	directs                  chan struct{}    // has room for each log that is held in memory
	sample                   *sampler
	probes                   probes
	access                   *access
	metrics                  *metrics
	once                     bool // a one-off Export
	tally                    tally
	captures                 inFlight                // begun and not finished
	scoped                   atomic.Pointer[exports] // those for which it was found out what to watch
	recalled                 atomic.Bool             // the ledger has been read
	barred                   atomic.Bool             // some namespaces that the exports name cannot be watched yet
	exportsChanged           chan struct{}           // has room for one word that the exports are others
	syncing                  inFlight                // informers that have not seen every pod yet
}

// Errors of New.
var (
	ErrSpool   = errors.New("open spool")  // the spool cannot be used
	ErrNoSpool = errors.New("is no spool") // because its directory holds something else
)

// New checks the options, opens and locks the spool, and touches neither cluster nor bucket.
func New(o Options) (*Exporter, error) {
	if o.Kube == nil || o.Bucket == nil || o.Spool == "" || o.Log == nil {
		return nil, errors.New("new exporter: Kube, Bucket, Spool and Log are required")
	}
	if err := bundle.CheckCluster(o.Cluster); err != nil {
		return nil, err
	}
	if len(o.Exports) == 0 {
		o.Exports = []Export{{Name: "all", Capture: o.Capture, Compression: o.Compression}}
	}
	chosen, err := newExports(o.Exports)
	if err != nil {
		return nil, err
	}
	kube, logs, err := clients(o.Kube, "kubelogexporter/"+o.Version, &reach{log: o.Log})
	if err != nil {
		return nil, err
	}
	files, err := newNodeFiles(o, o.Kube)
	if err != nil {
		return nil, err
	}
	if err := checkSpool(o.Spool); err != nil {
		return nil, err
	}
	spool, err := sink.OpenDir(o.Spool)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	unlock, err := spool.Lock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	e := &Exporter{
		kube: kube, source: podlog.Source{Pods: logs.CoreV1()}, bucket: o.Bucket, spool: spool, unlock: unlock,
		cluster: o.Cluster, version: o.Version,
		encoders: bundle.NewEncoders(min(runtime.GOMAXPROCS(0), maxEncoders)), opts: o, log: o.Log,
		queue:     newQueue(orDefault(o.Follows, defaultFollows), orDefault(o.LiveFollows, defaultLiveFollows), orDefault(o.Reads, defaultReads)),
		nodeFiles: files,
		rate:      newRate(o.ReadRate),
		rotateAt:  orDefault(o.RotateAt, cautiousRotateAt), stopped: make(chan struct{}), exportsChanged: make(chan struct{}, 1), segmentEvery: segmentEvery, renewAfter: renewAfter,
		segmentsToDouble: segmentsToDouble, maxNamed: maxNamed,
		statusWait: statusWait, lostAfter: lostAfter, settleDying: settleDying, pollLive: pollLive, rescope: rescope,
	}
	e.exports.Store(chosen)
	e.undecidable.Interval = time.Minute
	perNode := orDefault(o.NodeFollows, defaultNodeFollows)
	e.beside = semaphore.NewWeighted(besideMemory)
	e.nodes = &nodes{open: make(map[string]int), away: make(map[string]*absence), live: perNode, most: max(perNode, dyingFollows)}
	e.metrics = newMetrics(o.Metrics)
	e.space, e.directs = newSpace(spool, o, e.metrics), make(chan struct{}, maxDirects)
	e.tracker = newTracker(e.begin, e.seenAlive, e.hasRecord, e.hasSnapshot)
	e.tracker.lookFor = e.lookForMirror
	e.access = newAccess(kube, o.Log)
	e.sample = newSampler(o.Bucket, o.Log, o.Metrics)
	e.ship = newShipper(e, orDefault(o.Uploads, defaultUploads))
	return e, nil
}

// clients returns one client for objects and one for log bodies, on connections of their own: log
// bodies are long and many, and must not stand in the watch's way. Neither has a rate limiter (a
// dying pod cannot wait for one) nor a timeout (http.Client's would cut long bodies).
func clients(base *rest.Config, userAgent string, r *reach) (objects, logs *kubernetes.Clientset, err error) {
	c := rest.CopyConfig(base)
	c.QPS, c.RateLimiter, c.Timeout, c.UserAgent = -1, nil, 0, userAgent
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	watched := rest.CopyConfig(c)
	watched.Wrap(r.wrap)
	if objects, err = kubernetes.NewForConfig(watched); err != nil {
		return nil, nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	l := rest.CopyConfig(c)
	l.UserAgent = userAgent + " logs"
	l.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext // so that it has a transport of its own
	if logs, err = kubernetes.NewForConfig(l); err != nil {
		return nil, nil, fmt.Errorf("make Kubernetes client: %w", err)
	}
	return objects, logs, nil
}

// spoolMark is the file by which a spool is known: what is shipped leaves the spool, so a directory
// with other things in it must never be taken for one.
const spoolMark = ".kubelogexporter-spool"

// checkSpool makes the directory a spool, unless it holds something else.
func checkSpool(dir string) error {
	mark := filepath.Join(dir, spoolMark)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" { // of a new volume
			return fmt.Errorf("%w: %s holds %s and %w: name an empty directory", ErrSpool, dir, e.Name(), ErrNoSpool)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as for every sink.Dir
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	text := "This directory holds captures on their way to the archive. They leave it by themselves.\n"
	if err := os.WriteFile(mark, []byte(text), 0o644); err != nil { //nolint:gosec // nothing secret
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}

func orDefault[T int | int64 | time.Duration](n, d T) T {
	if n <= 0 {
		return d
	}
	return n
}

// Ready returns nil once every pod of the watched namespaces has been seen. A store that is away is
// no reason not to be ready: captures wait in the spool.
func (e *Exporter) Ready() error {
	if e.barred.Load() {
		return errors.New("some of the namespaces that the exports name cannot be watched yet")
	}
	return e.seen()
}

// seen returns nil once every pod has been seen of the namespaces that can be watched.
func (e *Exporter) seen() error {
	switch {
	case e.scoped.Load() != e.exports.Load():
		return errors.New("the cluster cannot be watched yet")
	case e.syncing.count() > 0:
		return errors.New("the pods are being listed")
	}
	return nil
}

// Close gives the spool back.
func (e *Exporter) Close() error { return e.unlock() }

// Run watches and captures until ctx ends, then finishes what is open within the grace time. It
// returns nil after an orderly stop; whatever is left in the spool is shipped by the next Run.
func (e *Exporter) Run(ctx context.Context) error {
	e.begun = time.Now()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := e.ship.recover(work); err != nil {
		return err
	}
	e.readLedger()
	e.recalled.Store(true)
	var loops sync.WaitGroup
	loops.Go(func() { e.queue.run(work) })
	loops.Go(func() { e.ship.run(work) })
	loops.Go(func() { e.outputs.flush(work) })
	loops.Go(func() { e.adopt(work) })
	loops.Go(func() { e.watch(work) })
	loops.Go(func() { e.sample.run(ctx) })
	<-ctx.Done()
	e.log.Info("stopping", "open", e.captures.count(), "spooled", e.ship.open.count())
	e.tracker.close() // take up nothing new, but go on seeing how pods end
	close(e.stopped)
	e.drain(work, orDefault(e.opts.Grace, defaultGrace))
	stop()
	loops.Wait()
	e.outputs.flushAll() // what no capture could finish is left for the next process
	if err := e.ledger.close(); err != nil {
		e.log.Warn("cannot note the runs that go on; those that end while no exporter runs may get no record", "err", err)
	}
	return nil
}

// drain waits until every capture that was begun is in the bucket, or the time is over.
func (e *Exporter) drain(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-e.captures.none():
	case <-ctx.Done():
		e.log.Warn("stopped before every capture was finished; the next start reads them again", "open", e.captures.count())
		return
	}
	select {
	case <-e.ship.open.none():
	case <-ctx.Done():
		e.log.Warn("stopped with captures in the spool; the next start ships them", "spooled", e.ship.open.count())
	}
}
