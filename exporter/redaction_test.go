package exporter

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func redacting(t *testing.T, x Export) func(*Options) {
	t.Helper()
	r, err := redact.New([]redact.Rule{{Name: "pin", Pattern: `pin=(?P<secret>[0-9]+)`}})
	if err != nil {
		t.Fatal(err)
	}
	x.Name, x.Redact = "redacted", r
	return func(o *Options) { o.Exports = []Export{x} }
}

// What is redacted says so, in the log, the record and the termination message.
func TestRedaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.synced(redacting(t, Export{}))
	pod, c := w.pod("secretive")
	secretive(pod)
	w.kube.SetPod(pod)
	c.Print(time.Now(), "pin=1234 and pin=99\nno more\n")
	c.Exit()
	exit(pod, 1)
	pod.Status.ContainerStatuses[0].State.Terminated.Message = "died of pin=1234"
	w.kube.SetPod(pod)
	rec := w.final(0)
	if got := w.words(rec); got != "pin=[REDACTED:pin] and pin=[REDACTED:pin] no more" || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
	if r := rec.Capture.Redaction; r == nil || r.Matches["pin"] != 2 || len(r.Rules) != 1 {
		t.Errorf("redaction %+v", rec.Capture.Redaction)
	}
	if rec.State.Message != "died of pin=[REDACTED:pin]" || strings.Contains(strings.Join(rec.LastLines, ""), "pin=1") {
		t.Errorf("message %q, last lines %q", rec.State.Message, rec.LastLines)
	}
	if n := strings.Count(string(rec.PodObject), "[REDACTED:pin]"); strings.Contains(string(rec.PodObject), "1234") || n != 10 {
		t.Errorf("%d redacted texts in the pod object %s", n, rec.PodObject)
	}
}

// secretive puts a secret wherever a pod may hold one: in nine places, beside its environment.
func secretive(pod *corev1.Pod) {
	words := func() []string { return []string{"sh", "-c", "unlock pin=1234"} }
	get := &corev1.HTTPGetAction{Path: "/?pin=1234", HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Pin", Value: "pin=1234"}}}
	exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: words()}}
	app := &pod.Spec.Containers[0]
	app.Command, app.Args, app.Env = words(), words(), []corev1.EnvVar{{Name: "PIN", Value: "1234"}}
	app.LivenessProbe, app.ReadinessProbe = &corev1.Probe{ProbeHandler: exec}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}
	app.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: words()}}}
	pod.Annotations = map[string]string{"unlock": "pin=1234"}
	pod.Spec.InitContainers = []corev1.Container{{Name: "init", Command: words()}}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Args: words()}}}
}

// A redacted log goes on where it was, by its stamps: each line once, and a hole shows.
func TestRedactionGoesOn(t *testing.T) {
	t.Parallel()
	for name, rotated := range map[string]bool{"whole": false, "rotated": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := redacting(t, Export{Capture: CaptureLive})
			pod, c := w.pod("secretive")
			w.kube.SetPod(pod)
			e := w.start(change)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			c.Print(time.Now(), "one pin=1\ntwo pin=2\n")
			w.arrived(e)
			w.stop()
			if rotated {
				c.Rotate(time.Now(), "lost\n")
			} else {
				c.Print(time.Now(), "three pin=3\n")
			}
			before := len(w.kube.Requests("follow=true"))
			w.start(change)
			w.until("a further stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
			endAfter("four pin=4\n")(w, pod, c)
			rec := w.final(0)
			want, middle := "one two three four", bundle.Proven
			if rotated {
				want, middle = "one two four", bundle.Lost
			}
			if got := strings.ReplaceAll(w.words(rec), " pin=[REDACTED:pin]", ""); got != want || rec.Verdict.Middle.State != middle || rec.Verdict.Head.State != bundle.Proven {
				t.Errorf("log %q, verdict %+v, reads %+v", w.words(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// What is read before it is known which export takes a run is redacted by that one's rules.
func TestRedactionDecidedAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.synced(redacting(t, Export{Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"}), Compression: bundle.Gzip}))
	w.runOf("late", "pin=77\n", 3)
	rec := w.final(0)
	if !strings.HasSuffix(rec.Objects[0].Key, ".gz") || rec.Capture.Redaction == nil || strings.Contains(strings.Join(rec.LastLines, ""), "pin=77") || !rec.Verdict.Complete {
		t.Errorf("record %+v", rec)
	}
}

// killedNow stops an exporter, and the next one finds the spool as if it had been killed right before.
func (w *world) killedNow(e *Exporter) {
	w.t.Helper()
	for _, out := range e.outputs.list() {
		out.flush()
	}
	as := w.t.TempDir()
	if err := os.CopyFS(as, os.DirFS(w.spool)); err != nil {
		w.t.Fatal(err)
	}
	w.stop()
	w.spool = as
}

// following starts an exporter that follows a new container, which has printed.
func (w *world) following(name, text string, change func(*Options)) (*Exporter, *corev1.Pod, *kubetest.Container) {
	w.t.Helper()
	pod, c := w.pod(name)
	c.Print(time.Now(), text)
	w.kube.SetPod(pod)
	e := w.start(change)
	w.arrived(e)
	return e, pod, c
}

// What was read before it was known which export takes the run holds its secrets. If its end becomes known
// while no exporter runs, the next one redacts what it finds.
func TestRedactionOfWhatWasUndecided(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]bool{"stopped": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := redacting(t, Export{Capture: CaptureLive, Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})})
			e, pod, c := w.following("secretive", "one pin=1\ntwo pin=2\n", change)
			if killed {
				w.killedNow(e)
			} else {
				w.stop()
			}
			c.Print(time.Now().Add(time.Second), "three pin=3\n")
			c.Exit()
			exit(pod, 3)
			w.kube.SetPod(pod)
			w.start(change)
			rec := w.final(0)
			if got, mark := w.words(rec), "pin=[REDACTED:pin]"; got != "one "+mark+" two "+mark+" three "+mark || rec.Capture.Redaction == nil {
				t.Errorf("log %q, redaction %+v, verdict %+v", got, rec.Capture.Redaction, rec.Verdict)
			}
		})
	}
}

// The same, of a pod that nobody knows any more.
func TestRedactionOfWhatIsAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := redacting(t, Export{Capture: CaptureLive, Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})})
	e, pod, _ := w.following("secretive", "one pin=1\n", change)
	w.killedNow(e)
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if err := os.Remove(filepath.Join(w.spool, ledgerName)); err != nil {
		t.Fatal(err)
	}
	w.start(change)
	rec := w.await(1)[0]
	if got := w.words(rec); strings.Contains(got, "pin=1") || rec.Capture.Redaction == nil {
		t.Errorf("log %q, redaction %+v", got, rec.Capture.Redaction)
	}
}

