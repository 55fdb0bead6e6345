package exporter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// sampleWorld is a bucket with some runs in it, and a sampler.
type sampleWorld struct {
	t   *testing.T
	dir *sink.Dir
	*sampler
	metrics *prometheus.Registry
	logged  bytes.Buffer
}

func newSampleWorld(t *testing.T) *sampleWorld {
	t.Helper()
	dir, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &sampleWorld{t: t, dir: dir, metrics: prometheus.NewRegistry()}
	w.sampler = newSampler(dir, slog.New(slog.NewTextHandler(&w.logged, nil)), w.metrics)
	return w
}

// store archives a run and returns its record's key and those of its log objects.
func (w *sampleWorld) store(container string, text []byte, o bundle.LogOptions) (string, []bundle.Object) {
	w.t.Helper()
	var files []*bytes.Buffer
	o.Next = func() (io.Writer, error) {
		files = append(files, &bytes.Buffer{})
		return files[len(files)-1], nil
	}
	lw := bundle.NewLogWriter(o)
	_, err := lw.Write(text)
	sum, cerr := lw.Close()
	end := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	proven := bundle.Part{State: bundle.Proven}
	r := &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: "c", Namespace: "n", Pod: bundle.Pod{Name: "p", UID: "u"},
		Container: bundle.Container{Name: container, Type: bundle.TypeContainer, ContainerID: "containerd://" + strings.Repeat("ab", 32)},
		State:     bundle.State{FinishedAt: &end}, Verdict: bundle.Verdict{Complete: true, Head: proven, Middle: proven, Tail: proven},
		Capture: bundle.Capture{Policy: "final"},
	}
	data, eerr := []byte(nil), r.SetLog(sum, o.Compression)
	if eerr == nil {
		data, eerr = bundle.Encode(r)
	}
	k, kerr := bundle.KeyOf(r)
	if err := errors.Join(err, cerr, eerr, kerr); err != nil {
		w.t.Fatal(err)
	}
	for i, obj := range r.Objects {
		err = errors.Join(err, w.dir.Put(w.t.Context(), obj.Key, bytes.NewReader(files[i].Bytes())))
	}
	if err := errors.Join(err, w.dir.Put(w.t.Context(), k.Record(), bytes.NewReader(data))); err != nil {
		w.t.Fatal(err)
	}
	return k.Record(), r.Objects
}

func (w *sampleWorld) damage(key string) {
	w.t.Helper()
	name := filepath.Join(w.dir.Path(), filepath.FromSlash(key))
	b, err := os.ReadFile(name)
	if err == nil {
		b[len(b)/2] ^= 1
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *sampleWorld) counts(ok, damaged, failed float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "kubelogexporter_readback_total" {
		w.t.Fatal(families, err)
	}
	want := map[string]float64{"ok": ok, "damaged": damaged, "error": failed}
	for _, m := range families[0].GetMetric() {
		result := m.GetLabel()[0].GetValue()
		if got := m.GetCounter().GetValue(); got != want[result] {
			w.t.Errorf("readback_total{result=%q} is %v, want %v", result, got, want[result])
		}
		delete(want, result)
	}
	if len(want) > 0 {
		w.t.Errorf("no count of %v", want)
	}
}

// during runs the sampler for some time.
func (w *sampleWorld) during(d time.Duration) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer synctest.Wait()
	defer cancel()
	go w.run(ctx)
	time.Sleep(d)
	synctest.Wait()
}

