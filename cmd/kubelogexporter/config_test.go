package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	"github.com/kubelogexporter/kubelogexporter/sink/s3test"
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

// What a file says reaches the exporter.
func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(`apiVersion: kubelogexporter.dev/v1alpha1
kind: Config
sink: {s3: {bucket: bbb, prefix: p, endpoint: e:1, region: r, pathStyle: on, caFile: ca, credentials: files, accessKeyIDFile: i, secretAccessKeyFile: s, sessionTokenFile: t,
  sse: {type: kms, kmsKeyID: k}, storageClass: STANDARD_IA, objectLock: {mode: governance, retain: 2d}, tags: {a: b}, checksum: sha256}}
spool: {path: /spool, maxSize: 1Gi, minFree: 2Gi}
limits: {follows: 1, reads: 2, liveFollows: 3, followsPerNode: 4, readRate: 64Ki, uploads: 5, grace: 6s}
kubelets: {nodeLogs: recover, caFile: k, port: 7, containerLogMaxSize: 8Mi, containerLogMaxFiles: 9}
exports:
- {name: a, capture: live, compression: gzip, selection: {namespaces: [y, x]}, redact: {builtin: none, rules: [{name: r, pattern: x+}]}}
- {name: b, selection: {namespaces: [z]}, schedule: {cron: "0 1 * * *", timeZone: Europe/Berlin}, watchFor: 2h}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newApp("kubelogexporter", nil, io.Discard, os.Stderr, nil)
	s, err := a.loadSettings(newRunCommand(a), file)
	if err != nil {
		t.Fatal(err)
	}
	var flags captureFlags
	var got exporter.Options
	s.apply(&flags)
	if err := errors.Join(flags.bounds(&got), s.options(&got)); err != nil {
		t.Fatal(err)
	}
	exports := got.Exports
	got.Exports = nil
	want := exporter.Options{
		SpoolMaxBytes: 1 << 30, SpoolMinFree: 2 << 30,
		NodeLogs: exporter.NodeLogsRecover, Kubelets: nodelog.Options{CAFile: "k", Port: 7, MaxFiles: 9},
		Follows: 1, Reads: 2, LiveFollows: 3, NodeFollows: 4, RotateAt: 8 << 20, ReadRate: 64 << 10, Uploads: 5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	bucket := sink.S3Options{
		Endpoint: "e:1", Region: "r", Bucket: "bbb", Prefix: "p", PathStyle: "on", CAFile: "ca", Credentials: "files",
		AccessKeyIDFile: "i", SecretAccessKeyFile: "s", SessionTokenFile: "t",
		Objects: sink.ObjectOptions{Encryption: "kms", KMSKeyID: "k", StorageClass: "STANDARD_IA", LockMode: "governance", LockFor: 48 * time.Hour, Tags: map[string]string{"a": "b"}, Checksum: "sha256"},
	}
	if diff := cmp.Diff(bucket, flags.sink.s3); diff != "" || flags.sink.sink != "s3://bbb/p" || flags.spool != "/spool" {
		t.Errorf("sink %s, spool %s, %s", flags.sink.sink, flags.spool, diff)
	}
	if len(exports) != 2 || exports[0].Redact == nil || exports[0].Compression != bundle.Gzip || exports[0].Capture != exporter.CaptureLive ||
		exports[1].Schedule == nil || exports[1].Schedule.Spec().WatchFor != 2*time.Hour || exports[1].Schedule.Spec().TimeZone != "Europe/Berlin" {
		t.Errorf("exports %+v", exports)
	}
}

// examples are all configurations that users are shown: files, what init writes, and what stands in documents.
func examples(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"init": string(config.Init())}
	const root = "../.."
	fenced := regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```")
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "testdata" || strings.HasPrefix(name, ".") && file != root):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".md" && filepath.Ext(name) != ".yaml":
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parts := []string{string(text)}
		if filepath.Ext(name) == ".md" {
			parts = nil
			for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
				parts = append(parts, m[1])
			}
		}
		for i, part := range parts {
			if regexp.MustCompile(`(?m)^apiVersion: kubelogexporter\.dev/`).MatchString(part) {
				all[fmt.Sprintf("%s, part %d", file, i)] = part
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"../../README.md", "../../deploy/config-file/config.yaml", "../../deploy/examples/schedules.yaml", "../../deploy/examples/redaction.yaml"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(name string) bool { return strings.HasPrefix(name, want) }) {
			t.Fatalf("no configuration in %s", want)
		}
	}
	return all
}

