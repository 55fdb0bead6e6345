package nodelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// defaultPort is the kubelet's (ports.KubeletPort).
	defaultPort = 10250
	// leastMaxFiles is the least that a kubelet takes for containerLogMaxFiles; its default is 5.
	leastMaxFiles = 2
	// defaultMaxSize is the kubelet's default for containerLogMaxSize, 10Mi.
	defaultMaxSize = 10 << 20
	// listingLimit bounds a directory's page in memory: room for thousands of names.
	listingLimit = 1 << 20
)

// Run names one container run on its node. UID is the one in the directory's name: for a static pod
// that is the annotation kubernetes.io/config.mirror, not the UID of its mirror.
type Run struct {
	Namespace, Pod, UID, Container string
	Restart                        int32
}

// Options tell how to talk to kubelets.
type Options struct {
	// Config gives the credentials (a token, a token file that is renewed, a client certificate) and
	// the cluster's CA. Its address, proxy and rate limits are the API server's and are not used.
	Config *rest.Config
	// CAFile holds the authorities that sign the kubelets' certificates; empty for the cluster's CA.
	CAFile string
	// InsecureSkipVerify gives up checking certificates: whoever answers at the address gets the token.
	InsecureSkipVerify bool
	// Port of the kubelets, 0 for 10250.
	Port int
	// MaxFiles and MaxSize are the smallest containerLogMaxFiles and containerLogMaxSize, in bytes, of the
	// kubelets, 0 for 2, the least there is, and for the default of 10 MiB. What is said about a log's
	// beginning rests on them: the kubelet does not tell which it has.
	MaxFiles int
	MaxSize  int64
}

// Client reads from any kubelet of a cluster. It may be used by several goroutines.
type Client struct {
	http     *http.Client
	port     int
	maxFiles int
	maxSize  int64
	// quiet is how long a rotated file must have been left alone before its end counts as its end.
	quiet time.Duration
	// pause is the unit of waiting between attempts.
	pause time.Duration
}

// New returns a client. It does not connect.
func New(o Options) (*Client, error) {
	config := rest.CopyConfig(o.Config)
	config.Host, config.APIPath = "", ""
	config.Impersonate = rest.ImpersonationConfig{} // kubelets do not know it
	config.Transport, config.WrapTransport, config.Proxy, config.Dial = nil, nil, nil, nil
	config.ServerName, config.NextProtos = "", nil // the API server's
	switch {
	case o.InsecureSkipVerify:
		config.Insecure, config.CAFile, config.CAData = true, "", nil
	case o.CAFile != "":
		config.Insecure, config.CAFile, config.CAData = false, o.CAFile, nil
	default:
		config.Insecure = false // what was given up for the API server was not given up for nodes
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTLS, err)
	}
	transport := &http.Transport{
		TLSClientConfig: tlsConfig,
		DialContext:     (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		// A file that was opened and waits for its turn is held back by its own connection's window.
		// HTTP/2 would hold up to 4 MiB of each such file in our memory.
		Protocols:             new(http.Protocols),
		DisableCompression:    true, // lengths and offsets are those of the file
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   5, // a log has so many files by default
	}
	transport.Protocols.SetHTTP1(true)
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("configure credentials for kubelets: %w", err)
	}
	c := &Client{
		http: &http.Client{Transport: wrapped, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		port: o.Port, maxFiles: o.MaxFiles, maxSize: o.MaxSize, quiet: time.Second, pause: 50 * time.Millisecond,
	}
	if c.port == 0 {
		c.port = defaultPort
	}
	if c.maxFiles == 0 {
		c.maxFiles = leastMaxFiles
	}
	if c.maxSize == 0 {
		c.maxSize = defaultMaxSize
	}
	return c, nil
}

// directory returns the address of a container's log directory. BuildPodLogsDirectory and
// buildContainerLogsDirectory in pkg/kubelet/kuberuntime/helpers.go name it.
func (c *Client) directory(host string, r Run) (string, error) {
	for _, name := range []string{r.Namespace, r.Pod, r.UID, r.Container} {
		if name == "" || strings.ContainsAny(name, "/\\%") || strings.HasPrefix(name, "..") {
			return "", fmt.Errorf("name directory of run: %q cannot be part of it", name)
		}
	}
	u := url.URL{
		Scheme: "https", Host: net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(c.port)),
		Path: "/logs/pods/" + r.Namespace + "_" + r.Pod + "_" + r.UID + "/" + r.Container + "/",
	}
	return u.String(), nil
}

// get asks for a file from an offset on, up to last if that is not negative. The answer's status is
// 200, 206 or 416; all others are errors. The caller closes its body.
func (c *Client) get(ctx context.Context, verb, url string, offset, last int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, failed(ctx, verb, url, err)
	}
	switch {
	case last >= 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, last))
	case offset > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, failed(ctx, verb, url, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refused(verb, url, resp)
}

// list reads a directory's page.
func (c *Client) list(ctx context.Context, directory string, restart int32) (listing, error) {
	resp, err := c.get(ctx, "list", directory, 0, -1)
	if err != nil {
		return listing{}, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, listingLimit+1))
	if err != nil {
		return listing{}, failed(ctx, "list", directory, err)
	}
	if resp.StatusCode != http.StatusOK || len(page) > listingLimit {
		return listing{}, &Error{Verb: "list", URL: directory, Kind: ErrUnavailable, Cause: errors.New("the answer is not a directory's page")}
	}
	return parseListing(string(page), restart), nil
}
