package exporter

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func selects(t *testing.T, s selection.Spec) *selection.Selection {
	t.Helper()
	sel, problems := selection.Compile(s)
	for _, p := range problems {
		t.Fatal(p)
	}
	return sel
}

// runOf makes a pod of a name whose container prints and exits while the exporter watches.
func (w *world) runOf(name, text string, code int32) {
	w.t.Helper()
	pod, c := w.pod(name)
	pod.Labels = map[string]string{"app": strings.TrimRight(name, "-0123456789")}
	w.kube.SetPod(pod)
	c.Print(time.Now(), text)
	c.Exit()
	exit(pod, code)
	w.kube.SetPod(pod)
}

// archived returns the names of the pods that have a record, sorted, with the policy that it was read by.
func (w *world) archived() string {
	w.t.Helper()
	var names []string
	for _, rec := range w.records() {
		names = append(names, rec.Pod.Name+":"+rec.Capture.Policy)
	}
	return strings.Join(names, " ")
}

// The first export that takes a run decides how; what none takes is not read, and is not counted.
func TestExports(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	w.run(func(o *Options) {
		o.Exports = []Export{
			{Name: "followed", Select: selects(t, selection.Spec{Labels: "app=a"}), Capture: CaptureLive},
			{Name: "failed", Select: selects(t, selection.Spec{Labels: "app in (a,bb)", Expression: "container.exitCode != 0"})},
			{Name: "gzipped", Select: selects(t, selection.Spec{Pods: []string{"dddd*"}}), Compression: bundle.Gzip},
		}
	})
	w.runOf("a", "followed\n", 0)
	w.runOf("bb", "good\n", 0)
	w.runOf("bb-1", "bad\n", 3)
	w.runOf("ccc", "nobody's\n", 1)
	w.runOf("dddd-2", "small\n", 0)
	w.until("three records", func() bool { return len(w.records()) >= 3 })
	w.account()
	<-time.After(300 * time.Millisecond)
	if got := w.archived(); got != "a:live bb-1:final dddd-2:final" {
		t.Errorf("archived %s", got)
	}
	for _, rec := range w.records() {
		if gz := strings.HasSuffix(rec.Objects[0].Key, ".gz"); gz != (rec.Pod.Name == "dddd-2") || !rec.Verdict.Complete {
			t.Errorf("%s: object %s, verdict %+v", rec.Pod.Name, rec.Objects[0].Key, rec.Verdict)
		}
	}
	for _, request := range w.kube.Requests("/log?") {
		if strings.Contains(request, "/ccc/") {
			t.Errorf("a log was read that no export takes: %s", request)
		}
	}
}

// Of an export with windows only those runs are taken that end in one.
func TestExportWindows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Now().UTC()
	window := func(from time.Time, d time.Duration) *schedule.Schedule {
		s, err := schedule.Parse(schedule.Spec{Cron: from.Format("4 15 * * *"), WatchFor: d})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.synced(func(o *Options) {
		o.Exports = []Export{
			{Name: "closed", Select: selects(t, selection.Spec{Labels: "app=a"}), Schedule: window(now.Add(-2*time.Hour), time.Hour)},
			{Name: "open", Select: selects(t, selection.Spec{Labels: "app=bb"}), Schedule: window(now.Add(-time.Hour), 2*time.Hour)},
		}
	})
	w.runOf("a", "outside\n", 0)
	w.runOf("bb", "inside\n", 0)
	early, c := w.pod("bb-early")
	early.Labels = map[string]string{"app": "bb"}
	c.Print(now.Add(-90*time.Minute), "before\n")
	c.Exit()
	exit(early, 0)
	early.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = now.Add(-90 * time.Minute)
	w.kube.SetPod(early)
	w.await(1)
	<-time.After(300 * time.Millisecond)
	if got := w.archived(); got != "bb:final" {
		t.Errorf("archived %s", got)
	}
}

