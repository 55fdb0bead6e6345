package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"time"

	_ "time/tzdata" // an image without a system has no zones

	"github.com/robfig/cron/v3"
)

// ConcurrencyPolicy says what happens when an export is due and the one before still goes on. The names
// are those of Kubernetes' CronJob.
type ConcurrencyPolicy string

// The policies.
const (
	Forbid  ConcurrencyPolicy = "Forbid"  // the new export is skipped; the default
	Allow   ConcurrencyPolicy = "Allow"   // both go on, up to MaxConcurrent
	Replace ConcurrencyPolicy = "Replace" // the old export is cancelled; when it has returned, the new one starts
)

// MaxConcurrent is how many exports of one schedule with the policy Allow go on at a time. Further ones
// are skipped: a schedule whose exports never end must not fill the memory.
const MaxConcurrent = 8

// CatchUp says what happens to exports that were missed because no runner was there: the program was down,
// another one was the leader, the machine slept, or the clock jumped.
type CatchUp string

// The ways to catch up.
const (
	CatchUpNone CatchUp = "none" // an export that is found more than Grace late is not started; the default
	CatchUpLast CatchUp = "last" // the last export that was missed is started, however late, within StartingDeadline
)

const (
	// Grace is how late an export may be found and still be on time: twice the time between two looks at
	// the clock, and enough for another leader to take over.
	Grace = time.Minute
	// maxJitter is a day: more is a mistake.
	maxJitter = 24 * time.Hour
	// maxWalk is how many missed exports are counted one by one.
	maxWalk = 10_000
)

// Spec describes a schedule. The zero value of every field but Cron is its default.
type Spec struct {
	Cron              string // five fields or a descriptor, see the package's documentation
	TimeZone          string // of the IANA database; UTC if empty
	ConcurrencyPolicy ConcurrencyPolicy
	// StartingDeadline is how late an export may start at most, counted from when it was due; 0 is no limit.
	// At least Grace, since the clock is not looked at all the time. An export may be late because it was
	// missed, with CatchUpLast, or because it had to wait for the one that it replaces.
	StartingDeadline time.Duration
	CatchUp          CatchUp
	// Jitter spreads the exports of schedules with the same line: each is due later by a time from 0 to
	// below Jitter that depends on its name alone. It must be shorter than the time between two starts.
	Jitter  time.Duration
	Suspend bool // no exports are started, and none is caught up later
	// WatchFor is how long a window stays open that each start opens, see Window. 0 is no window. With it what
	// is said of exports that are late, missed or skipped must be left out.
	WatchFor time.Duration
}

// Schedule is a Spec that was read. It is never changed, so it may be shared.
type Schedule struct {
	spec Spec
	line parsed
	zone *time.Location
}

// Parse reads a Spec and fills in its defaults. The error names all that is wrong with it.
func Parse(s Spec) (*Schedule, error) {
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = Forbid
	}
	if s.CatchUp == "" {
		s.CatchUp = CatchUpNone
	}
	sched := &Schedule{spec: s}
	var lineErr, zoneErr error
	sched.line, lineErr = parseLine(s.Cron)
	sched.zone, zoneErr = loadZone(s.TimeZone)
	errs := []error{lineErr, zoneErr}
	if sched.line.every != nil && s.WatchFor > 0 {
		errs = append(errs, fmt.Errorf("schedule %q with watchFor: name the times at which a window opens, @every is counted from nowhere", s.Cron))
	}
	if lineErr == nil && zoneErr == nil {
		errs = append(errs, sched.checkRuns())
	}
	if err := errors.Join(append(errs, s.check())...); err != nil {
		return nil, err
	}
	return sched, nil
}

