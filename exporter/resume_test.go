package exporter

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// final waits for the record of a run that has ended.
func (w *world) final(restart int32) *bundle.Record {
	w.t.Helper()
	var final *bundle.Record
	w.until("the run's record", func() bool {
		for _, rec := range w.records() {
			if !rec.State.Running && rec.Container.RestartCount == restart {
				final = rec
			}
		}
		return final != nil
	})
	return final
}

// words returns the text of a record without stamps and newlines.
func (w *world) words(rec *bundle.Record) string {
	w.t.Helper()
	var words []string
	for line := range strings.Lines(w.text(rec)) {
		_, text, _ := strings.Cut(line, " ")
		words = append(words, strings.TrimSuffix(text, "\n"))
	}
	return strings.Join(words, " ")
}

// stopAfter prints to a new container's log, lets an exporter follow it, and stops that.
func (w *world) stopAfter(name, text string) (*corev1.Pod, *kubetest.Container) {
	w.t.Helper()
	pod, c := w.pod(name)
	w.kube.SetPod(pod)
	e := w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(pod.Status.ContainerStatuses[0].State.Running.StartedAt.Add(100*time.Millisecond), text)
	w.arrived(e)
	w.stop()
	return pod, c
}

// arrived waits until an exporter holds lines of a stream that are not in the spool for good.
func (w *world) arrived(e *Exporter) {
	w.t.Helper()
	w.until("the stream's lines", func() bool { return slices.ContainsFunc(e.outputs.list(), (*output).unsafe) })
	<-time.After(20 * time.Millisecond) // all of them
}

// A log that was followed goes on where it was when the exporter stopped: one record names all of it,
// whatever became of the container, the spool and the kubelet's file in between.
func TestLiveGoesOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		between func(w *world, pod *corev1.Pod, c *kubetest.Container)
		after   func(w *world, pod *corev1.Pod, c *kubetest.Container)
		want    string
		verdict [3]bundle.PartState
		cause   bundle.Cause // of the worst part
	}{
		"it runs on": {
			between: func(_ *world, _ *corev1.Pod, c *kubetest.Container) { c.Print(time.Now(), "between\n") },
			after:   endAfter("last\n"),
			want:    "one two between last", verdict: [3]bundle.PartState{bundle.Proven, bundle.Proven, bundle.Proven},
		},
		"and the spool is lost": {
			between: func(w *world, _ *corev1.Pod, c *kubetest.Container) {
				w.spool = w.t.TempDir()
				c.Rotate(time.Now(), "lost\n")
			},
			after: endAfter("last\n"),
			want:  "one two last", verdict: [3]bundle.PartState{bundle.Proven, bundle.Lost, bundle.Proven}, cause: bundle.CauseJoinFailed,
		},
		"a rotation": {
			between: func(_ *world, _ *corev1.Pod, c *kubetest.Container) {
				c.Rotate(time.Now(), "lost\n")
				c.Print(time.Now().Add(time.Second), "newer\n")
			},
			after: endAfter("last\n"),
			want:  "one two newer last", verdict: [3]bundle.PartState{bundle.Proven, bundle.Lost, bundle.Proven}, cause: bundle.CauseJoinFailed,
		},
		"it ended": {
			between: func(w *world, pod *corev1.Pod, c *kubetest.Container) { endAfter("between\n")(w, pod, c) },
			want:    "one two between", verdict: [3]bundle.PartState{bundle.Proven, bundle.Proven, bundle.Proven},
		},
		"it restarted": {
			between: func(w *world, pod *corev1.Pod, c *kubetest.Container) {
				endAfter("between\n")(w, pod, c)
				c.Restart()
				restart(pod, c)
				c.Print(time.Now(), "another\n")
				w.kube.SetPod(pod)
			},
			want: "one two between", verdict: [3]bundle.PartState{bundle.Proven, bundle.Proven, bundle.Proven},
		},
		"its pod vanished": {
			between: func(w *world, pod *corev1.Pod, _ *kubetest.Container) { w.kube.DeletePod(pod.Namespace, pod.Name) },
			want:    "one two", verdict: [3]bundle.PartState{bundle.Proven, bundle.Proven, bundle.Lost}, cause: bundle.CauseVanishedWhileDown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.stopAfter("goes-on", "one\ntwo\n")
			tt.between(w, pod, c)
			before := len(w.kube.Requests("follow=true"))
			w.start(live)
			if tt.after != nil {
				w.until("a further stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
				tt.after(w, pod, c)
			}
			rec := w.final(0)
			if got := w.words(rec); got != tt.want {
				t.Errorf("log %q, want %q; reads %+v", got, tt.want, rec.Capture.Reads)
			}
			v := rec.Verdict
			if got := [3]bundle.PartState{v.Head.State, v.Middle.State, v.Tail.State}; got != tt.verdict {
				t.Errorf("verdict %+v", v)
			}
			if v.Tail.State == bundle.Lost && v.Tail.Cause != tt.cause || v.Middle.State == bundle.Lost && v.Middle.Cause != tt.cause {
				t.Errorf("verdict %+v", v)
			}
			sum := sha256.Sum256([]byte(w.text(rec)))
			if hex.EncodeToString(sum[:]) != rec.RawSHA256 || len(rec.LastLines) != int(rec.Lines) {
				t.Errorf("hash %s, last lines %q", rec.RawSHA256, rec.LastLines)
			}
		})
	}
}