// Every example passes the whole check, and makes exports.
func TestExamples(t *testing.T) {
	a := newApp("kubelogexporter", nil, io.Discard, io.Discard, nil)
	for name, text := range examples(t) {
		c, err := config.Parse([]byte(text), a.configOptions(newConfigPrintCommand(a)))
		if err != nil || len(c.Warnings) > 0 {
			t.Errorf("%s: %v %v", name, err, c)
			continue
		}
		if _, err := exportsOf(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What an export with windows cannot have is a mistake of the file, not of the start or of a reload.
func TestWindowsAreChecked(t *testing.T) {
	for export, want := range map[string]string{
		`{name: a, schedule: {cron: "@every 1h"}, watchFor: 10m}`:              "x:3:38: exports[0].schedule.cron: ",
		`{name: a, schedule: {cron: "@daily", catchUp: last}, watchFor: 10m}`:  "x:3:57: exports[0].schedule.catchUp: ",
		`{name: a, schedule: {cron: "@daily", jitter: 10m}, watchFor: 10m}`:    "x:3:56: exports[0].schedule.jitter: ",
		`{name: a, capture: live, schedule: {cron: "@daily"}, watchFor: 10m}`:  "x:3:30: exports[0].capture: ",
		`{name: a, capture: live, schedule: {cron: "@daily"}}`:                 "",
		`{name: a, schedule: {cron: "@daily", catchUp: none}, watchFor: 10m}`:  "",
		`{name: a, schedule: {cron: "@every 1h", jitter: 10m, catchUp: last}}`: "",
		`{name: a, schedule: {cron: "@daily", suspend: true}, watchFor: 1h}`:   "",
	} {
		a := newApp("kubelogexporter", nil, io.Discard, io.Discard, nil)
		o := a.configOptions(newConfigPrintCommand(a))
		o.File = "x"
		c, err := config.Parse([]byte("apiVersion: kubelogexporter.dev/v1alpha1\nkind: Config\nexports: ["+export+"]\n"), o)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: %v, want %q", export, err, want)
		case err == nil:
			if _, err := exportsOf(c); err != nil {
				t.Errorf("%s: %v", export, err)
			}
		}
	}
}

// A flag that counts for every export is told as what it is, whatever the file says in its place.
func TestLiveWindowsByFlag(t *testing.T) {
	a := newApp("kubelogexporter", nil, io.Discard, io.Discard, []string{"KUBELOGEXPORTER_CAPTURE=live"})
	text := "apiVersion: kubelogexporter.dev/v1alpha1\nkind: Config\nexports:\n- {name: a, capture: final, schedule: {cron: '@daily'}, watchFor: 1h}\n- {name: b, schedule: {cron: '@hourly'}, watchFor: 1m}\n"
	_, err := config.Parse([]byte(text), a.configOptions(newConfigPrintCommand(a)))
	if err == nil || strings.Count(err.Error(), "environment variable KUBELOGEXPORTER_CAPTURE: ") != 1 || strings.Contains(err.Error(), "config:") {
		t.Error(err)
	}
}

// A bucket that can be read and takes no objects is found, as it is at the start.
func TestCheckSinkStores(t *testing.T) {
	store := s3test.New(t)
	store.Change(func(s *s3test.Server) {
		s.Script = func(w http.ResponseWriter, r *http.Request, _ []byte, _ int) bool {
			if r.Method == http.MethodPut {
				s3test.Refuse(w, http.StatusBadRequest, "InvalidStorageClass")
			}
			return r.Method == http.MethodPut
		}
	})
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	c := &config.Config{Sink: config.Sink{S3: &config.S3{Endpoint: store.URL, Bucket: "logs", Credentials: "env", StorageClass: "COLD"}}}
	if _, err := newApp("kubelogexporter", nil, io.Discard, io.Discard, nil).checkSink(t.Context(), c); err == nil || !strings.Contains(err.Error(), "InvalidStorageClass") {
		t.Error(err)
	}
}

// The Lease of the schedules needs what deploy/ grants.
func TestFurtherRights(t *testing.T) {
	scheduled := &config.Config{Kubelets: config.Kubelets{NodeLogs: "off"}, Exports: []config.Export{{Schedule: &config.Schedule{}}}}
	got := fmt.Sprint(furtherRights(scheduled, &kubeTarget{pod: true, namespace: "x"}))
	if want := "[create leases.coordination.k8s.io in namespace x get leases.coordination.k8s.io in namespace x update leases.coordination.k8s.io in namespace x]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := furtherRights(scheduled, &kubeTarget{}); len(got) > 0 {
		t.Errorf("outside of a pod there is no Lease, yet %s", got)
	}
}
