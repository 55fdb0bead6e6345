package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
)

// client-go's errors are not ours: a watch that is opened again loses no bytes.
func TestClientGoIsQuiet(t *testing.T) { //nolint:paralleltest // klog has one logger for the process
	defer klog.ClearLogger()
	for level, want := range map[string]string{"info": "", "debug": "level=DEBUG"} {
		var out bytes.Buffer
		log, err := (&logFlags{format: "text", level: level}).logger(&out)
		if err != nil {
			t.Fatal(err)
		}
		quietClient(log)
		klog.ErrorS(errors.New("closed"), "Failed to watch")
		klog.Background().WithName("reflector").WithValues("k", "v").Error(nil, "again")
		klog.Flush()
		if got := out.String(); (want == "") != (got == "") || !strings.Contains(got, want) || strings.Contains(got, "ERROR") {
			t.Errorf("at level %s client-go logs %q", level, got)
		}
	}
}

// Whoever announces a body and sends none gets an answer all the same, without a token, and holds no connection.
func TestSlowRequestWithoutAToken(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := &triggers{tokenFile: token, log: slog.New(slog.DiscardHandler), ctx: t.Context()}
	at, stop, err := serve("127.0.0.1:0", prometheus.NewRegistry(), func() error { return nil }, tr.register)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the end of the test
	if _, err := fmt.Fprint(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(40 * time.Second))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "401") {
		t.Errorf("%q, %v", line, err)
	}
}
