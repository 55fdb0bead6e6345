package exporter

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

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
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
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

// The container is removed right after the status has told of its exit. What was read in between proves the tail if
// the kubelet ends the stream, and nothing if that breaks.
func TestReadBesideRightBeforeTheRemoval(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]bool{"the stream ends": false, "the stream breaks": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("removed")
			c.Print(time.Now(), "one\n")
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			removed := make(chan struct{})
			var once sync.Once
			w.kube.Log("shop", "removed", "app", func(rw http.ResponseWriter, r *http.Request) {
				follow, read := r.URL.Query().Get("follow") == "true", false
				if !follow {
					once.Do(func() { read = true })
				}
				select {
				case <-removed:
					sentence(pod)(c.Serve)(rw, r)
					return
				default:
				}
				r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "follow=true", "", 1)
				c.Serve(rw, r)
				if read {
					close(removed)
				}
				if follow {
					kubetest.Flush(rw)
					<-removed
					<-time.After(time.Second)
				}
				if follow && breaks {
					panic(http.ErrAbortHandler)
				}
			})
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
			exit(pod, 3)
			w.kube.SetPod(pod)
			rec := w.await(1)[0]
			if got := w.text(rec); !strings.HasSuffix(got, " one\n") || rec.Verdict.Complete == breaks {
				t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
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
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	w.kube.SetPod(pod)
	w.until("a stream", func() bool { return len(w.kube.Requests("follow=true")) > 0 })
	exit(pod, 3)
	w.kube.SetPod(pod)
	rec := w.await(1)[0]
	if got := w.text(rec); !strings.HasPrefix(got, old+rest) || rec.Verdict.Complete {
		t.Errorf("log %q, verdict %+v, reads %+v", got, rec.Verdict, rec.Capture.Reads)
	}
	w.account()
}
