package exporter

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
)

// The worst bug would be a record that calls itself complete and misses a line. Containers of which each lives
// another life write while reads of their logs are cut, broken and changed, while the node's clock is set and the
// exporter starts anew; what is complete must be what was written, byte for byte. What nothing happened to must be
// complete, unless its pod was deleted: a busy machine may then be too late to make sure.
//
// Two answers in a row that lie in the same way are believed: so an honest one comes after each that lies. So is a
// stream that is cut after the container's exit, if the next answer is that the container is gone.
func TestCompleteIsWhole(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tune   func(*Exporter)
		change func(*Options)
		anew   bool // in the middle the exporter ends, and another goes on
	}{
		"final":        {},
		"final, anew":  {anew: true},
		"live":         {change: live},
		"live, anew":   {change: live, anew: true},
		"polled":       {change: live, tune: func(e *Exporter) { e.nodes.live = 0 }},
		"polled, anew": {change: live, tune: func(e *Exporter) { e.nodes.live = 0 }, anew: true},
		"in segments":  {change: live, tune: func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }, anew: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const lives = 16
			w := newWorld(t)
			start := func() {
				e := w.begin(func(e *Exporter) {
					if tt.tune != nil {
						tt.tune(e)
					}
				}, tt.change)
				w.until("it is ready", func() bool { return e.Ready() == nil })
			}
			start()
			all := make([]*life, lives)
			for i := range all {
				all[i] = w.newLife(rand.New(rand.NewPCG(uint64(len(name)), uint64(i))), strings.Repeat("p", i+1))
			}
			together(all, (*life).begin)
			if tt.anew {
				w.stop()
				together(all, (*life).write)
				start()
			}
			together(all, (*life).write)
			together(all, (*life).end)
			complete := 0
			for _, l := range all {
				complete += l.check()
			}
			t.Logf("%d of %d are complete", complete, lives)
		})
	}
}

func together(all []*life, do func(*life)) {
	var wait sync.WaitGroup
	for _, l := range all {
		wait.Go(func() { do(l) })
	}
	wait.Wait()
}

// life is that of one container.
type life struct {
	w     *world
	r     *rand.Rand
	pod   *corev1.Pod
	c     *kubetest.Container
	truth strings.Builder
	ahead time.Duration // of the node's clock
	clock bool          // it is set now and then

	mu     sync.Mutex
	liar   *rand.Rand // nil if all answers are honest
	honest bool       // the next answer must be
	exited bool
	done   []string // what was done to answers
}

func (w *world) newLife(r *rand.Rand, name string) *life {
	l := &life{w: w, r: r, clock: r.IntN(2) == 0}
	if r.IntN(3) > 0 {
		l.liar = rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
	}
	l.pod, l.c = w.pod(name)
	w.kube.Log(l.pod.Namespace, name, "app", l.serve)
	return l
}

func (l *life) begin() {
	l.pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(time.Now().Truncate(time.Second))
	l.print()
	l.w.kube.SetPod(l.pod)
	<-time.After(100 * time.Millisecond)
	l.write()
}

func (l *life) write() {
	for range l.r.IntN(4) {
		<-time.After(time.Duration(l.r.IntN(20)) * time.Millisecond)
		if l.clock && l.r.IntN(2) == 0 {
			l.ahead += time.Duration(l.r.IntN(20)-12) * time.Second
		}
		l.print()
	}
	<-time.After(100 * time.Millisecond)
}

// print writes some lines, which may be alike.
func (l *life) print() {
	at := time.Now().Add(l.ahead)
	for range 1 + l.r.IntN(3) {
		at = at.Add(time.Microsecond)
		text := []string{"tick", "", fmt.Sprint("line ", l.r.IntN(1000)), strings.Repeat("x", 20<<10)}[l.r.IntN(4)] + "\n"
		l.c.Print(at, text)
		l.truth.WriteString(kubetest.Stamp(at) + " " + text)
	}
}

// end lets the container exit, by itself or because its pod is deleted.
func (l *life) end() {
	deleted := l.r.IntN(2) == 0
	if deleted {
		now := metav1.Now()
		l.pod.DeletionTimestamp = &now
		l.w.kube.SetPod(l.pod)
		<-time.After(50 * time.Millisecond)
	}
	l.write()
	l.mu.Lock()
	l.exited = true
	l.mu.Unlock()
	l.c.Exit()
	exit(l.pod, 0)
	if deleted {
		<-time.After(1200 * time.Millisecond)
		l.c.Remove()
	} else {
		l.pod.Status.Phase = corev1.PodSucceeded
	}
	l.w.kube.SetPod(l.pod)
	if deleted {
		<-time.After(100 * time.Millisecond)
		l.w.kube.DeletePod(l.pod.Namespace, l.pod.Name)
	}
}

// check waits for the record, and returns 1 if it is complete.
func (l *life) check() int {
	t := l.w.t
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		for _, rec := range l.w.records() {
			if rec.Pod.Name != l.pod.Name || rec.State.Running {
				continue
			}
			switch got := l.w.text(rec); {
			case rec.Verdict.Complete && got != l.truth.String():
				t.Errorf("%s is complete with %d of %d bytes: %v\nreads %+v", rec.Pod.Name, len(got), l.truth.Len(), l.done, rec.Capture.Reads)
			case !rec.Verdict.Complete && l.liar == nil && !l.clock && l.pod.DeletionTimestamp == nil:
				t.Errorf("%s is not complete, and nothing happened to it: %+v\nreads %+v", rec.Pod.Name, rec.Verdict, rec.Capture.Reads)
			case rec.Verdict.Complete:
				return 1
			}
			return 0
		}
	}
	t.Errorf("%s has no record", l.pod.Name)
	return 0
}

// serve answers for the kubelet, and lies now and then.
func (l *life) serve(rw http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	q := r.URL.Query()
	lie := l.liar != nil && !l.honest && q.Get("limitBytes") == "" && !(l.exited && q.Get("follow") == "true") && l.liar.IntN(2) == 0
	if q.Get("limitBytes") == "" {
		l.honest = lie
	}
	how, n, at := 0, 0, 0
	if lie {
		how, n, at = l.liar.IntN(8), l.liar.IntN(400), l.liar.IntN(1000)
		l.done = append(l.done, fmt.Sprintf("%s: %d, %d, %d", r.URL.RawQuery, how, n, at))
	}
	l.mu.Unlock()
	switch {
	case !lie:
		l.c.Serve(rw, r)
	case how == 0:
		kubetest.EndAfter(n, "rpc error: code = Unavailable desc = connection error")(l.c.Serve)(rw, r)
	case how == 1:
		kubetest.BreakAfter(n)(l.c.Serve)(rw, r)
	case how == 2 || q.Get("follow") == "true":
		kubetest.EndAfter(n, "")(l.c.Serve)(rw, r)
	default:
		body := httptest.NewRecorder()
		l.c.Serve(body, r)
		rw.WriteHeader(body.Code)
		_, _ = rw.Write([]byte(changed(body.Body.String(), how, at)))
	}
}

// changed is a body as no kubelet should send it.
func changed(body string, how, at int) string {
	lines := strings.SplitAfter(body, "\n")
	i := at % len(lines)
	switch how {
	case 3: // a line is missing
		lines[i] = ""
	case 4: // a line comes twice
		lines[i] += lines[i]
	case 5: // two lines have changed places
		lines[i], lines[0] = lines[0], lines[i]
	case 6: // the end is missing
		lines = lines[:i]
	case 7: // the beginning is missing
		lines = lines[i:]
	}
	return strings.Join(lines, "")
}
