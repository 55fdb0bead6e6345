package exporter

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// lifecyclesVar says for how long TestLifecycles goes on, such as 30m; lifecycleSeedVar which one cluster it tries.
	lifecyclesVar    = "KUBELOGEXPORTER_LIFECYCLES"
	lifecycleSeedVar = "KUBELOGEXPORTER_LIFECYCLE_SEED"
)

// Whatever happens in a cluster, in whatever order, nothing panics, the exporter ends within its grace, and, once all
// pods are gone, every run that an exporter has known has exactly one record of its end, nothing is held, open or left,
// and no record that calls itself complete misses a line or has one of another run.
//
// Each cluster follows from its seed, but for what the machine's scheduler decides. Pods print, exit, restart alone or
// all of their containers, rotate their logs, are deleted with grace or by force, evicted, finish, and are made anew
// under their names, while their statuses come late or never and answers are cut, refused or turned into the kubelet's
// error texts. Beside that watches end, the store and the node go away, the spool is full, sweeps run, exports are
// replaced, and the exporter stops, is cut short, or is killed, and another one starts. Answers lie within the limits
// that TestCompleteIsWhole tells.
func TestLifecycles(t *testing.T) {
	t.Parallel()
	first, one := uint64(1), os.Getenv(lifecycleSeedVar) // of which the scheduler makes others
	if os.Getenv(lifecyclesVar) != "" {
		first = uint64(time.Now().UnixNano())
	}
	if seed, err := strconv.ParseUint(one, 10, 64); err == nil {
		first = seed
	}
	d, err := time.ParseDuration(os.Getenv(lifecyclesVar))
	if err != nil {
		d = 5 * time.Second // one round, which takes some 20 s
	}
	const beside = 4
	for end, seed := time.Now().Add(d), first; time.Now().Before(end) && (!t.Failed() || os.Getenv(lifecyclesVar) != ""); seed += beside {
		t.Run("round", func(t *testing.T) {
			for i := range uint64(beside) {
				if one != "" && i > 0 {
					break
				}
				t.Run(fmt.Sprint("seed ", seed+i), func(t *testing.T) {
					t.Parallel()
					newCluster(t, seed+i).liveAndCheck()
				})
			}
		})
		if one != "" {
			break
		}
	}
}

// cluster is a world to which things happen.
type cluster struct {
	*world
	seed   uint64
	r      *rand.Rand // what happens beside the pods
	node   *node
	store  *absent
	full   atomic.Bool // the spool
	cut    atomic.Bool // the API server cannot reach the node
	change func(*Options)
	tune   func(*Exporter)
	about  string

	mu    sync.Mutex
	e     *Exporter // nil while none runs
	known map[lifecycleRun]string
	pods  []*vessel
}

// lifecycleRun is a run as the test numbers it.
type lifecycleRun struct {
	pod     types.UID
	restart int32
}

func newCluster(t *testing.T, seed uint64) *cluster {
	k := &cluster{world: newWorld(t), seed: seed, r: rand.New(rand.NewPCG(seed, 0)), node: newNode(t), known: make(map[lifecycleRun]string)}
	k.store = &absent{Bucket: k.bucket}
	some := func(n int) bool { return k.r.IntN(n) == 0 }
	live, rotates, polled, redacts, undecided, renews, segments, few := some(2), some(2), some(4), some(3), some(3), some(4), some(2), some(3)
	files := []NodeLogs{NodeLogsOff, NodeLogsRecover, NodeLogsPrefer}[k.r.IntN(3)]
	k.about = fmt.Sprintf("live %v, rotates %v, polled %v, redacts %v, undecided %v, renews %v, segments %v, few %v, files %s", live, rotates, polled, redacts, undecided, renews, segments, few, files)
	exports := k.exports(live, redacts, undecided)
	k.change = func(o *Options) {
		o.Bucket, o.Grace, o.Exports = k.store, 3*time.Second, exports
		if rotates {
			o.RotateAt = rotatedAt
		}
		if files != NodeLogsOff {
			k.node.use(files)(o)
			o.Kubelets.MaxFiles = keptFiles
		}
		if few {
			o.Reads, o.Follows, o.NodeFollows = 2, 2, 2
		}
	}
	k.tune = func(e *Exporter) {
		e.tracker.fillsAFile = nearStart
		e.statusWait, e.lostAfter = 5*time.Second, 4*time.Second
		e.space.freeBytes = func() (int64, error) {
			if k.full.Load() {
				return 0, nil
			}
			return 1 << 40, nil
		}
		if polled {
			e.nodes.live, e.pollLive = 0, 100*time.Millisecond
		}
		if renews {
			e.renewAfter = 400 * time.Millisecond
		}
		if segments {
			e.segmentEvery = 150 * time.Millisecond
		}
	}
	for i := range 4 {
		k.newVessel(strings.Repeat("p", i+1), i, 0).rotates = rotates
	}
	return k
}

