package main

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/schedule"
)

// reloadPoll is how often the file's content is looked at. A mounted ConfigMap is exchanged by a
// symbolic link, which file system events follow badly.
const reloadPoll = 10 * time.Second

// control keeps a running exporter in step with its file: it starts what is scheduled, and takes over what
// the file says anew.
type control struct {
	e        *exporter.Exporter
	settings *settings
	runner   *schedule.Runner
	windows  *windows
	log      *slog.Logger
	poll     time.Duration // reloadPoll, but in a test

	mu     sync.Mutex // one reload at a time
	sum    [sha256.Size]byte
	loaded prometheus.Gauge
	last   prometheus.Gauge
}

func newControl(e *exporter.Exporter, s *settings, state schedule.State, log *slog.Logger, reg prometheus.Registerer) (*control, error) {
	const ns = "kubelogexporter"
	c := &control{
		e: e, settings: s, log: log, runner: schedule.NewRunner(schedule.Options{State: state, Log: log}), windows: &windows{log: log}, poll: reloadPoll, sum: s.sum(),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "config_last_reload_successful",
			Help: "1 if the configuration file could be taken over when it was last looked at, 0 if the one before is in use."}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "config_last_reload_success_timestamp_seconds",
			Help: "When a configuration was last taken over."}),
	}
	c.loaded.Set(1)
	c.last.SetToCurrentTime()
	reg.MustRegister(c.loaded, c.last, scheduleMetrics{c.runner, c.windows})
	list, err := exportsOf(s.config)
	if err != nil {
		return nil, err
	}
	c.schedule(list)
	return c, nil
}

// schedule starts the exports that have a schedule, but those with windows: those need no start.
func (c *control) schedule(list []exporter.Export) {
	set := make(map[string]schedule.Entry)
	for _, x := range list {
		if x.Schedule == nil || windowed(x) {
			continue
		}
		set[x.Name] = schedule.Entry{Schedule: x.Schedule, Export: func(ctx context.Context, _ time.Time) error { return c.e.Sweep(ctx, x.Name) }}
	}
	c.runner.Set(set)
	c.windows.replace(list, time.Now())
}

// run works until ctx ends.
func (c *control) run(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var loops sync.WaitGroup
	loops.Go(func() { _ = c.runner.Run(ctx) }) // ends with ctx
	defer loops.Wait()
	tick := time.NewTicker(c.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			_ = c.reload() // told already
		case now := <-tick.C:
			c.windows.look(now)
			if c.changed() {
				_ = c.reload()
			}
		}
	}
}

func (s *settings) sum() [sha256.Size]byte {
	data, err := os.ReadFile(s.file)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(data)
}

func (c *control) changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings.sum() != c.sum
}

// reload takes over the file as it is now, if nothing is wrong with it. Otherwise all stays as it is.
func (c *control) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum = c.settings.sum()
	f, err := c.settings.load()
	var list []exporter.Export
	if err == nil {
		list, err = exportsOf(f)
	}
	if err == nil {
		err = c.e.SetExports(list) // all or nothing; what follows cannot fail
	}
	if err != nil {
		c.loaded.Set(0)
		c.log.Warn("the configuration file has mistakes, the one before stays in use", "file", c.settings.file, "err", err)
		return err
	}
	c.schedule(list)
	if keys := restarts(c.settings.config, f); len(keys) > 0 {
		c.log.Warn("some of what has changed in the configuration file takes effect at the next start", "file", c.settings.file, "keys", strings.Join(keys, " "))
	}
	c.loaded.Set(1)
	c.last.SetToCurrentTime()
	c.log.Info("took over the configuration file", "file", c.settings.file, "exports", len(list))
	return nil
}

// restarts lists the sections that are others than at the start and that a running program does not take over.
func restarts(old, now *config.Config) (keys []string) {
	for key, same := range map[string]bool{
		"cluster": old.Cluster == now.Cluster, "kubernetes": old.Kubernetes == now.Kubernetes,
		"sink": reflect.DeepEqual(old.Sink, now.Sink), "spool": old.Spool == now.Spool, "limits": old.Limits == now.Limits,
		"kubelets": old.Kubelets == now.Kubelets, "http": reflect.DeepEqual(old.HTTP, now.HTTP), "log": old.Log == now.Log,
		"notifications": reflect.DeepEqual(old.Notifications, now.Notifications),
	} {
		if !same {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// scheduleMetrics show the schedules.
type scheduleMetrics struct {
	runner  *schedule.Runner
	windows *windows
}

func (scheduleMetrics) descs() (next, last, running, started, failed, missed, open *prometheus.Desc) {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("kubelogexporter_schedule_"+name, help, []string{"export"}, nil)
	}
	return desc("next_start_timestamp_seconds", "When the export starts, or its window opens, next; 0 for never."),
		desc("last_start_timestamp_seconds", "When the export was due that started last, or its last window opened; 0 for never. After a restart, when it was due last."),
		desc("running", "Starts of the export that are still at work."),
		desc("starts_total", "Starts of the export."),
		desc("failures_total", "Starts of the export that failed."),
		desc("missed_total", "Starts of the export that were missed or skipped."),
		desc("window_open", "1 while a window of the export is open, 0 while none is.")
}

// Describe implements prometheus.Collector.
func (m scheduleMetrics) Describe(ch chan<- *prometheus.Desc) {
	a, b, c, d, e, f, g := m.descs()
	for _, desc := range []*prometheus.Desc{a, b, c, d, e, f, g} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (m scheduleMetrics) Collect(ch chan<- prometheus.Metric) {
	next, last, running, started, failed, missed, open := m.descs()
	gauge := func(d *prometheus.Desc, name string, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name)
	}
	now := time.Now()
	all := m.windows.all()
	for name, w := range all {
		gauge(next, name, unix(w.opens(now)))
		gauge(last, name, unix(w.opened(now)))
		gauge(open, name, w.isOpen(now))
	}
	for _, s := range m.runner.Status() {
		count := func(d *prometheus.Desc, v int64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), s.Name)
		}
		if _, ok := all[s.Name]; !ok { // it may have got windows while a last start is at work
			gauge(next, s.Name, unix(s.Next))
			gauge(last, s.Name, unix(s.Last))
		}
		gauge(running, s.Name, float64(s.Running))
		count(started, s.Started)
		count(failed, s.Failed)
		count(missed, s.Missed+s.Skipped)
	}
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
