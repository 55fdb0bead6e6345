package schedule

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memState is a State that lasts longer than a Runner.
type memState struct {
	mu    sync.Mutex
	times map[string]time.Time
	fail  error
	hang  bool
}

func newState() *memState { return &memState{times: make(map[string]time.Time)} }

func (m *memState) Load(ctx context.Context, name string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hang {
		<-ctx.Done()
		return time.Time{}, ctx.Err()
	}
	return m.times[name], m.fail
}

func (m *memState) Store(_ context.Context, name string, t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.times[name] = t
	return nil
}

func (m *memState) get(name string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.times[name]
}

// TestRunnerRestart stops a Runner for a while and goes on with another one.
func TestRunnerRestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		spec   Spec
		down   time.Duration
		want   string
		missed int64
	}{
		{"a handover", Spec{Cron: "0 * * * *"}, 30*time.Minute + 20*time.Second, "a@01T02:00:00+20s", 0},
		{"none", Spec{Cron: "0 * * * *"}, 32 * time.Minute, "", 1},
		{"last", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast}, 32 * time.Minute, "a@01T02:00:00+2m0s", 0},
		{"last of several", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast}, 3*time.Hour + 35*time.Minute, "a@01T05:00:00+5m0s", 3},
		{"last within the deadline", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast, StartingDeadline: 10 * time.Minute}, 35 * time.Minute, "a@01T02:00:00+5m0s", 0},
		{"last after the deadline", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast, StartingDeadline: 10 * time.Minute}, 45 * time.Minute, "", 1},
		{"suspended", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast, Suspend: true}, 45 * time.Minute, "", 0},
		{"nothing missed", Spec{Cron: "0 * * * *", CatchUp: CatchUpLast}, 10 * time.Minute, "", 0},
		{"every", Spec{Cron: "@every 1h", CatchUp: CatchUpLast}, 31 * time.Minute, "a@01T02:00:00+1m0s", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log journal
				o := Options{State: newState()}
				set := map[string]Entry{"a": {parse(t, c.spec), log.export("a", time.Second)}}
				_, stop := begin(t, o, set)
				time.Sleep(90 * time.Minute)
				stop()
				log.take()
				time.Sleep(c.down)
				r, stop := begin(t, o, set)
				time.Sleep(time.Second)
				log.expect(t, c.want)
				if s := status(t, r, "a"); s.Missed != c.missed {
					t.Errorf("status %+v, want %d missed", s, c.missed)
				}
				stop()
			})
		})
	}
}

// TestRunnerEveryAcrossRestarts: a long @every comes although no process lives as long.
func TestRunnerEveryAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		o := Options{State: newState()}
		set := map[string]Entry{"a": {parse(t, Spec{Cron: "@every 24h"}), log.export("a", time.Second)}}
		for range 5 {
			_, stop := begin(t, o, set)
			time.Sleep(10 * time.Hour)
			stop()
		}
		log.expect(t, "a@02T00:00:00+0s a@03T00:00:00+0s")
	})
}

func TestRunnerState(t *testing.T) {
	t.Run("fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			state := newState()
			state.fail = errors.New("no server")
			_, stop := begin(t, Options{State: state}, map[string]Entry{"a": {parse(t, Spec{Cron: "@hourly"}), log.export("a", 0)}})
			time.Sleep(61 * time.Minute)
			log.expect(t, "a@01T01:00:00+0s")
			stop()
		})
	})
	t.Run("hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			state := newState()
			state.hang = true
			_, stop := begin(t, Options{State: state}, map[string]Entry{"a": {parse(t, Spec{Cron: "* * * * *"}), log.export("a", 0)}})
			time.Sleep(61 * time.Second)
			log.expect(t, "a@01T00:01:00+0s")
			stop()
		})
	})
	t.Run("of another clock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log journal
			state := newState()
			state.times["ahead"] = time.Now().Add(10 * time.Minute) // two leaders' clocks
			state.times["wrong"] = time.Now().AddDate(30, 0, 0)
			_, stop := begin(t, Options{State: state}, map[string]Entry{
				"ahead": {parse(t, Spec{Cron: "*/10 * * * *"}), log.export("ahead", 0)},
				"wrong": {parse(t, Spec{Cron: "*/15 * * * *"}), log.export("wrong", 0)},
			})
			time.Sleep(21 * time.Minute)
			log.expect(t, "wrong@01T00:15:00+0s ahead@01T00:20:00+0s")
			if got := state.get("wrong"); !got.Equal(stamp(t, "2000-01-01T00:15:00Z")) {
				t.Errorf("state %s", got)
			}
			stop()
		})
	})
}