// New exports hold for what was not taken before, dead or alive; captures that were begun go on.
func TestSetExports(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	none := []Export{{Name: "none", Select: selects(t, selection.Spec{Pods: []string{"nothing"}})}}
	e := w.run(func(o *Options) { o.Exports = none })
	w.runOf("a", "dead\n", 0)
	alive, c := w.pod("bb")
	w.kube.SetPod(alive)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	<-time.After(200 * time.Millisecond)
	if got := w.archived(); got != "" {
		t.Errorf("archived %s", got)
	}
	if err := e.SetExports([]Export{{Name: "all", Capture: CaptureLive}}); err != nil {
		t.Fatal(err)
	}
	w.await(1)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	if err := e.SetExports(none); err != nil {
		t.Fatal(err)
	}
	endAfter("alive\n")(w.world, alive, c)
	w.await(2)
	if got := w.archived(); !strings.Contains(got, "a:live") || !strings.Contains(got, "bb:live") {
		t.Errorf("archived %s", got)
	}
	if err := e.SetExports([]Export{{Name: "x"}, {Name: "x"}}); err == nil {
		t.Error("two exports of one name were accepted")
	}
	w.account()
}

// One of several exports, once: what those before it take is theirs, and left alone.
func TestExportOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a", "bb", "ccc"} {
		pod, c := w.pod(name)
		c.Print(time.Now(), name+"\n")
		if name != "ccc" {
			c.Exit()
			exit(pod, 1)
		}
		w.kube.SetPod(pod)
	}
	for _, tt := range []struct{ only, want string }{
		{"first", "a:export"},
		{"second", "a:export bb:export ccc:export"},
		{"", "a:export bb:export ccc:export"},
	} {
		before := len(w.kube.Requests("/log?"))
		e := w.exporter(func(o *Options) {
			o.Only = tt.only
			o.Exports = []Export{{Name: "first", Select: selects(t, selection.Spec{Labels: "app=a"})}, {Name: "second"}}
		})
		if err := e.Export(context.Background()); err != nil {
			t.Fatal(err)
		}
		if p := e.Progress(); p.Pods != 3 || p.Done != p.Runs || len(p.Failures) > 0 {
			t.Errorf("only %q: %+v", tt.only, p)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if got := w.archived(); got != tt.want {
			t.Errorf("only %q: archived %s, want %s", tt.only, got, tt.want)
		}
		for _, r := range w.kube.Requests("/log?")[before:] {
			if tt.only == "first" && !strings.Contains(r, "/a/") || tt.only == "second" && strings.Contains(r, "/a/") {
				t.Errorf("only %q: %s", tt.only, r)
			}
		}
	}
}

// What an expression asks for may never be known. Then the run is taken.
func TestExportOfUnknownEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.synced(func(o *Options) {
		o.Exports = []Export{{Name: "failed", Select: selects(t, selection.Spec{Expression: "container.exitCode != 0"}), Capture: CaptureLive}}
	})
	pod, c := w.pod("gone")
	w.kube.SetPod(pod)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "last words\n")
	w.arrived(e)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	c.Exit()
	if rec := w.await(1)[0]; w.words(rec) != "last words" {
		t.Errorf("log %q", w.words(rec))
	}
}

// Nothing of a log is archived before it is known to be wanted, and yet a stop of the exporter costs nothing.
func TestUndecidedGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	failed := func(o *Options) {
		o.Exports = []Export{{Name: "failed", Select: selects(t, selection.Spec{Expression: "container.exitCode != 0"}), Capture: CaptureLive}}
	}
	pod, c := w.pod("undecided")
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, failed)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Add(time.Second), "one\n")
	w.until("the stream's lines", w.drafted)
	w.stop()
	if got := w.archived(); got != "" {
		t.Errorf("archived %s", got)
	}
	c.Rotate(time.Now(), "lost\n")
	before := len(w.kube.Requests("follow=true"))
	w.start(failed)
	w.until("a further stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
	c.Print(time.Now().Add(2*time.Second), "two\n")
	c.Exit()
	exit(pod, 1)
	w.kube.SetPod(pod)
	if rec := w.final(0); w.words(rec) != "one two" || rec.Verdict.Head.State != bundle.Proven || rec.Verdict.Middle.State != bundle.Lost {
		t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
	}
}

