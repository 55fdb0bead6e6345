// Command demo shows the main job on a real cluster and a real object store.
// It never touches what it did not make: its namespaces, its MinIO container and its node.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kubelogexporter/kubelogexporter/integration/node"
	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
)

const (
	minioName = "kubelogexporter-demo-minio"
	minioPort = 9000
	bucket    = "logs"
	image     = "kubelogexporter:dev"
	namespace = "kubelogexporter"
)

//go:embed workloads.yaml
var workloads string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{begin: time.Now(), current: os.Getenv("KUBE") == "current"}
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "up":
		err = d.up(ctx)
	case len(os.Args) == 2 && os.Args[1] == "down":
		err = d.down(ctx)
	default:
		err = errors.New("usage: demo up|down")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// demo is one run of this command.
type demo struct {
	begin   time.Time
	current bool // use the cluster of the current kubeconfig
	kubectl []string
	store   *s3server.Server
	binary  string
}

func (d *demo) say(format string, args ...any) {
	fmt.Printf("%5.0fs  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) up(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("the demo starts containers and a Kubernetes node, and needs root: sudo make demo")
	}
	steps := []func(context.Context) error{d.cluster, d.storage, d.program, d.deploy, d.die, d.show}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cluster starts the node, or finds the user's own cluster.
func (d *demo) cluster(ctx context.Context) error {
	if d.current {
		d.say("using the cluster of the current kubeconfig; its nodes must know the images %s and %s, and reach this machine", image, node.Busybox)
		d.kubectl = []string{"kubectl"}
		return d.run(ctx, d.kube("version")...)
	}
	d.say("starting a real Kubernetes node; the first time it is built from source, about 10 minutes on 2 cores")
	n, err := node.Up(ctx, node.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	d.kubectl = []string{n.Kubectl, "--kubeconfig", n.Kubeconfig}
	return nil
}

// storage starts MinIO and makes the bucket.
func (d *demo) storage(ctx context.Context) (err error) {
	d.say("starting MinIO in a container; the first time it is built from source, about 3 minutes")
	d.store, err = s3server.Start(ctx, s3server.Options{Name: minioName, HostPort: minioPort, Log: os.Stdout})
	if err != nil {
		return err
	}
	return d.store.MakeBucket(ctx, bucket)
}

// program builds the image and takes it to the node.
func (d *demo) program(ctx context.Context) error {
	d.say("building the exporter and its image from Dockerfile")
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	d.binary = filepath.Join(root, "dist", "kubelogexporter")
	if err := d.run(ctx, "make", "-s", "image"); err != nil {
		return err
	}
	if d.current {
		return nil
	}
	n, err := node.Open()
	if err != nil {
		return err
	}
	return n.Load(ctx, image)
}

// deploy applies the manifests of deploy/ as they are, with an overlay for this bucket and its keys,
// as a user would write one.
func (d *demo) deploy(ctx context.Context) error {
	d.say("deploying the exporter with the ServiceAccount, ClusterRole and ClusterRoleBinding of deploy/")
	overlay := fmt.Sprintf(overlayFormat, bucket, node.IP, d.store.HostPort, d.store.AccessKey, d.store.SecretKey)
	dir := filepath.Join("dist", "demo")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "-k", dir},
		{"-n", namespace, "rollout", "status", "deployment/kubelogexporter", "--timeout=120s"},
	} {
		if err := d.run(ctx, d.kube(args...)...); err != nil {
			return err
		}
	}
	return nil
}

// overlayFormat takes the bucket, the store's address and its two keys. The generators give the
// Secret a name of its own content, so that a changed key starts a new pod.
const overlayFormat = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: kubelogexporter
resources:
  - ../../deploy
patches:
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: kubelogexporter, namespace: kubelogexporter}
      data:
        KUBELOGEXPORTER_CLUSTER: demo
        KUBELOGEXPORTER_SINK: s3://%s
        KUBELOGEXPORTER_S3_ENDPOINT: http://%s:%d
        KUBELOGEXPORTER_S3_PATH_STYLE: "on"
secretGenerator:
  - name: kubelogexporter-s3
    literals:
      - AWS_ACCESS_KEY_ID=%s
      - AWS_SECRET_ACCESS_KEY=%s
`

// down removes what up made, whatever of it is there.
func (d *demo) down(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("the demo was started as root, and is removed as root: sudo make demo-down")
	}
	var failed []error
	if d.current {
		d.kubectl = []string{"kubectl"}
		d.say("removing the namespaces demo and %s, the ClusterRole and its binding", namespace)
		failed = append(failed, d.run(ctx, d.kube("delete", "--ignore-not-found", "namespace", "demo")...),
			d.run(ctx, d.kube("delete", "--ignore-not-found", "-k", "deploy")...))
	} else {
		d.say("stopping the Kubernetes node")
		failed = append(failed, node.Down(ctx, os.Stdout))
	}
	d.say("stopping MinIO and removing what it held")
	failed = append(failed, s3server.Stop(ctx, minioName))
	if root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}"); err == nil {
		failed = append(failed, os.RemoveAll(filepath.Join(root, "dist", "demo")))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	d.say("done; the binaries that were built stay in the user's cache directory for the next time")
	return nil
}

func (d *demo) kube(args ...string) []string {
	return append(append([]string(nil), d.kubectl...), args...)
}

// run runs a command and shows what it says only if it fails.
func (d *demo) run(ctx context.Context, args ...string) error {
	_, err := output(ctx, args...)
	return err
}

func output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // commands of this program
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("%s: %w\n%s%s", filepath.Base(args[0]), err, out, exit.Stderr)
		}
		return "", err
	}
	return string(trimNewline(out)), nil
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}