func TestFileState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "schedules.json")
	open := func() *FileState {
		s, err := OpenFileState(path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	at := stamp(t, "2026-11-23T12:00:00.000000001+01:00")
	s := open()
	if got, err := s.Load(t.Context(), "a"); err != nil || !got.IsZero() {
		t.Errorf("%s, %v", got, err)
	}
	for i, name := range []string{"a", "b\nc", "a"} {
		if err := s.Store(t.Context(), name, at.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s = open()
	for name, want := range map[string]time.Time{"a": at.Add(2 * time.Hour), "b\nc": at.Add(time.Hour)} {
		if got, err := s.Load(t.Context(), name); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v", name, got, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := os.WriteFile(path, []byte(`{"a": "yesterday"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenFileState(path)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Fatalf("a damaged file: %v", err)
	}
	if err := s.Store(t.Context(), "a", at); err != nil {
		t.Fatal(err)
	}
	if got, err := open().Load(t.Context(), "a"); err != nil || !got.Equal(at) {
		t.Errorf("after the damage: %s, %v", got, err)
	}
	gone := &FileState{path: filepath.Join(t.TempDir(), "none", "s.json"), times: make(map[string]time.Time)}
	if err := gone.Store(t.Context(), "a", at); err == nil || !gone.times["a"].IsZero() {
		t.Errorf("stored %v without a directory: %v", gone.times, err)
	}
}

// What a State knows is told again after a restart, but not when a schedule was set, which was no start; and the
// log says when the next start comes.
func TestRunnerTellsOfRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		var said strings.Builder
		o := Options{State: newState(), Log: slog.New(slog.NewTextHandler(&said, nil))}
		set := map[string]Entry{
			"hourly": {parse(t, Spec{Cron: "@hourly"}), log.export("hourly", time.Second)},
			"every":  {parse(t, Spec{Cron: "@every 1h"}), log.export("every", time.Second)},
		}
		time.Sleep(time.Millisecond)
		r, stop := begin(t, o, set)
		time.Sleep(time.Second)
		for _, name := range []string{"hourly", "every"} {
			if s := status(t, r, name); !s.Last.IsZero() {
				t.Errorf("%s was started: %+v", name, s)
			}
		}
		stop()
		if !strings.Contains(said.String(), `msg="schedule set" schedule=hourly cron=@hourly zone="" suspend=false next=2000-01-01T01:00:00.000Z`) {
			t.Errorf("log %s", said.String())
		}
		r, stop = begin(t, o, set)
		if s := status(t, r, "hourly"); !s.Last.IsZero() {
			t.Errorf("it was started: %+v", s)
		}
		time.Sleep(90 * time.Minute)
		stop()
		if !strings.Contains(said.String(), `msg="export done" schedule=hourly scheduled=2000-01-01T01:00:00.000Z next=2000-01-01T02:00:00.000Z`) {
			t.Errorf("log %s", said.String())
		}
		r, stop = begin(t, o, set)
		for _, name := range []string{"hourly", "every"} {
			if s := status(t, r, name); !s.Last.Equal(stamp(t, "2000-01-01T01:00:00Z")) || s.Started != 0 {
				t.Errorf("%s after a restart: %+v", name, s)
			}
		}
		stop()
	})
}
