package podlog

import (
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// NodeAway says whether an error of Open tells that the API server could not reach the node's kubelet:
// it then answers 500 or 503 with the words of its own failed request to the kubelet's port, or 502 from
// its tunnel (k8s.io/apiserver/pkg/registry/generic/rest/streamer.go). A node that was removed is away too.
func NodeAway(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return false
	}
	s := status.Status()
	switch s.Code {
	case http.StatusNotFound: // the node itself was removed (k8s.io/kubernetes/pkg/kubelet/client GetConnectionInfo)
		return s.Details != nil && s.Details.Kind == "nodes"
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return false
	}
	if !strings.Contains(s.Message, "/containerLogs/") {
		return false
	}
	for _, word := range [...]string{"dial tcp", "connection refused", "no route to host", "i/o timeout", "deadline exceeded", "connection reset", "EOF", "proxy error"} {
		if strings.Contains(s.Message, word) {
			return true
		}
	}
	return false
}
