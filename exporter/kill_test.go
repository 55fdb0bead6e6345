package exporter

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
)

// TestKilled is fault test 9: an exporter in a process of its own is killed at random moments, while pods write
// and end, or are deleted, and a store answers slowly. Every start is ready within five seconds. In the end
// every run has one record, nothing that the API still served is lost, and the spool is empty.
//
// It starts processes, so it does not run beside other tests: between fork and exec a child holds the
// locks of this process.
func TestKilled(t *testing.T) {
	kills, pods := 4, 20
	if os.Getenv(memoryVar) == "full" {
		kills, pods = 100, 400
	}
	for _, mode := range []string{"run", "segments"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			killed(t, mode, kills, pods)
		})
	}
}

func killed(t *testing.T, mode string, kills, pods int) {
	kube, store := kubetest.New(t), s3test.New(t)
	store.Script = func(http.ResponseWriter, *http.Request, []byte, int) bool {
		<-time.After(rand.N(30 * time.Millisecond))
		return false
	}
	dir := memoryDir(t)
	all, logs := make([]*corev1.Pod, pods), make([]*kubetest.Container, pods)
	for i := range pods {
		all[i] = realisticPod(i, fmt.Sprintf("node-%d", i%5))
		all[i].Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(time.Now().Truncate(time.Second))
		logs[i] = kubetest.NewContainer(func(int) string { return all[i].Status.ContainerStatuses[0].ContainerID })
		kube.Log(all[i].Namespace, all[i].Name, "app", logs[i].Serve)
		logs[i].Print(time.Now(), fmt.Sprintf("the first words of %d\n", i))
		kube.SetPod(all[i])
	}
	var ended atomic.Int64
	c := startChildIn(t, mode, kube, dir, store.URL)
	c.awaitReady(10 * time.Second) // every run is in the ledger
	for n := range kills {
		var work sync.WaitGroup
		work.Go(func() {
			for i := n * pods / kills; i < (n+1)*pods/kills; i++ {
				logs[i].Print(time.Now(), fmt.Sprintf("the words of %d\n", i))
				<-time.After(rand.N(10 * time.Millisecond))
				if i%4 == 0 { // deleted: the log is there for as long as the pod
					now := metav1.Now()
					all[i].DeletionTimestamp = &now
					kube.SetPod(all[i])
				}
				logs[i].Exit()
				exit(all[i], 0)
				kube.SetPod(all[i])
				ended.Add(1)
			}
		})
		<-time.After(rand.N(1500 * time.Millisecond))
		c.killed = true
		_ = c.cmd.Process.Kill()
		work.Wait()
		_, _ = c.cmd.Process.Wait()
		c = startChildIn(t, mode, kube, dir, store.URL)
		c.awaitReady(5 * time.Second)
	}
	final := func() map[string]*bundle.Record {
		recs := make(map[string]*bundle.Record)
		for key, data := range store.Objects() {
			rec, err := bundle.Decode(data)
			if !strings.HasSuffix(key, ".json") || err != nil || rec.State.Running {
				continue
			}
			if recs[rec.Pod.UID] != nil {
				t.Errorf("%s has two records", rec.Pod.Name)
			}
			recs[rec.Pod.UID] = rec
		}
		return recs
	}
	c.until("a record of every run", time.Minute, func() bool { return len(final()) == pods })
	for i, pod := range all {
		rec := final()[string(pod.UID)]
		var text bytes.Buffer
		for _, o := range rec.Objects {
			r, err := bundle.NewLogReader(bytes.NewReader(store.Objects()[o.Key]), bundle.Zstd)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(&text, r); err != nil {
				t.Errorf("%s: %v", o.Key, err)
			}
		}
		first, last, _ := strings.Cut(text.String(), "\n")
		if !strings.HasSuffix(first, fmt.Sprintf(" the first words of %d", i)) || !strings.HasSuffix(last, fmt.Sprintf(" the words of %d\n", i)) || strings.Count(last, "\n") != 1 {
			t.Errorf("pod %d: %q, verdict %+v", i, text.String(), rec.Verdict)
		}
	}
	c.until("an empty spool", 20*time.Second, func() bool {
		left, err := filepath.Glob(filepath.Join(dir, "spool", "cluster=*"))
		drafts, terr := filepath.Glob(filepath.Join(dir, "spool", ".tmp", "*"))
		return err == nil && terr == nil && len(left)+len(drafts) == 0
	})
	if aside, err := filepath.Glob(filepath.Join(dir, "spool", ".set-aside", "*")); err != nil || len(aside) > 0 {
		t.Errorf("set aside: %q, %v", aside, err)
	}
	snapshots := 0
	for key := range store.Objects() {
		if n := store.Versions(key); n != 1 {
			t.Errorf("%s has %d versions", key, n)
		}
		if run, _, _, _, err := bundle.ParseKey(key); err == nil && !run.Snapshot.IsZero() {
			snapshots++
		}
	}
	if (snapshots > 0) != (mode == "segments") {
		t.Errorf("%d snapshots were stored", snapshots)
	}
}

