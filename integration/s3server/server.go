// Package s3server runs S3 servers in containers, for tests and the demo.
// It never runs in the program itself, and it asks no image registry unless told to.
package s3server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/wait"
)

// Kind is a make of S3 server.
type Kind string

// The makes. MinIO is what most people run; VersityGW is another code base, so that what is true
// of both is true of S3 and not of one server.
const (
	MinIO     Kind = "minio"
	VersityGW Kind = "versitygw"
)

// Environment variables that name what to use instead of a MinIO of our own.
const (
	envImage     = "KUBELOGEXPORTER_MINIO_IMAGE"        // an image, local or in a registry
	envEndpoint  = "KUBELOGEXPORTER_TEST_S3_ENDPOINT"   // http://host:port of a server that runs already
	envAccessKey = "KUBELOGEXPORTER_TEST_S3_ACCESS_KEY" //nolint:gosec // a name
	envSecretKey = "KUBELOGEXPORTER_TEST_S3_SECRET_KEY" //nolint:gosec // a name
)

// Labels of the containers, by which a later process finds those of a dead one.
const (
	labelOwner = "com.github.kubelogexporter.owner" // process id of the starter, for nameless ones
	labelKeys  = "com.github.kubelogexporter.keys"  // access key and secret, of a server that guards nothing
)

// Options say what to start.
type Options struct {
	Name     string    // of the container; a running one of this name is used. Empty: a new one
	Kind     Kind      // empty means MinIO
	HostPort int       // on all addresses of this machine; 0 takes a free one
	Log      io.Writer // progress in words; nil for none
}

// Server is a running S3 server. Any program on this machine and any pod of the test node reaches
// it; the keys are random.
type Server struct {
	Endpoint  string // http://localhost:PORT
	AccessKey string
	SecretKey string
	HostPort  int // 0 if the server was named by the environment

	container *testcontainers.DockerContainer // nil if it is not ours to stop
}

// Start starts a server in a container, or finds the one that goes by the name, and waits until it
// answers. It builds the image first if need be, which takes minutes once, and sets up Docker
// (EnsureDocker). With KUBELOGEXPORTER_TEST_S3_ENDPOINT set, that is the MinIO and nothing is started.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Kind == "" {
		o.Kind = MinIO
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if endpoint := os.Getenv(envEndpoint); endpoint != "" && o.Kind == MinIO {
		return &Server{Endpoint: endpoint, AccessKey: os.Getenv(envAccessKey), SecretKey: os.Getenv(envSecretKey)}, nil
	}
	if err := EnsureDocker(ctx, o.Log); err != nil {
		return nil, err
	}
	removeOrphans(ctx)
	image, err := imageOf(ctx, o.Kind, o.Log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Kind, err)
	}
	if err := configureTestcontainers(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Kind, err)
	}
	var told transcript
	c, err := testcontainers.Run(ctx, image, append(o.request(), testcontainers.WithLogger(&told))...)
	if err != nil {
		err = fmt.Errorf("start %s: %w\n%s", o.Kind, err, told.text.String())
		if c != nil && o.Name == "" {
			err = errors.Join(err, terminate(ctx, c))
		}
		return nil, err
	}
	s, err := describe(ctx, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", o.Kind, err), terminate(ctx, c))
	}
	fmt.Fprintf(o.Log, "%s answers at %s\n", o.Kind, s.Endpoint)
	return s, nil
}

// transcript keeps what testcontainers tells, which includes the log of a container that does not
// get ready. It matters only if the start fails.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

// Printf implements the Logger of testcontainers.
func (t *transcript) Printf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(&t.text, format+"\n", args...)
}

// quiet stops what testcontainers says about the Docker daemon on standard error. Once, because its
// default logger is a plain variable.
var quiet = sync.OnceFunc(func() { tclog.SetDefault(tclog.NewNoopLogger()) }) //nolint:gochecknoglobals // see above

