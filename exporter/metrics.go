package exporter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// metrics are the exporter's own counts. After every fault
// runs_ended_total = archived_total + already_archived_total + unselected_total + runs_open + captures_pending.
type metrics struct {
	observed   prometheus.Counter
	open       prometheus.Gauge
	pending    prometheus.Gauge
	archived   prometheus.Counter
	snapshots  prometheus.Counter
	unselected prometheus.Counter
	// selectionErrors counts runs that an export takes because its expression failed.
	selectionErrors prometheus.Counter
	already         prometheus.Counter
	verdicts        *prometheus.CounterVec
	read            *prometheus.CounterVec
	uploadErrors    prometheus.Counter
	lag             prometheus.Histogram
	held            *prometheus.GaugeVec
	concurrency     prometheus.Gauge
	refused         prometheus.Gauge
	mismatches      prometheus.Counter
	setAside        *prometheus.CounterVec
	spoolFull       *prometheus.GaugeVec
	direct          prometheus.Counter
	redactions      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const ns = "kubelogexporter"
	m := &metrics{
		observed: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "runs_ended_total",
			Help: "Container runs that ended, or whose pod began to be deleted, and that were taken up for capture, and those whose captures a start has found in the spool."}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "runs_open",
			Help: "Runs taken up for capture that are not in the spool yet."}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "captures_pending",
			Help: "Captures of ended runs in the spool that are not in the bucket yet."}),
		archived: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "archived_total",
			Help: "Records of ended runs stored in the bucket."}),
		unselected: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "unselected_total",
			Help: "Runs that were captured to see how they end, and that no export took then."}),
		selectionErrors: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "selection_errors_total",
			Help: "Runs that an export took because its expression could not be computed for them."}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "snapshots_archived_total",
			Help: "Snapshots of runs that go on stored in the bucket."}),
		already: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "already_archived_total",
			Help: "Runs that had a record in the bucket before."}),
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "captures_total",
			Help: "Captures committed to the spool, by the worst state of head, middle and tail, and its cause."}, []string{"verdict", "cause"}),
		read: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "log_read_bytes_total",
			Help: "Bytes of log bodies read, by method: node from the kubelets' own files, all others through the API server."}, []string{"method"}),
		uploadErrors: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "upload_errors_total",
			Help: "Uploads that failed and will be tried again."}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "archive_lag_seconds",
			Help:    "Time from a container's finishedAt (whole seconds, the node's clock) to its record in the bucket.",
			Buckets: []float64{0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 30, 60, 300, 1800}}),
	}
	m.redactions = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "redactions_total",
		Help: "Secrets that were replaced in logs on their way to the spool, by the rule that found them."}, []string{"rule"})
	m.shipping(ns)
	for _, cause := range bundle.Causes() {
		m.verdicts.WithLabelValues(string(bundle.Lost), string(cause)) // so that an increase from 0 can be seen
	}
	for _, kind := range []string{"record", "log", "unfinished"} {
		m.setAside.WithLabelValues(kind)
	}
	if reg != nil {
		reg.MustRegister(m.held, m.concurrency, m.refused, m.mismatches, m.setAside, m.spoolFull, m.direct, m.redactions)
		reg.MustRegister(m.observed, m.open, m.pending, m.archived, m.snapshots, m.unselected, m.selectionErrors, m.already, m.verdicts, m.read, m.uploadErrors, m.lag)
	}
	return m
}

// shipping makes the metrics of the way from the spool to the bucket.
func (m *metrics) shipping(ns string) {
	m.held = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: "ship_held",
		Help: "1 while nothing is uploaded but a try now and then, by the reason: an error code of S3, Unreachable, NoCredentials, Certificate or DiskFull."}, []string{"reason"})
	m.concurrency = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "ship_concurrency",
		Help: "How many captures may be uploaded at a time now; large ones have a quarter as many places beside. It falls when the store asks for less."})
	m.refused = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "captures_refused",
		Help: "Captures in the spool that the store refuses while it takes others. They are tried again now and then."})
	m.mismatches = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "upload_mismatch_total",
		Help: "Uploads after which the store told of other bytes than were sent. They are made again."})
	m.setAside = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "spool_set_aside_total",
		Help: "Files of the spool that were set aside in its folder .set-aside, by why: record, log or unfinished."}, []string{"kind"})
	m.spoolFull = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: "spool_full",
		Help: "1 while the spool takes no more captures, by which: optional, of logs that stay at their source, or all."}, []string{"captures"})
	m.direct = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "unspooled_total",
		Help: "Captures whose log went to the bucket directly, because the spool was full."})
}

// redacted counts what was found in a part of a log, by rule.
func (m *metrics) redacted(found map[string]int64) {
	for rule, n := range found {
		m.redactions.WithLabelValues(rule).Add(float64(n))
	}
}

func (m *metrics) captured(rec *bundle.Record) {
	verdict, cause := "complete", bundle.CauseNone
	for _, p := range []bundle.Part{rec.Verdict.Head, rec.Verdict.Middle, rec.Verdict.Tail} {
		if p.State == bundle.Lost || (p.State == bundle.Unproven && verdict == "complete") {
			verdict, cause = string(p.State), p.Cause
		}
	}
	m.verdicts.WithLabelValues(verdict, string(cause)).Inc()
}
