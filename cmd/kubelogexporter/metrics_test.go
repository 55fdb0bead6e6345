package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

const (
	metricsFile  = "../../deploy/METRICS.md"
	metricsBegin = "<!-- metrics: begin, made from the code by \"UPDATE_GOLDEN=1 go test -run TestMetricsAreDocumented ./cmd/kubelogexporter\" -->\n"
	metricsEnd   = "<!-- metrics: end -->\n"
)

// everyMetric is a registry of all that a process may have.
func everyMetric(t *testing.T) *prometheus.Registry {
	t.Helper()
	bucket, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	reg := newRegistry(versionInfo{})
	e, err := exporter.New(exporter.Options{Kube: &rest.Config{Host: "http://127.0.0.1:1"}, Bucket: bucket, Spool: t.TempDir(), Cluster: "c", Log: log, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	a := newApp("kubelogexporter", nil, io.Discard, io.Discard, nil)
	c, err := config.Default(a.configOptions(newConfigPrintCommand(a)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newControl(e, &settings{config: c}, nil, log, reg); err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(eventMetrics{})
	return reg
}

// metricsTable describes them: name, kind, labels and help.
func metricsTable(t *testing.T, reg *prometheus.Registry) (table string, names []string) {
	t.Helper()
	kinds := make(map[string]string)
	reg.Unregister(eventMetrics{}) // it has no notifier to ask
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	reg.MustRegister(eventMetrics{})
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	fields := regexp.MustCompile(`^Desc\{fqName: "(.*?)", help: "(.*?)",(?: unit: ".*?",)? constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	var rows []string
	for d := range descs {
		m := fields.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("a description of an unknown form: %s", d)
		}
		if !strings.HasPrefix(m[1], "kubelogexporter_") {
			continue // of Go and of the process
		}
		names = append(names, m[1])
		kind := kinds[m[1]]
		if kind == "" { // it has no sample yet
			kind = "gauge"
			if strings.HasSuffix(m[1], "_total") {
				kind = "counter"
			}
		}
		var labels []string
		for _, label := range append(strings.Split(m[3], ","), strings.Split(m[4], ",")...) {
			if name, _, _ := strings.Cut(label, "="); name != "" {
				labels = append(labels, "`"+name+"`")
			}
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", m[1], kind, strings.Join(labels, ", "), m[2]))
	}
	slices.Sort(rows)
	return "| metric | kind | labels | meaning |\n|---|---|---|---|\n" + strings.Join(rows, ""), names
}

// Every metric is described, with the words of its help.
func TestMetricsAreDocumented(t *testing.T) {
	table, names := metricsTable(t, everyMetric(t))
	if len(names) < 30 {
		t.Fatalf("only %d metrics", len(names))
	}
	text, err := os.ReadFile(metricsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(text), metricsBegin)
	_, after, ended := strings.Cut(rest, metricsEnd)
	if !begun || !ended {
		t.Fatalf("%s has no place for the table", metricsFile)
	}
	want := before + metricsBegin + "\n" + table + "\n" + metricsEnd + after
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(metricsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Errorf("%s is not what the code gives:\n%s\nrun UPDATE_GOLDEN=1 go test -run TestMetricsAreDocumented ./cmd/kubelogexporter", metricsFile, table)
	}
}

// What documents call a metric is one.
func TestDocumentsNameMetrics(t *testing.T) {
	_, names := metricsTable(t, everyMetric(t))
	named := 0
	for _, doc := range []string{"../../README.md", "../../ARCHITECTURE.md", "../../deploy/README.md", "../../deploy/prometheus/rules.yaml", metricsFile} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`kubelogexporter_[a-z_]+`).FindAllString(string(text), -1) {
			named++
			known := slices.Contains(names, name) || strings.HasSuffix(name, "_") && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, name) })
			if !known {
				t.Errorf("%s names %s, which is no metric", filepath.Base(doc), name)
			}
		}
	}
	if named < 10 {
		t.Errorf("only %d metrics named in the documents: is the expression right?", named)
	}
}
