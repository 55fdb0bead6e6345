package exporter

import (
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// tracker turns what is seen of pods into runs, and tells once for each run that there is work.
// It decides nothing about logs. All its methods return at once.
type tracker struct {
	mu     sync.Mutex
	pods   map[podKey]*podState
	away   map[string]mirrorAway // static pods without a mirror, by namespace/name
	closed bool
	// work is called with the lock held, once when a run needs reading: it only puts it on the queue. It
	// returns whether the run is wanted; if not, it is asked again at the next change.
	work func(*run, priority) bool
	// alive is called likewise when a run is first seen alive.
	alive func(*run)
	// finished is called likewise when a run has its record, dropped when a pod is gone and all of its have.
	finished func(*run)
	dropped  func(podKey)
	// noted is called likewise when a snapshot of a run was stored.
	noted func(*run)
	// lookFor is called without the lock, when a static pod has been without a mirror for long. It calls noMirror.
	lookFor func(*podInfo)
	// fillsAFile is the constant of that name, but for tests.
	fillsAFile time.Duration
}

type podState struct {
	pod  *podInfo // as last seen, slim
	gone bool
	away bool   // a static one, whose next mirror is waited for
	runs []*run // few, so that a list is smaller than a map
	// counted is, for each container, the highest restart count up to which every run is accounted for.
	counted []counted
	// remembered is true while the pod is known from the ledger only.
	remembered bool
}

type counted struct {
	container string
	restart   int32
}

func (ps *podState) run(id runID) *run {
	for _, r := range ps.runs {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (ps *podState) count(container string) (restart int32, ok bool) {
	for _, c := range ps.counted {
		if c.container == container {
			return c.restart, true
		}
	}
	return 0, false
}

func (ps *podState) setCount(container string, restart int32) {
	for i := range ps.counted {
		if ps.counted[i].container == container {
			ps.counted[i].restart = restart
			return
		}
	}
	ps.counted = append(ps.counted, counted{container, restart})
}

// run is one container run. Its exported-looking facts (id to firstSeenDead) never change; the rest
// belongs to the tracker's lock and is read through now.
type run struct {
	view
	tracker       *tracker
	pod           *podState
	firstSeenDead bool // it had ended when it was first seen: somebody may have archived it before
	missed        bool // it began and ended between two sights of its pod

	begun    bool          // handed to work
	hurried  bool          // handed to work again, because its pod began to be deleted
	alive    bool          // was seen alive
	recalled bool          // an earlier process knew it, or the runs before it
	done     bool          // has its record
	probed   bool          // its head is looked for
	capture  *capture      // the queue's, touched under the tracker's lock only by whoever hands work out
	head     time.Time     // stamp of the first line of the file, as a probe saw it; zero if it was empty
	first    time.Time     // stamp of the first line of what was read as its log; zero until there is one
	stored   string        // key of the last snapshot of it
	spoke    bool          // a piece of its first line was seen, and not its stamp
	headOK   bool          // the log was seen empty while the run was young, so that head is where it began
	emptyAt  time.Time     // when it was seen empty last
	endSeen  time.Time     // when the status first showed its end
	changed  chan struct{} // closed at the next change; nil if nobody waits for it
}

// moment is what is known of a run at one moment.
type moment struct {
	pod     *podInfo
	slot    slot
	term    *corev1.ContainerStateTerminated
	podGone bool
	away    bool // its pod is a static one without a mirror
	dying   bool
	final   bool      // the container is not started again
	endSeen time.Time // zero while the end is not known
	// remembered: the run is known from the ledger of an earlier process, and its pod was not seen since.
	remembered bool
}

func newTracker(work func(*run, priority) bool, alive func(*run), finished func(*run), noted func(*run)) *tracker {
	return &tracker{pods: make(map[podKey]*podState), work: work, alive: alive, finished: finished, noted: noted, fillsAFile: fillsAFile}
}

// observe takes a pod as the API server shows it, or shows it for the last time.
func (t *tracker) observe(pod *podInfo, deleted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ps := t.pods[pod.key()]
	if ps == nil {
		if deleted {
			return // never seen alive by this process: nothing is known of its runs
		}
		ps = &podState{}
		t.pods[pod.key()] = ps
		ps.countFrom(pod)
	}
	if deleted && ps.earlierMirror(pod) {
		return
	}
	recalled, known := ps.remembered && !deleted, ps.pod != nil
	if recalled {
		ps.remembered = false
		ps.countFrom(pod)
		for _, r := range ps.runs {
			r.alive = false // as far as this process knows
		}
	}
	if len(ps.counted) == 0 && pod.mirror != "" { // it had no status when it was first seen
		ps.countFrom(pod)
	}
	if ps.pod != nil && (older(pod, ps.pod) || deleted && pod.version == "") {
		pod = ps.pod // the watch lags behind what was read directly, or nothing more is told than the deletion
	} else if pod.mirror != "" && !deleted && (ps.pod == nil || pod.mirror != ps.pod.mirror || older(ps.pod, pod)) {
		t.mirrorBack(pod)
		ps.gone = false
	}
	ps.pod = ps.mirrored(pod)
	for _, r := range ps.runs {
		r.slot = slotNone
	}
	for _, v := range slices.Concat(ps.pod.runs, ps.unseen(ps.pod)) {
		r := ps.run(v.id)
		if r == nil {
			r = t.newRun(ps, v)
			r.recalled, r.missed = recalled && v.unseen, known && (v.unseen || v.term != nil)
		}
		r.slot = v.slot
		if v.term != nil {
			r.term = v.term
			if r.endSeen.IsZero() {
				r.endSeen = time.Now()
			}
		}
	}
	ps.gone = ps.gone || deleted && !t.mayReturn(ps)
	t.settle(ps)
}

// lose notes that a pod is gone, and that nothing more will be told of it.
func (t *tracker) lose(ps *podState) {
	ps.gone, ps.away = true, false
	for _, r := range ps.runs {
		r.slot = slotNone
	}
	t.settle(ps)
}

func (t *tracker) newRun(ps *podState, v view) *run {
	r := &run{view: v, tracker: t, pod: ps, firstSeenDead: v.term != nil}
	ps.runs = append(ps.runs, r)
	return r
}

// settle tells everybody who waits for a change, hands out what has become work and drops what is done.
func (t *tracker) settle(ps *podState) {
	for _, r := range slices.Clone(ps.runs) {
		if r.changed != nil {
			close(r.changed)
			r.changed = nil
		}
		t.advance(r)
		t.forget(ps, r)
	}
	t.drop(ps)
}

// drop forgets a pod that is gone, once nothing more is to be done for its runs, if it had any.
func (t *tracker) drop(ps *podState) {
	if ps.gone && len(ps.runs) == 0 {
		delete(t.pods, ps.pod.key())
		if t.dropped != nil {
			t.dropped(ps.pod.key())
		}
	}
}

// countFrom begins the account of a pod that is first seen now. What a container has run before its
// oldest visible run was over before anybody watched; a container without any run begins at 0.
func (ps *podState) countFrom(pod *podInfo) {
	oldest := make(map[string]int32)
	for _, v := range pod.runs {
		if n, ok := oldest[v.id.container]; !ok || v.restart < n {
			oldest[v.id.container] = v.restart
		}
	}
	for name, n := range oldest {
		if _, ok := ps.count(name); !ok {
			ps.setCount(name, n-1)
		}
	}
}

// unseen returns the runs that the restart count has passed over since the last look: they ended,
// their container IDs were never shown, and each gets a record that says so.
func (ps *podState) unseen(pod *podInfo) []view {
	var missing []view
	shown := make(map[string]map[int32]bool)
	newest := make(map[string]view)
	for _, v := range pod.runs {
		name := v.id.container
		if shown[name] == nil {
			shown[name] = make(map[int32]bool)
		}
		shown[name][v.restart] = true
		if v.restart >= newest[name].restart {
			newest[name] = v
		}
	}
	for name, v := range newest {
		from, ok := ps.count(name)
		if !ok {
			from = -1
		}
		for n := from + 1; n <= v.restart; n++ {
			if shown[name][n] || ps.hasRun(name, n) {
				continue
			}
			missing = append(missing, view{
				id:     runID{podUID: pod.uid, container: name, containerID: unseenID + strconv.Itoa(int(n))},
				unseen: true, kind: v.kind, image: v.image, restart: n,
			})
		}
		ps.setCount(name, max(from, v.restart))
	}
	return missing
}

func (ps *podState) hasRun(container string, restart int32) bool {
	for _, r := range ps.runs {
		if r.id.container == container && r.restart == restart {
			return true
		}
	}
	return false
}

// remember takes a run that an earlier process had seen alive and that has no record yet.
func (t *tracker) remember(pod *podInfo, v view, stored string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ps := t.pods[pod.key()]
	if ps == nil {
		ps = &podState{}
		ps.pod, ps.remembered = pod, true
		t.pods[pod.key()] = ps
	}
	if pod.mirror != "" { // a new mirror may not show it for some seconds
		goesOn := v
		goesOn.slot = slotCurrent
		shown := *ps.pod
		shown.runs = append(slices.Clip(shown.runs), goesOn)
		ps.pod = &shown
	}
	if n, ok := ps.count(v.id.container); !ok || v.restart > n {
		ps.setCount(v.id.container, v.restart)
	}
	r := t.newRun(ps, v)
	r.alive, r.recalled, r.stored = true, true, stored
}

// vanished ends the runs of the pods that an earlier process knew and that are no longer there, after
// every pod of the namespace, or of all namespaces, has been seen.
func (t *tracker) vanished(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ps := range t.pods {
		if ps.remembered && (namespace == "" || namespace == ps.pod.namespace) {
			if ps.pod.mirror != "" {
				t.await(ps)
			} else {
				t.lose(ps)
			}
		}
	}
}

// older compares two states of one object. Resource versions of one resource are ordered numbers
// (KEP-5504); where they are not, the later sight counts.
func older(a, b *podInfo) bool {
	x, xerr := strconv.ParseUint(a.version, 10, 64)
	y, yerr := strconv.ParseUint(b.version, 10, 64)
	return xerr == nil && yerr == nil && x < y
}

// knows says whether a pod is being tracked.
func (t *tracker) knows(pod podKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[pod] != nil
}

// running returns the runs that go on, as far as is known.
func (t *tracker) running() []*run {
	t.mu.Lock()
	defer t.mu.Unlock()
	var runs []*run
	for _, ps := range t.pods {
		for _, r := range ps.runs {
			if m := r.moment(); !m.ended() && !m.dying && !r.unseen && !m.remembered {
				runs = append(runs, r)
			}
		}
	}
	return runs
}

// handedOut says whether the run was handed to work.
func (r *run) handedOut() bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.begun
}

// release gives a run back that was only looked at, and says whether that is all. It is not if the run
// was handed to work meanwhile: then the capture goes on.
func (r *run) release() bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	if r.begun {
		return false
	}
	r.capture = nil
	return true
}

// close stops handing out runs. What is seen of pods is still taken.
func (t *tracker) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// advance hands a run to whoever must read it, the first time there is a reason, and once more when
// its pod begins to be deleted.
func (t *tracker) advance(r *run) {
	if t.closed || r.done {
		return
	}
	m := r.moment()
	if !r.alive && !r.unseen && !r.firstSeenDead {
		r.alive = true
		t.alive(r)
	}
	hurry := (m.dying || m.podGone) && !r.hurried
	if r.begun && !hurry {
		return
	}
	switch {
	case m.dying && !m.ended():
		r.begun = t.work(r, prioDying)
		r.hurried = r.begun
	case m.ended():
		r.begun = t.work(r, urgency(m))
		r.hurried = r.begun && (hurry || r.hurried)
		if !r.begun && (m.podGone || m.slot == slotNone) {
			t.end(r) // nobody wants it, and nothing more will be seen of it
		}
	}
}

// reconsider offers all runs again that nobody wanted.
func (t *tracker) reconsider() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ps := range t.pods {
		for _, r := range ps.runs {
			if r.capture == nil && !r.begun && !ps.remembered {
				r.alive = false
			}
		}
		t.settle(ps)
	}
}

