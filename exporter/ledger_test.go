package exporter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func aliveEntry(pod, containerID string) ledgerEntry {
	return ledgerEntry{UID: "u-" + "x", Container: "app", ContainerID: id(containerID), Namespace: "shop", Pod: pod, Type: bundle.TypeContainer}
}

// A ledger outlives its process, a torn last line, a damaged line and a disk that is full for a while.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	var entries []ledgerEntry
	open := func() *ledger {
		t.Helper()
		l, read, _, err := openLedger(dir)
		if err != nil {
			t.Fatal(err)
		}
		entries = read
		return l
	}
	l := open()
	for _, c := range []string{"a", "b", "c"} {
		if err := l.add(aliveEntry("pod", c)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.done(aliveEntry("pod", "b").id()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.file.WriteString("{damaged\n{\"uid\":\"torn"); err != nil {
		t.Fatal(err)
	}
	l = open()
	if len(entries) != 2 || entries[0].Pod != "pod" {
		t.Fatalf("after a restart: %v", entries)
	}
	file := l.file
	var err error
	if l.file, err = os.Open(l.path); err != nil { // writes fail now
		t.Fatal(err)
	}
	if err := l.add(aliveEntry("pod", "d")); err == nil {
		t.Fatal("a failed write was not reported")
	}
	if err := l.add(aliveEntry("pod", "e")); err != nil {
		t.Fatalf("the failure was reported twice: %v", err)
	}
	if _, err := file.WriteString("{\"uid\":\"torn"); err != nil {
		t.Fatal(err)
	}
	l.file, l.failedAt = file, time.Time{} // and work again
	if err := l.add(aliveEntry("pod", "f")); err != nil {
		t.Fatal(err)
	}
	if l = open(); len(entries) != 5 {
		t.Fatalf("after failed writes %d of 5 runs are left", len(entries))
	}
	for range compactAt + 10 {
		if err := l.done(aliveEntry("pod", "a").id()); err != nil {
			t.Fatal(err)
		}
		if err := l.add(aliveEntry("pod", "a")); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, ledgerName))
	if err != nil || info.Size() > compactAt*200 {
		t.Errorf("the ledger was not written anew: %d bytes, %v", info.Size(), err)
	}
	if open(); len(entries) != 5 {
		t.Errorf("%d runs after it was written anew", len(entries))
	}
}

// A ledger that cannot be written anew stays as it is, and goes on.
func TestLedgerNotWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	l, _, _, err := openLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.add(aliveEntry("pod", "a")), l.add(aliveEntry("pod", "b"))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.file.WriteString("{\"uid\":\"torn"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.path+".new", 0o755); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	l, entries, _, err := openLedger(dir)
	if err == nil || len(entries) != 2 {
		t.Fatalf("%d of 2 runs, %v", len(entries), err)
	}
	if err := errors.Join(l.done(aliveEntry("pod", "a").id()), l.add(aliveEntry("pod", "c")), l.sync(), l.close()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(l.path + ".new"); err != nil {
		t.Fatal(err)
	}
	if _, entries, _, err = openLedger(dir); err != nil || len(entries) != 2 || entries[1].ContainerID != id("c") {
		t.Errorf("%v, %v", entries, err)
	}
}

// While nothing can be written, a change costs no more for all those that wait.
func TestLedgerWaits(t *testing.T) {
	dir := t.TempDir()
	l, _, _, err := openLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	if l.file, err = os.Open(l.path); err != nil { // writes fail
		t.Fatal(err)
	}
	const runs = 10_000
	start, told := time.Now(), 0
	for i := range runs {
		if err := l.add(aliveEntry("pod", strconv.Itoa(i))); err != nil {
			told++
		}
	}
	if d := time.Since(start); d > 30*time.Second || told != 1 {
		t.Errorf("noted in %v, told %d times", d, told)
	}
	if err := l.sync(); err == nil {
		t.Error("what is not written was synced")
	}
	l.file = nil
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if _, entries, _, err := openLedger(dir); err != nil || len(entries) != runs {
		t.Errorf("%d runs, %v", len(entries), err)
	}
}

// What ends while no exporter runs has a record: of a pod that is gone, of a run that was replaced
// twice, and of one that is still there.
func TestDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone, _ := w.pod("gone")
	restarted, rc := w.pod("restarted")
	stays, sc := w.pod("stays")
	done, dc := w.pod("recorded")
	for _, pod := range []*corev1.Pod{gone, restarted, stays, done} {
		w.kube.SetPod(pod)
	}
	e := w.start(nil)
	for e.Ready() != nil {
		<-time.After(10 * time.Millisecond)
	}
	dc.Print(time.Now(), "archived before\n")
	dc.Exit()
	exit(done, 0)
	w.kube.SetPod(done)
	w.await(1)
	w.stop()

	w.kube.DeletePod(gone.Namespace, gone.Name)
	w.kube.DeletePod(done.Namespace, done.Name)
	sc.Print(time.Now(), "still here\n")
	sc.Exit()
	exit(stays, 4)
	w.kube.SetPod(stays)
	for range 2 {
		rc.Exit()
		exit(restarted, 1)
		rc.Restart()
		restart(restarted, rc)
	}
	restarted.Status.ContainerStatuses[0].RestartCount = 3
	w.kube.SetPod(restarted)

	w.start(nil)
	causes := make(map[string]bundle.Cause)
	for _, rec := range w.await(6) {
		name := rec.Pod.Name + "/" + string(rune('0'+rec.Container.RestartCount))
		if _, twice := causes[name]; twice {
			t.Errorf("%s has two records", name)
		}
		causes[name] = rec.Verdict.Head.Cause
		if rec.Pod.Name == "stays" && (*rec.State.ExitCode != 4 || rec.Lines != 1) {
			t.Errorf("stays: %+v", rec)
		}
	}
	want := map[string]bundle.Cause{
		"gone/0": bundle.CauseVanishedWhileDown, "recorded/0": causes["recorded/0"], "stays/0": causes["stays/0"],
		"restarted/0": bundle.CauseReplacedBeforeRead, "restarted/1": bundle.CauseUnseenRuns, "restarted/2": causes["restarted/2"],
	}
	for name, cause := range want {
		if got, ok := causes[name]; !ok || got != cause {
			t.Errorf("%s: cause %q, want %q (record: %t)", name, got, cause, ok)
		}
	}
	w.stop()
	w.start(nil) // and nothing is told twice
	<-time.After(300 * time.Millisecond)
	if n := len(w.records()); n != 6 {
		t.Errorf("%d records after one more start", n)
	}
}

