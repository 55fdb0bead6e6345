package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// logFlags say how the program reports on itself, on stderr.
type logFlags struct{ format, level string }

func (l *logFlags) register(cmd *cobra.Command, level string) {
	cmd.Flags().StringVar(&l.format, "log-format", "text", "`format` of log lines on stderr: text or json")
	cmd.Flags().StringVar(&l.level, "log-level", level, "least `level` to log: debug, info, warn or error")
	complete(cmd, "log-format", words("text", "json"))
	complete(cmd, "log-level", words("debug", "info", "warn", "error"))
}

func (l *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("--log-level: %q is none of debug, info, warn and error", l.level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usagef("--log-format: %q is neither text nor json", l.format)
}

// quietClient sends what client-go logs through klog to log, at the debug level: client-go calls a
// watch that must be opened again an error, and here an error means that bytes are lost.
func quietClient(log *slog.Logger) { klog.SetSlogLogger(slog.New(debugHandler{log.Handler()})) }

type debugHandler struct{ slog.Handler }

func (h debugHandler) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h debugHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.Enabled(ctx, r.Level) {
		return nil // logr does not ask for errors
	}
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

func (h debugHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return debugHandler{h.Handler.WithAttrs(attrs)}
}

func (h debugHandler) WithGroup(name string) slog.Handler {
	return debugHandler{h.Handler.WithGroup(name)}
}

// newRegistry returns the metrics that every process has; the exporter adds its own.
func newRegistry(v versionInfo) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "kubelogexporter", Name: "build_info",
			Help:        "Always 1; the labels say which build this is.",
			ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "goversion": v.GoVersion},
		}, func() float64 { return 1 }))
	return reg
}

// serve answers for metrics and probes until stop is called.
func serve(addr string, reg *prometheus.Registry, ready func() error, more func(*http.ServeMux)) (at net.Addr, stop func(), err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, nil, &codeError{error: fmt.Errorf("--listen: %w", err), code: exitError, hints: []string{"name an address of this machine that nobody else listens on, such as :8080"}}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	if more != nil {
		more(mux)
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Close
	}()
	return l.Addr(), func() { _ = s.Close(); <-done }, nil
}