// urgency orders ended runs by how soon their logs will vanish.
func urgency(m moment) priority {
	switch {
	case m.podGone, m.dying, m.evicted() && !m.endedLongAgo():
		return prioDying
	case m.slot != slotCurrent:
		return prioRestart
	case m.pod.phase != corev1.PodSucceeded && m.pod.phase != corev1.PodFailed:
		return prioRestart // the container may start again at any moment
	case len(m.pod.owners) > 0:
		return prioOwned
	}
	return prioFinished
}

// forget drops a run that has its record and that no status will show again.
func (t *tracker) forget(ps *podState, r *run) {
	if r.done && (r.slot == slotNone || ps.gone) {
		ps.runs = slices.DeleteFunc(ps.runs, func(other *run) bool { return other == r })
	}
	t.drop(ps)
}

// finish notes that the run has its record.
func (r *run) finish() {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.tracker.end(r)
	r.tracker.forget(r.pod, r)
}

// end notes that nothing more is to be done for a run.
func (t *tracker) end(r *run) {
	r.done = true
	t.finished(r)
}

// now returns what is known of the run at this moment.
func (r *run) now() moment {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.moment()
}

// watch returns what is known of the run, and a channel that is closed at the next change of it.
func (r *run) watch() (moment, <-chan struct{}) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.moment(), r.changed
}

func (r *run) moment() moment {
	return moment{
		pod: r.pod.pod, slot: r.slot, term: r.term, podGone: r.pod.gone, away: r.pod.away,
		final: r.kind == bundle.TypeContainer && (r.pod.pod.never || r.pod.pod.untilSuccess && r.term != nil && r.term.ExitCode == 0),
		dying: r.pod.pod.dying(), endSeen: r.endSeen, remembered: r.pod.remembered,
	}
}

// storedUnder returns the key of the run's last snapshot, empty if none is known.
func (r *run) storedUnder() string {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.stored
}

// storeUnder notes that a snapshot of the run was stored.
func (r *run) storeUnder(key string) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.stored = key
	r.tracker.noted(r)
}
