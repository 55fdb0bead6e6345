package main

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/config"
	"github.com/kubelogexporter/kubelogexporter/exporter/nodelog"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Every flag of run has its place in the file, and the same default there.
func TestFlagsHaveKeys(t *testing.T) {
	a := newApp("kubelogexporter", nil, io.Discard, io.Discard, nil)
	run := newRunCommand(a)
	apart := map[string]bool{"namespace": true, "all-namespaces": true, "selector": true, "help": true, "config": true}
	flags := config.Flags()
	for name := range flags {
		if run.Flags().Lookup(name) == nil {
			t.Errorf("%s names the flag --%s, which is not there", flags[name], name)
		}
	}
	defaults, err := config.Default(a.configOptions(newConfigPrintCommand(a)))
	if err != nil {
		t.Fatal(err)
	}
	given := make(map[string]string)
	run.Flags().VisitAll(func(f *pflag.Flag) {
		switch {
		case apart[f.Name]:
		case flags[f.Name] == "":
			t.Errorf("--%s has no place in the file", f.Name)
		default:
			given[f.Name] = f.DefValue
		}
	})
	same, err := config.Default(config.Options{Flags: given})
	if err != nil {
		t.Fatal(err)
	}
	same.Sink.Dir = defaults.Sink.Dir
	if diff := cmp.Diff(defaults, same, cmpopts.IgnoreUnexported(config.Config{}), cmpopts.IgnoreFields(config.Export{}, "Compiled")); diff != "" {
		t.Errorf("the flags have other defaults: %s", diff)
	}
}

func TestExporterOptions(t *testing.T) {
	c, err := config.Parse([]byte(`apiVersion: kubelogexporter.dev/v1alpha1
kind: Config
sink: {s3: {bucket: bbb, prefix: p, endpoint: e:1, region: r, pathStyle: on, caFile: ca, credentials: files, accessKeyIDFile: i, secretAccessKeyFile: s, sessionTokenFile: t}}
spool: {path: /spool}
limits: {follows: 1, reads: 2, liveFollows: 3, followsPerNode: 4, readRate: 64Ki, uploads: 5, grace: 6s}
kubelets: {nodeLogs: recover, caFile: k, port: 7, containerLogMaxSize: 8Mi, containerLogMaxFiles: 9}
exports: [{name: a, capture: live, compression: gzip, selection: {namespaces: [y, x]}}]
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	got, err := exportOptions(exporterOptions(c, log), &c.Exports[0])
	if err != nil {
		t.Fatal(err)
	}
	want := exporter.Options{
		Spool: "/spool", Namespaces: []string{"x", "y"}, Compression: bundle.Gzip, Capture: exporter.CaptureLive,
		NodeLogs: exporter.NodeLogsRecover, Kubelets: nodelog.Options{CAFile: "k", Port: 7, MaxFiles: 9},
		Follows: 1, Reads: 2, LiveFollows: 3, NodeFollows: 4, RotateAt: 8 << 20, ReadRate: 64 << 10, Uploads: 5, Grace: 6 * time.Second,
		Version: buildVersion().Version, Log: log,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(exporter.Options{}, "Log")); diff != "" {
		t.Error(diff)
	}
	bucket := sink.S3Options{
		Endpoint: "e:1", Region: "r", Bucket: "bbb", Prefix: "p", PathStyle: "on", CAFile: "ca", Credentials: "files",
		AccessKeyIDFile: "i", SecretAccessKeyFile: "s", SessionTokenFile: "t",
	}
	if diff := cmp.Diff(bucket, s3Options(c.Sink.S3)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"exports[].selection of a"}, unwired(c)); diff != "" {
		t.Error(diff)
	}
}

func TestOpenSink(t *testing.T) {
	for flag, want := range map[string]string{"dir:" + t.TempDir(): "*sink.Dir", "s3://bbb/p": "*sink.S3"} {
		c, err := config.Default(config.Options{Flags: map[string]string{"sink": flag, "s3-credentials": "env"}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := openSink(t.Context(), c)
		if got := fmt.Sprintf("%T", b); err != nil || got != want {
			t.Errorf("%s opens %s, %v", flag, got, err)
		}
	}
}
