package exporter

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// remove begins to delete the only pod, and waits for the stream of its log.
func (w *trapped) remove(pod *corev1.Pod) {
	w.t.Helper()
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
}

// A pod is deleted, and its status tells of the exit while the kubelet keeps the stream open, for up to a second; then
// the container is gone at once. What was read beside the stream proves the tail.
func TestReadBesideStream(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first, later string // printed before the status tells of the end, and after
		stalled      bool   // a stream brings what there is, and nothing more
		refused      bool   // whoever does not stream is told that there is no such log
	}{
		"a line":            {first: "one\n"},
		"an open line":      {first: "two"},
		"nothing":           {},
		"more comes":        {first: "one\n", later: "two\n"},
		"the stream stalls": {first: "one\n", later: "two\n", stalled: true},
		"it cannot be read": {first: "one\n", refused: true},
		"nor is there one":  {refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("dying")
			want := ""
			print := func(text string) {
				if at := time.Now(); text != "" {
					c.Print(at, text)
					want += kubetest.Stamp(at) + " " + text
				}
			}
			print(tt.first)
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			w.kube.Log("shop", "dying", "app", func(rw http.ResponseWriter, r *http.Request) {
				switch follow := r.URL.Query().Get("follow") == "true"; {
				case follow && tt.stalled:
					r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "follow=true", "", 1)
					c.Serve(rw, r)
					kubetest.Flush(rw)
					<-r.Context().Done()
				case !follow && tt.refused:
					sentence(pod)(c.Serve)(rw, r)
				default:
					c.Serve(rw, r)
				}
			})
			w.remove(pod)
			exit(pod, 3)
			w.kube.SetPod(pod)
			print(tt.later)
			if tt.refused {
				<-time.After(600 * time.Millisecond)
				c.Exit()
			}
			rec := w.await(1)[0]
			if got := w.text(rec); got != want || *rec.State.ExitCode != 3 {
				t.Errorf("log %q, want %q; verdict %+v, reads %+v", got, want, rec.Verdict, rec.Capture.Reads)
			}
			if !rec.Verdict.Complete {
				t.Errorf("verdict %+v, reads %+v", rec.Verdict, rec.Capture.Reads)
			}
			cut := false
			for _, read := range rec.Capture.Reads {
				cut = cut || read.Result == errReadBeside.Error()
			}
			if cut == tt.refused {
				t.Errorf("reads %+v", rec.Capture.Reads)
			}
			w.account()
		})
	}
}

// The kubelet ends a stream, or it breaks, before the log has settled, but after it was read beside. If the container is
// removed then, that counts as a further read, unless the stream broke. If it is not, there may be more to come.
func TestReadBesideBeforeItSettled(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ removed, breaks, more, complete bool }{
		"ends, is removed":   {removed: true, complete: true},
		"breaks, is removed": {removed: true, breaks: true},
		"ends, more comes":   {more: true, complete: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("early")
			at := time.Now()
			c.Print(at, "one\n")
			want := kubetest.Stamp(at) + " one\n"
			w.kube.SetPod(pod)
			e := w.begin(func(e *Exporter) { e.settleDying = 3 * time.Second }, func(o *Options) { o.Metrics = w.metrics })
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			w.until("the head", func() bool { return len(w.kube.Requests("limitBytes=")) > 0 })
			read := make(chan struct{}) // closed when there was a read beside the stream
			var once sync.Once
			w.kube.Log("shop", "early", "app", func(rw http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				select {
				case <-read:
					if tt.removed {
						sentence(pod)(c.Serve)(rw, r)
						return
					}
				default:
				}
				if q.Get("follow") != "true" {
					c.Serve(rw, r)
					if q.Get("limitBytes") == "" {
						once.Do(func() { close(read) })
					}
					return
				}
				select {
				case <-read: // a further stream
					if tt.more {
						more := time.Now()
						c.Print(more, "two\n")
						want += kubetest.Stamp(more) + " two\n"
						tt.more = false
						c.Exit()
					}
					c.Serve(rw, r)
					return
				default:
				}
				r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "follow=true", "", 1)
				c.Serve(rw, r)
				kubetest.Flush(rw)
				<-read
				<-time.After(300 * time.Millisecond)
				if tt.breaks {
					panic(http.ErrAbortHandler)
				}
			})
			w.remove(pod)
			exit(pod, 3)
			w.kube.SetPod(pod)
			rec := w.await(1)[0]
			if got := w.text(rec); got != want || rec.Verdict.Complete != tt.complete {
				t.Errorf("log %q, want %q; verdict %+v, reads %+v", got, want, rec.Verdict, rec.Capture.Reads)
			}
			w.account()
		})
	}
}

// The log was rotated right before the exit, and the stream is still in the old file when the end is known: a read
// beside it brings the new file only, and is no reason to cut the stream.
func TestReadBesideLaggingStream(t *testing.T) {
	t.Parallel()
	w := newTrapped(t, nil)
	pod, c := w.pod("lagging")
	start := time.Now()
	old, rest, fresh := kubetest.Stamp(start)+" old\n", kubetest.Stamp(start.Add(time.Millisecond))+" rest of it\n", kubetest.Stamp(start.Add(2*time.Millisecond))+" new file\n"
	c.Print(start, "old\n")
	w.kube.SetPod(pod)
	e := w.run(nil)
	w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
	var once sync.Once
	w.kube.Log("shop", "lagging", "app", func(rw http.ResponseWriter, r *http.Request) {
		lags := false
		if r.URL.Query().Get("follow") == "true" {
			once.Do(func() { lags = true })
		}
		if !lags {
			_, _ = io.WriteString(rw, fresh)
			return
		}
		_, _ = io.WriteString(rw, old)
		kubetest.Flush(rw)
		<-time.After(time.Second)
		_, _ = io.WriteString(rw, rest)
	})
	w.remove(pod)
	<-time.After(200 * time.Millisecond) // it has brought what is old
	exit(pod, 3)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasPrefix(got, old+rest) || rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
	w.account()
}
