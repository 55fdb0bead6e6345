package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// client asks the components whether they are ready. It is net/http and not
// client-go because four questions do not need more.
type client struct{ http http.Client }

func newClient() (*client, error) {
	pem, err := os.ReadFile(pki("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read ca certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("read ca certificate: none in the file")
	}
	pair, err := tls.LoadX509KeyPair(pki("admin.crt"), pki("admin.key"))
	if err != nil {
		return nil, fmt.Errorf("read admin certificate: %w", err)
	}
	return &client{http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			// A new connection for every question: an old one may lead to a
			// component that has died.
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
		},
	}}, nil
}

func (c *client) get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s: %.200s", url, resp.Status, body)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	return nil
}

func (c *client) ready(ctx context.Context) error { return c.get(ctx, APIServer+"/readyz", nil) }

func (c *client) serviceAccountExists(ctx context.Context) error {
	if err := c.get(ctx, APIServer+"/api/v1/namespaces/default/serviceaccounts/default", nil); err != nil {
		return err
	}
	// A pod is not started without it.
	return c.get(ctx, APIServer+"/api/v1/namespaces/default/configmaps/kube-root-ca.crt", nil)
}

// nodeReady returns nil when the scheduler may put pods on the node.
func (c *client) nodeReady(ctx context.Context) error {
	var node struct {
		Spec struct {
			Taints []struct{ Key string }
		}
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.get(ctx, APIServer+"/api/v1/nodes/"+Name, &node); err != nil {
		return err
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type != "Ready" {
			continue
		}
		if cond.Status != "True" {
			return fmt.Errorf("node is not Ready: %s", cond.Message)
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("node has the taint %s", node.Spec.Taints[0].Key)
		}
		return nil
	}
	return errors.New("node has no Ready condition")
}

func (c *client) kubeletReady(ctx context.Context) error {
	return c.get(ctx, "http://"+IP+":10248/healthz", nil)
}

// The controller manager and the scheduler make their serving certificates
// themselves in memory, so there is nothing to verify them with.
func (c *client) controllersReady(ctx context.Context) error { return answers(ctx, IP+":10257") }
func (c *client) schedulerReady(ctx context.Context) error   { return answers(ctx, IP+":10259") }

func answers(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func containerdReady(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", containerdSocket)
	if err != nil {
		return err
	}
	return conn.Close()
}