func endAfter(text string) func(*world, *corev1.Pod, *kubetest.Container) {
	return func(w *world, pod *corev1.Pod, c *kubetest.Container) {
		c.Print(time.Now().Add(2*time.Second), text)
		c.Exit()
		exit(pod, 0)
		w.kube.SetPod(pod)
	}
}

// A log of many segments goes on through several processes.
func TestLiveGoesOnAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("again")
	w.kube.SetPod(pod)
	n := 0
	for range 3 {
		before := len(w.kube.Requests("follow=true"))
		w.begin(func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, live)
		w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
		for range 2 {
			have := len(w.records())
			c.Print(time.Now(), fmt.Sprintf("%d\n", n))
			n++
			w.until("a segment", func() bool { return len(w.records()) > have })
		}
		w.stop()
	}
	w.start(live)
	w.until("the last stream", func() bool { return c.Following() > 0 })
	endAfter("end\n")(w, pod, c)
	rec := w.final(0)
	if got := w.words(rec); got != "0 1 2 3 4 5 end" || !rec.Verdict.Complete || len(rec.Objects) < 6 {
		t.Errorf("log %q in %d objects, verdict %+v", got, len(rec.Objects), rec.Verdict)
	}
}

// An exporter that is killed leaves what it has stored, what it was writing, and nothing else. The next one
// puts both together, also where the first has gone on in another place meanwhile.
func TestLiveKilled(t *testing.T) {
	t.Parallel()
	for name, middle := range map[string]bundle.PartState{"the file is as it was": bundle.Proven, "the file was rotated": bundle.Lost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killLive(t, middle)
		})
	}
}

func killLive(t *testing.T, middle bundle.PartState) {
	w := newWorld(t)
	pod, c := w.pod("killed")
	w.kube.SetPod(pod)
	e := w.begin(func(e *Exporter) { e.segmentEvery = 300 * time.Millisecond }, live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "one\ntwo\n")
	w.until("a segment", func() bool { return len(w.records()) > 0 })
	c.Print(time.Now(), "three\n")
	w.arrived(e)
	for _, out := range e.outputs.list() {
		out.flush()
	}
	as := t.TempDir()
	if err := os.CopyFS(as, os.DirFS(w.spool)); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.spool = as
	if middle == bundle.Lost {
		c.Rotate(time.Now(), "lost\n") // what was written before is nowhere else
	}
	before := len(w.kube.Requests("follow=true"))
	w.start(live)
	w.until("a further stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
	endAfter("last\n")(w, pod, c)
	rec := w.final(0)
	if got := w.words(rec); got != "one two three last" || rec.Verdict.Head.State != bundle.Proven || rec.Verdict.Middle.State != middle {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
}

// What an earlier process has read under a run's name may be its successor's: a stream is opened before the
// status tells of a restart. Such text is not taken up.
func TestLeftoverOfTheSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("swapped")
	w.kube.SetPod(pod)
	e := w.start(live)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now().Add(5*time.Second), "my successor's\n") // as the stream has it, for the status does not tell yet
	w.arrived(e)
	for _, out := range e.outputs.list() {
		out.flush()
	}
	as := t.TempDir()
	if err := os.CopyFS(as, os.DirFS(w.spool)); err != nil {
		t.Fatal(err)
	}
	w.stop()
	bucket, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.spool, w.bucket = as, bucket
	c.Rotate(time.Now(), "")
	c.Print(time.Now(), "mine\n")
	c.Exit()
	exit(pod, 1)
	c.Restart()
	restart(pod, c)
	w.kube.SetPod(pod)
	w.start(nil)
	if rec := w.final(0); w.words(rec) != "mine" {
		t.Errorf("log %q, reads %+v", w.words(rec), rec.Capture.Reads)
	}
}

