package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/exporter/kubetest"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// A ConfigMap's mount is exchanged by a symbolic link beside the file. What it holds is taken over without a
// word from anybody, unless it has mistakes.
func TestMountIsExchanged(t *testing.T) {
	mount, versions := t.TempDir(), 0
	exchange := func(exports string) {
		t.Helper()
		versions++
		version := filepath.Join(mount, "..v"+string(rune('0'+versions)))
		if err := os.Mkdir(version, 0o700); err != nil {
			t.Fatal(err)
		}
		text := "apiVersion: kubelogexporter.dev/v1alpha1\nkind: Config\nexports: " + exports + "\n"
		if err := os.WriteFile(filepath.Join(version, "config.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Base(version), filepath.Join(mount, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	exchange("[{name: first}]")
	file := filepath.Join(mount, "config.yaml")
	if err := os.Symlink("..data/config.yaml", file); err != nil {
		t.Fatal(err)
	}
	a := newApp("kubelogexporter", nil, io.Discard, os.Stderr, nil)
	s, err := a.loadSettings(newRunCommand(a), file)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := sink.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	o := exporter.Options{Kube: kubetest.New(t).Config(), Bucket: bucket, Spool: t.TempDir(), Cluster: "test", Log: log}
	if err := s.options(&o); err != nil {
		t.Fatal(err)
	}
	e, err := exporter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close() //nolint:errcheck // a test's own
	reg := prometheus.NewRegistry()
	c, err := newControl(e, s, nil, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	c.poll = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	stop := func() { cancel(); <-done }
	defer stop()
	until := func(export string, successful float64) {
		t.Helper()
		var loaded float64
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() == "kubelogexporter_config_last_reload_successful" {
					loaded = f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			if e.HasExport(export) && loaded == successful {
				return
			}
		}
		t.Fatalf("export %s in use: %v, last reload successful: %v", export, e.HasExport(export), loaded)
	}
	until("first", 1)
	exchange("[{name: second}]")
	until("second", 1)
	exchange(`[{name: third, schedule: {cron: "0 3 * *"}}]`)
	until("second", 0)
	exchange("[{name: fourth}]")
	until("fourth", 1)

	// What takes effect at the next start is told for as long as it is other than at the last one.
	for _, name := range []string{"fifth", "sixth"} {
		exchange("[{name: " + name + "}]\nlimits: {reads: 5}")
		until(name, 1)
	}
	exchange("[{name: seventh}]")
	until("seventh", 1)
	stop()
	if n := strings.Count(said.String(), "takes effect at the next start"); n != 2 {
		t.Errorf("told %d times, not twice:\n%s", n, said.String())
	}
}