// A run that another exporter has archived while this one was down has no second record, on another day, because its
// pod, which is there, does not show it any more.
func TestArchivedInDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	begin := time.Now().Add(-24 * time.Hour).Truncate(time.Second) // it has ended a day before the ledger was written, by its own clock
	pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = begin
	c.Print(begin.Add(time.Second), "run 0\n")
	w.kube.SetPod(pod)
	w.synced(nil)
	w.spool = t.TempDir()
	e := w.synced(nil)
	w.until("the run to be known", func() bool { return len(e.tracker.running()) == 1 })
	w.stop()
	for n := range int32(2) {
		if n > 0 {
			c.Restart()
			restart(pod, c)
			c.Print(time.Now(), "another\n")
			w.kube.SetPod(pod)
			<-time.After(100 * time.Millisecond)
		}
		c.Exit()
		if exit(pod, 1); n == 0 {
			pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = begin.Add(time.Minute)
		}
		w.kube.SetPod(pod)
		w.final(n)
	}
	c.Restart()
	restart(pod, c)
	w.kube.SetPod(pod)
	w.synced(nil)
	<-time.After(time.Second)
	if all := finals(w.records()); len(all) != 2 {
		t.Errorf("%d records of two runs", len(all))
	}
}

// Runs of which an exporter knows only the count, because it was down or a power cut took the end of its ledger, may
// have their records.
func TestArchivedAndNotSeen(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ powerCut, away bool }{
		"by another exporter": {}, "before a power cut": {powerCut: true}, "while the store was away": {powerCut: true, away: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, powerCut := newWorld(t), tt.powerCut
			pod, c := w.pod("loop")
			c.Print(time.Now(), "words\n")
			w.kube.SetPod(pod)
			store := &absent{Bucket: w.bucket}
			use := func(o *Options) { o.Bucket, o.Grace = store, time.Second }
			end := func(n int32) {
				c.Exit()
				exit(pod, 1)
				w.kube.SetPod(pod)
				w.until("it is captured", func() bool {
					return strings.Count(w.said(), fmt.Sprintf("msg=captured namespace=shop pod=loop container=app restart=%d ", n)) > 0
				})
			}
			w.synced(use)
			if !powerCut {
				w.spool = t.TempDir()
				w.synced(use)
			}
			end(0)
			ledger := filepath.Join(w.spool, ledgerName)
			var was []byte
			w.until("the ledger to know", func() bool {
				was, _ = os.ReadFile(ledger)
				return bytes.Contains(was, []byte(`"done"`))
			})
			again := func() {
				c.Restart()
				restart(pod, c)
				c.Print(time.Now(), "words\n")
				w.kube.SetPod(pod)
				<-time.After(100 * time.Millisecond)
			}
			store.away.Store(tt.away)
			if !powerCut {
				w.stop()
			}
			for n := int32(1); n <= 3; n++ {
				again()
				end(n)
			}
			again()
			if powerCut {
				w.stop()
				if err := os.WriteFile(ledger, was, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w.synced(use)
			<-time.After(time.Second)
			store.away.Store(false)
			w.until("the records of 4 runs", func() bool { return len(finals(w.records())) >= 4 })
			<-time.After(time.Second)
			if all := finals(w.records()); len(all) != 4 {
				t.Errorf("%d records of 4 runs", len(all))
			}
		})
	}
}