// exports are those of a cluster: one that takes everything, behind others of which it is known late that they take it.
func (k *cluster) exports(live, redacts, undecided bool) []Export {
	rest := Export{Name: "all"}
	if live {
		rest.Capture = CaptureLive
	}
	list := []Export{rest}
	if redacts {
		o := &Options{}
		redacting(k.t, rest)(o)
		list = o.Exports
	}
	if undecided {
		now := time.Now()
		list = append([]Export{
			{Name: "crashes", Select: selects(k.t, selection.Spec{Expression: "container.exitCode == 3"}), Compression: bundle.Gzip},
			{Name: "nightly", Schedule: window(k.t, now.Add(-2*time.Hour), time.Hour)},
			{Name: "daily", Schedule: window(k.t, now.Add(-time.Hour), 5*time.Hour), Select: selects(k.t, selection.Spec{Labels: "app=pp"})},
		}, list...)
	}
	return list
}

func (k *cluster) liveAndCheck() {
	if os.Getenv(lifecyclesVar) != "" {
		fmt.Fprintln(os.Stderr, "seed", k.seed, k.about) // a panic would hide it
	}
	k.t.Log(k.about)
	k.begin()
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for k.look(); ; k.look() {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	var lives sync.WaitGroup
	for _, v := range k.pods {
		lives.Go(v.live)
	}
	over := make(chan struct{})
	go func() { lives.Wait(); close(over) }()
	for going := true; going; {
		select {
		case <-over:
			going = false
		case <-time.After(time.Duration(100+k.r.IntN(900)) * time.Millisecond):
			k.happen()
		}
	}
	k.calm()
	missing := func() (names []string) {
		records := k.finals()
		k.mu.Lock()
		defer k.mu.Unlock()
		for run, how := range k.known {
			if len(records[run]) == 0 {
				names = append(names, fmt.Sprint(run, " ", how))
			}
		}
		return names
	}
	for end := time.Now().Add(patience); (len(missing()) > 0 || k.e.captures.count() > 0) && time.Now().Before(end); {
		<-time.After(200 * time.Millisecond)
	}
	close(done)
	<-watched
	for _, name := range missing() {
		k.t.Errorf("no record of %s", name)
	}
	k.check()
}

// begin starts an exporter.
func (k *cluster) begin() {
	e := k.world.begin(k.tune, k.change)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.e = e
}

// end stops the exporter, within its grace.
func (k *cluster) end() {
	k.mu.Lock()
	e := k.e
	k.e = nil
	k.mu.Unlock()
	if e == nil {
		return
	}
	began := time.Now()
	k.stop()
	if took := time.Since(began); took > e.opts.Grace+15*time.Second {
		k.t.Errorf("the exporter took %s to stop", took)
	}
	if n := len(e.nodes.open); n > 0 || !e.beside.TryAcquire(besideMemory) {
		k.t.Errorf("%d nodes have open streams, or memory is not given back", n)
	}
}

// look notes the runs that the exporter knows.
func (k *cluster) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.e == nil || k.e.stopping() {
		return
	}
	t := k.e.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	for pod, ps := range t.pods {
		for _, r := range ps.runs {
			run := lifecycleRun{pod.uid, r.restart}
			if _, ok := k.known[run]; !ok {
				k.known[run] = fmt.Sprintf("of %s, seen dead %v, unseen %v", pod.name, r.firstSeenDead, r.unseen)
			}
		}
	}
}

