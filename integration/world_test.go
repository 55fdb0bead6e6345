package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubelogexporter/kubelogexporter/exporter"
	"github.com/kubelogexporter/kubelogexporter/integration/node"
	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// required skips a test that needs more than Go, unless it was asked for. In CI it is always asked for.
func required(t *testing.T) {
	t.Helper()
	if os.Getenv("KUBELOGEXPORTER_INTEGRATION") == "" && os.Getenv("CI") != "true" {
		t.Skip("needs root, Docker and a Kubernetes node: run \"make test\", or set KUBELOGEXPORTER_INTEGRATION=1")
	}
}

// cluster is the node, shared by the tests of this package, and this test's namespace on it.
type cluster struct {
	t         *testing.T
	node      *node.Node
	config    *rest.Config
	kube      kubernetes.Interface
	namespace string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	required(t)
	n, err := node.Up(t.Context(), node.Options{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	config, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, node: n, config: config, kube: kube, namespace: strings.ToLower(fmt.Sprintf("%s-%x", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano()&0xffffff))}
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		background := metav1.DeletePropagationBackground
		now := int64(0)
		_ = kube.CoreV1().Pods(c.namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
		_ = kube.CoreV1().Namespaces().Delete(context.Background(), c.namespace, metav1.DeleteOptions{PropagationPolicy: &background})
	})
	c.until(2*time.Minute, "the default service account", func() bool {
		_, err := kube.CoreV1().ServiceAccounts(c.namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	return c
}

// until waits for a condition.
func (c *cluster) until(limit time.Duration, what string, ok func() bool) {
	c.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			c.t.Fatalf("%s: not within %s", what, limit)
		case <-c.t.Context().Done():
			c.t.Fatal(what, c.t.Context().Err())
		}
	}
}

// shell is a pod that runs a shell script.
func shell(name, script string) *corev1.Pod {
	grace := int64(30)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "app", Image: node.Busybox, Command: []string{"/bin/busybox", "sh", "-c", script}}},
		},
	}
}

func (c *cluster) create(pods ...*corev1.Pod) {
	c.t.Helper()
	for _, pod := range pods {
		if _, err := c.kube.CoreV1().Pods(c.namespace).Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) list() []corev1.Pod {
	c.t.Helper()
	list, err := c.kube.CoreV1().Pods(c.namespace).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// inPhase counts the pods in a phase.
func (c *cluster) inPhase(phase corev1.PodPhase) int {
	n := 0
	for _, pod := range c.list() {
		if pod.Status.Phase == phase {
			n++
		}
	}
	return n
}

// kubectlLogs is what a user's kubectl prints with stamps.
func (c *cluster) kubectlLogs(pod string) []byte {
	c.t.Helper()
	r, err := c.kube.CoreV1().Pods(c.namespace).GetLogs(pod, &corev1.PodLogOptions{Timestamps: true}).Stream(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// timed is a bucket that notes when each record was stored.
type timed struct {
	sink.Bucket
	mu    sync.Mutex
	times map[string]time.Time
	puts  map[string]int
}

func (b *timed) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	err := b.Bucket.Put(ctx, key, body)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.times[key] = time.Now()
		b.puts[key]++
	}
	return err
}

func (b *timed) at(key string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times[key]
}

// export runs an exporter in this process, over the test's namespace, until the test ends.
func (c *cluster) export(bucket sink.Bucket) *timed {
	c.t.Helper()
	return c.exportTo(c.config, bucket, testLog{c.t}, 0)
}

// exportWith runs an exporter with other options into a directory.
func (c *cluster) exportWith(change func(*exporter.Options)) *timed {
	c.t.Helper()
	dir, err := sink.OpenDir(c.t.TempDir())
	if err != nil {
		c.t.Fatal(err)
	}
	return c.start(dir, exporter.Options{Kube: c.config, Log: slog.New(slog.NewTextHandler(testLog{c.t}, nil))}, change)
}

// exportTo does so under another configuration, with the exporter's own log in w. A grace of 0 is the default.
func (c *cluster) exportTo(config *rest.Config, bucket sink.Bucket, w io.Writer, grace time.Duration) *timed {
	c.t.Helper()
	return c.start(bucket, exporter.Options{Kube: config, Grace: grace, Log: slog.New(slog.NewTextHandler(w, nil))}, nil)
}

func (c *cluster) start(bucket sink.Bucket, o exporter.Options, change func(*exporter.Options)) *timed {
	c.t.Helper()
	b := &timed{Bucket: bucket, times: make(map[string]time.Time), puts: make(map[string]int)}
	o.Bucket, o.Spool, o.Cluster, o.Namespaces, o.Version = b, c.t.TempDir(), "test", []string{c.namespace}, "test"
	if change != nil {
		change(&o)
	}
	e, err := exporter.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, e.Close()); err != nil {
			c.t.Errorf("exporter: %v", err)
		}
	})
	return b
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// records reads all records under this test's namespace.
func (c *cluster) records(b sink.Bucket) []*bundle.Record {
	c.t.Helper()
	var recs []*bundle.Record
	for o, err := range b.List(c.t.Context(), bundle.NamespacePrefix("test", c.namespace), sink.ListOptions{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if !strings.HasPrefix(path.Base(o.Key), "_") {
			continue
		}
		rec, err := bundle.DecodeStrict(c.object(b, o.Key))
		if err == nil {
			err = rec.Validate()
		}
		if err != nil {
			c.t.Fatalf("%s: %v", o.Key, err)
		}
		recs = append(recs, rec)
	}
	return recs
}

func (c *cluster) object(b sink.Bucket, key string) []byte {
	c.t.Helper()
	r, err := b.Open(c.t.Context(), key, 0, -1)
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// await waits until the namespace has at least n records.
func (c *cluster) await(b sink.Bucket, n int, limit time.Duration) []*bundle.Record {
	c.t.Helper()
	var recs []*bundle.Record
	c.until(limit, fmt.Sprintf("%d records", n), func() bool {
		recs = c.records(b)
		return len(recs) >= n
	})
	return recs
}

// text returns the log that a record names.
func (c *cluster) text(b sink.Bucket, rec *bundle.Record) []byte {
	c.t.Helper()
	var text bytes.Buffer
	for _, o := range rec.Objects {
		r, err := bundle.NewLogReader(bytes.NewReader(c.object(b, o.Key)), bundle.Zstd)
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := io.Copy(&text, r); err != nil {
			c.t.Fatalf("%s: %v", o.Key, err)
		}
	}
	return text.Bytes()
}
