package kubetest

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// KubeletToken is the token that a Kubelet accepts.
const KubeletToken = "kubelet-token"

// Kubelet is the file server of a kubelet: /logs/ over TLS, for a bearer token, GET only. Its methods
// may be called by several goroutines at once.
type Kubelet struct {
	http *httptest.Server
	ca   string

	mu       sync.Mutex
	anyone   bool
	status   int
	before   func(n int, w http.ResponseWriter, r *http.Request) bool
	requests []string
}

// NewKubelet starts a kubelet that ends with the test; dir stands for /var/log, so a container's
// files are in dir/pods/<namespace>_<pod>_<uid>/<container>.
func NewKubelet(t testing.TB, dir string) *Kubelet {
	k := &Kubelet{}
	files := http.StripPrefix("/logs/", http.FileServer(http.Dir(dir)))
	k.http = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { k.serve(w, r, files) }))
	t.Cleanup(func() {
		k.http.CloseClientConnections()
		k.http.Close()
	})
	k.ca = filepath.Join(t.TempDir(), "kubelet-ca.crt")
	if err := os.WriteFile(k.ca, k.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// Config holds the token and the authority that signed the kubelet's certificate.
func (k *Kubelet) Config() *rest.Config {
	return &rest.Config{Host: "https://api.invalid", BearerToken: KubeletToken, TLSClientConfig: rest.TLSClientConfig{CAData: k.CA()}}
}

// CA returns the authority in PEM; CAFile the name of a file with it.
func (k *Kubelet) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.http.Certificate().Raw})
}

// CAFile returns the name of a file that holds CA.
func (k *Kubelet) CAFile() string { return k.ca }

// Host returns the address, Port the port at which the kubelet answers.
func (k *Kubelet) Host() string { return k.address().IP.String() }

// Port returns the port at which the kubelet answers.
func (k *Kubelet) Port() int { return k.address().Port }

func (k *Kubelet) address() *net.TCPAddr { return k.http.Listener.Addr().(*net.TCPAddr) }

// Deny answers every request with a status, such as 403; 0 ends that.
func (k *Kubelet) Deny(status int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = status
}

// Anyone lets requests without a token in: a kubeconfig gives none for an API server without TLS.
func (k *Kubelet) Anyone() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.anyone = true
}

func (k *Kubelet) knows(token string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.anyone || token == "Bearer "+KubeletToken
}

// Before has f called before each request that was let in is served, with its number from 0 on. If f
// returns true it has answered by itself. Calls do not overlap.
func (k *Kubelet) Before(f func(n int, w http.ResponseWriter, r *http.Request) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before = f
}

// Requests returns path and range of the requests so far.
func (k *Kubelet) Requests() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.requests...)
}

func (k *Kubelet) serve(w http.ResponseWriter, r *http.Request, files http.Handler) {
	if !k.knows(r.Header.Get("Authorization")) {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	if !k.admit(w, r) {
		return
	}
	if r.Method != http.MethodGet { // GETOnlyRestfulFilter in pkg/kubelet/server/server.go
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	files.ServeHTTP(w, r)
}

func (k *Kubelet) admit(w http.ResponseWriter, r *http.Request) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.requests)
	k.requests = append(k.requests, r.URL.Path+" "+r.Header.Get("Range"))
	if k.status != 0 {
		text := strconv.Itoa(k.status)
		if k.status == http.StatusForbidden {
			text = "Forbidden (user=test, verb=get, resource=nodes, subresource(s)=[log])"
		}
		http.Error(w, text, k.status)
		return false
	}
	return k.before == nil || !k.before(n, w, r)
}