// drafted says whether lines of the only log that is read are in the spool, in the making.
func (w *world) drafted() bool {
	files, _ := filepath.Glob(filepath.Join(w.spool, ".tmp", "*", "1"))
	info, err := os.Stat(append(files, "")[0])
	return err == nil && info.Size() > 0
}

// A process that is killed leaves traces of what it was about to do. What is held of a run that nothing else
// has is there in the end, once.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(t *testing.T, draft string){
		"a draft begun to take up the other": func(t *testing.T, draft string) {
			about, err := os.ReadFile(filepath.Join(draft, "about"))
			if err != nil {
				t.Fatal(err)
			}
			for file, data := range map[string][]byte{"about": about, "1": nil} {
				if err := errors.Join(os.MkdirAll(draft+"1", 0o755), os.WriteFile(filepath.Join(draft+"1", file), data, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a file that has its key and its other name": func(t *testing.T, draft string) {
			data, err := os.ReadFile(filepath.Join(draft, "about"))
			if err != nil {
				t.Fatal(err)
			}
			rec, err := bundle.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.Create(filepath.Join(draft, "2"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(draft, "1"))
			if err != nil {
				t.Fatal(err)
			}
			w := bundle.NewLogWriter(bundle.LogOptions{Next: func() (io.Writer, error) { return file, nil }})
			if _, err := w.Write(text); err != nil {
				t.Fatal(err)
			}
			sum, err := w.Close()
			if err != nil {
				t.Fatal(err)
			}
			rec.State.Running, rec.State.FinishedAt = false, sum.LastStamp
			key, err := bundle.KeyOf(rec)
			if err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(filepath.Dir(filepath.Dir(draft)), key.Log(0, bundle.Zstd))
			if err := errors.Join(file.Close(), os.MkdirAll(filepath.Dir(to), 0o755), os.Link(file.Name(), to), os.Truncate(filepath.Join(draft, "1"), 0)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			e, pod, _ := w.following("killed", "one\ntwo\n", live)
			w.until("the lines to be in the spool", w.drafted)
			w.killedNow(e)
			drafts, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*"))
			if err != nil || len(drafts) != 1 {
				t.Fatalf("drafts %q, %v", drafts, err)
			}
			leave(t, drafts[0])
			if w.bucket, err = sink.OpenDir(t.TempDir()); err != nil {
				t.Fatal(err)
			}
			w.kube.DeletePod(pod.Namespace, pod.Name)
			w.start(live)
			if rec := w.final(0); w.words(rec) != "one two" || rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v, reads %+v", w.words(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}

// The ledger may be older than the spool: a process was killed between the two, or the machine lost its power.
// What goes on is the youngest snapshot, and no segment is left out.
func TestLedgerOlderThanSpool(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){"plain": live, "redacted": redacting(t, Export{Capture: CaptureLive})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("killed")
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.segmentEvery = 100 * time.Millisecond }, func(o *Options) {
				change(o)
				o.Bucket = &failing{Bucket: w.bucket}
			})
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			ledger := func() string {
				data, err := os.ReadFile(filepath.Join(w.spool, ledgerName))
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
			var before string
			for n, word := range []string{"one", "two"} {
				before = ledger()
				c.Print(time.Now(), word+"\n")
				w.until("a segment", func() bool { return strings.Count(ledger(), `"snapshot"`) == n+1 })
			}
			c.Print(time.Now(), "three\n")
			w.until("the last line to be in the spool", func() bool { return w.drafted() || strings.Count(ledger(), `"snapshot"`) == 3 })
			w.killedNow(e)
			if err := os.WriteFile(filepath.Join(w.spool, ledgerName), []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Rotate(time.Now(), "")
			w.kube.DeletePod(pod.Namespace, pod.Name)
			w.start(change)
			if rec := w.final(0); w.words(rec) != "one two three" {
				t.Errorf("log %q, verdict %+v, reads %+v", w.words(rec), rec.Verdict, rec.Capture.Reads)
			}
		})
	}
}
