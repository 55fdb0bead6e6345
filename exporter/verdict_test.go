package exporter

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// The worst bug would be a record that calls itself complete and misses a line. Containers of which each lives
// another life write while reads of their logs are cut, broken and changed, while the node's clock is set and the
// exporter starts anew; what is complete must be what was written, byte for byte. What nothing happened to must be
// complete, unless its pod was deleted: a busy machine may then be too late to make sure.
//
// In some the kubelet rotates their logs, after a first look or two seconds, and the clock is not set back to the start:
// of what is rotated away then nobody can know. The node's own files are honest.
//
// Two answers in a row that lie in the same way are believed: so an honest one comes after each that lies. So is a
// stream that is cut after the container's exit, if the next answer is that the container is gone.
func TestCompleteIsWhole(t *testing.T) {
	t.Parallel()
	polled := func(e *Exporter) { e.nodes.live, e.pollLive = 0, 30*time.Millisecond }
	segments := func(e *Exporter) { e.segmentEvery = 20 * time.Millisecond }
	for name, tt := range map[string]struct {
		tune    func(*Exporter)
		change  func(*Options)
		anew    bool // in the middle the exporter ends, and another goes on
		rotates bool
		files   NodeLogs
	}{
		"final":                {},
		"final, anew":          {anew: true},
		"final, rotated":       {rotates: true},
		"live":                 {change: live},
		"live, anew":           {change: live, anew: true},
		"live, rotated":        {change: live, rotates: true},
		"live, rotated, anew":  {change: live, rotates: true, anew: true},
		"polled":               {change: live, tune: polled},
		"polled, anew":         {change: live, tune: polled, anew: true},
		"polled, rotated":      {change: live, tune: polled, rotates: true},
		"in segments":          {change: live, tune: segments, anew: true},
		"in segments, rotated": {change: live, tune: segments, rotates: true},
		"recover":              {files: NodeLogsRecover},
		"recover, rotated":     {files: NodeLogsRecover, rotates: true},
		"prefer":               {files: NodeLogsPrefer, anew: true},
		"prefer, rotated":      {files: NodeLogsPrefer, rotates: true},
		"prefer, live":         {change: live, files: NodeLogsPrefer, rotates: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const lives = 8
			seed := uint64(time.Now().UnixNano())
			w, n := newWorld(t), newNode(t)
			start := func() {
				e := w.begin(func(e *Exporter) {
					e.tracker.fillsAFile = nearStart
					if tt.tune != nil {
						tt.tune(e)
					}
				}, func(o *Options) {
					if tt.rotates {
						o.RotateAt = rotatedAt
					}
					if tt.files != "" {
						n.use(tt.files)(o)
						o.Kubelets.MaxFiles = keptFiles
					}
					if tt.change != nil {
						tt.change(o)
					}
				})
				w.until("it is ready", func() bool { return e.Ready() == nil })
			}
			start()
			all := make([]*life, lives)
			for i := range all {
				all[i] = w.newLife(rand.New(rand.NewPCG(seed, uint64(i))), strings.Repeat("p", i+1))
				all[i].rotates, all[i].node = tt.rotates, n
				all[i].clock = all[i].clock && !tt.rotates
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
			t.Logf("seed %d: %d of %d are complete", seed, complete, lives)
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

const (
	// rotatedAt and keptFiles are the kubelet's containerLogMaxSize and containerLogMaxFiles.
	rotatedAt = 16 << 10
	keptFiles = 3
)

// life is that of one container.
type life struct {
	w     *world
	r     *rand.Rand
	pod   *corev1.Pod
	c     *kubetest.Container
	truth strings.Builder
	ahead time.Duration // of the node's clock
	clock bool          // it is set now and then

	node    *node // has its files
	rotates bool
	began   time.Time
	size    int      // of the newest file
	rotated []string // the names of those that are left

	mu      sync.Mutex
	liar    *rand.Rand // nil if all answers are honest
	honest  bool       // the next answer must be
	exited  bool
	looked  bool     // a first look was answered honestly
	changed bool     // lines of an answer were changed
	done    []string // what was done to answers
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
	l.began = time.Now()
	l.pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(l.began.Truncate(time.Second))
	l.print()
	l.w.kube.SetPod(l.pod)
	<-time.After(100 * time.Millisecond)
	l.write()
	if l.rotates {
		<-time.After(time.Until(l.began.Add(nearStart)))
		l.write()
		l.write()
	}
}

func (l *life) write() {
	for range l.r.IntN(4) {
		<-time.After(time.Duration(l.r.IntN(20)) * time.Millisecond)
		if l.clock && l.r.IntN(2) == 0 {
			l.ahead += time.Duration(l.r.IntN(20)-12) * time.Second
		}
		l.print()
		if l.rotates && l.size >= rotatedAt && l.rotatable() && l.r.IntN(2) == 0 {
			l.rotate()
		}
	}
	<-time.After(100 * time.Millisecond)
}

// rotate prints a last line, which no stream sees, and begins a new file, as the kubelet does: it removes the oldest
// first.
func (l *life) rotate() {
	at, text := time.Now().Add(l.ahead), "unseen\n"
	l.c.Rotate(at, text)
	l.wrote(at, text)
	dir := l.node.runs(l.pod)
	for len(l.rotated) > keptFiles-2 {
		l.must(os.Remove(filepath.Join(dir, l.rotated[0])))
		l.rotated = l.rotated[1:]
	}
	name := fmt.Sprintf("0.log.20260102-%06d", l.truth.Len())
	l.must(os.Rename(filepath.Join(dir, "0.log"), filepath.Join(dir, name)))
	l.node.write(l.pod, "0.log", at)
	l.rotated, l.size = append(l.rotated, name), 0
}

func (l *life) rotatable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looked || time.Since(l.began) > nearStart
}

// wrote notes what the container has written, and puts it into its file.
func (l *life) wrote(at time.Time, text string) {
	l.node.write(l.pod, "0.log", at, strings.TrimSuffix(text, "\n"))
	n, _ := l.truth.WriteString(kubetest.Stamp(at) + " " + text)
	l.size += n
}

func (l *life) must(err error) {
	if err != nil {
		l.w.t.Error(err)
	}
}

// print writes some lines, which may be alike.
func (l *life) print() {
	at := time.Now().Add(l.ahead)
	for range 1 + l.r.IntN(3) {
		at = at.Add(time.Microsecond)
		text := []string{"tick", "", fmt.Sprint("line ", l.r.IntN(1000)), strings.Repeat("x", 20<<10)}[l.r.IntN(4)] + "\n"
		l.c.Print(at, text)
		l.wrote(at, text)
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
		l.must(os.RemoveAll(l.node.runs(l.pod)))
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
				t.Errorf("%s is complete with %d of %d bytes: %v\nverdict %+v\nclock %v, deleted %v, reads %+v", rec.Pod.Name, len(got), l.truth.Len(), l.done, rec.Verdict, l.clock, l.pod.DeletionTimestamp != nil, rec.Capture.Reads)
			case !rec.Verdict.Complete && l.liar == nil && !l.clock && !l.rotates && l.pod.DeletionTimestamp == nil:
				t.Errorf("%s is not complete, and nothing happened to it: %+v\nreads %+v", rec.Pod.Name, rec.Verdict, rec.Capture.Reads)
			default:
				l.checkParts(rec.Verdict, got)
			}
			if rec.Verdict.Complete {
				return 1
			}
			return 0
		}
	}
	t.Errorf("%s has no record", l.pod.Name)
	return 0
}

// checkParts checks that the first line is there if the head is proven, and the last one if the tail is. Where lines
// were changed, and not only cut, others may be taken for them.
func (l *life) checkParts(v bundle.Verdict, got string) {
	if l.changed {
		return
	}
	want := slices.Collect(strings.Lines(l.truth.String()))
	stamp, _, _ := strings.Cut(want[0], " ")
	if v.Head.State == bundle.Proven && !strings.HasPrefix(got, stamp) {
		l.w.t.Errorf("%s: the head is proven of a log that begins with %.60q: %v, verdict %+v", l.pod.Name, got, l.done, v)
	}
	if v.Tail.State == bundle.Proven && !strings.HasSuffix(got, want[len(want)-1]) {
		l.w.t.Errorf("%s: the tail is proven of a log that ends with %.60q: %v, verdict %+v", l.pod.Name, got[max(0, len(got)-60):], l.done, v)
	}
}

// serve answers for the kubelet, and lies now and then.
func (l *life) serve(rw http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	q := r.URL.Query()
	lie := l.liar != nil && !l.honest && !(l.exited && q.Get("follow") == "true") && l.liar.IntN(2) == 0
	l.honest = lie
	how, n, at := 0, 0, 0
	switch {
	case lie && q.Get("limitBytes") != "": // a first look that finds nothing is believed
		how, n = 1+l.liar.IntN(2), 1+l.liar.IntN(60)
		l.done = append(l.done, fmt.Sprintf("first look: %d, %d", how, n))
	case lie:
		how, n, at = l.liar.IntN(8), l.liar.IntN([]int{400, 64 << 10}[l.liar.IntN(2)]), l.liar.IntN(1000)
		l.changed = l.changed || how != 1 && how != 2 // an error text within a stamp is taken for a line
		l.done = append(l.done, fmt.Sprintf("%s: %d, %d, %d", r.URL.RawQuery, how, n, at))
	}
	l.mu.Unlock()
	switch {
	case !lie:
		l.c.Serve(rw, r)
		if q.Get("limitBytes") != "" {
			<-time.After(50 * time.Millisecond) // until it is noted
			l.mu.Lock()
			l.looked = true
			l.mu.Unlock()
		}
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