// Records that have the same restart count and are of another run, or of a run with a longer number, or of a run that
// goes on, stand for none that nobody saw.
func TestNotSeenAndNotArchived(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	w.kube.SetPod(pod)
	w.synced(nil)
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	w.final(0)
	w.stop()
	c.Restart()
	restart(pod, c)
	shown := &pod.Status.ContainerStatuses[0]
	shown.RestartCount, shown.LastTerminationState = 2, corev1.ContainerState{}
	w.kube.SetPod(pod)
	now := time.Now().UTC()
	hourAgo := now.Add(-time.Hour)
	for n, decoy := range []struct {
		restart int32
		state   bundle.State
	}{{1, bundle.State{FinishedAt: &hourAgo}}, {10, bundle.State{FinishedAt: &now}}, {1, bundle.State{Running: true, StartedAt: &now}}} {
		rec := aboutPod(pod, c)
		rec.Container.RestartCount, rec.Container.ContainerID, rec.State = decoy.restart, c.ID(77+n), decoy.state
		lost := bundle.Part{State: bundle.Lost, Cause: bundle.CauseDeletedBeforeRead}
		rec.Verdict = bundle.Verdict{Head: lost, Middle: lost, Tail: lost}
		key, err := bundle.KeyOf(rec)
		if err := errors.Join(err, putRecord(w.bucket, key.Record(), rec)); err != nil {
			t.Fatal(err)
		}
		if key.ID12 = bundle.ID12(c.ID(88)); n == 2 { // a snapshot under the key of an end, which it has not
			key.Snapshot = time.Time{}
			if err := putRecord(w.bucket, key.Record(), rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.synced(nil)
	w.until("a record of the run that nobody saw", func() bool {
		return slices.ContainsFunc(w.records(), func(rec *bundle.Record) bool {
			return rec.Container.RestartCount == 1 && rec.Container.ContainerID == ""
		})
	})
}

// What was noted is on the disk soon, or the next line tells of it.
func TestLedgerSyncs(t *testing.T) {
	t.Parallel()
	l, _, _, err := openLedger(t.TempDir())
	if err := errors.Join(err, l.add(aliveEntry("one", "1"))); err != nil {
		t.Fatal(err)
	}
	unsynced := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.unsynced || l.syncing != nil
	}
	if !unsynced() {
		t.Error("nothing will be synced")
	}
	for end := time.Now().Add(30 * time.Second); unsynced(); {
		if time.Now().After(end) {
			t.Fatal("it is not synced")
		}
		<-time.After(10 * time.Millisecond)
	}
	l.mu.Lock()
	whole := l.file
	var failing *os.File
	if failing, l.file, err = os.Pipe(); err != nil { // takes lines, and cannot be synced
		t.Fatal(err)
	}
	l.mu.Unlock()
	if err := l.add(aliveEntry("two", "2")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); unsynced() && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	if err := l.add(aliveEntry("three", "3")); err == nil {
		t.Error("nobody is told that it cannot be synced")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(whole.Close(), failing.Close(), l.file.Close()); err != nil {
		t.Fatal(err)
	}
	if l.syncing != nil {
		l.syncing.Stop()
	}
}

// A container that waits to start again when the exporter stops has runs that nobody sees. They are known by the
// count of the last one that has its record.
func TestRestartsInDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("loop")
	c.Exit()
	exit(pod, 1)
	crash := func() {
		restart(pod, c)
		c.Restart()
		c.Exit()
		exit(pod, 1)
		s := &pod.Status.ContainerStatuses[0]
		s.LastTerminationState, s.State = s.State, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	}
	w.kube.SetPod(pod)
	w.start(nil)
	w.await(1)
	w.stop()
	for range 4 {
		s := &pod.Status.ContainerStatuses[0]
		if s.State.Waiting != nil {
			s.State = s.LastTerminationState
		}
		s.State.Running = &corev1.ContainerStateRunning{}
		crash()
	}
	w.kube.SetPod(pod)
	w.start(nil)
	unseen := 0
	for _, rec := range w.await(5) {
		if rec.Verdict.Head.Cause == bundle.CauseUnseenRuns {
			unseen++
		}
	}
	if unseen != 3 {
		t.Errorf("%d records of runs that nobody saw, want 3", unseen)
	}
	w.kube.DeletePod(pod.Namespace, pod.Name)
	<-time.After(300 * time.Millisecond)
	w.stop()
	w.start(nil)
	<-time.After(1500 * time.Millisecond)
	if n := len(w.records()); n != 5 {
		t.Errorf("%d records after one more start", n)
	}
	w.stop()
	data, err := os.ReadFile(filepath.Join(w.spool, ledgerName))
	if err != nil || len(data) > 0 {
		t.Errorf("the ledger holds %q, %v", data, err)
	}
}
