package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// build builds the program for a test.
func build(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "kubelogexporter")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/kubelogexporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// A chatty container is swept every ten seconds while the exporter is killed twice, then its pod is deleted:
// the log that its record names is what it wrote, each line once. Of the exports with windows only the one
// takes something whose window is open. What was swept before is not archived again by a one-off export.
func TestSweeps(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	binary, dir := build(t), t.TempDir()
	archive, spool, file := filepath.Join(dir, "archive"), filepath.Join(dir, "spool"), filepath.Join(dir, "config.yaml")
	now := time.Now().UTC()
	config := fmt.Sprintf(`apiVersion: kubelogexporter.dev/v1alpha1
kind: Config
cluster: test
kubernetes: {kubeconfig: %s}
sink: {dir: %s}
spool: {path: %s}
exports:
- {name: swept, selection: {namespaces: [%[4]s], labels: app=chatty}, schedule: {cron: "@every 10s"}}
- {name: open, selection: {namespaces: [%[4]s], labels: app=open}, schedule: {cron: "%[5]s"}, watchFor: 2h}
- {name: closed, selection: {namespaces: [%[4]s]}, schedule: {cron: "%[6]s"}, watchFor: 1h}
`, c.node.Kubeconfig, archive, spool, c.namespace, now.Add(-time.Hour).Format("4 15 * * *"), now.Add(-3*time.Hour).Format("4 15 * * *"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	bucket, err := sink.OpenDir(archive)
	if err != nil {
		t.Fatal(err)
	}
	said := &observed{}
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), binary, "run", "--config", file)
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	snapshots := func() (n int) {
		for _, rec := range c.records(bucket) {
			if rec.State.Running {
				n++
			}
		}
		return n
	}
	c.create(shell("chatty", `trap 'echo "last $i"; /bin/busybox sleep 2; exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; /bin/busybox sleep 0.05; done`),
		shell("open", "sleep 8; echo inside"), shell("outside", "sleep 8; echo outside"))
	for kill := range 3 {
		cmd := start()
		c.until(2*time.Minute, "one more sweep", func() bool { return snapshots() > kill })
		if kill < 2 {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			time.Sleep(time.Second)
			continue
		}
		c.remove("chatty")
		c.until(2*time.Minute, "the last records", func() bool { return len(c.records(bucket))-snapshots() >= 2 })
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	for _, rec := range c.records(bucket) {
		switch {
		case rec.State.Running:
		case rec.Pod.Name == "chatty":
			c.checkCount(bucket, rec)
		case rec.Pod.Name != "open" || c.said(bucket, rec) != "inside":
			t.Errorf("%s is archived: %q", rec.Pod.Name, c.said(bucket, rec))
		}
	}
	before := len(c.records(bucket))
	out, err := exec.CommandContext(t.Context(), binary, "export", "--config", file, "--spool", filepath.Join(dir, "spool-export")).CombinedOutput()
	if got := len(c.records(bucket)); err != nil || got != before+1 { // what ended outside of the windows
		t.Errorf("the export makes %d records of %d, %v\n%s", got, before, err, out)
	}
	out, err = exec.CommandContext(t.Context(), binary, "export", "--config", file, "--spool", filepath.Join(dir, "spool-export")).CombinedOutput()
	if got := len(c.records(bucket)); err != nil || got != before+1 {
		t.Errorf("a second export makes %d records, %v\n%s", got, err, out)
	}
	if t.Failed() {
		t.Log(said.text())
	}
}

// checkCount checks that a log counts from 1 and tells at its end how far it has come.
func (c *cluster) checkCount(b sink.Bucket, rec *bundle.Record) {
	c.t.Helper()
	words := strings.Fields(c.said(b, rec))
	for i, word := range words[:max(0, len(words)-2)] {
		if word != fmt.Sprint(i+1) {
			c.t.Fatalf("line %d is %q; verdict %+v", i+1, word, rec.Verdict)
		}
	}
	if n := len(words) - 2; n < 50 || words[n] != "last" || words[n+1] != fmt.Sprint(n) {
		c.t.Errorf("%d lines, the last ones %q, verdict %+v, reads %+v", n, words[max(0, n-2):], rec.Verdict, rec.Capture.Reads)
	}
	c.t.Logf("%d lines in %d objects, complete %v", rec.Lines, len(rec.Objects), rec.Verdict.Complete)
}