func TestSamplerFindsDamage(t *testing.T) {
	const line = "2026-02-28T23:59:59.000000000Z a line\n"
	segments := bundle.LogOptions{FrameSize: 64, MaxStored: 256}
	for name, c := range map[string]struct {
		text    string
		o       bundle.LogOptions
		damage  func(w *sampleWorld, record string, logs []bundle.Object)
		damaged bool
	}{
		"sound":          {line, bundle.LogOptions{}, func(*sampleWorld, string, []bundle.Object) {}, false},
		"sound, empty":   {"", bundle.LogOptions{}, func(*sampleWorld, string, []bundle.Object) {}, false},
		"sound segments": {strings.Repeat(line, 50), segments, func(*sampleWorld, string, []bundle.Object) {}, false},
		"log":            {line, bundle.LogOptions{}, func(w *sampleWorld, _ string, logs []bundle.Object) { w.damage(logs[0].Key) }, true},
		"every segment": {strings.Repeat(line, 50), segments, func(w *sampleWorld, _ string, logs []bundle.Object) {
			for _, o := range logs {
				w.damage(o.Key)
			}
		}, true},
		"record":      {line, bundle.LogOptions{}, func(w *sampleWorld, record string, _ []bundle.Object) { w.damage(record) }, true},
		"lost record": {line, bundle.LogOptions{}, func(w *sampleWorld, record string, _ []bundle.Object) { _ = w.dir.Remove(record) }, true},
		"lost log":    {line, bundle.LogOptions{}, func(w *sampleWorld, _ string, logs []bundle.Object) { _ = w.dir.Remove(logs[0].Key) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newSampleWorld(t)
				key, logs := w.store("app", []byte(c.text), c.o)
				c.damage(w, key, logs)
				w.archived(key)
				w.during(10 * time.Minute)
				if c.damaged {
					w.counts(0, 1, 0)
				} else {
					w.counts(1, 0, 0)
				}
				if got := strings.Contains(w.logged.String(), "level=ERROR"); got != c.damaged {
					t.Errorf("logged %q", w.logged.String())
				}
			})
		})
	}
}

// TestSamplerIsSlow: one record a minute, a mebibyte a second.
func TestSamplerIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSampleWorld(t)
		noise := make([]byte, 3<<20)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		big, _ := w.store("big", noise, bundle.LogOptions{})
		began := time.Now()
		if err := w.readBack(t.Context(), big); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 2500*time.Millisecond || took > 4*time.Second {
			t.Errorf("3 MiB were read in %s", took)
		}
		small, _ := w.store("small", []byte("x\n"), bundle.LogOptions{})
		for range 100 {
			w.archived(small)
		}
		w.during(10*time.Minute + 30*time.Second)
		w.counts(10, 0, 0)
	})
}

// TestSamplerTriesAgain: what cannot be read is neither ok nor damaged.
func TestSamplerTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSampleWorld(t)
		key, _ := w.store("app", []byte("x\n"), bundle.LogOptions{})
		b := &awayBucket{Bucket: w.dir, err: errors.New("connection refused")}
		w.bucket = b
		w.archived(key)
		w.during(2*time.Minute + time.Second)
		w.counts(0, 0, 2)
		if strings.Contains(w.logged.String(), "ERROR") {
			t.Errorf("logged %q", w.logged.String())
		}
		b.err = nil
		w.during(5 * time.Minute)
		w.counts(1, 0, 2)
	})
}

type awayBucket struct {
	sink.Bucket
	err error
}

func (b *awayBucket) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.Bucket.Open(ctx, key, off, n)
}

// TestSamplerForgets: keys take a fixed amount of memory, and none is held until a lifecycle rule may
// have removed its object.
func TestSamplerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSampleWorld(t)
		late := 0
		for i := range 100 * sampleKeys {
			key := "early"
			if i >= 50*sampleKeys {
				key = "late"
			}
			w.archived(key)
		}
		for _, k := range w.keys {
			if k.key == "late" {
				late++
			}
		}
		if len(w.keys) != sampleKeys || late < sampleKeys/4 || late > sampleKeys*3/4 {
			t.Errorf("%d keys, %d of them late: want half", len(w.keys), late)
		}
		time.Sleep(sampleAge)
		if k, ok := w.pick(); ok {
			t.Errorf("picked %v", k)
		}
	})
}

// A rule of the bucket may have removed the first segments of a long run by the time its record is stored.
func TestSamplerPassesOverOldSegments(t *testing.T) {
	t.Parallel()
	s := newShipping(t, nil)
	keys, _ := s.segmented(0, 3) // of a day long ago
	s.reopened()
	if err := s.store.Remove(s.stored(keys[2]).Objects[0].Key); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := s.e.sample.readBack(t.Context(), keys[2]); err != nil {
			t.Fatal(err)
		}
	}
}
