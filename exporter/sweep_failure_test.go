package exporter

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// brokenUnderRead takes the spool's place for drafts away under the next read of a log, and returns how to
// give it back.
func (w *world) brokenUnderRead() (mend func()) {
	w.t.Helper()
	tmp := filepath.Join(w.spool, ".tmp")
	w.kube.NextLogs(func(h kubetest.LogHandler) kubetest.LogHandler {
		return func(rw http.ResponseWriter, r *http.Request) {
			if err := os.Rename(tmp, tmp+".away"); err != nil {
				w.t.Error(err)
			}
			h(rw, r)
		}
	})
	return func() {
		if err := os.Rename(tmp+".away", tmp); err != nil {
			w.t.Error(err)
		}
	}
}

// A sweep that could not store a log, or not read it, says so, and the next one stores it.
func TestSweepFails(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(w *world) (mend func()){
		"the spool": (*world).brokenUnderRead,
		"the source": func(w *world) func() {
			for range oneShotTries {
				w.kube.NextLogs(func(kubetest.LogHandler) kubetest.LogHandler {
					return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) }
				})
			}
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("unlucky")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the first line to be seen", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 && e.Ready() == nil })
			mend := breaks(w.world)
			if err := e.Sweep(context.Background(), "all"); err == nil || !strings.Contains(err.Error(), "1 of 1 logs") {
				t.Errorf("the sweep says %v", err)
			}
			mend()
			if err := e.Sweep(context.Background(), "all"); err != nil {
				t.Fatal(err)
			}
			w.until("the snapshot", func() bool { return len(w.records()) == 1 })
			endAfter("two\n")(w.world, pod, c)
			if rec := w.final(0); w.words(rec) != "one two" || !rec.Verdict.Complete {
				t.Errorf("log %q, verdict %+v", w.words(rec), rec.Verdict)
			}
			w.account()
		})
	}
}

// A one-off export that could not store what is new of a log does not say that it was there before.
func TestExportCannotStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pod, c := w.pod("unlucky")
	w.kube.SetPod(pod)
	c.Print(time.Now(), "one\n")
	for n := range 2 {
		e := w.exporter(nil)
		if n == 1 {
			c.Print(time.Now(), "two\n")
			mend := w.brokenUnderRead()
			defer mend()
		}
		if err := e.Export(context.Background()); err != nil {
			t.Fatal(err)
		}
		p := e.Progress()
		if n == 1 && (p.Already > 0 || len(p.Failures) != 1 || !strings.Contains(p.Failures[0].Error(), "no such file")) {
			t.Errorf("%+v", p)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A one-off export whose spool takes no log ends, and says of which containers it has none.
func TestExportWithoutSpool(t *testing.T) {
	t.Parallel()
	for name, ended := range map[string]bool{"running": false, "ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pod, c := w.pod("unlucky")
			c.Print(time.Now(), "one\n")
			if ended {
				c.Exit()
				exit(pod, 1)
			}
			w.kube.SetPod(pod)
			e := w.exporter(nil)
			if err := os.WriteFile(filepath.Join(w.spool, "cluster=test"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := e.Export(ctx); err != nil {
				t.Error(err)
			}
			if p := e.Progress(); p.Already > 0 || len(p.Failures) != 1 || !strings.Contains(p.Failures[0].Error(), "spool log of shop/unlucky/app") {
				t.Errorf("%+v", p)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
