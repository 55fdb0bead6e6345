package kubetest

import (
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trap is something that goes wrong with one request for a log.
type Trap func(LogHandler) LogHandler

// NextLogs lets the traps go off, one for each of the next requests for a log of a pod that is there. A
// nil trap lets a request pass.
func (s *Server) NextLogs(traps ...Trap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, traps...)
}

// Traps returns how many traps have not gone off yet.
func (s *Server) Traps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.next)
}

// Answer answers in place of the container, with status 200 and a text.
func Answer(text string) Trap {
	return func(LogHandler) LogHandler {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
}

// NotKnown is the answer of a kubelet that does not know the pod, as after a restart: the API server
// passes its 404 on under the kind pods/log.
func NotKnown() Trap {
	return func(LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			Status(w, http.StatusNotFound, metav1.StatusReasonNotFound, "pods/log", "the server could not find the requested resource ( pods/log "+r.PathValue("name")+")")
		}
	}
}

// PodNotFound is the API server's own answer for a pod that is gone.
func PodNotFound() Trap { return func(LogHandler) LogHandler { return notFound } }

// Unreachable is the API server's answer when it cannot reach the node.
func Unreachable() Trap {
	return func(LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			Status(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "", fmt.Sprintf("Get \"https://10.0.0.7:10250/containerLogs/%s/%s/%s\": dial tcp 10.0.0.7:10250: connect: no route to host",
				r.PathValue("namespace"), r.PathValue("name"), r.URL.Query().Get("container")))
		}
	}
}

// NodeRemoved is the API server's answer for a pod whose node was removed from the cluster.
func NodeRemoved() Trap {
	return func(LogHandler) LogHandler {
		return func(w http.ResponseWriter, _ *http.Request) {
			Status(w, http.StatusNotFound, metav1.StatusReasonNotFound, "nodes", `nodes "node" not found`)
		}
	}
}

// EndAfter ends the body cleanly after n bytes, as if that were all: what a kubelet's restart looks like
// behind the API server. A text may follow, without a newline.
func EndAfter(n int, text string) Trap {
	return func(h LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			cut(h, n, w, r)
			_, _ = io.WriteString(w, text)
		}
	}
}

// BreakAfter breaks the connection, or the HTTP/2 stream, after n bytes of the body.
func BreakAfter(n int) Trap {
	return func(h LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			cut(h, n, w, r)
			Flush(w)
			panic(http.ErrAbortHandler)
		}
	}
}

// GoAway lets an HTTP/2 server send GOAWAY with the answer, as an API server does that wants to be rid
// of a client: what is open goes on, what is new has to open another connection.
func GoAway() Trap {
	return func(h LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			h(w, r)
		}
	}
}

// Slowly sends the body n bytes at a time, and waits before each for a value, or the end, of pace.
func Slowly(n int, pace <-chan struct{}) Trap {
	return func(h LogHandler) LogHandler {
		return func(w http.ResponseWriter, r *http.Request) {
			h(&slow{w, r, n, pace}, r)
		}
	}
}

// cut passes on the first n bytes of an answer.
func cut(h LogHandler, n int, w http.ResponseWriter, r *http.Request) {
	if n > 0 { // otherwise it might wait for them
		h(&cutter{ResponseWriter: w, left: n}, r)
	}
}

// cutter passes on the first bytes of a body and then fails.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.left <= len(p) {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.left = 0
		return 0, io.ErrShortWrite
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func (c *cutter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// slow writes a little at a time.
type slow struct {
	http.ResponseWriter
	r    *http.Request
	n    int
	pace <-chan struct{}
}

func (s *slow) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		select {
		case <-s.pace:
		case <-s.r.Context().Done():
			return sent, s.r.Context().Err()
		}
		m, err := s.ResponseWriter.Write(p[sent:min(len(p), sent+s.n)])
		if sent += m; err != nil {
			return sent, err
		}
		Flush(s.ResponseWriter)
	}
	return len(p), nil
}

func (s *slow) Unwrap() http.ResponseWriter { return s.ResponseWriter }
