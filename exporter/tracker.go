package exporter

import (
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tracker turns what is seen of pods into runs, and tells once for each run that there is work.
// It decides nothing about logs. All its methods return at once.
type tracker struct {
	mu     sync.Mutex
	pods   map[types.UID]*podState
	closed bool
	// work is called with the lock held, once when a run needs reading: it only puts it on the queue.
	work func(*run, priority)
	// probe is called likewise when a run is first seen alive.
	probe func(*run)
}

type podState struct {
	pod  *corev1.Pod // as last seen, slim
	gone bool
	runs map[runID]*run
}

// run is one container run. Its exported-looking facts (id to firstSeenDead) never change; the rest
// belongs to the tracker's lock and is read through now.
type run struct {
	view
	tracker       *tracker
	pod           *podState
	firstSeenDead bool // it had ended when it was first seen: somebody may have archived it before

	begun   bool // handed to work
	done    bool // has its record
	headAt  time.Time
	head    time.Time // stamp of the first line of the file at headAt; zero if it was empty
	headOK  bool      // head is where the log began, see witnessHead
	changed chan struct{}
}

// moment is what is known of a run at one moment.
type moment struct {
	pod     *corev1.Pod
	slot    slot
	term    *corev1.ContainerStateTerminated
	podGone bool
	dying   bool
	changed <-chan struct{} // closed when any of this changes
}

// ended says whether the run is known to be over, or out of reach.
func (m moment) ended() bool { return m.term != nil || m.podGone || m.slot == slotNone }

func newTracker(work func(*run, priority), probe func(*run)) *tracker {
	return &tracker{pods: make(map[types.UID]*podState), work: work, probe: probe}
}

// observe takes a pod as the API server shows it, or shows it for the last time.
func (t *tracker) observe(pod *corev1.Pod, deleted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ps := t.pods[pod.UID]
	if ps == nil {
		if deleted {
			return // never seen alive by this process: nothing is known of its runs
		}
		ps = &podState{runs: make(map[runID]*run)}
		t.pods[pod.UID] = ps
	}
	if ps.pod != nil && older(pod, ps.pod) {
		pod = ps.pod // the watch lags behind what was read directly
	}
	ps.pod, ps.gone = pod, ps.gone || deleted
	for _, r := range ps.runs {
		r.slot = slotNone
	}
	for _, v := range views(pod) {
		r := ps.runs[v.id]
		if r == nil {
			r = &run{tracker: t, pod: ps, firstSeenDead: v.term != nil, changed: make(chan struct{})}
			r.view = v
			ps.runs[v.id] = r
		}
		r.slot = v.slot
		if v.term != nil {
			r.term, r.restart = v.term, v.restart
		}
	}
	for id, r := range ps.runs {
		close(r.changed)
		r.changed = make(chan struct{})
		t.advance(r)
		t.forget(ps, id, r)
	}
}

// older compares two states of one object. Resource versions of one resource are ordered numbers
// (KEP-5504); where they are not, the later sight counts.
func older(a, b *corev1.Pod) bool {
	x, xerr := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, yerr := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return xerr == nil && yerr == nil && x < y
}

// knows says whether a pod is being tracked.
func (t *tracker) knows(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[uid] != nil
}

// close stops handing out runs. What is seen of pods is still taken.
func (t *tracker) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// advance hands a run to whoever must read it, the first time there is a reason.
func (t *tracker) advance(r *run) {
	if r.begun || t.closed {
		return
	}
	m := r.moment()
	switch {
	case m.dying && !m.ended():
		r.begun = true
		t.work(r, prioDying)
	case m.ended():
		r.begun = true
		t.work(r, urgency(m))
	case r.headAt.IsZero():
		r.headAt = time.Now()
		t.probe(r)
	}
}

// urgency orders ended runs by how soon their logs will vanish.
func urgency(m moment) priority {
	switch {
	case m.podGone || m.dying:
		return prioDying
	case m.slot != slotCurrent:
		return prioRestart
	case m.pod.Status.Phase != corev1.PodSucceeded && m.pod.Status.Phase != corev1.PodFailed:
		return prioRestart // the container may start again at any moment
	case len(m.pod.OwnerReferences) > 0:
		return prioOwned
	}
	return prioFinished
}

// forget drops a run that has its record and that no status will show again.
func (t *tracker) forget(ps *podState, id runID, r *run) {
	if r.done && (r.slot == slotNone || ps.gone) {
		delete(ps.runs, id)
	}
	if ps.gone && len(ps.runs) == 0 {
		delete(t.pods, id.podUID)
	}
}

// finish notes that the run has its record.
func (r *run) finish() {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.done = true
	r.tracker.forget(r.pod, r.id, r)
}

// now returns what is known of the run at this moment.
func (r *run) now() moment {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.moment()
}

func (r *run) moment() moment {
	return moment{
		pod: r.pod.pod, slot: r.slot, term: r.term, podGone: r.pod.gone,
		dying: r.pod.pod.DeletionTimestamp != nil, changed: r.changed,
	}
}

// witnessHead notes the stamp of the first line of the run's log, as a probe saw it while the run
// went on. It counts as the log's true beginning if it was written within two seconds of the start
// (startedAt has whole seconds), or if an earlier probe found the log empty.
func (r *run) witnessHead(first time.Time) (known bool) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	young := time.Since(r.startedAt) < 10*time.Second // before the kubelet's first look at the file's size, as a rule
	switch {
	case first.IsZero():
		r.headOK = r.headOK || young
		return false
	case r.head.IsZero():
		r.head = first
		r.headOK = r.headOK || first.Sub(r.startedAt) < 2*time.Second
	}
	return true
}

// seenEmpty says whether the log was seen empty while the run was young.
func (r *run) seenEmpty() bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.headOK && r.head.IsZero()
}

// witnessedHead returns the stamp of the log's first line, if it was witnessed.
func (r *run) witnessedHead() (time.Time, bool) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.head, r.headOK && !r.head.IsZero()
}
