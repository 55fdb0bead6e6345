package exporter

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// A pod is deleted, and its status tells of the exit while the kubelet keeps the stream open, for up to a second; then
// the container is gone at once. What was read beside the stream proves the tail.
func TestLookBesideStream(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first, later string        // printed before the end, and after the status has told of it
		refused      bool          // whoever does not stream is told that there is no such log
		want         bool          // that the record is complete
		cut          bool          // that the stream is cut
		ends         time.Duration // when the kubelet ends the stream
	}{
		"a line":                 {first: "one\n", want: true, cut: true, ends: time.Minute},
		"an open line":           {first: "two", want: true, cut: true, ends: time.Minute},
		"nothing":                {want: true, cut: true, ends: time.Minute},
		"more comes":             {first: "one\n", later: "two\n", want: true, cut: true, ends: time.Minute},
		"the stream ends before": {first: "one\n", want: true, ends: 150 * time.Millisecond},
		"refused":                {first: "one\n", refused: true, ends: 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("dying")
			start := time.Now()
			want := ""
			print := func(at time.Time, text string) {
				if text != "" {
					c.Print(at, text)
					for line := range strings.Lines(text) {
						want += kubetest.Stamp(at) + " " + line
					}
				}
			}
			print(start, tt.first)
			w.kube.SetPod(pod)
			e := w.run(nil)
			w.until("the exporter to be ready", func() bool { return e.Ready() == nil })
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("a stream", func() bool { return c.Following() > 0 })
			if tt.refused {
				w.kube.Log("shop", "dying", "app", func(rw http.ResponseWriter, r *http.Request) { sentence(pod)(c.Serve)(rw, r) })
			}
			exit(pod, 3)
			w.kube.SetPod(pod)
			if tt.later != "" {
				w.until("a look", func() bool { return len(w.kube.Requests("/log?container=app&timestamps")) > 0 })
				print(time.Now(), tt.later)
			}
			time.AfterFunc(tt.ends, func() {
				w.kube.Log("shop", "dying", "app", func(rw http.ResponseWriter, r *http.Request) { sentence(pod)(c.Serve)(rw, r) })
				c.Exit()
			})
			rec := w.await(1)[0]
			if got := w.text(rec); got != want || rec.Verdict.Complete != tt.want || *rec.State.ExitCode != 3 {
				t.Errorf("log %q, want %q; verdict %+v, reads %+v", got, want, rec.Verdict, rec.Capture.Reads)
			}
			cut := false
			for _, read := range rec.Capture.Reads {
				cut = cut || read.Result == errLooked.Error()
			}
			if cut != tt.cut {
				t.Errorf("reads %+v", rec.Capture.Reads)
			}
			w.account()
		})
	}
}
