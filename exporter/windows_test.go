package exporter

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// window opens every day, and next or last at a full minute.
func window(t *testing.T, from time.Time, d time.Duration) *schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse(schedule.Spec{Cron: from.UTC().Format("4 15 * * *"), WatchFor: d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// comingMinute is a full minute, so far to come that the minute before it has not begun when a test prints its lines.
func comingMinute() time.Time { return time.Now().Truncate(time.Minute).Add(3 * time.Minute) }

// dying makes a pod that is being deleted and may go on for some minutes.
func (w *world) dying(name string) (*corev1.Pod, *kubetest.Container) {
	w.t.Helper()
	pod, c := w.pod(name)
	c.Print(time.Now(), "secret=12345\n")
	w.kube.SetPod(pod)
	deadline := metav1.NewTime(time.Now().Add(10 * time.Minute))
	pod.DeletionTimestamp = &deadline
	w.kube.SetPod(pod)
	w.until("a stream", func() bool {
		return slices.ContainsFunc(w.kube.Requests("follow=true"), func(r string) bool { return strings.Contains(r, "/"+name+"/") })
	})
	return pod, c
}

// ends ends the pod's container at a time, which may be to come.
func (w *world) ends(pod *corev1.Pod, c *kubetest.Container, at time.Time) {
	w.t.Helper()
	c.Print(time.Now(), "last\n")
	c.Exit()
	exit(pod, 0)
	pod.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(at.Truncate(time.Second))
	w.kube.SetPod(pod)
}

// A run that dies across the edge of a window belongs to it if it ends in it, and is followed in any case.
func TestWindowEdges(t *testing.T) {
	t.Parallel()
	secrets, err := redact.New([]redact.Rule{{Name: "secret", Pattern: "[0-9]{5}"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		opens, lasts, end time.Duration // from edge on
		inside            bool
	}{
		"ends before it opens":   {0, time.Hour, -time.Minute, false},
		"ends after it opened":   {0, time.Hour, time.Minute, true},
		"ends before it closes":  {-time.Hour, time.Hour, -time.Minute, true},
		"ends after it closed":   {-time.Hour, time.Hour, time.Minute, false},
		"ends after a short one": {0, time.Minute, 2 * time.Minute, false},
		"ends in a short one":    {0, time.Minute, 30 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			edge := comingMinute()
			opens, end := edge.Add(tt.opens), edge.Add(tt.end)
			nightly := Export{Name: "nightly", Schedule: window(t, opens, tt.lasts), Redact: secrets, Select: selects(t, selection.Spec{Labels: "app!=nobody"})}
			e := w.run(func(o *Options) {
				o.Exports = []Export{nightly, {Name: "rest", Select: selects(t, selection.Spec{Labels: "app=a"}), Compression: bundle.Gzip}}
			})
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			a, c := w.dying("a")
			bb, cc := w.dying("bb")
			w.ends(a, c, end)
			w.ends(bb, cc, end)
			w.until("a record", func() bool { return len(w.records()) > 0 })
			w.account()
			<-time.After(time.Second)
			want := "a:final"
			if tt.inside {
				want += " bb:final"
			}
			if got := w.archived(); got != want {
				t.Errorf("archived %s, want %s", got, want)
			}
			for _, rec := range w.records() {
				gz := strings.HasSuffix(rec.Objects[0].Key, ".gz")
				if (rec.Capture.Redaction != nil) != tt.inside || gz == tt.inside || !rec.Verdict.Complete {
					t.Errorf("%s: redaction %v, object %s, verdict %+v", rec.Pod.Name, rec.Capture.Redaction, rec.Objects[0].Key, rec.Verdict)
				}
			}
		})
	}
}

// Where the status does not tell when a run has ended, a window in which it may have counts.
func TestWindowsOfUnknownEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.exporter(nil)
	defer e.Close() //nolint:errcheck // nothing is in the spool
	now := time.Now()
	e.known = now.Add(-5 * time.Hour)
	deletion := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	was := &Export{Schedule: window(t, now.Add(-4*time.Hour), time.Hour)}
	is := &Export{Schedule: window(t, now.Add(-time.Hour), 2*time.Hour)}
	comes := &Export{Schedule: window(t, now.Add(10*time.Minute), time.Hour)}
	suspended := &Export{}
	spec := is.Schedule.Spec()
	spec.Suspend = true
	var err error
	if suspended.Schedule, err = schedule.Parse(spec); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		m                    moment
		was, is, comes, susp selection.Decision
	}{
		"vanished":                {m: moment{pod: &podInfo{}, podGone: true}, is: selection.Yes},
		"vanished while down":     {m: moment{pod: &podInfo{}, podGone: true, remembered: true}, was: selection.Yes, is: selection.Yes},
		"is given a long time":    {m: moment{pod: &podInfo{deletion: deletion(time.Hour)}, dying: true}, is: selection.Maybe, comes: selection.Maybe},
		"is given a short time":   {m: moment{pod: &podInfo{deletion: deletion(time.Minute)}, dying: true}, is: selection.Maybe},
		"is late with its end":    {m: moment{pod: &podInfo{deletion: deletion(-time.Hour)}, dying: true}, is: selection.Maybe},
		"is about to be too late": {m: moment{pod: &podInfo{deletion: deletion(9*time.Minute + 55*time.Second)}, dying: true}, is: selection.Maybe, comes: selection.Maybe},
	} {
		for _, x := range []struct {
			name string
			of   *Export
			want selection.Decision
		}{{"was", was, tt.was}, {"is", is, tt.is}, {"comes", comes, tt.comes}, {"suspended", suspended, tt.susp}} {
			if tt.m.dying {
				tt.m.slot = slotCurrent
			}
			if got := x.of.during(e.endOf(tt.m), tt.m.ended()); got != x.want {
				t.Errorf("%s, the window that %s: %s, want %s", name, x.name, got, x.want)
			}
		}
	}
}

// An export with windows keeps no other from a run that goes on: who gets it is known at its end.
func TestWindowsBeforeOthers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	closed, open := window(t, now.Add(-2*time.Hour), time.Hour), window(t, now.Add(-time.Hour), 2*time.Hour)
	hourly, err := schedule.Parse(schedule.Spec{Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		window *schedule.Schedule
		policy string
	}{"open": {open, "final"}, "closed": {closed, "live"}} {
		t.Run("followed, "+name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			w.run(func(o *Options) {
				o.Exports = []Export{{Name: "nightly", Schedule: tt.window}, {Name: "rest", Capture: CaptureLive}}
			})
			pod, c := w.pod("a")
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			w.ends(pod, c, time.Now())
			w.await(1)
			if got := w.archived(); got != "a:"+tt.policy {
				t.Errorf("archived %s", got)
			}
			w.account()
		})
		t.Run("swept, "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("a")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			e := w.synced(func(o *Options) {
				o.Exports = []Export{{Name: "nightly", Schedule: tt.window}, {Name: "rest", Schedule: hourly}}
			})
			if err := e.Sweep(context.Background(), "rest"); err != nil {
				t.Fatal(err)
			}
			if swept := slices.DeleteFunc(w.kube.Requests("/log?"), func(r string) bool { return strings.Contains(r, "limitBytes") }); (len(swept) > 0) != (tt.window == closed) {
				t.Errorf("swept: %v", swept)
			}
			if err := e.Sweep(context.Background(), "nightly"); err != nil { // asked for by name
				t.Fatal(err)
			}
			w.await(1)
		})
	}
}