// A process that is killed while it takes up what an earlier one has left leaves all of it and a copy of a
// part of it. Each line counts once.
func TestRedactionTakenUpTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := redacting(t, Export{Capture: CaptureLive})
	e, pod, c := w.following("secretive", "one pin=1\ntwo pin=2\n", change)
	w.killedNow(e)
	drafts, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*"))
	if err != nil || len(drafts) != 1 {
		t.Fatalf("drafts %q, %v", drafts, err)
	}
	if err := os.CopyFS(drafts[0]+"1", os.DirFS(drafts[0])); err != nil {
		t.Fatal(err)
	}
	endAfter("three pin=3\n")(w, pod, c)
	w.start(change)
	rec := w.final(0)
	if got := strings.ReplaceAll(w.words(rec), " pin=[REDACTED:pin]", ""); got != "one two three" {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
}

// A redacted log goes on behind its last line. If the kubelet has only an empty new file, what was written to
// the old one meanwhile is not known.
func TestRedactionGoesOnEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := redacting(t, Export{Capture: CaptureLive})
	_, pod, c := w.following("secretive", "one pin=1\n", change)
	w.stop()
	c.Rotate(time.Now(), "lost\n")
	c.Exit()
	exit(pod, 0)
	w.kube.SetPod(pod)
	w.start(change)
	rec := w.final(0)
	if rec.Verdict.Complete || rec.Verdict.Middle.State != bundle.Lost {
		t.Errorf("log %q, verdict %+v, reads %+v", w.words(rec), rec.Verdict, rec.Capture.Reads)
	}
}

// The spool fails when a log is to be redacted that was read before it was known which export takes it. What is
// held is all there is of it, so it waits.
func TestRedactionWaitsForTheSpool(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := redacting(t, Export{Capture: CaptureLive, Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})})
	_, pod, c := w.following("secretive", "one pin=1\n", change)
	tmp := filepath.Join(w.spool, ".tmp")
	if err := os.Rename(tmp, tmp+".away"); err != nil {
		t.Fatal(err)
	}
	c.Exit()
	exit(pod, 3)
	w.kube.SetPod(pod)
	w.until("a failure", func() bool { return strings.Contains(w.said(), "cannot spool") })
	w.kube.DeletePod(pod.Namespace, pod.Name)
	if err := os.Rename(tmp+".away", tmp); err != nil {
		t.Fatal(err)
	}
	if rec := w.final(0); w.words(rec) != "one pin=[REDACTED:pin]" || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
	}
}

// In memory a log cannot be redacted later. So one of which it is not known whose rules it takes is not read there.
func TestRedactionInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.exporter(func(o *Options) {
		redacting(t, Export{})(o)
		o.Exports = append([]Export{{Name: "failed", Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})}}, o.Exports...)
	})
	t.Cleanup(func() { _ = e.Close() })
	list := e.exports.Load().list
	for name, tt := range map[string]struct {
		export    *Export
		undecided bool
		want      error
	}{
		"undecided":           {export: list[0], undecided: true, want: errSpoolFull},
		"decided":             {export: list[0]},
		"the redacting one's": {export: list[1], undecided: true},
	} {
		out, err := e.directOutput(&capture{export: tt.export, undecided: tt.undecided})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if out != nil {
			out.abort()
		}
	}
}