// While runs end, the exports are replaced again and again, also by such as are refused: every run has one
// record all the same, with its whole log.
func TestExportsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	const runs = 100
	w := newTrapped(t, nil)
	e := w.run(nil)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	done := make(chan struct{})
	var replaced int
	var replacing sync.WaitGroup
	replacing.Go(func() {
		for sets := 0; ; sets++ {
			list := [][]Export{
				{{Name: "followed", Capture: CaptureLive}},
				{{Name: "odd", Select: selects(t, selection.Spec{Labels: "turn=odd"})}, {Name: "rest", Capture: CaptureLive}},
				{{Name: "twice"}, {Name: "twice"}},
				{{Name: "failed", Select: selects(t, selection.Spec{Expression: "container.exitCode != 0"})}, {Name: "good"}},
			}[sets%4]
			if err := e.SetExports(list); (err != nil) != (sets%4 == 2) {
				t.Errorf("set exports: %v", err)
			}
			replaced++
			select {
			case <-done:
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	})
	var running []func()
	for n := 1; n <= runs; n++ {
		pod, c := w.pod(strings.Repeat("p", n))
		pod.Labels = map[string]string{"turn": []string{"even", "odd"}[n%2]}
		c.Print(time.Now(), "first\n")
		w.kube.SetPod(pod)
		running = append(running, func() {
			c.Print(time.Now(), "last\n")
			c.Exit()
			exit(pod, int32(n%3))
			w.kube.SetPod(pod)
		})
		if n > 10 {
			running[n-11]()
		}
	}
	for _, end := range running[runs-10:] {
		end()
	}
	w.await(runs)
	close(done)
	replacing.Wait()
	w.account()
	seen := make(map[string]bool)
	for _, rec := range w.records() {
		if seen[rec.Pod.Name] || rec.Lines != 2 || !rec.Verdict.Complete {
			t.Errorf("%s: seen before: %v, %d lines, verdict %+v", rec.Pod.Name, seen[rec.Pod.Name], rec.Lines, rec.Verdict)
		}
		seen[rec.Pod.Name] = true
	}
	if len(seen) != runs || replaced < 20 {
		t.Errorf("%d runs have a record, the exports were replaced %d times", len(seen), replaced)
	}
}

// podIn is pod in another namespace.
func (w *world) podIn(namespace, name string) (*corev1.Pod, *kubetest.Container) {
	pod, c := w.pod(name)
	pod.Namespace = namespace
	w.kube.Log(namespace, name, "app", c.Serve)
	return pod, c
}

// New exports may name further namespaces. These are watched too, as soon as that is allowed; what was watched
// before goes on meanwhile.
func TestSetExportsElsewhere(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	in := func(namespaces ...string) []Export {
		return []Export{{Name: "named", Select: selects(t, selection.Spec{Namespaces: namespaces})}}
	}
	e := w.run(func(o *Options) { o.Exports = in("shop") })
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	elsewhere, c := w.podIn("pay", "till")
	w.kube.SetPod(elsewhere)
	endAfter("elsewhere\n")(w.world, elsewhere, c)
	if got := w.kube.Requests("/namespaces/pay/"); len(got) > 0 {
		t.Errorf("requests to a namespace that no export names: %s", got)
	}

	w.kube.Deny("list", "pods", true)
	if err := e.SetExports(in("shop", "pay")); err != nil {
		t.Fatal(err)
	}
	w.until("the refusal", func() bool { return strings.Contains(w.said(), "access refused") })
	if err := e.Ready(); err == nil {
		t.Error("the exporter is ready, although a namespace cannot be watched")
	}
	w.runOf("a", "meanwhile\n", 0)
	w.await(1)
	if err := e.Sweep(t.Context(), "named"); err != nil {
		t.Error(err)
	}

	w.kube.Deny("list", "pods", false)
	w.await(2)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	if err := e.SetExports([]Export{{Name: "all"}}); err != nil {
		t.Fatal(err)
	}
	third, c := w.podIn("third", "third")
	w.kube.SetPod(third)
	endAfter("anywhere\n")(w.world, third, c)
	w.await(3)
	w.account()
}

// What a running container's log begins with is looked for once, however often the exports are replaced.
func TestSetExportsProbesOnce(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("probed")
	c.Print(time.Now(), "first\n")
	w.kube.SetPod(pod)
	e := w.run(nil)
	probes := func() int { return len(w.kube.Requests("limitBytes=64")) }
	w.until("the probe", func() bool { return probes() > 0 && e.Ready() == nil })
	for range 5 {
		if err := e.SetExports([]Export{{Name: "all"}}); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(200 * time.Millisecond)
	if n := probes(); n != 1 {
		t.Errorf("%d probes", n)
	}
}

// A request for one export does not mean its windows. Those before it keep theirs: what ended outside of them is
// not theirs.
func TestOnlyBehindWindows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	past := time.Now().UTC().Add(-3 * time.Hour)
	shut, err := schedule.Parse(schedule.Spec{Cron: past.Format("4 15 * * *"), WatchFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.runOf("outside", "outside\n", 0)
	inside, c := w.pod("inside-its-window")
	c.Print(past, "inside\n")
	c.Exit()
	exit(inside, 0)
	inside.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Time = past.Add(time.Minute)
	w.kube.SetPod(inside)
	e := w.exporter(func(o *Options) {
		o.Exports, o.Only = []Export{{Name: "night", Schedule: shut}, {Name: "rest"}}, "rest"
	})
	defer e.Close() //nolint:errcheck // a test's own
	if err := e.Export(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.archived(); got != "outside:export" && got != "outside:final" {
		t.Errorf("archived %s", got)
	}
}

// Who may see one namespace only, and is granted all of them later, sees those that come after that too.
func TestAllNamespacesAreGrantedLater(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	w.kube.Deny("all", "namespaces", true)
	w.kube.Deny("list", "namespaces", true)
	e := w.begin(func(e *Exporter) { e.rescope = 50 * time.Millisecond }, func(o *Options) { o.DefaultNamespace, o.Metrics = "shop", w.metrics })
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	w.runOf("a", "mine\n", 0)
	w.await(1)
	w.kube.Deny("all", "namespaces", false)
	elsewhere, c := w.podIn("pay", "till")
	w.kube.SetPod(elsewhere)
	endAfter("elsewhere\n")(w.world, elsewhere, c)
	w.await(2)
	w.account()
}

// Namespaces come and go. What is gone is watched no more, and its pods are not waited for, though the right to see
// them may have gone first.
func TestNamespacesThatGo(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	w.kube.Deny("all", "namespaces", true)
	stays, _ := w.pod("stays")
	w.kube.SetPod(stays)
	e := w.begin(func(e *Exporter) { e.rescope = 20 * time.Millisecond }, func(o *Options) { o.Metrics = w.metrics })
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	for n := range 3 {
		pod, c := w.podIn(fmt.Sprint("change-", n), strings.Repeat("x", n+1))
		c.Print(time.Now(), "words\n")
		w.kube.SetPod(pod)
		key := infoOf(pod).key()
		w.until("the pod to be seen", func() bool { return e.tracker.knows(key) })
		w.kube.DeletePodQuietly(pod.Namespace, pod.Name) // and with it the namespace
		w.until("the pod to be forgotten", func() bool { return !e.tracker.knows(key) })
	}
	w.until("one watch to be left", func() bool { return w.kube.Watches() == 1 })
	if n := len(w.await(3)); n != 3 || e.Ready() != nil {
		t.Errorf("%d records, ready: %v", n, e.Ready())
	}
}
