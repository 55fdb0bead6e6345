package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal notes what is exported.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// take returns what was noted since the last call.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := strings.Join(j.lines, " ")
	j.lines = nil
	return s
}

const clock = "02T15:04:05"

// export takes a while, and notes its scheduled time, and its start if that is later.
func (j *journal) export(name string, takes time.Duration) func(context.Context, time.Time) error {
	return func(ctx context.Context, scheduled time.Time) error {
		late := time.Since(scheduled).Round(time.Second)
		j.note("%s@%s+%s", name, scheduled.UTC().Format(clock), late)
		select {
		case <-time.After(takes):
			return nil
		case <-ctx.Done():
			j.note("%s:cancelled", name)
			return ctx.Err()
		}
	}
}

// begin starts a new Runner. Inside a bubble the time is 2000-01-01T00:00:00Z.
func begin(t *testing.T, o Options, set map[string]Entry) (*Runner, func()) {
	t.Helper()
	r := NewRunner(o)
	return r, run(t, r, set)
}

// run starts a Runner and returns what stops it.
func run(t *testing.T, r *Runner, set map[string]Entry) func() {
	t.Helper()
	r.Set(set)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (j *journal) expect(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	if got := j.take(); got != want {
		t.Errorf("exports:\n got %s\nwant %s", got, want)
	}
}

func status(t *testing.T, r *Runner, name string) Status {
	t.Helper()
	synctest.Wait()
	for _, s := range r.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no schedule %s in %v", name, r.Status())
	return Status{}
}

func TestRunnerOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		state := newState()
		r, stop := begin(t, Options{State: state}, map[string]Entry{
			"a": {parse(t, Spec{Cron: "*/20 * * * *"}), log.export("a", time.Second)},
			"b": {parse(t, Spec{Cron: "30 0 * * *", TimeZone: "Europe/Berlin"}), log.export("b", time.Second)},
			"e": {parse(t, Spec{Cron: "@every 50m"}), log.export("e", time.Second)},
		})
		time.Sleep(time.Hour + time.Minute)
		log.expect(t, "a@01T00:20:00+0s a@01T00:40:00+0s e@01T00:50:00+0s a@01T01:00:00+0s")
		s := status(t, r, "a")
		if s.Started != 3 || s.Failed+s.Missed+s.Skipped != 0 || s.Running != 0 || s.Cron != "*/20 * * * *" || s.TimeZone != "" ||
			!s.Last.Equal(stamp(t, "2000-01-01T01:00:00Z")) || !s.Next.Equal(stamp(t, "2000-01-01T01:20:00Z")) {
			t.Errorf("status %+v", s)
		}
		if got := state.get("a"); !got.Equal(s.Last) {
			t.Errorf("state %s", got)
		}
		time.Sleep(22*time.Hour + 30*time.Minute) // to 23:31, when it is 00:31 in Berlin
		if got := log.take(); !strings.Contains(got, "b@01T23:30:00+0s") {
			t.Errorf("exports %s", got)
		}
		stop()
	})
}