func (s Spec) check() error {
	var errs []error
	switch s.ConcurrencyPolicy {
	case Forbid, Allow, Replace:
	default:
		errs = append(errs, fmt.Errorf("concurrencyPolicy %q is none of %s, %s, %s", s.ConcurrencyPolicy, Forbid, Allow, Replace))
	}
	switch s.CatchUp {
	case CatchUpNone, CatchUpLast:
	default:
		errs = append(errs, fmt.Errorf("catchUp %q is none of %s, %s", s.CatchUp, CatchUpNone, CatchUpLast))
	}
	if s.StartingDeadline != 0 && s.StartingDeadline < Grace {
		errs = append(errs, fmt.Errorf("startingDeadline %s is shorter than the least, %s; 0 is no limit", s.StartingDeadline, Grace))
	}
	if s.Jitter < 0 || s.Jitter > maxJitter {
		errs = append(errs, fmt.Errorf("jitter %s is not within 0 and %s", s.Jitter, maxJitter))
	}
	if s.WatchFor < 0 {
		errs = append(errs, fmt.Errorf("watchFor %s is negative", s.WatchFor))
	}
	if s.WatchFor > 0 {
		errs = append(errs, s.checkWindow())
	}
	return errors.Join(errs...)
}

// checkWindow refuses what is said of starts only. A window has none that could be late, missed or skipped:
// a run belongs to it if it ends in it, whenever that is learned, so the words would promise what nobody does.
func (s Spec) checkWindow() error {
	var errs []error
	for _, word := range []struct {
		key   string
		value any
		set   bool
	}{
		{"concurrencyPolicy", s.ConcurrencyPolicy, s.ConcurrencyPolicy != Forbid},
		{"startingDeadline", s.StartingDeadline, s.StartingDeadline != 0},
		{"catchUp", s.CatchUp, s.CatchUp != CatchUpNone},
		{"jitter", s.Jitter, s.Jitter != 0},
	} {
		if word.set {
			errs = append(errs, fmt.Errorf("%s %v means nothing with watchFor: a run belongs to the window that it ends in, whenever that is learned", word.key, word.value))
		}
	}
	return errors.Join(errs...)
}

// checkRuns refuses lines that never run, such as "0 0 30 2 *", and a jitter that would mix up starts.
func (s *Schedule) checkRuns() error {
	at := s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) // from a fixed day, so that an answer never changes
	if at.IsZero() {
		return fmt.Errorf("schedule %q never runs: there is no such day", s.spec.Cron)
	}
	for range 50 {
		next := s.Next(at)
		if gap := next.Sub(at); s.spec.Jitter >= gap && s.spec.Jitter > 0 {
			return fmt.Errorf("jitter %s is not shorter than the %s between two starts of %q", s.spec.Jitter, gap, s.spec.Cron)
		}
		at = next
	}
	return nil
}

// Spec returns what the schedule was made of, with its defaults.
func (s *Schedule) Spec() Spec { return s.spec }

// Next returns the first start after a time, without jitter, in the schedule's zone. It is always later
// than after, for times between 1970 and 2200.
func (s *Schedule) Next(after time.Time) time.Time {
	after = after.Round(0).In(s.zone)
	switch {
	case s.line.every != nil:
		return s.line.every.Next(after)
	case s.line.interval:
		return s.nextInterval(after)
	}
	return s.nextFixed(after)
}

// A wall time is what the clock on the wall shows, as a time in UTC. robfig/cron reckons with wall times
// only, so that none of its steps crosses a change of the clock: across one it skips starts, and it
// is wrong about clocks that change by half an hour or at midnight.

func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// nextWall is the first match after a wall time, zero if there is none. robfig/cron gives up after five
// years, but between two 29ths of February there may be eight.
func nextWall(spec *cron.SpecSchedule, after time.Time) time.Time {
	for range 3 {
		if t := spec.Next(after); !t.IsZero() {
			return t
		}
		after = after.AddDate(5, 0, 0)
	}
	return time.Time{}
}

// nextFixed: each matching wall time is one start, at the instant that instant says.
func (s *Schedule) nextFixed(after time.Time) time.Time {
	for w := wall(after); ; {
		if w = nextWall(s.line.spec, w); w.IsZero() {
			return w
		}
		// In the second pass through an overlap the wall times have had their start.
		if t := s.instant(w); t.After(after) {
			return t
		}
	}
}

