package exporter

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// vessel is a pod with one container, and what its kubelet makes of it.
type vessel struct {
	k       *cluster
	r       *rand.Rand
	n       int // of the pod
	pod     *corev1.Pod
	rotates bool
	all     bool          // a container's end may restart all of them
	files   []string      // of the current run, the oldest first
	size    int           // of the newest
	late    time.Duration // its status, of a run's end and the next one's start
	lag     time.Duration // by which a run's start is noted after it

	mu      sync.Mutex
	told    *corev1.Pod   // as it was shown last
	waiting []*corev1.Pod // statuses that are not told yet
	c       *kubetest.Container
	run     int
	began   time.Time // as its status tells
	ended   time.Time
	waits   bool       // in a back-off: the kubelet calls the run that has ended the previous one, too
	lies    *rand.Rand // about what is asked for
	honest  bool       // the next answer must be
	done    []string
	printed map[int]string // of each run
}

func (k *cluster) newVessel(name string, i, again int) *vessel {
	r := rand.New(rand.NewPCG(k.seed, uint64(1+i+100*again)))
	v := &vessel{k: k, r: r, n: 10*i + again, lies: rand.New(rand.NewPCG(r.Uint64(), 0)), printed: make(map[int]string), all: r.IntN(4) == 0}
	v.pod, v.c = k.pod(name)
	v.c = v.container(0)
	v.pod.UID = types.UID(fmt.Sprintf("0b54cd8c-0000-4000-8000-%012x", 1+v.n))
	if v.all {
		restartsAllContainers(v.pod)
	}
	if r.IntN(2) == 0 {
		v.late = time.Duration(r.IntN(4000)) * time.Millisecond
	}
	if r.IntN(2) == 0 {
		v.lag = time.Duration(r.IntN(1500)) * time.Millisecond
	}
	k.mu.Lock()
	k.pods = append(k.pods, v)
	k.mu.Unlock()
	return v
}

// id is the container ID of a run.
func (v *vessel) id(restart int) string {
	return fmt.Sprintf("containerd://%012x%052x", 1+v.n*1000+restart, 0)
}

// container makes a container whose first run has a restart count.
func (v *vessel) container(first int) *kubetest.Container {
	return kubetest.NewContainer(func(run int) string { return v.id(first + run) })
}

func (v *vessel) pause(most int) { <-time.After(time.Duration(v.r.IntN(most)) * time.Millisecond) }

func (v *vessel) status() *corev1.ContainerStatus { return &v.pod.Status.ContainerStatuses[0] }

// tell shows the pod as it is, and nothing of what was not told before.
func (v *vessel) tell() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting = nil
	v.show(v.pod)
}

// show shows the pod as it is, or was. The lock is held.
func (v *vessel) show(pod *corev1.Pod) {
	v.told = pod.DeepCopy()
	v.k.kube.SetPod(pod)
}

// tellLate tells the status as it is now, in its turn.
func (v *vessel) tellLate() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting = append(v.waiting, v.pod.DeepCopy())
	time.AfterFunc(v.late, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(v.waiting) > 0 {
			v.show(v.waiting[0])
			v.waiting = v.waiting[1:]
		}
	})
}

// dies begins the pod's deletion, of which nothing is late.
func (v *vessel) dies() {
	now := metav1.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pod.DeletionTimestamp, v.told.DeletionTimestamp = &now, &now
	for _, pod := range v.waiting {
		pod.DeletionTimestamp = &now
	}
	v.show(v.told)
}

// gone ends the pod's deletion.
func (v *vessel) gone(remove func(namespace, name string)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting = nil
	remove(v.pod.Namespace, v.pod.Name)
}

// live is the pod's whole life.
func (v *vessel) live() {
	v.k.kube.Log(v.pod.Namespace, v.pod.Name, "app", v.serve)
	v.begins()
	v.status().State = v.running()
	v.status().ContainerID = v.id(0)
	v.tell()
	for range 2 + v.r.IntN(5) {
		v.print()
		v.pause(400)
		switch {
		case v.r.IntN(3) == 0:
			v.restart()
		case v.rotates && v.r.IntN(2) == 0:
			v.print()
			v.rotate()
		}
	}
	if v.r.IntN(2) == 0 {
		v.tell()
	}
	v.die()
	if again := v.n%10 + 1; again < 3 && v.r.IntN(2) == 0 { // another pod gets the name
		next := v.k.newVessel(v.pod.Name, v.n/10, again)
		next.rotates = v.rotates
		next.live()
	}
}

// begins begins a run in what the kubelet knows.
func (v *vessel) begins() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.began, v.files, v.size = time.Now().Add(v.lag), []string{fmt.Sprintf("%d.log", v.run)}, 0
}

