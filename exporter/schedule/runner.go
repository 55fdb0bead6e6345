package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

const (
	// lookEvery is how often the clock is looked at, whatever the timer: a timer does not see that the clock
	// was set, or that the machine slept.
	lookEvery = 30 * time.Second
	// stateTimeout bounds each call of the State.
	stateTimeout = 10 * time.Second
	// maxAhead is how far a time in the State may lie in the future: clocks of two leaders differ, but a
	// clock that was wrong by a year must not stop a schedule for a year.
	maxAhead = time.Hour
)

// errReplaced is why the context of an export ends that is replaced.
var errReplaced = errors.New("replaced by a newer export")

// Entry is a schedule with what it starts.
type Entry struct {
	Schedule *Schedule
	// Export does the work. The context ends when it is replaced, or when the Runner stops; it must
	// return then. The time is that of the schedule, without jitter: the same for every attempt and
	// every leader. A panic is recovered and reported as an error.
	Export func(ctx context.Context, scheduled time.Time) error
}

// Options are what a Runner needs. All may be left out.
type Options struct {
	State State            // where the schedules are counted from after a restart; nil is nowhere
	Log   *slog.Logger     // nil is nowhere
	Now   func() time.Time // nil is time.Now
}

// Status tells about one schedule.
type Status struct {
	Name     string
	Cron     string
	TimeZone string
	Suspend  bool
	Last     time.Time // scheduled time of the last export that was started or, as long as this Runner has started none, dealt with
	Next     time.Time // when the next one is due, with jitter; zero if suspended or removed
	Running  int       // exports that go on
	Started  int64     // exports
	Failed   int64     // exports that returned an error or panicked
	Missed   int64     // not started because they were found too late; those that were suspended do not count
	Skipped  int64     // not started because another one went on, or another process was faster
}

// Runner starts the exports of schedules. It never starts two for the same scheduled time, unless its
// State could not be stored, nor do two Runners with a State that they share. Make one with NewRunner. Its
// methods may be called at any time, from any goroutine but those of its State.
type Runner struct {
	opts Options
	wake chan struct{}
	look time.Duration // lookEvery, longer in a test

	running sync.WaitGroup // exports, loads and stores

	mu   sync.Mutex
	ctx  context.Context // of Run; nil before
	jobs map[string]*job
	gone map[string]struct{} // names that were removed
}

// NewRunner returns a Runner without schedules.
func NewRunner(o Options) *Runner {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Runner{opts: o, wake: make(chan struct{}, 1), look: lookEvery, jobs: make(map[string]*job), gone: make(map[string]struct{})}
}

// Run starts exports until the context ends, then cancels those that go on and returns when the last
// one has. A Runner runs once.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	if r.ctx != nil {
		r.mu.Unlock()
		return errors.New("run schedules: the runner was started before")
	}
	r.ctx = ctx
	r.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.running.Wait()
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		r.mu.Lock()
		timer.Reset(r.step(r.now()))
		r.mu.Unlock()
	}
}

// now has no monotonic clock: what counts is what the clock shows, also after it was set.
func (r *Runner) now() time.Time { return r.opts.Now().Round(0) }

// step starts what is due and returns how long there is nothing to do. The lock is held.
func (r *Runner) step(now time.Time) time.Duration {
	wait := r.look
	for _, j := range r.jobs {
		if !j.loaded {
			r.load(j)
			continue
		}
		if j.removed {
			continue
		}
		r.advance(j, now)
		if !j.due.IsZero() {
			wait = min(wait, max(j.due.Sub(now), 0))
		}
	}
	return wait
}