// A sweep of an export with windows that meets the end of a run makes it no run of a window.
func TestWindowSweepMeetsTheEnd(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tt := range map[string]struct {
		window *schedule.Schedule
		want   string
	}{
		"open":   {window(t, now.Add(-time.Hour), 2*time.Hour), "a:final"},
		"closed": {window(t, now.Add(-2*time.Hour), time.Hour), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("a")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			e := w.run(func(o *Options) { o.Exports = []Export{{Name: "nightly", Schedule: tt.window}} })
			w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
				return func(rw http.ResponseWriter, r *http.Request) {
					h(rw, r)
					w.ends(pod, c, time.Now())
					<-time.After(100 * time.Millisecond)
				}
			})
			if err := e.Sweep(context.Background(), "nightly"); err != nil {
				t.Fatal(err)
			}
			w.account()
			w.until("nothing to be open", func() bool { return e.captures.count() == 0 && e.ship.open.count() == 0 })
			if got := w.archived(); got != tt.want {
				t.Errorf("archived %q, want %q", got, tt.want)
			}
		})
	}
}

// What was swept of a run by one export is in the record of the one that takes its end, be it known late or
// not.
func TestWindowTakesWhatWasSwept(t *testing.T) {
	t.Parallel()
	secrets, err := redact.New([]redact.Rule{{Name: "secret", Pattern: "[0-9]{5}"}})
	if err != nil {
		t.Fatal(err)
	}
	hourly, err := schedule.Parse(schedule.Spec{Cron: "@hourly"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		exports [2]Export
		end     time.Duration // from the opening on
	}{
		"in the window":                    {[2]Export{{}, {}}, time.Minute},
		"before it":                        {[2]Export{{}, {}}, -time.Minute},
		"in the window, redacted":          {[2]Export{{Redact: secrets}, {Redact: secrets}}, time.Minute},
		"before it, redacted":              {[2]Export{{Redact: secrets}, {Redact: secrets}}, -time.Minute},
		"in the window, compressed anew":   {[2]Export{{Compression: bundle.Gzip}, {}}, time.Minute},
		"before it, compressed as it was":  {[2]Export{{Compression: bundle.Gzip}, {}}, -time.Minute},
		"in the window, redacted for once": {[2]Export{{Redact: secrets}, {}}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			opens := comingMinute()
			tt.exports[0].Name, tt.exports[0].Schedule = "nightly", window(t, opens, time.Hour)
			tt.exports[1].Name, tt.exports[1].Schedule = "swept", hourly
			pod, c := w.pod("a")
			c.Print(time.Now().Add(-3*time.Second), "one 11111\n")
			c.Print(time.Now().Add(-2*time.Second), "two 22222\n")
			w.kube.SetPod(pod)
			e := w.run(func(o *Options) { o.Exports = tt.exports[:] })
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			if err := e.Sweep(context.Background(), "swept"); err != nil {
				t.Fatal(err)
			}
			w.await(1)
			deadline := metav1.NewTime(time.Now().Add(10 * time.Minute))
			pod.DeletionTimestamp = &deadline
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			c.Print(time.Now(), "three 33333\n")
			w.ends(pod, c, opens.Add(tt.end))
			w.await(2)
			rec := w.final(0)
			mask := func(word string, redacted bool) string {
				if redacted {
					return "[REDACTED:secret]"
				}
				return word
			}
			last := tt.exports[0]
			if tt.end < 0 {
				last = tt.exports[1]
			}
			first := tt.exports[1]
			if tt.exports[0].Compression != tt.exports[1].Compression || first.Redact != nil {
				first = last // it could not be gone on with, so the log was read anew
			}
			want := "one " + mask("11111", first.Redact != nil) + " two " + mask("22222", first.Redact != nil) + " three " + mask("33333", last.Redact != nil) + " last"
			if got := w.words(rec); got != want || rec.Verdict.Middle.State == bundle.Lost {
				t.Errorf("log %q, want %q, verdict %+v, objects %v", got, want, rec.Verdict, len(rec.Objects))
			}
			w.account()
		})
	}
}

// Of a log that is known from a record only, and that several exports may take, the secrets are taken out.
func TestWindowsLeaveNoSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secrets, err := redact.New([]redact.Rule{{Name: "secret", Pattern: "[0-9]{5}"}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	e := w.exporter(func(o *Options) {
		o.Exports = []Export{
			{Name: "nightly", Schedule: window(t, now.Add(-time.Hour), 2*time.Hour)},
			{Name: "plain", Select: selects(t, selection.Spec{Pods: []string{"plain"}})},
			{Name: "rest", Redact: secrets},
		}
	})
	defer e.Close() //nolint:errcheck // nothing is in the spool
	for pod, want := range map[string]*redact.Redactor{"plain": nil, "other": secrets} {
		if got := e.redactorOf(&bundle.Record{Namespace: "shop", Pod: bundle.Pod{Name: pod, UID: "u"}}); got != want {
			t.Errorf("%s: %v", pod, got)
		}
	}
}