func (v *vessel) running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(v.began.Truncate(time.Second))}}
}

// print prints some lines, which are alike now and then.
func (v *vessel) print() {
	for range v.r.IntN(4) {
		text := []string{"tick", "", fmt.Sprint("line ", v.r.IntN(1000)), "pin=12345", strings.Repeat("x", 6<<10)}[v.r.IntN(5)]
		v.write(text, v.c.Print)
	}
}

func (v *vessel) write(text string, print func(time.Time, string)) {
	at := time.Now()
	v.k.node.write(v.pod, fmt.Sprintf("%d.log", v.run), at, text)
	v.printed[v.run] += kubetest.Stamp(at) + " " + text + "\n"
	v.size += len(text) + 40
	print(at, text+"\n")
}

// rotate begins a new file, if it is one that the kubelet would rotate, and of which not even the beginning may be missed.
func (v *vessel) rotate() {
	v.mu.Lock()
	began := v.began
	v.mu.Unlock()
	if v.size < rotatedAt || time.Since(began) < nearStart {
		return
	}
	v.write("unseen", v.c.Rotate)
	dir := v.k.node.runs(v.pod)
	for len(v.files) > keptFiles-1 {
		_ = os.Remove(filepath.Join(dir, v.files[0]))
		v.files = v.files[1:]
	}
	newest, name := fmt.Sprintf("%d.log", v.run), fmt.Sprintf("%d.log.20260102-%06d", v.run, len(v.printed[v.run]))
	_ = os.Rename(filepath.Join(dir, newest), filepath.Join(dir, name))
	v.k.node.write(v.pod, newest, time.Now())
	v.files, v.size = append(v.files[:len(v.files)-1], name, newest), 0
}

// exit ends the run in what the kubelet knows.
func (v *vessel) exit() {
	v.mu.Lock()
	v.ended = time.Now()
	v.mu.Unlock()
	v.c.Exit()
}

// terminated is the state of the run that has ended.
func (v *vessel) terminated() corev1.ContainerState {
	state := crashed(v.status().ContainerID, v.began, v.ended)
	state.Terminated.ExitCode = []int32{0, 1, 3}[v.run%3]
	return state
}

// restart lets the run end and another one begin, and tells of that late.
func (v *vessel) restart() {
	v.exit()
	s, dead := v.status(), v.terminated()
	if v.r.IntN(2) == 0 {
		v.pause(1000)
		s.State = dead
		v.tellLate()
	}
	v.pause(300)
	if v.run > 0 {
		v.backOff()
	}
	all := v.all && v.r.IntN(2) == 0
	v.mu.Lock()
	v.ended, v.waits, v.run = time.Time{}, false, v.run+1
	if all {
		v.c = v.container(v.run)
	} else {
		v.c.Restart()
	}
	v.mu.Unlock()
	gone := v.run - 2
	if all {
		gone = v.run - 1
	}
	old, _ := filepath.Glob(filepath.Join(v.k.node.runs(v.pod), fmt.Sprintf("%d.log*", gone)))
	for _, file := range old {
		_ = os.Remove(file)
	}
	v.begins()
	v.print()
	v.pause(1500)
	if v.r.IntN(3) == 0 && !all && s.State.Waiting == nil {
		s.State = dead
		v.tellLate()
		v.pause(500)
	}
	s.LastTerminationState = dead
	if all {
		s.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "RestartingAllContainers"}}
	}
	s.RestartCount, s.ContainerID, s.State = int32(v.run), v.id(v.run), v.running()
	v.tellLate()
}

// backOff waits as long as a kubelet may wait at least before a third run, and may tell of that.
func (v *vessel) backOff() {
	v.mu.Lock()
	v.waits = true
	v.mu.Unlock()
	if s := v.status(); s.State.Terminated != nil && v.r.IntN(2) == 0 {
		backsOff(s)
		v.tellLate()
	}
	<-time.After(time.Until(v.ended.Add(leastBackOff + 100*time.Millisecond)))
}