// Set replaces the set of schedules. What did not change keeps its state and is not disturbed; a
// schedule with another line or zone is counted from now on. An export of a schedule that is no longer in
// the set goes on to its end. Schedule and Export of each entry must be set.
func (r *Runner) Set(entries map[string]Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.ctx != nil && r.ctx.Err() == nil {
		r.step(now) // what is due is due by the old set
	}
	for name, j := range r.jobs {
		if _, ok := entries[name]; !ok && !j.removed {
			r.opts.Log.Info("schedule removed", "schedule", name, "running", len(j.active))
			j.removed, j.pending = true, time.Time{}
			r.forget(j)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		r.set(name, entries[name], now)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) set(name string, e Entry, now time.Time) {
	spec := e.Schedule.Spec()
	j := r.jobs[name]
	if j == nil {
		j = &job{name: name, base: now}
		r.jobs[name] = j
		if _, j.changed = r.gone[name]; j.changed {
			delete(r.gone, name)
			r.store(j, now)
		}
	} else if old := j.Schedule.Spec(); j.removed || old != spec {
		defer r.tell("schedule changed", j)
		if j.removed || old.Cron != spec.Cron || old.TimeZone != spec.TimeZone {
			j.base, j.changed = now, true
			r.store(j, now)
		}
	}
	j.Entry, j.removed = e, false
	j.schedule()
}

// Status tells about all schedules, by name.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Status, 0, len(r.jobs))
	for _, name := range slices.Sorted(maps.Keys(r.jobs)) {
		all = append(all, r.jobs[name].status())
	}
	return all
}

// load asks the State from where a schedule is counted; the lock is held. Until the answer is there
// nothing is started; without one, it is counted from when it was set.
func (r *Runner) load(j *job) {
	if j.loading {
		return
	}
	j.loading = true
	r.running.Go(func() {
		var last time.Time
		var err error
		if r.opts.State != nil {
			ctx, cancel := context.WithTimeout(r.ctx, stateTimeout)
			defer cancel()
			last, err = r.opts.State.Load(ctx, j.name)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case err != nil:
			r.opts.Log.Warn("no state of schedule: what was missed is not caught up", "schedule", j.name, "err", err)
		case j.changed:
		case last.IsZero():
			r.store(j, j.base) // "@every 24h" counts from here, also after a restart
		default:
			j.base = last
			if j.Schedule.Starts(last) {
				j.last = last
			}
		}
		j.loaded = true
		j.schedule()
		if !j.removed {
			r.tell("schedule set", j) // not before: only now it is known when it starts
		}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
}

// tell logs what a schedule is, and when it starts next; the lock is held.
func (r *Runner) tell(what string, j *job) {
	spec := j.Schedule.Spec()
	r.opts.Log.Info(what, "schedule", j.name, "cron", spec.Cron, "zone", spec.TimeZone, "suspend", spec.Suspend, "next", j.next())
}

// store keeps in the State that a schedule is counted from a time; the lock is held. It does not wait.
func (r *Runner) store(j *job, t time.Time) {
	if r.opts.State == nil || r.ctx == nil || r.ctx.Err() != nil {
		return
	}
	r.running.Go(func() { _ = r.storeNow(j, t) }) // nothing is to be started
}

// storeNow returns ErrTaken if another process deals with what is due at t, else nil: an export is
// rather started twice than not at all.
func (r *Runner) storeNow(j *job, t time.Time) error {
	if r.opts.State == nil {
		return nil
	}
	j.storing.Lock()
	defer j.storing.Unlock()
	if !t.After(j.stored) && j.stored.Sub(t) < maxAhead {
		return nil // a later call was faster
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), stateTimeout)
	defer cancel()
	err := r.opts.State.Store(ctx, j.name, t)
	switch {
	case errors.Is(err, ErrTaken):
		return ErrTaken
	case err != nil:
		r.opts.Log.Warn("state of schedule not stored: a restart may start an export again", "schedule", j.name, "scheduled", t, "err", err)
		return nil
	}
	j.stored = t
	return nil
}

// start begins an export; the lock is held.
func (r *Runner) start(j *job, scheduled time.Time) {
	ctx, cancel := context.WithCancelCause(r.ctx)
	a := &active{cancel: cancel}
	j.active = append(j.active, a)
	j.last = scheduled
	j.started++
	export := j.Export
	r.running.Go(func() {
		err := errors.New("the export ended its goroutine") // runtime.Goexit
		defer func() { r.ended(j, a, scheduled, context.Cause(ctx), err) }()
		// Before it starts: an export that brings the program down is not started again and again.
		if taken := r.storeNow(j, scheduled); taken != nil {
			err = taken
			return
		}
		err = protect(ctx, export, scheduled)
	})
}

// protect turns a panic into an error.
func protect(ctx context.Context, export func(context.Context, time.Time) error, scheduled time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the export panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return export(ctx, scheduled)
}

// ended notes how an export ended and starts the one that replaces it.
func (r *Runner) ended(j *job, a *active, scheduled time.Time, cause, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.cancel(nil)
	now := r.now()
	j.active = slices.DeleteFunc(j.active, func(b *active) bool { return a == b })
	switch {
	case err == nil:
		r.opts.Log.Info("export done", "schedule", j.name, "scheduled", scheduled, "next", j.next())
	case errors.Is(err, ErrTaken):
		j.started--
		j.skipped++
		r.opts.Log.Info("export left to another process", "schedule", j.name, "scheduled", scheduled)
	case errors.Is(cause, errReplaced):
		r.opts.Log.Info("export replaced", "schedule", j.name, "scheduled", scheduled)
	default:
		j.failed++
		r.opts.Log.Warn("export failed", "schedule", j.name, "scheduled", scheduled, "err", err)
	}
	r.forget(j)
	if len(j.active) > 0 || j.pending.IsZero() || r.ctx.Err() != nil {
		return
	}
	next := j.pending
	j.pending = time.Time{}
	if j.tooLate(now.Sub(next) - j.jitter) {
		j.missed++
		r.opts.Log.Warn("export missed: the one before ended too late", "schedule", j.name, "scheduled", next)
		r.store(j, next)
		return
	}
	r.start(j, next)
}

// forget drops a job that was removed and has nothing to do any more; the lock is held.
func (r *Runner) forget(j *job) {
	if j.removed && len(j.active) == 0 && r.jobs[j.name] == j {
		delete(r.jobs, j.name)
		r.gone[j.name] = struct{}{}
	}
}
