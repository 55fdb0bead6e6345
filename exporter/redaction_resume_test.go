package exporter

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/exporter/podlog"
	"github.com/kubelogexporter/kubelogexporter/exporter/redact"
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// pinsAndKeys are a rule of one line and the one that goes over lines.
func pinsAndKeys(t *testing.T) *redact.Redactor {
	t.Helper()
	r, err := redact.New(append(redact.Builtin()[:1], redact.Rule{Name: "pin", Pattern: `pin=(?P<secret>[0-9]+)`}))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	beginKey = "-----BEGIN RSA PRIVATE KEY-----\n"
	endKey   = "-----END RSA PRIVATE KEY-----\n"
	keyMark  = "[REDACTED:private-key]"
	pinMark  = "pin=[REDACTED:pin]"
)

// swept sweeps and waits until the snapshot is shipped.
func (w *world) swept(e *Exporter) {
	w.t.Helper()
	before := len(w.records())
	if err := e.Sweep(context.Background(), "redacted"); err != nil {
		w.t.Fatal(err)
	}
	w.until("the snapshot", func() bool { return len(w.records()) > before })
}

// A private key whose lines lie in two snapshots is removed to its END, and nothing behind it, as if the log
// had been read at once. Where what the kubelet still serves does not show whether a key goes on, it does.
func TestRedactionOfKeyOverSweeps(t *testing.T) {
	t.Parallel()
	const one, two = "MIIEowIBAAKCAQEAsecretone\n", "MIIEowIBAAKCAQEAsecrettwo\n"
	full := "start " + keyMark + " " + keyMark + " " + keyMark + " " + keyMark + " ready " + pinMark + " " + "bye"
	for name, tt := range map[string]struct {
		first, second string
		between       func(w *world, c *kubetest.Container)
		want          string
	}{
		"open":              {first: "start\n" + beginKey + one, second: two + endKey + "ready\npin=1\n", want: full},
		"open, a new spool": {first: "start\n" + beginKey + one, second: two + endKey + "ready\npin=1\n", want: full, between: func(w *world, _ *kubetest.Container) { w.spool = w.t.TempDir() }},
		"closed":            {first: "start\n" + beginKey + one + two + endKey, second: "ready\npin=1\n", want: full},
		"rotated": {
			first: "start\n" + beginKey + one, second: two + endKey + "ready\npin=1\n",
			between: func(_ *world, c *kubetest.Container) { c.Rotate(time.Now(), "") },
			want:    full,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := func(o *Options) { o.Exports = []Export{{Name: "redacted", Redact: pinsAndKeys(t)}} }
			pod, c := w.pod("keeper")
			pod.Status.ContainerStatuses[0].State.Running.StartedAt.Time = time.Now().Add(-time.Minute).Truncate(time.Second)
			w.kube.SetPod(pod)
			c.Print(time.Now().Add(-time.Minute+time.Second), tt.first)
			c.Print(time.Now().Add(-30*time.Second), "quiet now\n")
			w.swept(w.synced(change))
			w.stop()
			if tt.between != nil {
				tt.between(w, c)
			}
			c.Print(time.Now().Add(-10*time.Second), tt.second)
			w.swept(w.synced(change))
			endAfter("bye\n")(w, pod, c)
			rec := w.final(0)
			if got := strings.Replace(w.words(rec), "quiet now ", "", 1); got != tt.want {
				t.Errorf("log %q, reads %+v", got, rec.Capture.Reads)
			}
			if hole := name == "rotated"; (rec.Verdict.Middle.State == bundle.Lost) != hole || rec.Verdict.Complete == hole {
				t.Errorf("verdict %+v", rec.Verdict)
			}
			if r := rec.Capture.Redaction; r == nil || r.Matches["private-key"] != 1 || r.Matches["pin"] != 1 {
				t.Errorf("redaction %+v", r)
			}
		})
	}
}