// TestMemoryOfStoreAway is fault test 15 in part: ten thousand pods end while the store is away. What is held
// in memory stays small, capture goes on, and the spool is shipped at 200 objects a second or more afterwards,
// by a process that has found it full.
func TestMemoryOfStoreAway(t *testing.T) {
	needMemoryTests(t)
	pods := 2000
	if os.Getenv(memoryVar) == "full" {
		pods = 10_000
	}
	const limit = 256 << 20
	kube, store := kubetest.New(t), s3test.New(t)
	store.Script = func(w http.ResponseWriter, _ *http.Request, _ []byte, _ int) bool {
		s3test.Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable")
		return true
	}
	all := make([]*corev1.Pod, pods)
	for i := range pods {
		all[i] = realisticPod(i, fmt.Sprintf("node-%d", i%100))
		at := kubetest.Stamp(time.Now())
		kube.Log(all[i].Namespace, all[i].Name, "app", func(w http.ResponseWriter, _ *http.Request) {
			words := rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // the same ones for each reader
			for n := range 20 {
				_, _ = fmt.Fprintf(w, "%s line %d of pod %d, which says something of %x\n", at, n, i, words.Uint64())
			}
		})
		kube.SetPod(all[i])
	}
	dir := t.TempDir()
	c := startChildIn(t, "run", kube, dir, store.URL)
	c.awaitReady(2 * time.Minute)
	start := time.Now()
	for _, pod := range all {
		exit(pod, 0)
		pod.Status.Phase = corev1.PodFailed
		kube.SetPod(pod)
	}
	spooled := func() int {
		names, _ := filepath.Glob(filepath.Join(dir, "spool", "cluster=*", "*", "*", "*", "*", "_*.json"))
		return len(names)
	}
	c.until("every run is in the spool", 20*time.Minute, func() bool { return spooled() == pods })
	t.Logf("%d runs captured in %v while the store was away; %d requests to it", pods, time.Since(start).Round(time.Second), len(store.Times()))
	c.below(limit)
	c.killed = true
	_ = c.cmd.Process.Kill()
	_, _ = c.cmd.Process.Wait()
	c = startChildIn(t, "run", kube, dir, store.URL)
	again := time.Now()
	c.awaitReady(time.Minute)
	t.Logf("ready after %v with %d captures in the spool", time.Since(again).Round(10*time.Millisecond), spooled())
	c.below(limit)
	store.Change(func(s *s3test.Server) { s.Script = nil })
	c.until("uploads go on", 2*time.Minute, func() bool { return len(store.Objects()) > 0 })
	back := time.Now()
	c.until("the spool is empty", 10*time.Minute, func() bool { return len(store.Objects()) == 2*pods && spooled() == 0 })
	rate := float64(2*pods) / time.Since(back).Seconds()
	t.Logf("%.0f objects a second", rate)
	if rate < 200 {
		t.Errorf("%.0f objects a second, want 200", rate)
	}
	c.below(limit)
}

// An exporter stops between the two reads of a log, while what it has read is in memory only. The next process
// has it, although the pod is gone by then.
func TestStopKeepsWhatWaits(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("ended")
	w.kube.SetPod(pod)
	w.run(func(o *Options) { o.Grace = settle / 2 })
	w.until("the run is known", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
	c.Print(time.Now(), "last words\n")
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.until("the first read", func() bool { return w.values()["log_read_bytes_total get"] > 0 })
	w.stop()
	w.kube.DeletePod(pod.Namespace, pod.Name)
	w.metrics = prometheus.NewRegistry()
	w.run(nil)
	if rec := w.await(1)[0]; !strings.HasSuffix(w.text(rec), " last words\n") {
		t.Errorf("log %q, verdict %+v", w.text(rec), rec.Verdict)
	}
}

// A status tells of runs that came and went since the one before, and of the one that goes on. The exporter is killed
// before it could read any of them, and the pod is gone when the next one starts: each has a record.
func TestKilledBeforeMissedRunsAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	loop, c := w.pod("loop")
	w.kube.SetPod(loop)
	e := w.start(func(o *Options) { o.Reads = 2; o.Grace = 10 * time.Millisecond })
	w.until("the first run to be known", func() bool { return len(e.tracker.running()) == 1 })
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, name := range []string{"busy-1", "busy-2"} { // take all places
		pod, _ := w.pod(name)
		exit(pod, 1)
		w.kube.Log(pod.Namespace, name, "app", hangs)
		w.kube.SetPod(pod)
		w.until("a read", func() bool { return len(w.kube.Requests(name+"/log")) > 0 })
	}
	s := &loop.Status.ContainerStatuses[0]
	s.RestartCount, s.LastTerminationState, s.ContainerID = 3, crashed(c.ID(2), time.Now(), time.Now()), c.ID(3)
	w.kube.SetPod(loop)
	w.until("four runs to be known", func() bool { return knownRuns(e, loop) == 4 })
	w.killedNow(e)
	w.kube.DeletePod(loop.Namespace, loop.Name)
	w.start(nil)
	for restart := range int32(4) {
		w.until(fmt.Sprintf("the record of restart %d", restart), func() bool {
			return slices.ContainsFunc(w.records(), func(rec *bundle.Record) bool {
				return rec.Pod.Name == loop.Name && rec.Container.RestartCount == restart
			})
		})
	}
}

// knownRuns returns how many runs of a pod an exporter knows.
func knownRuns(e *Exporter, pod *corev1.Pod) int {
	e.tracker.mu.Lock()
	defer e.tracker.mu.Unlock()
	if ps := e.tracker.pods[podKey{pod.Namespace, pod.Name, pod.UID}]; ps != nil {
		return len(ps.runs)
	}
	return 0
}
