package podlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Request says which part of a container's log to read. Stamps are always asked for.
type Request struct {
	Namespace, Pod, Container string
	// Previous asks for the run before the current one. No request can name a run by its ID.
	Previous bool
	// Follow keeps the body open until the container ends.
	Follow bool
	// Since leaves out earlier lines. The API rounds it down to a whole second and includes that second.
	Since time.Time
	// LimitBytes cuts the body after that many bytes; 0 is no limit.
	LimitBytes int64
}

// Source opens log bodies through the pods/log subresource.
type Source struct {
	Pods corev1client.PodsGetter
}

// Open starts one request. The caller closes the body. Errors are as Classify tells them apart; an
// error text inside a body is found by Log.Read, not here.
func (s Source) Open(ctx context.Context, r Request) (io.ReadCloser, error) {
	o := &corev1.PodLogOptions{Container: r.Container, Previous: r.Previous, Follow: r.Follow, Timestamps: true}
	if !r.Since.IsZero() {
		t := metav1.NewTime(r.Since)
		o.SinceTime = &t
	}
	if r.LimitBytes > 0 {
		o.LimitBytes = &r.LimitBytes
	}
	body, err := s.Pods.Pods(r.Namespace).GetLogs(r.Pod, o).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("open log of %s/%s/%s: %w", r.Namespace, r.Pod, r.Container, err)
	}
	return body, nil
}

// Refusal is what an error in place of a log body means for the run that is being read.
type Refusal string

// The refusals.
const (
	// RefusedForNow: the node, the kubelet or the API server could not answer; ask again.
	RefusedForNow Refusal = "retry"
	// RefusedPodGone: the API server knows no such pod. Its log is out of the API's reach for good.
	RefusedPodGone Refusal = "pod_gone"
	// RefusedNotThere: the kubelet holds no such run (no previous one, or not started yet).
	RefusedNotThere Refusal = "not_there"
	// RefusedForbidden: the identity may not read logs. Ask again when that is mended.
	RefusedForbidden Refusal = "forbidden"
)

// Classify tells what an error of Open means. A 404 has two meanings: the API server's own, for a
// pod that is gone, names the kind "pods"; the kubelet's, which may only have restarted and does not
// know the pod yet, comes back as kind "pods/log" or without one.
func Classify(err error) Refusal {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return RefusedForNow
	}
	s := status.Status()
	switch s.Code {
	case http.StatusNotFound:
		if s.Details != nil && s.Details.Kind == "pods" {
			return RefusedPodGone
		}
	case http.StatusForbidden, http.StatusUnauthorized:
		return RefusedForbidden
	case http.StatusBadRequest:
		// The kubelet's sentences, k8s.io/kubernetes/pkg/kubelet/kubelet_pods.go validateContainerLogStatus.
		for _, text := range [...]string{"previous terminated container", "is waiting to start", "is not available", "is terminated", "is not valid for pod"} {
			if strings.Contains(s.Message, text) {
				return RefusedNotThere
			}
		}
	}
	return RefusedForNow
}