// The record of a run tells what was replaced in all of its log, each match once, however often lines were
// read again.
func TestRedactionCountsTheWholeLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := func(o *Options) { o.Exports = []Export{{Name: "redacted", Redact: pinsAndKeys(t)}} }
	pod, c := w.pod("counted")
	w.kube.SetPod(pod)
	for n := range int64(3) {
		e := w.synced(change)
		c.Print(time.Now(), "pin=1 pin=2\n")
		w.swept(e)
		for _, rec := range w.records() {
			if got := rec.Capture.Redaction.Matches["pin"]; got != 2*rec.Lines {
				t.Errorf("sweep %d: %d matches in %d lines", n, got, rec.Lines)
			}
		}
		w.stop()
	}
	e := w.synced(change)
	c.Print(time.Now(), "pin=3 pin=4\n")
	w.swept(e)
	endAfter("pin=5\n")(w, pod, c)
	rec := w.final(0)
	reg := prometheus.NewRegistry()
	reg.MustRegister(e.metrics.redactions)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != 3 {
		t.Errorf("this process has found 3, the metric says %v, %v", families, err)
	}
	if r := rec.Capture.Redaction; r.Matches["pin"] != 9 || !slices.Equal(r.Rules, []string{"private-key", "pin"}) || !rec.Verdict.Complete {
		t.Errorf("redaction %+v, verdict %+v", r, rec.Verdict)
	}
}

// A process that is killed leaves text that it has redacted, and no counts of it.
func TestRedactionCountsWhatWasLeft(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text, want string
		end        func(w *world, pod *corev1.Pod, c *kubetest.Container)
		keys       int64
	}{
		"lines": {text: "one pin=1\ntwo pin=2 pin=3\n", want: "one " + pinMark + " two " + pinMark + " " + pinMark + " three " + pinMark, end: endAfter("three pin=4\n")},
		"a key": {
			text: "pin=1\npin=2\n" + beginKey + "MIIEowIBAAKCAQEAsecretone\n", keys: 1, end: endAfter("MIIEowIBAAKCAQEAsecrettwo\n" + endKey + "ready pin=3 pin=4\n"),
			want: pinMark + " " + pinMark + " " + keyMark + " " + keyMark + " " + keyMark + " " + keyMark + " ready " + pinMark + " " + pinMark,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := func(o *Options) {
				o.Exports = []Export{{Name: "redacted", Capture: CaptureLive, Redact: pinsAndKeys(t)}}
			}
			e, pod, c := w.following("left", tt.text, change)
			w.killedNow(e)
			// The machine has lost its power: a line of which only a part is on the disk is read again.
			scratch, err := filepath.Glob(filepath.Join(w.spool, ".tmp", "*", "1"))
			if err != nil || len(scratch) != 1 {
				t.Fatalf("scratch files %q, %v", scratch, err)
			}
			f, err := os.OpenFile(scratch[0], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			tt.end(w, pod, c)
			if _, err := f.WriteString(time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " th"); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			w.start(change)
			rec := w.final(0)
			if got := w.words(rec); got != tt.want || rec.Verdict.Middle.State != bundle.Proven {
				t.Errorf("log %q, verdict %+v", got, rec.Verdict)
			}
			if r := rec.Capture.Redaction; r == nil || r.Matches["pin"] != 4 || r.Matches["private-key"] != tt.keys {
				t.Errorf("redaction %+v", r)
			}
		})
	}
}