// happen lets one thing happen beside the pods.
func (k *cluster) happen() {
	flip := func(b *atomic.Bool) { b.Store(!b.Load()) }
	switch k.r.IntN(12) {
	case 0:
		k.kube.CloseWatches()
	case 1:
		k.kube.ExpireWatches()
	case 2:
		flip(&k.store.away)
	case 3:
		flip(&k.full)
	case 4:
		flip(&k.cut)
	case 5:
		k.node.kube.Deny([]int{0, 0, http.StatusServiceUnavailable, http.StatusForbidden}[k.r.IntN(4)])
	case 6, 7:
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k.r.IntN(2000))*time.Millisecond)
		_ = k.e.Sweep(ctx, k.e.exports.Load().list[0].Name) // it may be too late
		cancel()
	case 8:
		if err := k.e.SetExports(k.e.opts.Exports); err != nil {
			k.t.Error(err)
		}
	default:
		switch how := k.r.IntN(3); how {
		case 1:
			k.e.opts.Grace = time.Millisecond
		case 2:
			k.kill()
		}
		k.end()
		<-time.After(time.Duration(k.r.IntN(2)*k.r.IntN(1500)) * time.Millisecond)
		k.begin()
	}
}

// kill lets the next exporter find the spool as it is now; nothing that this one does from now on counts. It waits for
// a moment in which nothing is written.
func (k *cluster) kill() {
	away := k.store.away.Swap(true)
	defer func() {
		k.end()
		k.store.away.Store(away)
	}()
	for range 20 {
		as := k.t.TempDir()
		before := files(k.spool)
		err := os.CopyFS(as, os.DirFS(k.spool))
		if after := files(k.spool); err == nil && maps.EqualFunc(before, after, same) {
			for name, info := range after {
				_ = os.Chtimes(filepath.Join(as, strings.TrimPrefix(name, k.spool)), time.Time{}, info.ModTime())
			}
			k.end()
			k.spool = as
			return
		}
	}
}

// files are those in a directory.
func files(dir string) map[string]fs.FileInfo {
	all := make(map[string]fs.FileInfo)
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if info, err := d.Info(); err == nil && !d.IsDir() {
			all[path] = info
		}
		return nil
	})
	return all
}

func same(a, b fs.FileInfo) bool { return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) }

// calm ends all faults.
func (k *cluster) calm() {
	k.store.away.Store(false)
	k.full.Store(false)
	k.cut.Store(false)
	k.node.kube.Deny(0)
}

// finals are the records of ends.
func (k *cluster) finals() map[lifecycleRun][]*bundle.Record {
	all := make(map[lifecycleRun][]*bundle.Record)
	for _, rec := range finals(k.records()) {
		run := lifecycleRun{types.UID(rec.Pod.UID), rec.Container.RestartCount}
		all[run] = append(all[run], rec)
	}
	return all
}

func (k *cluster) check() {
	e := k.e
	complete, runs := 0, 0
	for run, recs := range k.finals() {
		if runs++; len(recs) > 1 {
			k.t.Errorf("%d records of %v: %+v and %+v", len(recs), run, recs[0], recs[1])
		}
		for _, rec := range recs {
			k.checkLines(rec)
			if rec.Verdict.Complete {
				complete++
				k.checkComplete(rec)
			}
		}
	}
	eventually := func(what func() string) {
		text := what()
		for end := time.Now().Add(patience); text != "" && time.Now().Before(end); text = what() {
			<-time.After(100 * time.Millisecond)
		}
		if text != "" {
			k.t.Error(text)
		}
	}
	eventually(func() (text string) {
		e.tracker.mu.Lock()
		defer e.tracker.mu.Unlock()
		for pod, ps := range e.tracker.pods {
			text += fmt.Sprintf("%v is still known: gone %v, remembered %v, %d runs; ", pod, ps.gone, ps.remembered, len(ps.runs))
		}
		return text
	})
	eventually(func() string {
		if n, outs, left := e.captures.count(), len(e.outputs.list()), e.leftovers.pods(); n+outs+len(e.directs)+len(left)+e.ship.open.count() > 0 {
			return fmt.Sprintf("%d captures and %d outputs are open, %d in memory, %d in the spool, left over is %v", n, outs, len(e.directs), e.ship.open.count(), left)
		}
		return ""
	})
	k.end()
	k.clean()
	k.t.Logf("seed %d: %d of %d runs are complete", k.seed, complete, runs)
}
