package exporter

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A record that names as many objects as a log can have in ten years is within its bound, with the longest names
// that there are.
func TestSegmentsOfTenYears(t *testing.T) {
	e := &Exporter{cluster: strings.Repeat("c", 63), segmentsToDouble: segmentsToDouble, maxNamed: maxNamed}
	n := 0
	for age := time.Duration(0); age < 10*365*24*time.Hour; n++ {
		age += segmentEvery * time.Duration(e.pace(n))
	}
	pod := &podInfo{namespace: strings.Repeat("n", 63), name: strings.Repeat("p", 253), uid: "0b54cd8c-0000-4000-8000-000000000000"}
	r := &run{tracker: &tracker{}, pod: &podState{pod: pod}, view: view{id: runID{container: strings.Repeat("a", 63), containerID: "containerd://" + strings.Repeat("0", 64)}}}
	most := e.mostObjects(r, bundle.Zstd)
	t.Logf("%d objects in ten years, %d at most", n, most)
	if n > most {
		t.Errorf("%d objects in ten years, and a record can name %d", n, most)
	}
	now := time.Date(2026, 11, 26, 10, 0, 0, 123456789, time.UTC)
	key := e.keyOf(r)
	key.Date = "2026-11-26"
	rec := &bundle.Record{}
	for i := range most + 2 {
		rec.Objects = append(rec.Objects, bundle.Object{
			Key: key.Log(i+1, bundle.Zstd), RawBytes: 1 << 30, StoredBytes: bundle.MaxStored, Lines: 1 << 24, FirstStamp: &now, LastStamp: &now,
			RawSHA256: strings.Repeat("0", 64), StoredSHA256: strings.Repeat("0", 64), StoredMD5: strings.Repeat("0", 32),
		})
	}
	data, err := bundle.Encode(rec)
	if err != nil || len(data) > bundle.MaxRecordSize*9/10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// A log that has as many objects as its record can name is cut there, and its record says so.
func TestTooManySegments(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("long")
	w.kube.SetPod(pod)
	w.begin(func(e *Exporter) { e.segmentEvery, e.maxNamed = 20*time.Millisecond, 2000 }, live)
	for n := range 4 {
		have := len(w.records())
		c.Print(time.Now(), fmt.Sprintf("%d\n", n))
		if n < 3 {
			w.until("a segment", func() bool { return len(w.records()) > have })
		}
	}
	endAfter("end\n")(w, pod, c)
	rec := w.final(0)
	if got := w.words(rec); got != "0 1 2" || rec.Verdict.Tail.Cause != bundle.CauseSpoolFull || rec.Verdict.Tail.State != bundle.Lost {
		t.Errorf("log %q, verdict %+v", got, rec.Verdict)
	}
}

// Of a log that has very many objects a sweep stores a further one only after a while. What it has read waits in
// the spool, whatever becomes of the kubelet's file.
func TestSweepTooSoon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("chatty")
	w.kube.SetPod(pod)
	e := w.begin(func(e *Exporter) { e.segmentsToDouble = 1 }, nil)
	w.until("the pod to be known", func() bool { return len(w.kube.Requests("limitBytes")) > 0 })
	for n := range 4 {
		c.Print(time.Now(), fmt.Sprintf("%d\n", n))
		if err := e.Sweep(context.Background(), "all"); err != nil {
			t.Fatal(err)
		}
	}
	w.until("a snapshot", func() bool { return len(w.records()) > 0 })
	c.Rotate(time.Now(), "")
	endAfter("end\n")(w, pod, c)
	rec := w.final(0)
	if got := w.words(rec); got != "0 1 2 3 end" || len(rec.Objects) != 2 {
		t.Errorf("log %q in %d objects, verdict %+v, reads %+v", got, len(rec.Objects), rec.Verdict, rec.Capture.Reads)
	}
}