// If the configuration changes between two parts of a log, its record names only those rules as looked for
// that were looked for in all of it, and it counts what was replaced in any.
func TestRedactionChanges(t *testing.T) {
	t.Parallel()
	redacted := func(o *Options) {
		r, err := redact.New([]redact.Rule{{Name: "pin", Pattern: `pin=(?P<secret>[0-9]+)`}})
		if err != nil {
			panic(err)
		}
		o.Exports = []Export{{Name: "redacted", Redact: r}}
	}
	for name, tt := range map[string]struct {
		before, after func(*Options)
		want          string
		rules         []string
		pins          int64
	}{
		"removed": {
			before: redacted, after: func(o *Options) { o.Exports = []Export{{Name: "redacted"}} },
			want: pinMark + " pin=2 pin=3", rules: []string{}, pins: 1,
		},
		"added": {
			before: func(o *Options) { o.Exports = []Export{{Name: "redacted"}} }, after: redacted,
			want: "pin=1 " + pinMark + " " + pinMark, rules: []string{}, pins: 2,
		},
		"extended": {
			before: redacted, after: func(o *Options) { o.Exports = []Export{{Name: "redacted", Redact: pinsAndKeys(t)}} },
			want: pinMark + " " + pinMark + " " + pinMark, rules: []string{"pin"}, pins: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("changed")
			c.Print(time.Now(), "pin=1\n")
			w.kube.SetPod(pod)
			e := w.synced(tt.before)
			w.swept(e)
			w.stop()
			c.Print(time.Now(), "pin=2\n")
			w.synced(tt.after)
			endAfter("pin=3\n")(w, pod, c)
			rec := w.final(0)
			r := rec.Capture.Redaction
			if got := w.words(rec); got != tt.want || r == nil || r.Rules == nil || !slices.Equal(r.Rules, tt.rules) || r.Matches["pin"] != tt.pins || !rec.Verdict.Complete {
				t.Errorf("log %q, redaction %+v, verdict %+v", got, r, rec.Verdict)
			}
		})
	}
}

// A redacted log whose stamps are out of order around a snapshot has each line once and no hole: stdout and
// stderr are stamped apart, and clocks are set back.
func TestRedactionOutOfOrder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ before, after time.Duration }{
		"a new line is older than the last one": {before: 400 * time.Millisecond, after: 300 * time.Millisecond},
		"a held line is younger than the last":  {before: 100 * time.Millisecond, after: 500 * time.Millisecond},
		"the clock was set back":                {before: 400 * time.Millisecond, after: -400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := func(o *Options) { o.Exports = []Export{{Name: "redacted", Redact: pinsAndKeys(t)}} }
			pod, c := w.pod("shuffled")
			w.kube.SetPod(pod)
			e := w.synced(change)
			at := time.Now()
			c.Print(at.Add(200*time.Millisecond), "one pin=1\n")
			c.Print(at.Add(tt.before), "two pin=2\n")
			w.swept(e)
			c.Print(at.Add(tt.after), "three pin=3\n")
			w.swept(e)
			c.Print(at.Add(tt.after+time.Millisecond), "four pin=4\n")
			w.swept(e)
			endAfter("five pin=5\n")(w, pod, c)
			rec := w.final(0)
			if got := strings.ReplaceAll(w.words(rec), " "+pinMark, ""); got != "one two three four five" || rec.Verdict.Middle.State != bundle.Proven || rec.Capture.Redaction.Matches["pin"] != 5 {
				t.Errorf("log %q, redaction %+v, verdict %+v", got, rec.Capture.Redaction, rec.Verdict)
			}
		})
	}
}

// What is read again of a log tells whether it ends within a private key, as far back as it goes.
func TestFollowHeld(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	line := func(n int, text string) string {
		return kubetest.Stamp(at.Add(time.Duration(n)*time.Second)) + " " + text
	}
	const material = "MIIEowIBAAKCAQEAsecretone\n"
	before, begin, one, after := line(0, "before\n"), line(1, beginKey), line(2, material), line(3, "after\n")
	for name, tt := range map[string]struct {
		body       string
		times      int
		ok, within bool
	}{
		"within a key":                      {body: before + begin + one + after, times: 1, ok: true, within: true},
		"behind it":                         {body: before + begin + one + line(2, endKey) + line(3, endKey), times: 2, ok: true},
		"its BEGIN is not served":           {body: one + after, times: 1, ok: true, within: true},
		"nor is the last line":              {body: after, times: 1},
		"nor are all lines with that stamp": {body: before + begin + one, times: 2},
		"there was none":                    {body: before + line(2, "word\n") + after, times: 1, ok: true},
	} {
		r := pinsAndKeys(t)
		seen := r.NewWriter(io.Discard)
		ok := followHeld(seen, iotest.OneByteReader(strings.NewReader(tt.body)), at, podlog.End{Last: at.Add(2 * time.Second), Times: tt.times})
		var rest strings.Builder
		w := r.NewWriter(&rest)
		w.GoOnAfter(seen)
		if _, err := w.Write([]byte(line(4, material))); err != nil {
			t.Fatal(err)
		}
		if within := !strings.Contains(rest.String(), "secretone"); ok != tt.ok || ok && within != tt.within {
			t.Errorf("%s: %v, within a key: %v", name, ok, within)
		}
	}
}

