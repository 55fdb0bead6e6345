// Command demo shows the main job on a real cluster and a real object store.
// It never touches what it did not make: its namespaces, its MinIO container and its node.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
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
	title     = "org.opencontainers.image.title=kubelogexporter" // the label of image, see Dockerfile
)

//go:embed workloads.yaml
var workloads string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{begin: time.Now(), current: os.Getenv("KUBE") == "current"}
	err := forget()
	switch {
	case err != nil:
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

// forget removes the settings that a user makes for the program, such as those that the demo tells
// to type: in a shell that has them, the demo would take them for an S3 server that it shall use.
func forget() error {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if name == "KUBELOGEXPORTER_MINIO_IMAGE" || !strings.HasPrefix(name, "KUBELOGEXPORTER_") && !strings.HasPrefix(name, "AWS_") {
			continue
		}
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("unset %s: %w", name, err)
		}
	}
	return nil
}

// demo is one run of this command.
type demo struct {
	begin   time.Time
	current bool // use the cluster of the current kubeconfig
	kubectl []string
	address string // of this machine, as pods reach it
	image   string // of the exporter, as the cluster knows it
	busybox string // what the workloads run
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
		return d.ownCluster(ctx)
	}
	d.say("starting a real Kubernetes node; the first time it is built from source, about 10 minutes on 2 cores")
	n, err := node.Up(ctx, node.Options{Log: os.Stdout})
	if err != nil {
		return err
	}
	d.kubectl = []string{n.Kubectl, "--kubeconfig", n.Kubeconfig}
	d.address, d.image, d.busybox = node.IP, image, node.Busybox
	return nil
}

// ownCluster uses the user's cluster. It must get the images from somewhere, and its pods must reach
// the MinIO on this machine.
func (d *demo) ownCluster(ctx context.Context) error {
	d.image, d.busybox = cmp.Or(os.Getenv("DEMO_IMAGE"), image), cmp.Or(os.Getenv("DEMO_BUSYBOX"), "busybox:1")
	d.kubectl = []string{"kubectl"}
	server, err := output(ctx, d.kube("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")...)
	if err != nil {
		return err
	}
	if d.address = os.Getenv("DEMO_ADDRESS"); d.address == "" {
		if d.address, err = addressTowards(ctx, server); err != nil {
			return err
		}
	}
	d.say("using the cluster at %s; its nodes must have or pull %s (make image, push it, DEMO_IMAGE=its name) and %s (DEMO_BUSYBOX), and its pods must reach this machine at %s:%d (DEMO_ADDRESS)",
		server, d.image, d.busybox, d.address, minioPort)
	return d.run(ctx, d.kube("get", "--raw", "/readyz")...)
}

// addressTowards returns the address that this machine has on its way to a server. Nothing is sent.
func addressTowards(ctx context.Context, server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("parse server %s: %w", server, err)
	}
	c, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "9"))
	if err != nil {
		return "", fmt.Errorf("find the way to %s: %w", server, err)
	}
	defer c.Close() //nolint:errcheck // nothing was written
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return host, err
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
	name, tag := d.image, "latest"
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name, tag = name[:i], name[i+1:]
	}
	// The tag is the same after every build: without its ID in the pod an old build would go on.
	id, err := output(ctx, "docker", "image", "inspect", "--format", "{{.ID}}", image)
	if err != nil {
		return err
	}
	overlay := fmt.Sprintf(overlayFormat, bucket, net.JoinHostPort(d.address, strconv.Itoa(d.store.HostPort)), d.store.AccessKey, d.store.SecretKey, name, tag, id)
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

// overlayFormat takes the bucket, the store's address, its two keys, and the image's name, tag and ID. The generators give the
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
        KUBELOGEXPORTER_SINK: s3://%[1]s
        KUBELOGEXPORTER_S3_ENDPOINT: http://%[2]s
        KUBELOGEXPORTER_S3_PATH_STYLE: "on"
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: kubelogexporter, namespace: kubelogexporter}
      spec: {template: {metadata: {annotations: {image-id: "%[7]s"}}}}
secretGenerator:
  - name: kubelogexporter-s3
    literals:
      - AWS_ACCESS_KEY_ID=%[3]s
      - AWS_SECRET_ACCESS_KEY=%[4]s
images:
  - {name: kubelogexporter, newName: "%[5]s", newTag: "%[6]s"}
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
	d.say("removing the exporter's image")
	failed = append(failed, d.dropImage(ctx))
	if root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}"); err == nil {
		failed = append(failed, os.RemoveAll(filepath.Join(root, "dist", "demo")))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	d.say("done; for the next time the binaries that were built stay in the cache directory and in dist/, the S3 server's image and the Debian packages where they are, and Docker goes on")
	return nil
}

// dropImage removes the exporter's image and those that lost their name to it. Other names of it are
// the user's. Without a Docker daemon there is nothing to remove.
func (d *demo) dropImage(ctx context.Context) error {
	if _, err := output(ctx, "docker", "version"); err != nil {
		return nil //nolint:nilerr // see above
	}
	if id, err := output(ctx, "docker", "images", "--quiet", image); err != nil || id != "" {
		if err := errors.Join(err, d.run(ctx, "docker", "rmi", image)); err != nil {
			return err
		}
	}
	return d.run(ctx, "docker", "image", "prune", "--force", "--filter", "label="+title)
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
