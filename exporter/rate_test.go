package exporter

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// A finished pod's log is read no faster than is allowed. Logs that vanish within seconds are not held up: those of
// pods that are being deleted, of runs that were replaced, and of runs that may be.
func TestReadRate(t *testing.T) {
	const size, perSecond = 640 << 10, 128 << 10
	for name, tt := range map[string]struct {
		change func(w *trapped, pod *corev1.Pod, c *kubetest.Container)
		slow   bool
	}{
		"finished": {func(_ *trapped, pod *corev1.Pod, c *kubetest.Container) {
			c.Exit()
			exit(pod, 0)
			pod.Status.Phase = corev1.PodSucceeded
		}, true},
		"dying": {func(w *trapped, pod *corev1.Pod, c *kubetest.Container) {
			now := metav1.Now()
			pod.DeletionTimestamp = &now
			w.kube.SetPod(pod)
			w.until("the stream's end", func() bool { return c.Following() > 0 })
			c.Exit()
			exit(pod, 0)
		}, false},
		"restarted": {func(_ *trapped, pod *corev1.Pod, c *kubetest.Container) {
			c.Exit()
			exit(pod, 1)
			c.Restart()
			restart(pod, c)
		}, false},
		"may restart": {func(_ *trapped, pod *corev1.Pod, c *kubetest.Container) {
			c.Exit()
			exit(pod, 1)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTrapped(t, nil)
			pod, c := w.pod("long")
			c.Print(time.Now(), strings.Repeat(strings.Repeat("x", 1000)+"\n", size/1000))
			w.kube.SetPod(pod)
			e := w.run(func(o *Options) { o.ReadRate = perSecond })
			w.until("the run is known", func() bool { return e.Ready() == nil && len(w.kube.Requests("limitBytes=")) > 0 })
			begin := time.Now()
			tt.change(w, pod, c)
			w.kube.SetPod(pod)
			rec := w.final(0)
			if took, least := time.Since(begin), (size-readSize)/perSecond*time.Second; (took >= least) != tt.slow {
				t.Errorf("%d bytes took %s at %d bytes per second", rec.RawBytes, took, perSecond)
			}
			if rec.RawBytes < size*9/10 || rec.Lines != size/1000 {
				t.Errorf("%d lines, %d bytes", rec.Lines, rec.RawBytes)
			}
			w.account()
		})
	}
}

// Of runs that go on, only those of pods that are being deleted are exempt.
func TestReadRateOfRunning(t *testing.T) {
	for name, tt := range map[string]struct {
		pod  podInfo
		slow bool
	}{
		"running": {podInfo{}, true},
		"dying":   {podInfo{deletion: utc(time.Now())}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &run{view: view{slot: slotCurrent}, tracker: newTracker(nil, nil, nil, nil), pod: &podState{pod: &tt.pod}}
				s := &slowed{ctx: t.Context(), r: strings.NewReader(strings.Repeat("x", 10*readSize)), rate: newRate(readSize), run: r}
				begin := time.Now()
				if n, err := io.Copy(io.Discard, s); n != 10*readSize || err != nil {
					t.Errorf("%d bytes: %v", n, err)
				}
				if took := time.Since(begin); (took >= 9*time.Second) != tt.slow {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}