// The lines that may belong to a key begin with the object or frame that holds the first of them.
func TestStampBack(t *testing.T) {
	at := func(n int) *time.Time {
		t := time.Unix(int64(n), 0).UTC()
		return &t
	}
	rec := &bundle.Record{Objects: []bundle.Object{
		{Lines: 100, FirstStamp: at(1), LastStamp: at(9)},
		{Lines: 100, FirstStamp: at(10), LastStamp: at(19), Frames: []bundle.Frame{{FirstLine: 0, FirstStamp: at(10)}, {FirstLine: 60, FirstStamp: at(16)}}},
		{Lines: 10, FirstStamp: at(15), LastStamp: at(29)},
	}}
	for n, want := range map[int64]*time.Time{5: at(15), 20: at(15), 51: at(10), 150: at(1), 210: at(1), 211: {}} {
		if got := stampBack(rec, n); !got.Equal(*want) {
			t.Errorf("%d lines: %v, want %v", n, got, want)
		}
	}
}

// What is redacted once it is known which export takes a run goes on behind what an earlier configuration has
// stored of it.
func TestRedactionDecidedAfterSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, pod, c := w.following("late", "pin=1\n", live)
	w.stop()
	before := len(w.kube.Requests("follow=true"))
	change := redacting(t, Export{Capture: CaptureLive, Compression: bundle.Gzip, Select: selects(t, selection.Spec{Expression: "container.exitCode == 3"})})
	w.start(func(o *Options) {
		change(o)
		o.Exports = append([]Export{{Name: "other", Capture: CaptureLive, Select: selects(t, selection.Spec{Expression: "container.exitCode == 4"})}}, o.Exports...)
	})
	w.until("a further stream", func() bool { return len(w.kube.Requests("follow=true")) > before })
	c.Print(time.Now().Add(2*time.Second), "pin=2\n")
	c.Exit()
	exit(pod, 3)
	w.kube.SetPod(pod)
	rec := w.final(0)
	if got := w.words(rec); got != "pin=1 "+pinMark || !rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
	if r := rec.Capture.Redaction; r == nil || len(r.Rules) > 0 || r.Matches["pin"] != 1 {
		t.Errorf("redaction %+v", r)
	}
}

// A key that began in a snapshot and goes on in what a killed process had left is one.
func TestRedactionCountsKeyOverSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	change := func(o *Options) {
		o.Exports = []Export{{Name: "redacted", Capture: CaptureLive, Redact: pinsAndKeys(t)}}
	}
	pod, c := w.pod("left")
	w.kube.SetPod(pod)
	e := w.begin(func(e *Exporter) { e.segmentEvery = 500 * time.Millisecond }, change)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	c.Print(time.Now(), "one\n"+beginKey)
	w.until("a segment", func() bool { return len(w.records()) > 0 })
	c.Print(time.Now(), "MIIEowIBAAKCAQEAsecretone\n")
	w.arrived(e)
	w.killedNow(e)
	endAfter("MIIEowIBAAKCAQEAsecrettwo\n"+endKey+"ready\n")(w, pod, c)
	w.start(change)
	rec := w.final(0)
	if got := w.words(rec); got != "one "+strings.Repeat(keyMark+" ", 4)+"ready" || rec.Verdict.Middle.State != bundle.Proven {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
	if r := rec.Capture.Redaction; r == nil || r.Matches["private-key"] != 1 {
		t.Errorf("redaction %+v", r)
	}
}