// die ends the pod in one of the ways in which pods end.
func (v *vessel) die() {
	exitTold := func(told bool) {
		v.print()
		v.exit()
		if told {
			<-time.After(time.Duration(150+v.r.IntN(400)) * time.Millisecond)
			v.status().State = v.terminated()
		}
	}
	removed := func() {
		<-time.After(time.Until(v.ended.Add(time.Duration(650+v.r.IntN(300)) * time.Millisecond)))
		v.c.Remove()
		_ = os.RemoveAll(v.k.node.runs(v.pod))
	}
	switch v.r.IntN(5) {
	case 0, 1: // with grace
		v.dies()
		v.pause(1500)
		told := v.r.IntN(4) > 0
		if exitTold(told); told {
			v.tell()
		}
		removed()
	case 2: // by force
		v.gone(v.k.kube.DeletePod)
		v.print()
		v.pause(1500)
		exitTold(false)
		removed()
		return
	case 3:
		exitTold(true)
		v.pod.Status.Phase, v.pod.Status.Reason = corev1.PodFailed, "Evicted"
		v.tell()
		removed()
		v.pause(2000)
	default:
		exitTold(true)
		v.pod.Status.Phase = corev1.PodSucceeded
		v.tell()
		v.pause(3000)
	}
	if v.r.IntN(4) == 0 {
		v.gone(v.k.kube.DeletePodQuietly)
		v.k.kube.ExpireWatches()
	} else {
		v.gone(v.k.kube.DeletePod)
	}
	v.c.Remove()
	_ = os.RemoveAll(v.k.node.runs(v.pod))
}

// serve answers for the kubelet, or refuses to, or lies.
func (v *vessel) serve(rw http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v.mu.Lock()
	c, id, look, stream := v.c, v.id(v.run), q.Get("limitBytes") != "", q.Get("follow") == "true"
	how, n := v.lies.IntN(24), 1+v.lies.IntN([]int{60, 400, 20 << 10}[v.lies.IntN(3)])
	if v.honest || how >= 8 {
		how = -1
	}
	if look && how >= 0 {
		how, n = how%2, 1+n%60
	}
	if stream && !v.ended.IsZero() && how < 3 {
		how = -1
	}
	if v.honest = how >= 0 && how < 5; how >= 0 {
		v.done = append(v.done, fmt.Sprintf("%s: %d, %d", r.URL.RawQuery, how, n))
	}
	if v.waits {
		r = asCurrent(r)
	}
	v.mu.Unlock()
	if v.k.cut.Load() {
		kubetest.Unreachable()(nil)(rw, r)
		return
	}
	switch how {
	case 0:
		kubetest.BreakAfter(n)(c.Serve)(rw, r)
	case 1:
		kubetest.EndAfter(n, "")(c.Serve)(rw, r)
	case 2:
		kubetest.EndAfter(n, "rpc error: code = Unavailable desc = connection error")(c.Serve)(rw, r)
	case 3:
		kubetest.Answer("unable to retrieve container logs for "+id)(nil)(rw, r)
	case 4:
		kubetest.Answer("failed to create fsnotify watcher: too many open files")(nil)(rw, r)
	case 5:
		kubetest.NotKnown()(nil)(rw, r)
	case 6:
		kubetest.Status(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError, "", "the kubelet is busy")
	case 7:
		kubetest.Unreachable()(nil)(rw, r)
	default:
		c.Serve(rw, r)
	}
}

// checkLines checks that a record, complete or not, has lines of one run only: of which one it may not know. If nobody
// was told of the run's end, what follows a hole may be of the next one.
func (k *cluster) checkLines(rec *bundle.Record) {
	if rec.State.ExitCode == nil {
		return
	}
	stamps := make(map[string]string)
	for _, v := range k.pods {
		if v.pod.Name != rec.Pod.Name {
			continue
		}
		for run, text := range v.printed {
			for line := range strings.Lines(text) {
				stamp, _, _ := strings.Cut(line, " ")
				stamps[stamp] = fmt.Sprintf("run %d of %s", run, v.pod.UID)
			}
		}
	}
	first := ""
	for line := range strings.Lines(k.text(rec)) {
		stamp, _, _ := strings.Cut(line, " ")
		switch of := stamps[stamp]; {
		case of == "" || of == first: // or it was cut within its stamp
		case first == "":
			first = of
		default:
			k.t.Errorf("run %d of %s %s has lines of %s and of %s\nverdict %+v\nreads %+v", rec.Container.RestartCount, rec.Pod.Name, rec.Pod.UID, first, of, rec.Verdict, rec.Capture.Reads)
			return
		}
	}
}

// checkComplete compares a log that calls itself complete with what was printed.
func (k *cluster) checkComplete(rec *bundle.Record) {
	for _, v := range k.pods {
		if string(v.pod.UID) != rec.Pod.UID {
			continue
		}
		got, want := k.text(rec), v.printed[int(rec.Container.RestartCount)]
		if rec.Capture.Redaction != nil {
			want = strings.ReplaceAll(want, "pin=12345", "pin=[REDACTED:pin]")
		}
		if got != want {
			k.t.Errorf("run %d of %s is complete with\n%.2000s\nand not\n%.2000s\n%v\nverdict %+v\nreads %+v", rec.Container.RestartCount, rec.Pod.Name, shortened(got), shortened(want), v.done, rec.Verdict, rec.Capture.Reads)
		}
	}
}

func shortened(text string) string { return strings.ReplaceAll(text, strings.Repeat("x", 100), "") }
