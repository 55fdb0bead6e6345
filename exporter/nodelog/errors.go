package nodelog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// What an error means for the caller, to be asked with errors.Is.
var (
	// ErrNotFound: the node holds no file of that run. The pod's directory was removed, the run was
	// replaced, or the kubelet keeps its logs outside of /var/log (podLogsDir).
	ErrNotFound = errors.New("the node holds no log files of this run")
	// ErrTLS: what was configured for the kubelets' certificates cannot be used.
	ErrTLS = errors.New("configure TLS to kubelets")
	// ErrForbidden: the kubelet does not let this identity read its files. The right is the verb get
	// on the resource nodes/log, in a ClusterRole.
	ErrForbidden = errors.New("the kubelet refuses: the identity needs the right to get nodes/log")
	// ErrDisabled: this kubelet serves no files (enableSystemLogHandler or enableDebuggingHandlers is
	// false).
	ErrDisabled = errors.New("the kubelet does not serve log files (enableSystemLogHandler is off)")
	// ErrUntrusted: the kubelet's certificate is not signed by the configured authority, or not for
	// that address. Many kubelets sign their own; then the authority has to be named, or the check
	// given up in words.
	ErrUntrusted = errors.New("the kubelet's certificate is not trusted; kubelets often sign their own")
	// ErrUnavailable: no answer, or one that says "not now". Another attempt may succeed.
	ErrUnavailable = errors.New("the kubelet does not answer")
)

// Error is a request to a kubelet that failed.
type Error struct {
	Verb  string // what was tried: "list", "read"
	URL   string
	Kind  error // one of the sentinels, nil if the caller's context ended
	Cause error
}

func (e *Error) Error() string {
	if e.Kind == nil {
		return fmt.Sprintf("%s %s: %v", e.Verb, e.URL, e.Cause)
	}
	if e.Cause == nil {
		return fmt.Sprintf("%s %s: %v", e.Verb, e.URL, e.Kind)
	}
	return fmt.Sprintf("%s %s: %v: %v", e.Verb, e.URL, e.Kind, e.Cause)
}

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// failed makes an error of a request that got no answer, or of a body that broke.
func failed(ctx context.Context, verb, url string, cause error) *Error {
	e := &Error{Verb: verb, URL: url, Kind: ErrUnavailable, Cause: cause}
	var untrusted *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Cause = nil, context.Cause(ctx)
	case errors.As(cause, &untrusted):
		e.Kind, e.Cause = ErrUntrusted, untrusted.Err
	}
	return e
}

// refused makes an error of an answer that is not a file.
func refused(verb, url string, resp *http.Response) *Error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // only to be shown
	said := resp.Status
	if line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n"); line != "" {
		said += ": " + line
	}
	e := &Error{Verb: verb, URL: url, Kind: ErrUnavailable, Cause: errors.New(said)}
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		e.Kind = ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = ErrForbidden
	case http.StatusMethodNotAllowed: // getHandlerForDisabledEndpoint in pkg/kubelet/server/server.go
		e.Kind = ErrDisabled
	}
	return e
}
