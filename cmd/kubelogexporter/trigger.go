package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubelogexporter/kubelogexporter/exporter"
)

// maxEvent bounds the body of a request; etcd takes no object that is larger than 1.5 MiB.
const maxEvent = 4 << 20

// triggers start exports and take events over HTTP. Every request must bring the token.
type triggers struct {
	e         *exporter.Exporter
	tokenFile string // read for each request, so that it may be exchanged
	reload    func() error
	log       *slog.Logger
	ctx       context.Context //nolint:containedctx // of the program: exports that were started outlive their request
	running   sync.WaitGroup
}

func (t *triggers) register(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/exports/{name}", t.guard(t.export))
	mux.HandleFunc("POST /v1/events", t.guard(t.event))
	if t.reload != nil {
		mux.HandleFunc("POST /-/reload", t.guard(func(w http.ResponseWriter, _ *http.Request) {
			if err := t.reload(); err != nil {
				http.Error(w, err.Error(), http.StatusUnprocessableEntity)
				return
			}
			fmt.Fprintln(w, "ok")
		}))
	}
}

// readToken reads the token that a request must bring.
func readToken(file string) ([]byte, error) {
	token, err := os.ReadFile(file) //nolint:gosec // the user names the file
	if token = bytes.TrimSpace(token); err == nil && len(token) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("read token from %s: %w", file, err)
	}
	return token, nil
}

// guard lets requests through that bring the token.
func (t *triggers) guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		want, err := readToken(t.tokenFile)
		if err != nil {
			t.log.Warn("a request was refused because the token cannot be read", "file", t.tokenFile, "err", err)
			http.Error(w, "the server's token cannot be read", http.StatusServiceUnavailable)
			return
		}
		if subtle.ConstantTimeCompare([]byte(tokenOf(r)), want) != 1 {
			w.Header().Set("Connection", "close") // and no more of the request is read
			w.Header().Add("WWW-Authenticate", "Bearer")
			w.Header().Add("WWW-Authenticate", `Basic realm="kubelogexporter"`)
			http.Error(w, "a token is needed: Authorization: Bearer <token>", http.StatusUnauthorized)
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // an answer may take longer than a request
		r.Body = http.MaxBytesReader(w, r.Body, maxEvent)
		next(w, r)
	}
}

// tokenOf returns the token that a request brings, as "Authorization: Bearer <token>" or as the password of
// Basic authentication. Whoever can be told no more than an address, such as Knative's ApiServerSource, sends
// the latter for http://any:<token>@host.
func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

// export starts an export, and waits for it if the query says wait.
func (t *triggers) export(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !t.e.HasExport(name) {
		http.Error(w, fmt.Sprintf("there is no export %q", name), http.StatusNotFound)
		return
	}
	if r.URL.Query().Has("wait") {
		if err := t.e.Sweep(r.Context(), name); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, r, http.StatusOK, map[string]any{"export": name, "done": true})
		return
	}
	t.running.Go(func() {
		if err := t.e.Sweep(t.ctx, name); err != nil && t.ctx.Err() == nil {
			t.log.Warn("an export that a request has started failed", "export", name, "err", err)
		}
	})
	answer(w, r, http.StatusAccepted, map[string]any{"export": name, "done": false})
}

// answer says what was done. To a CloudEvent it says nothing: Knative's brokers take the body of an answer for
// another event, and send the first one again if it is none.
func answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("ce-specversion") != "" || media == structured {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// event takes what has become of a pod, as Knative's ApiServerSource sends it: a CloudEvent whose data is
// the pod, or a reference to one.
func (t *triggers) event(w http.ResponseWriter, r *http.Request) {
	kind, data, err := readEvent(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	deleted := strings.HasSuffix(kind, ".delete")
	switch {
	case strings.HasPrefix(kind, "dev.knative.apiserver.resource."):
		t.resource(r.Context(), w, data, deleted)
	case strings.HasPrefix(kind, "dev.knative.apiserver.ref."):
		t.reference(r.Context(), w, data, deleted)
	default:
		http.Error(w, fmt.Sprintf("events of type %q are not taken, only dev.knative.apiserver.resource.* and .ref.*", kind), http.StatusUnprocessableEntity)
	}
}

const noPod = "read event: its data is no pod"

// resource takes a pod as it is, or was at last. If it cannot be looked at now the sender is asked to try again.
func (t *triggers) resource(ctx context.Context, w http.ResponseWriter, data []byte, deleted bool) {
	pod := &corev1.Pod{}
	switch err := json.Unmarshal(data, pod); {
	case err != nil:
		http.Error(w, "read event: "+err.Error(), http.StatusBadRequest)
	case pod.Kind != "" && pod.Kind != "Pod", pod.Name == "" || pod.Namespace == "" || pod.UID == "":
		http.Error(w, noPod, http.StatusUnprocessableEntity)
	default:
		if err := t.e.ObservePod(ctx, pod, deleted); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// reference takes the name of a pod, and looks at it: an ApiServerSource tells no UID. If that cannot be done
// now the sender is asked to try again.
func (t *triggers) reference(ctx context.Context, w http.ResponseWriter, data []byte, deleted bool) {
	var ref corev1.ObjectReference
	switch err := json.Unmarshal(data, &ref); {
	case err != nil:
		http.Error(w, "read event: "+err.Error(), http.StatusBadRequest)
		return
	case ref.Kind != "Pod" || ref.Name == "" || ref.Namespace == "":
		http.Error(w, noPod, http.StatusUnprocessableEntity)
		return
	}
	if err := t.e.Look(ctx, ref.Namespace, ref.Name, deleted); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// structured is the content type of an event that is one JSON document.
const structured = "application/cloudevents+json"

// readEvent takes a CloudEvent apart, in structured or binary mode (HTTP protocol binding 1.0, section 3).
func readEvent(r *http.Request) (kind string, data []byte, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", nil, fmt.Errorf("read event: %w", err)
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", nil, fmt.Errorf("read event: content type: %w", err)
	}
	version := r.Header.Get("ce-specversion")
	kind, data = r.Header.Get("ce-type"), body
	if media == structured {
		var e struct {
			SpecVersion string          `json:"specversion"`
			Type        string          `json:"type"`
			Data        json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(body, &e); err != nil {
			return "", nil, fmt.Errorf("read event: %w", err)
		}
		version, kind, data = e.SpecVersion, e.Type, e.Data
	}
	if version != "1.0" || kind == "" {
		return "", nil, errors.New("read event: it is no CloudEvent 1.0 in structured or binary mode")
	}
	return kind, data, nil
}