// What was redacted while the store was away is put behind what it has as whole as anything: a key that began in
// what is stored goes on in it, though its BEGIN is not served any more, and a line that has no end is kept.
func TestRedactionOfWhatWasApart(t *testing.T) {
	t.Parallel()
	const one, two = "MIIEowIBAAKCAQEAsecretone\n", "MIIEowIBAAKCAQEAsecrettwo\n"
	for name, tt := range map[string]struct {
		first, second, last string
		rotated, killed     bool
		want                string
		keys, pins          int64
	}{
		"lines":                    {first: "one pin=1\n", second: "two pin=2\n", last: "three pin=3 pin=4\n", want: "one " + pinMark + " two " + pinMark + " three " + pinMark + " " + pinMark, pins: 4},
		"a line without an end":    {first: "one pin=1\n", second: "two pin=2\n", last: "three pin=3 pin=4", want: "one " + pinMark + " two " + pinMark + " three " + pinMark + " " + pinMark, pins: 4},
		"a key":                    {first: "one\n" + beginKey + one, second: two, last: endKey + "last\n", want: "one " + strings.Repeat(keyMark+" ", 4) + "last", keys: 1},
		"a key, after a rotation":  {first: "one\n" + beginKey + one, second: two, last: endKey + "last\n", rotated: true, want: "one " + strings.Repeat(keyMark+" ", 4) + "last", keys: 1},
		"it was killed":            {first: "one\n" + beginKey + one, second: two, last: endKey + "last pin=1", killed: true, want: "one " + strings.Repeat(keyMark+" ", 4) + "last " + pinMark, keys: 1, pins: 1},
		"it was killed, after it":  {first: "one\n" + beginKey + one, second: two + endKey + "three\n", last: "last pin=1", killed: true, want: "one " + strings.Repeat(keyMark+" ", 4) + "three last " + pinMark, keys: 1, pins: 1},
		"it was killed, a new key": {first: "one\n", second: beginKey + two, last: endKey + "last pin=1", killed: true, want: "one " + strings.Repeat(keyMark+" ", 3) + "last " + pinMark, keys: 1, pins: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change := func(o *Options) {
				o.Exports = []Export{{Name: "redacted", Capture: CaptureLive, Redact: pinsAndKeys(t)}}
			}
			_, pod, c := w.following("apart", tt.first, change)
			w.stop()
			w.await(1)
			if tt.rotated {
				c.Rotate(time.Now(), "")
			}
			c.Print(time.Now(), tt.second)
			store := &absent{Bucket: w.bucket}
			store.away.Store(true)
			away := func(o *Options) {
				change(o)
				o.Bucket, o.Grace = store, time.Second
			}
			before := len(w.kube.Requests("follow=true"))
			again := func() {
				w.until("another stream", func() bool { return len(w.kube.Requests("follow=true")) > before && c.Following() > 0 })
				<-time.After(300 * time.Millisecond)
			}
			e := w.start(away)
			again()
			if tt.killed {
				w.killedNow(e)
				store.away.Store(false)
				w.start(away)
			}
			endAfter(tt.last)(w, pod, c)
			<-time.After(2 * time.Second)
			store.away.Store(false)
			rec := w.final(0)
			if got := w.words(rec); got != tt.want || (rec.Verdict.Middle.State == bundle.Lost) != tt.rotated {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
			}
			if r := rec.Capture.Redaction; r == nil || len(r.Rules) != 2 || r.Matches["private-key"] != tt.keys || r.Matches["pin"] != tt.pins {
				t.Errorf("redaction %+v", r)
			}
		})
	}
}
