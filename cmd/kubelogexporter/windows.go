package main

import (
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
)

// windows tell of the exports with windows. Nothing is started for those, for a run belongs to a window by its
// end; but people want to see when they open.
type windows struct {
	log *slog.Logger

	mu  sync.Mutex
	set map[string]*window
}

type window struct {
	schedule *schedule.Schedule
	told     bool // that it is open; guarded by the lock of windows
}

func windowed(x exporter.Export) bool { return x.Schedule != nil && x.Schedule.Spec().WatchFor > 0 }

// replace takes the exports that have windows.
func (w *windows) replace(list []exporter.Export, now time.Time) {
	w.mu.Lock()
	old := w.set
	w.set = make(map[string]*window)
	for _, x := range list {
		if !windowed(x) {
			continue
		}
		one := &window{schedule: x.Schedule}
		w.set[x.Name] = one
		spec := x.Schedule.Spec()
		if before := old[x.Name]; before != nil && before.schedule.Spec() == spec {
			one.told = before.told
			continue
		}
		w.log.Info("windows set", "export", x.Name, "cron", spec.Cron, "zone", spec.TimeZone, "watchFor", spec.WatchFor, "suspend", spec.Suspend, "next", one.next(now))
	}
	w.mu.Unlock()
	w.look(now)
}

// look tells which windows have opened or closed since it was looked last.
func (w *windows) look(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, one := range w.set {
		start, open := one.schedule.Window(now)
		switch {
		case open == one.told:
		case open:
			w.log.Info("window opened", "export", name, "scheduled", start)
		default:
			w.log.Info("window closed", "export", name, "next", one.next(now))
		}
		one.told = open
	}
}

// all returns the windows by the name of their export.
func (w *windows) all() map[string]*window {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.set)
}

// isOpen returns 1 while a window is open, else 0.
func (w *window) isOpen(now time.Time) float64 {
	if _, open := w.schedule.Window(now); open {
		return 1
	}
	return 0
}

// next is when the next window opens, as the log has it.
func (w *window) next(now time.Time) any {
	if t := w.opens(now); !t.IsZero() {
		return t
	}
	return "never"
}

// opens returns when the next window opens, zero for never.
func (w *window) opens(now time.Time) time.Time {
	if w.schedule.Spec().Suspend {
		return time.Time{}
	}
	return w.schedule.Next(now)
}

// opened returns when the last window opened, zero for never.
func (w *window) opened(now time.Time) time.Time {
	if w.schedule.Spec().Suspend {
		return time.Time{}
	}
	return w.schedule.Last(now)
}