// instant says when the clock of the zone shows a wall time for the first time, or jumps over it.
func (s *Schedule) instant(w time.Time) time.Time {
	// No zone is further than 14 hours from UTC, so the first period looked at is not too late.
	for at := w.Add(-26 * time.Hour).In(s.zone); ; {
		start, end := at.ZoneBounds()
		_, offset := at.Zone()
		t := w.Add(-time.Duration(offset) * time.Second)
		switch {
		case t.Before(start): // in the gap before this period
			return ceilMinute(start.In(s.zone))
		case end.IsZero() || t.Before(end):
			return t.In(s.zone)
		}
		at = end.In(s.zone)
	}
}

// ceilMinute: zones changed their clocks within a minute a hundred years ago.
func ceilMinute(t time.Time) time.Time {
	if m := t.Truncate(time.Minute); m.Before(t) {
		return m.Add(time.Minute)
	}
	return t
}

// nextInterval: every instant whose wall time matches is a start.
func (s *Schedule) nextInterval(after time.Time) time.Time {
	for {
		_, end := after.ZoneBounds()
		_, offset := after.Zone()
		w := nextWall(s.line.spec, wall(after))
		if w.IsZero() {
			return w
		}
		t := w.Add(-time.Duration(offset) * time.Second).In(s.zone)
		if end.IsZero() || t.Before(end) {
			return t
		}
		after = end.In(s.zone)
		if matches(s.line.spec, wall(after)) {
			return after
		}
	}
}

// matches says whether a wall time itself is a match.
func matches(spec *cron.SpecSchedule, w time.Time) bool {
	return spec.Next(w.Add(-time.Second)).Equal(w)
}

// missed returns the last start after a time and not after now, and how many there were; the count ends at
// maxWalk. The time is zero if there was none.
func (s *Schedule) missed(after, now time.Time) (last time.Time, n int64) {
	if e := s.line.every; e != nil {
		first := e.Next(after)
		if first.After(now) {
			return time.Time{}, 0
		}
		more := int64(now.Sub(first) / e.Delay)
		return first.Add(time.Duration(more) * e.Delay), more + 1
	}
	for t := s.Next(after); !t.IsZero() && !t.After(now); t = s.Next(t) {
		last = t
		if n++; n == maxWalk {
			return s.lastBefore(t, now), n
		}
	}
	return last, n
}

// lastBefore finds the last start not after now without a walk through all from known, which is one.
func (s *Schedule) lastBefore(known, now time.Time) time.Time {
	for back := time.Hour; back < now.Sub(known); back *= 2 {
		if t := s.Next(now.Add(-back)); !t.After(now) {
			known = t
			break
		}
	}
	for t := s.Next(known); !t.IsZero() && !t.After(now); t = s.Next(t) {
		known = t
	}
	return known
}

// Last returns the last start not after a time, without jitter. It is zero for an "@every", which is counted from
// nowhere.
func (s *Schedule) Last(t time.Time) time.Time {
	if s.line.every != nil {
		return time.Time{}
	}
	from := t.AddDate(-9, 0, 0) // there are eight years at most between two starts
	if last := s.lastBefore(from, t); last.After(from) {
		return last
	}
	return time.Time{}
}

// Starts says whether a time that a State holds is one of a start; otherwise the schedule was set then. Starts
// are whole seconds, also those of an "@every".
func (s *Schedule) Starts(t time.Time) bool {
	if s.line.every != nil {
		return t.Equal(t.Truncate(time.Second))
	}
	return s.Next(t.Add(-time.Second)).Equal(t)
}

// Window returns the start of the window that a time lies in: WatchFor from each start on. Of windows that
// overlap it is the earliest. A schedule that is suspended, or has no WatchFor, has no windows.
func (s *Schedule) Window(t time.Time) (start time.Time, open bool) {
	if s.spec.WatchFor <= 0 || s.spec.Suspend {
		return time.Time{}, false
	}
	start = s.Next(t.Add(-s.spec.WatchFor))
	return start, !start.IsZero() && !start.After(t)
}

// JitterOf returns by how much later than Next says the exports of a schedule of this name are due.
func (s *Schedule) JitterOf(name string) time.Duration {
	if s.spec.Jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	x := h.Sum64() // FNV-1a leaves names that differ at their end close together, so mix
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x ^= x >> 33
	return time.Duration(float64(s.spec.Jitter) * (float64(x>>11) / math.Exp2(53))).Truncate(time.Second)
}
