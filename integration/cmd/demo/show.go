package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
)

// patience is how long the workloads may take to die and to be archived.
const patience = 2 * time.Minute

// die lets the workloads die, and waits until each is in the bucket.
func (d *demo) die(ctx context.Context) error {
	d.say("starting pods that crash, finish, are OOM-killed, restart in a loop, and are deleted while they write")
	if err := d.run(ctx, d.kube("delete", "--ignore-not-found", "namespace", "demo", "--timeout=60s")...); err != nil {
		return err
	}
	since := time.Now()
	if err := d.apply(ctx, strings.ReplaceAll(workloads, node.Busybox, d.busybox)); err != nil {
		return err
	}
	if err := d.run(ctx, d.kube("-n", "demo", "wait", "pod/deleted", "--for=condition=Ready", "--timeout=90s")...); err != nil {
		return err
	}
	d.say("pods run; deleting one while it writes, in 3 seconds")
	if !sleep(ctx, 3*time.Second) {
		return ctx.Err()
	}
	if err := d.run(ctx, d.kube("-n", "demo", "delete", "pod", "deleted", "--wait=false")...); err != nil {
		return err
	}
	want := map[string]int{"crash": 1, "report-": 1, "oom": 1, "deleted": 1, "loop": 2}
	for end := time.Now().Add(patience); ; {
		missing, err := d.missing(ctx, since, want)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(end) {
			logs, _ := output(ctx, d.kube("-n", namespace, "logs", "deployment/kubelogexporter", "--tail=20")...)
			return fmt.Errorf("not archived within %s: %s; the exporter says:\n%s", patience, strings.Join(missing, ", "), logs)
		}
		d.say("waiting for the end and the record of: %s", strings.Join(missing, ", "))
		if !sleep(ctx, 3*time.Second) {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, t time.Duration) bool {
	select {
	case <-time.After(t):
		return true
	case <-ctx.Done():
		return false
	}
}

// missing names the workloads that have fewer records than they should.
func (d *demo) missing(ctx context.Context, since time.Time, want map[string]int) ([]string, error) {
	out, err := d.exporter(ctx, "ls", "-n", "demo", "--since-time", since.UTC().Format(time.RFC3339), "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Pod struct {
				Name string `json:"name"`
			} `json:"pod"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	var missing []string
	for name, n := range want {
		for _, item := range list.Items {
			if strings.HasPrefix(item.Pod.Name, name) {
				n--
			}
		}
		if n > 0 {
			missing = append(missing, strings.TrimSuffix(name, "-"))
		}
	}
	return missing, nil
}

// storeFlags tell the program where the archive is, as a user would type them.
func (d *demo) storeFlags() []string {
	return []string{"--sink", "s3://" + bucket, "--s3-endpoint", d.store.Endpoint}
}

// exporter runs the program on this machine against the bucket.
func (d *demo) exporter(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.binary, append(args, d.storeFlags()...)...) //nolint:gosec // built by this program
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+d.store.AccessKey, "AWS_SECRET_ACCESS_KEY="+d.store.SecretKey)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, said.String())
	}
	return string(out), nil
}

// show prints what was archived, and what to type next.
func (d *demo) show(ctx context.Context) error {
	table, err := d.exporter(ctx, "ls", "-n", "demo")
	if err != nil {
		return err
	}
	log, err := d.exporter(ctx, "logs", "-n", "demo", "deleted", "--tail", "6")
	if err != nil {
		return err
	}
	d.say("archived in the bucket %q:\n\n%s", bucket, table)
	d.say("the last lines of the pod that was deleted while it wrote:\n\n%s", log)
	// A fresh machine has no kubectl: the node brings its own.
	kubectl, down := "go run ./integration/cmd/node kubectl", "make demo-down"
	if d.current {
		kubectl, down = "kubectl", "make demo-down KUBE=current"
	}
	d.say(`next, type for example:

  export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s
  export KUBELOGEXPORTER_SINK=s3://%s KUBELOGEXPORTER_S3_ENDPOINT=%s
  dist/kubelogexporter ls -o wide
  dist/kubelogexporter logs -n demo loop --previous --timestamps
  aws s3 ls --recursive s3://%s --endpoint-url %s
  %s -n kubelogexporter logs deploy/kubelogexporter
  %s
`, d.store.AccessKey, d.store.SecretKey, bucket, d.store.Endpoint, bucket, d.store.Endpoint, kubectl, down)
	return nil
}

// apply gives a manifest to the cluster.
func (d *demo) apply(ctx context.Context, manifest string) error {
	args := d.kube("apply", "-f", "-")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // commands of this program
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}
