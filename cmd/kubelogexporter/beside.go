package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/notify"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// beside is what runs beside an exporter: schedules, reloads and the HTTP server.
type beside struct {
	loops sync.WaitGroup
	stops []func()
}

func (b *beside) stop() {
	for _, stop := range b.stops {
		stop()
	}
}

// beside starts it; what it starts ends with ctx, the server with stop.
func (r *runCommand) beside(ctx context.Context, e *exporter.Exporter, target *kubeTarget, spool string, log *slog.Logger, reg *prometheus.Registry) (*beside, error) {
	b := &beside{}
	t := &triggers{e: e, log: log, ctx: ctx}
	if r.settings != nil {
		state, err := openStarts(target, spool, log)
		if err != nil {
			return nil, err
		}
		c, err := newControl(e, r.settings, state, log, reg)
		if err != nil {
			return nil, err
		}
		b.loops.Go(func() { c.run(ctx) })
		t.reload = c.reload
		if h := r.settings.config.HTTP.Triggers; h != nil {
			t.tokenFile = h.TokenFile
		}
	}
	if r.listen == "" {
		return b, nil
	}
	var more func(*http.ServeMux)
	if t.tokenFile != "" {
		more = t.register
		b.stops = append(b.stops, t.running.Wait)
	}
	at, stop, err := serve(r.listen, reg, func() error { return cmp.Or(context.Cause(ctx), e.Ready()) }, more)
	if err != nil {
		return nil, err
	}
	b.stops = append([]func(){stop}, b.stops...)
	log.Info("listening", "address", at.String())
	return b, nil
}

// events sends CloudEvents.
type events struct{ n *notify.Notifier }

// start sends until stop is called, which gives what waits a last try. Where nobody is to be told it does
// nothing.
func (v *events) start() (stop func()) {
	if v == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = v.n.Run(ctx) // ends with ctx
	}()
	return func() { cancel(); <-done }
}

// notifier lets an exporter tell of archived runs, if the file or the environment names a receiver. nil is
// nobody.
func (c *captureFlags) notifier(o *exporter.Options, log *slog.Logger) (*events, error) {
	n := notify.Options{Source: "/kubelogexporter/" + o.Cluster, Log: log}
	if _, ok := o.Bucket.(*sink.S3); ok { // a directory's path says nothing elsewhere
		n.Archive = c.sink.sink
	}
	if c.settings != nil {
		if ce := c.settings.config.Notifications.CloudEvents; ce != nil {
			n.Sink, n.Extensions = ce.Sink, ce.Overrides.Extensions
		}
	}
	n, err := n.FromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	if n.Sink == "" {
		return nil, nil //nolint:nilnil // nobody is to be told
	}
	notifier, err := notify.New(n)
	if err != nil {
		return nil, err
	}
	o.Archived = func(key string, record []byte) {
		if err := notifier.Notify(notify.Run{Key: key, Record: record, Time: time.Now()}); err != nil {
			log.Warn("cannot tell of an archived run", "key", key, "err", err)
		}
	}
	return &events{notifier}, nil
}

// eventMetrics show what became of the events.
type eventMetrics struct{ n *notify.Notifier }

func eventDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kubelogexporter_cloudevents_"+name, help, labels, nil)
}

func (eventMetrics) descs() (results, retries, waiting *prometheus.Desc) {
	return eventDesc("total", "CloudEvents of archived runs, by what became of them.", "result"),
		eventDesc("retries_total", "Attempts to deliver a CloudEvent that failed and were made again."),
		eventDesc("waiting", "CloudEvents that are to be delivered.")
}

// Describe implements prometheus.Collector.
func (m eventMetrics) Describe(ch chan<- *prometheus.Desc) {
	results, retries, waiting := m.descs()
	ch <- results
	ch <- retries
	ch <- waiting
}

// Collect implements prometheus.Collector.
func (m eventMetrics) Collect(ch chan<- prometheus.Metric) {
	results, retries, waiting := m.descs()
	c := m.n.Counts()
	for result, n := range map[string]int64{"delivered": c.Delivered, "rejected": c.Rejected, "expired": c.Expired, "dropped": c.Dropped} {
		ch <- prometheus.MustNewConstMetric(results, prometheus.CounterValue, float64(n), result)
	}
	ch <- prometheus.MustNewConstMetric(retries, prometheus.CounterValue, float64(c.Retries))
	ch <- prometheus.MustNewConstMetric(waiting, prometheus.GaugeValue, float64(c.Waiting))
}