func TestRunnerConcurrency(t *testing.T) {
	spec := func(p ConcurrencyPolicy) Spec { return Spec{Cron: "*/10 * * * *", ConcurrencyPolicy: p} }
	t.Run("Forbid", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			r, stop := begin(t, Options{}, map[string]Entry{"a": {parse(t, spec(Forbid)), log.export("a", 25*time.Minute)}})
			time.Sleep(41 * time.Minute)
			log.expect(t, "a@01T00:10:00+0s a@01T00:40:00+0s")
			if s := status(t, r, "a"); s.Skipped != 2 || s.Started != 2 || s.Running != 1 || s.Missed != 0 {
				t.Errorf("status %+v", s)
			}
			stop()
			log.expect(t, "a:cancelled")
		})
	})
	t.Run("Allow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			r, stop := begin(t, Options{}, map[string]Entry{"a": {parse(t, spec(Allow)), log.export("a", 1000*time.Hour)}})
			time.Sleep(101 * time.Minute)
			if s := status(t, r, "a"); s.Running != MaxConcurrent || s.Started != MaxConcurrent || s.Skipped != 2 {
				t.Errorf("status %+v", s)
			}
			stop()
		})
	})
	t.Run("Replace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			slow := func(ctx context.Context, scheduled time.Time) error { // takes three minutes to stop
				log.note("begin@%s", scheduled.Format(clock))
				<-ctx.Done()
				log.note("cause:%v", context.Cause(ctx))
				time.Sleep(3 * time.Minute)
				log.note("end@%s", time.Now().Format(clock))
				return ctx.Err()
			}
			r, stop := begin(t, Options{}, map[string]Entry{"a": {parse(t, spec(Replace)), slow}})
			time.Sleep(21 * time.Minute)
			log.expect(t, "begin@01T00:10:00 cause:replaced by a newer export")
			if s := status(t, r, "a"); s.Running != 1 {
				t.Errorf("status %+v", s)
			}
			time.Sleep(3 * time.Minute)
			log.expect(t, "end@01T00:23:00 begin@01T00:20:00")
			if s := status(t, r, "a"); s.Running != 1 || s.Started != 2 || s.Failed != 0 {
				t.Errorf("status %+v", s)
			}
			stop()
		})
	})
	t.Run("Replace what ends too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			stubborn := func(_ context.Context, scheduled time.Time) error {
				log.note("begin@%s", scheduled.Format(clock))
				time.Sleep(25 * time.Minute)
				return nil
			}
			s := spec(Replace)
			s.StartingDeadline = 2 * time.Minute
			state := newState()
			r, stop := begin(t, Options{State: state}, map[string]Entry{"a": {parse(t, s), stubborn}})
			time.Sleep(36 * time.Minute) // 00:20 gives way to 00:30, which would be five minutes late
			log.expect(t, "begin@01T00:10:00")
			if s := status(t, r, "a"); s.Skipped != 1 || s.Missed != 1 || s.Started != 1 {
				t.Errorf("status %+v", s)
			}
			if got := state.get("a"); !got.Equal(stamp(t, "2000-01-01T00:30:00Z")) {
				t.Errorf("state %s", got)
			}
			stop()
		})
	})
}

// TestRunnerBroken: nothing that an export does stops the Runner, or its own schedule.
func TestRunnerBroken(t *testing.T) {
	for _, policy := range []ConcurrencyPolicy{Forbid, Allow, Replace} {
		for name, export := range map[string]func(context.Context, time.Time) error{
			"panic":  func(context.Context, time.Time) error { panic("lost my way") },
			"nil":    func(context.Context, time.Time) error { panic(nil) }, //nolint:govet // that is the test
			"goexit": func(context.Context, time.Time) error { runtime.Goexit(); return nil },
			"error":  func(context.Context, time.Time) error { return errors.New("lost my way") },
		} {
			t.Run(string(policy)+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var log journal
					r, stop := begin(t, Options{}, map[string]Entry{
						"bad":  {parse(t, Spec{Cron: "*/10 * * * *", ConcurrencyPolicy: policy}), export},
						"good": {parse(t, Spec{Cron: "*/10 * * * *"}), log.export("good", 0)},
					})
					time.Sleep(31 * time.Minute)
					log.expect(t, "good@01T00:10:00+0s good@01T00:20:00+0s good@01T00:30:00+0s")
					if s := status(t, r, "bad"); s.Started != 3 || s.Failed != 3 || s.Running != 0 {
						t.Errorf("status %+v", s)
					}
					stop()
				})
			})
		}
	}
}

func TestRunnerSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		entry := func(name, line string, takes time.Duration) Entry {
			return Entry{parse(t, Spec{Cron: line, CatchUp: CatchUpLast}), log.export(name, takes)}
		}
		state := newState()
		set := map[string]Entry{
			"keep": entry("keep", "@every 50m", 30*time.Minute),
			"drop": entry("drop", "@every 50m", 30*time.Minute),
			"move": entry("move", "0 */6 * * *", 0),
		}
		r, stop := begin(t, Options{State: state}, set)
		time.Sleep(55 * time.Minute)
		log.take()
		next := maps.Clone(set)
		delete(next, "drop")
		next["move"] = entry("move", "30 * * * *", 0) // 00:30 was not missed: it was of no line then
		next["new"] = entry("new", "0 * * * *", 0)
		r.Set(next)
		if s := status(t, r, "drop"); s.Running != 1 || !s.Next.IsZero() {
			t.Errorf("status %+v", s)
		}
		time.Sleep(40 * time.Minute) // to 01:35
		log.expect(t, "new@01T01:00:00+0s move@01T01:30:00+0s")
		var names []string
		for _, s := range r.Status() {
			names = append(names, s.Name)
		}
		if !slices.Equal(names, []string{"keep", "move", "new"}) {
			t.Errorf("schedules %v", names)
		}
		if s := status(t, r, "keep"); s.Started != 1 || s.Failed != 0 || !s.Next.Equal(stamp(t, "2000-01-01T01:40:00Z")) {
			t.Errorf("status %+v", s)
		}

		// What is due is due by the old set, even if the new one comes at that very moment.
		time.Sleep(25 * time.Minute)
		r.Set(nil)
		log.expect(t, "keep@01T01:40:00+0s new@01T02:00:00+0s")
		time.Sleep(3 * time.Hour)
		log.expect(t, "")
		if s := r.Status(); len(s) != 0 {
			t.Errorf("status %+v", s)
		}
		// A schedule that comes back is counted from then on.
		r.Set(map[string]Entry{"keep": set["keep"]})
		time.Sleep(51 * time.Minute)
		log.expect(t, "keep@01T05:50:00+0s")
		stop()
		log.expect(t, "keep:cancelled")
	})
}

// TestRunnerSetKeepsCount: what does not touch the line does not start the count anew.
func TestRunnerSetKeepsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		r, stop := begin(t, Options{}, nil)
		for i := range 4 {
			r.Set(map[string]Entry{"a": {parse(t, Spec{Cron: "@every 1h", StartingDeadline: time.Hour + time.Duration(i)}), log.export("a", 0)}})
			time.Sleep(20 * time.Minute)
		}
		log.expect(t, "a@01T01:00:00+0s")
		stop()
	})
}

// TestRunnerRemovedAndBack: an export that goes on still counts for a schedule that was away.
func TestRunnerRemovedAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		set := map[string]Entry{"a": {parse(t, Spec{Cron: "*/10 * * * *"}), log.export("a", 25*time.Minute)}}
		r, stop := begin(t, Options{}, set)
		time.Sleep(11 * time.Minute)
		r.Set(nil)
		time.Sleep(time.Minute)
		r.Set(set)
		time.Sleep(10 * time.Minute)
		log.expect(t, "a@01T00:10:00+0s")
		if s := status(t, r, "a"); s.Running != 1 || s.Skipped != 1 || s.Next.IsZero() {
			t.Errorf("status %+v", s)
		}
		stop()
	})
}

func TestRunnerSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		state := newState()
		set := func(suspend bool) map[string]Entry {
			return map[string]Entry{"a": {parse(t, Spec{Cron: "*/10 * * * *", CatchUp: CatchUpLast, Suspend: suspend}), log.export("a", 0)}}
		}
		r, stop := begin(t, Options{State: state}, set(true))
		time.Sleep(35 * time.Minute)
		log.expect(t, "")
		if s := status(t, r, "a"); s.Missed != 0 || !s.Next.IsZero() || !s.Suspend {
			t.Errorf("status %+v", s)
		}
		if got := state.get("a"); !got.Equal(stamp(t, "2000-01-01T00:30:00Z")) {
			t.Errorf("state %s: after a restart without suspend, an export would be caught up", got)
		}
		r.Set(set(false)) // Kubernetes' CronJob would start at once
		time.Sleep(10 * time.Minute)
		log.expect(t, "a@01T00:40:00+0s")
		stop()
	})
}

