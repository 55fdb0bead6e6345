package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// The exporter is killed again and again while pods end and captures are spooled and shipped: in the
// end every run is archived once, with its whole log, and the spool is empty.
func TestKill9(t *testing.T) {
	t.Parallel() // it waits most of the time
	const pods = 24
	c := newCluster(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "kubelogexporter")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/kubelogexporter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	archive, spool := filepath.Join(dir, "archive"), filepath.Join(dir, "spool")
	said := &observed{}
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), binary, "run", "-n", c.namespace, "--cluster", "test",
			"--sink", "dir:"+archive, "--spool", spool, "--kubeconfig", c.node.Kubeconfig)
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for i := range pods {
		c.create(shell(fmt.Sprintf("pod-%d", i), fmt.Sprintf("echo begin; sleep %d.%d; echo end of %d", i/3, i%10, i)))
	}
	bucket, err := sink.OpenDir(archive)
	if err != nil {
		t.Fatal(err)
	}
	kills := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); kills++ {
		cmd := start()
		<-time.After(300*time.Millisecond + rand.N(1500*time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	from := len(said.text())
	last := start()
	c.until(2*time.Minute, "the last start", func() bool { return strings.Contains(said.text()[from:], "msg=watching") })
	recs := c.await(bucket, pods, time.Minute)
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("the spool holds %q, the exporter said:\n%s", left, said.text())
		}
	}()
	c.until(2*time.Minute, "an empty spool", func() bool {
		left, err = filepath.Glob(filepath.Join(spool, "cluster=*", "*", "*", "*", "*", "*"))
		folders, ferr := filepath.Glob(filepath.Join(spool, "cluster=*"))
		return err == nil && ferr == nil && len(left)+len(folders) == 0
	})
	_ = last.Process.Signal(os.Interrupt)
	if err := last.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
	seen := make(map[string]bool)
	for _, rec := range recs {
		if seen[rec.Container.ContainerID] {
			t.Errorf("%s is archived twice", rec.Pod.Name)
		}
		seen[rec.Container.ContainerID] = true
		if text := c.text(bucket, rec); bytes.Count(text, []byte("\n")) != 2 || !bytes.Contains(text, []byte("end of "+rec.Pod.Name[4:])) {
			t.Errorf("%s: log %q", rec.Pod.Name, text)
		}
	}
	if len(recs) != pods {
		t.Errorf("%d records for %d runs after %d kills", len(recs), pods, kills)
	}
	t.Logf("%d kills", kills)
}