// configureTestcontainers speaks for the user where the user has not: the reaper is an image from a
// registry, and where tests run inside a container-like machine testcontainers takes the default
// gateway for the Docker host.
func configureTestcontainers() error {
	quiet()
	for name, value := range map[string]string{"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "localhost"} {
		if _, ok := os.LookupEnv(name); ok || name == "TESTCONTAINERS_HOST_OVERRIDE" && strings.HasPrefix(os.Getenv("DOCKER_HOST"), "tcp://") {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// request is how the server runs in its container.
func (o Options) request() []testcontainers.ContainerCustomizer {
	access, secret := "kubelogexporter", random()
	env := map[string]string{"MINIO_ROOT_USER": access, "MINIO_ROOT_PASSWORD": secret}
	command, health := []string{"server", "/data", "--address", ":9000"}, "/minio/health/ready"
	if o.Kind == VersityGW {
		env = map[string]string{"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret}
		command, health = []string{"--port", ":9000", "--health", "/health", "posix", "/data"}, "/health"
	}
	labels := map[string]string{labelKeys: access + ":" + secret}
	if o.Name == "" {
		labels[labelOwner] = strconv.Itoa(os.Getpid())
	}
	options := []testcontainers.ContainerCustomizer{
		testcontainers.WithExposedPorts("9000/tcp"),
		testcontainers.WithEnv(env),
		testcontainers.WithLabels(labels),
		testcontainers.WithCmd(command...),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			// 0.0.0.0, not localhost: pods reach the machine by the address of the node's bridge.
			binding := network.PortBinding{HostIP: netip.IPv4Unspecified(), HostPort: strconv.Itoa(o.HostPort)}
			c.PortBindings = network.PortMap{network.MustParsePort("9000/tcp"): {binding}}
		}),
		testcontainers.WithWaitStrategyAndDeadline(time.Minute,
			wait.ForHTTP(health).WithPort("9000/tcp").WithPollInterval(50*time.Millisecond)),
	}
	if o.Name != "" {
		options = append(options, testcontainers.WithReuseByName(o.Name))
	}
	return options
}

func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// describe reads endpoint and keys from the container, which may have been started by another process.
func describe(ctx context.Context, c *testcontainers.DockerContainer) (*Server, error) {
	endpoint, err := c.PortEndpoint(ctx, "9000/tcp", "http")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return nil, err
	}
	info, err := c.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	access, secret, ok := strings.Cut(info.Config.Labels[labelKeys], ":")
	if !ok {
		return nil, fmt.Errorf("container %s was not started by this package: remove it, or choose another name", info.Name)
	}
	return &Server{Endpoint: endpoint, AccessKey: access, SecretKey: secret, HostPort: port, container: c}, nil
}

func terminate(ctx context.Context, c *testcontainers.DockerContainer) error {
	// What it stores is thrown away with it: there is nothing to shut down in good order.
	return c.Terminate(context.WithoutCancel(ctx), testcontainers.StopTimeout(0))
}

// Stop ends the server and throws away what it stores. A server that the environment named goes on.
func (s *Server) Stop(ctx context.Context) error {
	if s.container == nil {
		return nil
	}
	if err := terminate(ctx, s.container); err != nil {
		return fmt.Errorf("stop S3 server: %w", err)
	}
	return nil
}

// Stop ends the server that was started under a name, by this or another process. It is no error if
// there is none.
func Stop(ctx context.Context, name string) error {
	if !answers(ctx) {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "docker", "rm", "--force", "--volumes", name).CombinedOutput(); err != nil && !strings.Contains(string(out), "No such container") {
		return fmt.Errorf("stop S3 server %s: %w: %s", name, err, out)
	}
	return nil
}

// MakeBucket makes a bucket. It is no error if it is there and ours.
func (s *Server) MakeBucket(ctx context.Context, name string) error {
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Secure: u.Scheme == "https", Region: "us-east-1", MaxRetries: 7, // a server that says it is ready may not be for a second
	})
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	err = client.MakeBucket(ctx, name, minio.MakeBucketOptions{})
	if code := minio.ToErrorResponse(err).Code; err != nil && code != "BucketAlreadyOwnedByYou" {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// removeOrphans takes away the nameless containers of processes that died before they could.
func removeOrphans(ctx context.Context) {
	out, err := exec.CommandContext(ctx, "docker", "ps", "--all", "--filter", "label="+labelOwner, "--format", `{{.ID}} {{.Label "`+labelOwner+`"}}`).Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if pid, err := strconv.Atoi(f[1]); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = exec.CommandContext(ctx, "docker", "rm", "--force", "--volumes", f[0]).Run()
		}
	}
}
