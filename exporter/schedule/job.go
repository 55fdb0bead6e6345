package schedule

import (
	"context"
	"sync"
	"time"
)

// job is one schedule at work. All but the fields of storing is guarded by the Runner's lock.
type job struct {
	Entry
	name   string
	jitter time.Duration

	loading, loaded bool
	changed         bool      // what the State knows is of another line
	removed         bool      // from the set
	base            time.Time // starts up to here are dealt with
	due             time.Time // of the next one, with jitter; zero if it never comes

	active  []*active
	pending time.Time // what starts when those that are replaced have returned

	last                             time.Time
	started, failed, missed, skipped int64

	storing sync.Mutex
	stored  time.Time // what the State holds
}

// active is an export that goes on.
type active struct {
	cancel context.CancelCauseFunc
}

// schedule reckons when the next start is due.
func (j *job) schedule() {
	j.jitter = j.Schedule.JitterOf(j.name)
	j.due = j.Schedule.Next(j.base)
	if !j.due.IsZero() {
		j.due = j.due.Add(j.jitter)
	}
}

// advance deals with what is due; the Runner's lock is held.
func (r *Runner) advance(j *job, now time.Time) {
	if j.base.Sub(now) > maxAhead {
		r.opts.Log.Warn("the clock was set back: schedule is counted from now on", "schedule", j.name, "from", j.base)
		j.base = now
		j.schedule()
		r.store(j, now)
	}
	if j.due.IsZero() || now.Before(j.due) {
		return
	}
	scheduled, n := j.Schedule.missed(j.base, now.Add(-j.jitter))
	if n == 0 {
		return
	}
	j.base = scheduled
	j.schedule()
	late := now.Sub(scheduled) - j.jitter
	switch {
	case j.Schedule.spec.Suspend:
		r.store(j, scheduled)
		return
	case j.Schedule.spec.CatchUp == CatchUpNone && late > Grace, j.tooLate(late):
		j.missed += n
		r.opts.Log.Warn("exports missed", "schedule", j.name, "count", n, "last", scheduled, "late", late)
		r.store(j, scheduled)
		return
	case n > 1:
		j.missed += n - 1
		r.opts.Log.Warn("exports missed, the last one is caught up", "schedule", j.name, "count", n-1, "last", scheduled, "late", late)
	}
	r.offer(j, scheduled)
}

// tooLate says whether an export must not start any more.
func (j *job) tooLate(late time.Duration) bool {
	d := j.Schedule.spec.StartingDeadline
	return d > 0 && late > d
}

// offer starts an export, or not, as the schedule's policy wants.
func (r *Runner) offer(j *job, scheduled time.Time) {
	policy := j.Schedule.spec.ConcurrencyPolicy
	switch {
	case len(j.active) == 0, policy == Allow && len(j.active) < MaxConcurrent:
		r.start(j, scheduled)
	case policy == Replace:
		if !j.pending.IsZero() {
			j.skipped++
		}
		j.pending = scheduled
		for _, a := range j.active {
			a.cancel(errReplaced)
		}
	default:
		j.skipped++
		r.opts.Log.Warn("export skipped: the one before goes on", "schedule", j.name, "scheduled", scheduled, "running", len(j.active))
		r.store(j, scheduled)
	}
}

// next is when the next export is due, as the log has it.
func (j *job) next() any {
	if t := j.status().Next; !t.IsZero() {
		return t
	}
	return "never"
}

func (j *job) status() Status {
	spec := j.Schedule.Spec()
	s := Status{
		Name: j.name, Cron: spec.Cron, TimeZone: spec.TimeZone, Suspend: spec.Suspend,
		Last: j.last, Running: len(j.active),
		Started: j.started, Failed: j.failed, Missed: j.missed, Skipped: j.skipped,
	}
	if !spec.Suspend && !j.removed {
		s.Next = j.due
	}
	return s
}
