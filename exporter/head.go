package exporter

import (
	"slices"
	"time"
)

// fillsAFile is less than a container takes to fill a log file that does not write at full speed, see burst,
// with the kubelet's own containerLogMaxSize of 10 MiB.
const fillsAFile = 10 * time.Second

// witnessHead notes the stamp of the first line of the run's log, as a probe saw it while the run went
// on; zero if the log was empty. What comes after an empty log is its true beginning if the run was
// young then, for no kubelet looks at a log's size before it is some seconds old, as a rule; and if it comes
// soon enough that no file can have been filled and rotated away in between.
func (r *run) witnessHead(first time.Time) (known bool) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	switch {
	case first.IsZero() && r.spoke:
		return false
	case first.IsZero():
		r.headOK = r.headOK || time.Since(r.startedAt) < r.tracker.fillsAFile
		r.emptyAt = time.Now()
		return false
	case r.head.IsZero():
		r.head = first
		r.headOK = r.headOK && first.Sub(r.emptyAt) < r.tracker.fillsAFile
	}
	return true
}

// speaks notes that a piece of the log's first line was seen, cut within its stamp: whatever is served later, the log is
// not empty.
func (r *run) speaks() {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.spoke = true
}

// silent says whether nothing of the log was ever seen.
func (r *run) silent() bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.head.IsZero() && !r.spoke
}

// stayedEmpty notes that a stream, opened at that time, brought nothing of the run's log until now.
func (r *run) stayedEmpty(opened time.Time) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	if r.emptySince(opened) {
		r.headOK, r.emptyAt = true, time.Now()
	}
}

// beginsEmpty says whether what a stream brings first that was opened at that time is the beginning of the run's log, if
// there was nothing then.
func (r *run) beginsEmpty(opened time.Time) bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.emptySince(opened)
}

// emptySince says whether a log that is empty at that time was so from its beginning on. The tracker's lock is held.
func (r *run) emptySince(at time.Time) bool {
	young := r.emptyAt.IsZero() && at.Sub(r.startedAt) < r.tracker.fillsAFile
	return r.head.IsZero() && !r.spoke && (young || r.headOK && at.Sub(r.emptyAt) < r.tracker.fillsAFile)
}

// emptyUntil says whether the log was seen empty while the run was young, and never otherwise until so soon
// before end that no file can have been filled and rotated away since.
func (r *run) emptyUntil(end time.Time) bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return r.headOK && r.head.IsZero() && end.Sub(r.emptyAt) < r.tracker.fillsAFile
}

// witnessedHead returns the stamp of the log's first line as it was seen while the run went on, zero if none was, and
// when it was seen empty last, if what came after that is its beginning.
func (r *run) witnessedHead() (first, empty time.Time) {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	if r.headOK {
		empty = r.emptyAt
	}
	return r.head, empty
}

// beganBefore says whether a line of the run's log was seen that is from before a stamp.
func (r *run) beganBefore(at time.Time) bool {
	seen, _ := r.witnessedHead()
	return !seen.IsZero() && seen.Before(at)
}

// holds notes the stamp of the first line of what was read as the run's log; zero notes nothing.
func (r *run) holds(first time.Time) {
	if first.IsZero() {
		return
	}
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	r.first = first
}

// laterHolds says whether a later run of the container holds a log that begins with a stamp. That one is not this run's:
// a run is asked for when it has begun, and the kubelet serves no log of a run before it by its name then.
func (r *run) laterHolds(first time.Time) bool {
	r.tracker.mu.Lock()
	defer r.tracker.mu.Unlock()
	return slices.ContainsFunc(r.pod.runs, func(o *run) bool {
		return o.id.container == r.id.container && o.restart > r.restart && !o.first.IsZero() && o.first.Equal(first)
	})
}
