package integration

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kubelogexporter/kubelogexporter/integration/s3server"
	"github.com/kubelogexporter/kubelogexporter/sink"
)

// A service account that may watch pods but not read logs: the exporter says which right is missing
// and how to grant it, and goes on by itself once it is granted.
func TestForbiddenLogs(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	account := c.account("watcher", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}})
	log := c.exportAs(account)
	c.create(shell("secret", "echo hello"))
	want := "system:serviceaccount:" + c.namespace + ":watcher may not get pods/log in namespace " + c.namespace
	c.until(2*time.Minute, "the message "+want, func() bool { return strings.Contains(log.text(), want) })
	if !strings.Contains(log.text(), "--serviceaccount="+c.namespace+":watcher") {
		t.Errorf("the message does not say how to grant it:\n%s", log.text())
	}
	if n := len(c.records(log.bucket)); n != 0 {
		t.Errorf("%d records while logs are forbidden", n)
	}
	c.grant("watcher-logs", "watcher", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}})
	rec := c.await(log.bucket, 1, time.Minute)[0]
	if text := c.text(log.bucket, rec); !bytes.HasSuffix(text, []byte(" hello\n")) {
		t.Errorf("log %q", text)
	}
}

// An API server that cannot be reached: a clear message, no end of the program, and work as soon as
// it is there.
func TestUnreachable(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	away := rest.CopyConfig(c.config)
	away.Host, away.ServerName = "https://"+address, "10.96.0.1"
	log := c.exportAs(away)
	c.until(2*time.Minute, "a message", func() bool {
		return strings.Contains(log.text(), "cannot reach the API server") && strings.Contains(log.text(), "connection refused")
	})
	c.create(shell("meanwhile", "echo hello"))
	forward(t, address, "10.96.0.1:443")
	c.await(log.bucket, 1, time.Minute)
	if !strings.Contains(log.text(), "the API server answers again") {
		t.Error("the end of the outage is not told")
	}
}

// forward passes connections on until the test ends.
func forward(t *testing.T, from, to string) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.Close()
			}
			go pipe(in, out)
			go pipe(out, in)
		}
	}()
}

// A bucket that does not exist: the exporter names the fix, keeps what it captured, and ships it as
// soon as the bucket is there.
func TestMissingBucket(t *testing.T) {
	t.Parallel() // it waits most of the time
	c := newCluster(t)
	server := s3server.ForTest(t, s3server.MinIO)
	log := c.observe(c.config, openBucket(t, server, "later", "", sink.ObjectOptions{}))
	c.create(shell("early", "echo hello"))
	c.until(2*time.Minute, "the message", func() bool { return strings.Contains(log.text(), "aws s3 mb s3://later") })
	if err := server.MakeBucket(t.Context(), "later"); err != nil {
		t.Fatal(err)
	}
	rec := c.await(log.bucket, 1, 2*time.Minute)[0]
	if text := c.text(log.bucket, rec); !bytes.HasSuffix(text, []byte(" hello\n")) {
		t.Errorf("log %q", text)
	}
}

// account makes a service account with rights in the test's namespace, and a configuration to be it.
func (c *cluster) account(name string, rules ...rbacv1.PolicyRule) *rest.Config {
	c.t.Helper()
	accounts := c.kube.CoreV1().ServiceAccounts(c.namespace)
	if _, err := accounts.Create(c.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.grant(name, name, rules...)
	token, err := accounts.CreateToken(c.t.Context(), name, &authnv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token.Status.Token
	return config
}

func (c *cluster) grant(role, account string, rules ...rbacv1.PolicyRule) {
	c.t.Helper()
	meta := metav1.ObjectMeta{Name: role}
	if _, err := c.kube.RbacV1().Roles(c.namespace).Create(c.t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: c.namespace}},
	}
	if _, err := c.kube.RbacV1().RoleBindings(c.namespace).Create(c.t.Context(), binding, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// observed is what an exporter says and stores.
type observed struct {
	bucket *timed
	mu     sync.Mutex
	buf    bytes.Buffer
}

func (o *observed) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *observed) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// exportAs runs an exporter under another configuration until the test ends.
func (c *cluster) exportAs(config *rest.Config) *observed {
	c.t.Helper()
	return c.observe(config, objectStore(c.t))
}

// observe does so into a bucket.
func (c *cluster) observe(config *rest.Config, bucket sink.Bucket) *observed {
	c.t.Helper()
	o := &observed{}
	o.bucket = c.exportTo(config, bucket, o, time.Second)
	return o
}