// TestRunnerClock sets the clock, as ntpd, an operator or a laptop's lid does.
func TestRunnerClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var offset time.Duration
		now := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(offset)
		}
		jump := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			offset += d
		}
		var log journal
		note := func(_ context.Context, at time.Time) error { log.note("%s", at.Format(clock)); return nil }
		r, stop := begin(t, Options{Now: now}, map[string]Entry{
			"none": {parse(t, Spec{Cron: "0 * * * *"}), note},
		})
		time.Sleep(50*time.Minute + 15*time.Second)
		jump(10 * time.Minute) // 01:00:15: no timer tells
		time.Sleep(30 * time.Second)
		log.expect(t, "01T01:00:00")
		jump(5*time.Hour + 10*time.Minute) // asleep from 01:00:45 to 06:10:45
		time.Sleep(30 * time.Second)
		log.expect(t, "")
		if s := status(t, r, "none"); s.Missed != 5 {
			t.Errorf("status %+v", s)
		}
		jump(-30 * time.Minute) // 05:41:15: 06:00 was dealt with
		time.Sleep(time.Hour)
		log.expect(t, "")
		jump(-3 * 365 * 24 * time.Hour) // from a clock that was wrong
		time.Sleep(time.Hour)
		log.expect(t, "01T07:00:00")
		stop()
	})
}

func TestRunnerJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		s := parse(t, Spec{Cron: "0 * * * *", Jitter: 30 * time.Minute})
		r, stop := begin(t, Options{}, map[string]Entry{"a": {s, log.export("a", 0)}, "b": {s, log.export("b", 0)}})
		synctest.Wait()
		if got := status(t, r, "a").Next; !got.Equal(stamp(t, "2000-01-01T01:00:00Z").Add(s.JitterOf("a"))) {
			t.Errorf("next %s", got)
		}
		time.Sleep(90 * time.Minute)
		want := []string{"a@01T01:00:00+" + s.JitterOf("a").String(), "b@01T01:00:00+" + s.JitterOf("b").String()}
		if s.JitterOf("b") < s.JitterOf("a") {
			slices.Reverse(want)
		}
		log.expect(t, strings.Join(want, " "))
		stop()
	})
}

// TestRunnerYear runs a year of schedules and compares every start with Next.
func TestRunnerYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		specs := map[string]Spec{
			"nightly": {Cron: "30 2 * * *", TimeZone: "America/New_York"},
			"cairo":   {Cron: "0 0 * * *", TimeZone: "Africa/Cairo"},
			"howe":    {Cron: "45 1 * * SUN", TimeZone: "Australia/Lord_Howe"},
			"hourly":  {Cron: "5 * * * *", TimeZone: "Europe/Berlin", Jitter: 20 * time.Minute},
			"every":   {Cron: "@every 5h", ConcurrencyPolicy: Replace},
		}
		var mu sync.Mutex
		got := make(map[string][]time.Time)
		set := make(map[string]Entry)
		for name, spec := range specs {
			set[name] = Entry{parse(t, spec), func(_ context.Context, at time.Time) error {
				mu.Lock()
				defer mu.Unlock()
				got[name] = append(got[name], at)
				return nil
			}}
		}
		from := time.Now()
		r := NewRunner(Options{})
		r.look = time.Hour
		stop := run(t, r, set)
		time.Sleep(366 * 24 * time.Hour)
		stop()
		for name, e := range set {
			var want []time.Time
			until := time.Now().Add(-e.Schedule.JitterOf(name))
			for at := e.Schedule.Next(from); !at.After(until); at = e.Schedule.Next(at) {
				want = append(want, at)
			}
			if len(want) < 50 || !slices.EqualFunc(got[name], want, time.Time.Equal) {
				t.Errorf("%s: %d starts, want %d", name, len(got[name]), len(want))
			}
		}
	})
}

func TestRunnerRunsOnce(t *testing.T) {
	r := NewRunner(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := r.Run(ctx); err == nil {
		t.Error("a second Run succeeded")
	}
}

// TestRunnerJitterCaughtUp: an export whose jitter is not over yet was not missed.
func TestRunnerJitterCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		state := newState()
		state.times["a"] = time.Now()
		s := parse(t, Spec{Cron: "0 * * * *", Jitter: 30 * time.Minute, CatchUp: CatchUpLast})
		jitter := s.JitterOf("a")
		if jitter < time.Minute {
			t.Fatalf("jitter %s: choose another name", jitter)
		}
		time.Sleep(2*time.Hour + jitter/2)
		_, stop := begin(t, Options{State: state}, map[string]Entry{"a": {s, log.export("a", 0)}})
		time.Sleep(time.Hour)
		log.expect(t, "a@01T01:00:00+"+(time.Hour+jitter/2).Round(time.Second).String()+" a@01T02:00:00+"+jitter.String())
		stop()
	})
}
