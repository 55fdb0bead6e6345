package exporter

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A log of several objects that begins anew, because what was stored of it could not be taken up, leaves the
// objects alone that a snapshot in the spool names.
func TestObjectsOfASnapshotStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("anew")
	spool, err := sink.OpenDir(w.spool)
	if err != nil {
		t.Fatal(err)
	}
	rec := aboutPod(pod, c)
	rec.State = bundle.State{FinishedAt: utc(time.Now())}
	run, err := bundle.KeyOf(rec)
	if err != nil {
		t.Fatal(err)
	}
	const theirs = "the snapshot's"
	if err := spool.Put(t.Context(), run.Log(1, bundle.Zstd), strings.NewReader(theirs)); err != nil {
		t.Fatal(err)
	}
	enc := bundle.NewEncoders(1)
	o, err := newOutput(spool, enc, bundle.Zstd, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.abort()
	o.w = bundle.NewLogWriter(bundle.LogOptions{Compression: bundle.Zstd, Encoders: enc, Scratch: o.scratch, Next: o.next, FrameSize: 1000, MaxStored: 100})
	if _, err := o.Write([]byte(lines(time.Now(), 200))); err != nil {
		t.Fatal(err)
	}
	if err := o.seal(rec); err != nil {
		t.Fatal(err)
	}
	if err := o.publish(rec); err != nil {
		t.Fatal(err)
	}
	body, err := spool.Open(t.Context(), run.Log(1, bundle.Zstd), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close() //nolint:errcheck // read only
	if got, err := io.ReadAll(body); err != nil || string(got) != theirs || len(rec.Objects) < 2 {
		t.Errorf("of the snapshot's object is left %q, %v; %d objects", got, err, len(rec.Objects))
	}
}
