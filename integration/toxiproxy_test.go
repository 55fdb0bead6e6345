package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// toxic is what Toxiproxy does to the bytes of each connection, in its own words.
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Attributes map[string]int `json:"attributes"`
}

// toxiproxy is a running Toxiproxy, built from the module that pins it.
type toxiproxy struct{ api string }

func startToxiproxy(t *testing.T) *toxiproxy {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), "go", "-C", "tools/toxiproxy", "tool", "-n", "server").Output()
	if err != nil {
		t.Fatalf("build toxiproxy: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once: Toxiproxy does not tell a port that it chose
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	var said syncBuffer
	cmd := exec.Command(strings.TrimSpace(string(path)), "-host", host, "-port", port) //nolint:gosec,noctx // ended below
	cmd.Env = append(os.Environ(), "LOG_LEVEL=error")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &toxiproxy{api: "http://" + net.JoinHostPort(host, port)}
	for end := time.Now().Add(20 * time.Second); p.call(t.Context(), http.MethodGet, "/version", nil, nil) != nil; <-time.After(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("toxiproxy does not answer:\n%s", said.String())
		}
	}
	return p
}

func (p *toxiproxy) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, p.api+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true // it ends connections that are idle, maybe when the next request comes
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s %w", method, path, resp.Status, answer, err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// proxy is one address that Toxiproxy listens at.
type proxy struct {
	server *toxiproxy
	Name   string `json:"name"`
	Listen string `json:"listen"`
}

func (p *toxiproxy) create(t *testing.T, name, upstream string) *proxy {
	t.Helper()
	made := &proxy{server: p}
	if err := p.call(t.Context(), http.MethodPost, "/proxies", map[string]any{"name": name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true}, made); err != nil {
		t.Fatal(err)
	}
	return made
}

func (p *proxy) enable(t *testing.T, enabled bool) {
	t.Helper()
	if err := p.server.call(t.Context(), http.MethodPost, "/proxies/"+p.Name, map[string]any{"enabled": enabled}, nil); err != nil {
		t.Fatal(err)
	}
}

func (p *proxy) add(t *testing.T, toxic toxic) {
	t.Helper()
	if err := p.server.call(t.Context(), http.MethodPost, "/proxies/"+p.Name+"/toxics", toxic, nil); err != nil {
		t.Fatal(err)
	}
}

func (p *proxy) remove(t *testing.T, toxic toxic) {
	t.Helper()
	name := toxic.Type + "_" + toxic.Stream // what Toxiproxy calls one without a name
	if err := p.server.call(t.Context(), http.MethodDelete, "/proxies/"+p.Name+"/toxics/"+name, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// syncBuffer takes what several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
