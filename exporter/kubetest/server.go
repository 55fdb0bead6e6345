// Package kubetest is an API server over real HTTP, small enough to misbehave on purpose.
// It is for tests: it knows pods, their logs and access reviews, and nothing of the rest of Kubernetes.
package kubetest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Server is the API server. Its methods may be called by several goroutines at once.
type Server struct {
	http *httptest.Server

	mu       sync.Mutex
	rv       int
	pods     map[string]*corev1.Pod // namespace/name
	history  []event                // since oldest, for watches that begin at a resource version
	oldest   int                    // watches from before this resource version get 410
	watchers map[chan event]string  // → namespace, empty for all
	logs     map[string]LogHandler
	next     []Trap // for the log requests to come
	denied   map[string]bool
	requests []string
	closed   chan struct{}
}

// LogHandler answers one request for a container's log.
type LogHandler func(w http.ResponseWriter, r *http.Request)

// event is what a watcher is told. One without a kind ends the watch.
type event struct {
	kind      string
	object    any
	namespace string
	rv        int
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server { return start(t, (*httptest.Server).Start) }

// NewHTTP2 starts one that speaks HTTP/2 over TLS, as API servers do.
func NewHTTP2(t testing.TB) *Server {
	return start(t, func(h *httptest.Server) {
		h.EnableHTTP2 = true
		h.StartTLS()
	})
}

func start(t testing.TB, begin func(*httptest.Server)) *Server {
	s := &Server{
		pods: make(map[string]*corev1.Pod), watchers: make(map[chan event]string),
		logs: make(map[string]LogHandler), denied: make(map[string]bool), closed: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", s.servePods)
	mux.HandleFunc("GET /api/v1/namespaces", s.serveNamespaces)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", s.servePods)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}", s.servePod)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{name}/log", s.serveLog)
	mux.HandleFunc("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", s.serveAccess)
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/selfsubjectreviews", s.serveSelf)
	s.http = httptest.NewUnstartedServer(mux)
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that were cut on purpose
	begin(s.http)
	t.Cleanup(func() {
		close(s.closed)
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Config tells a client how to reach the server.
func (s *Server) Config() *rest.Config {
	c := &rest.Config{Host: s.http.URL}
	if cert := s.http.Certificate(); cert != nil {
		c.CAData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return c
}

// SetPod stores a copy of the pod, as created or changed, and tells the watchers.
func (s *Server) SetPod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(s.store(pod))
}

// store keeps a copy of the pod and returns what there is to tell of it. The lock is held.
func (s *Server) store(pod *corev1.Pod) event {
	pod = pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	key := pod.Namespace + "/" + pod.Name
	kind := "ADDED"
	if s.pods[key] != nil {
		kind = "MODIFIED"
	}
	s.rv++
	pod.ResourceVersion = strconv.Itoa(s.rv)
	s.pods[key] = pod
	return event{kind, pod, pod.Namespace, s.rv}
}

// DeletePod removes the pod object and tells the watchers.
func (s *Server) DeletePod(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.remove(namespace, name); ok {
		s.tell(e)
	}
}

// remove forgets a pod and returns what there is to tell of it. The lock is held.
func (s *Server) remove(namespace, name string) (event, bool) {
	key := namespace + "/" + name
	pod := s.pods[key]
	if pod == nil {
		return event{}, false
	}
	delete(s.pods, key)
	s.rv++
	pod = pod.DeepCopy()
	pod.ResourceVersion = strconv.Itoa(s.rv)
	return event{"DELETED", pod, namespace, s.rv}, true
}

func (s *Server) tell(e event) {
	s.history = append(s.history, e)
	for ch, ns := range s.watchers {
		if ns == "" || ns == e.namespace {
			ch <- e
		}
	}
}

// Log sets how requests for a container's log are answered.
func (s *Server) Log(namespace, pod, container string, h LogHandler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[namespace+"/"+pod+"/"+container] = h
}

// Deny refuses a verb on a resource, such as "get", "pods/log".
func (s *Server) Deny(verb, resource string, deny bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[verb+" "+resource] = deny
}

// Requests returns the paths and queries of the requests so far that contain part.
func (s *Server) Requests(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []string
	for _, r := range s.requests {
		if strings.Contains(r, part) {
			found = append(found, r)
		}
	}
	return found
}

// allow notes the request and answers 403 if it is denied.
func (s *Server) allow(w http.ResponseWriter, r *http.Request, verb, resource string) bool {
	s.mu.Lock()
	denied := s.denied[verb+" "+resource]
	s.requests = append(s.requests, r.URL.RequestURI())
	s.mu.Unlock()
	if denied {
		Status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "pods", fmt.Sprintf("%s is forbidden: User \"test\" cannot %s resource %q", resource, verb, resource))
	}
	return !denied
}

func (s *Server) servePods(w http.ResponseWriter, r *http.Request) {
	namespace := r.PathValue("namespace")
	if r.URL.Query().Get("watch") != "" {
		if s.allow(w, r, "watch", "pods") {
			s.watch(w, r, namespace)
		}
		return
	}
	if !s.allow(w, r, "list", "pods") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	list.ResourceVersion = strconv.Itoa(s.rv)
	for _, pod := range s.pods {
		if namespace == "" || pod.Namespace == namespace {
			list.Items = append(list.Items, *pod)
		}
	}
	reply(w, http.StatusOK, list)
}

func (s *Server) serveNamespaces(w http.ResponseWriter, r *http.Request) {
	if !s.allow(w, r, "list", "namespaces") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &corev1.NamespaceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NamespaceList"}}
	seen := make(map[string]bool)
	for _, pod := range s.pods {
		if !seen[pod.Namespace] {
			seen[pod.Namespace] = true
			list.Items = append(list.Items, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}})
		}
	}
	reply(w, http.StatusOK, list)
}

func (s *Server) servePod(w http.ResponseWriter, r *http.Request) {
	if !s.allow(w, r, "get", "pods") {
		return
	}
	s.mu.Lock()
	pod := s.pods[r.PathValue("namespace")+"/"+r.PathValue("name")]
	s.mu.Unlock()
	if pod == nil {
		notFound(w, r)
		return
	}
	reply(w, http.StatusOK, pod)
}

func notFound(w http.ResponseWriter, r *http.Request) {
	Status(w, http.StatusNotFound, metav1.StatusReasonNotFound, "pods", fmt.Sprintf("pods %q not found", r.PathValue("name")))
}

func (s *Server) serveLog(w http.ResponseWriter, r *http.Request) {
	if !s.allow(w, r, "get", "pods/log") {
		return
	}
	s.mu.Lock()
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	pod, h := s.pods[key], s.logs[key+"/"+r.URL.Query().Get("container")]
	var trap Trap
	if pod != nil && h != nil && len(s.next) > 0 {
		trap, s.next = s.next[0], s.next[1:]
	}
	s.mu.Unlock()
	if pod == nil || h == nil {
		notFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	if trap != nil {
		h = trap(h)
	}
	h(w, r)
}

func (s *Server) serveAccess(w http.ResponseWriter, r *http.Request) {
	review := &authzv1.SelfSubjectAccessReview{}
	if !decode(w, r, review) {
		return
	}
	a := review.Spec.ResourceAttributes
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	s.mu.Lock()
	review.Status.Allowed = !s.denied[a.Verb+" "+resource] && (a.Namespace != "" || !s.denied["all namespaces"])
	s.mu.Unlock()
	review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
	reply(w, http.StatusCreated, review)
}

func (s *Server) serveSelf(w http.ResponseWriter, r *http.Request) {
	review := &authnv1.SelfSubjectReview{}
	if !decode(w, r, review) {
		return
	}
	review.Status.UserInfo.Username = "system:serviceaccount:logs:kubelogexporter"
	review.APIVersion, review.Kind = "authentication.k8s.io/v1", "SelfSubjectReview"
	reply(w, http.StatusCreated, review)
}

func decode(w http.ResponseWriter, r *http.Request, into runtime.Object) bool {
	data, err := io.ReadAll(r.Body)
	if err == nil {
		_, _, err = scheme.Codecs.UniversalDeserializer().Decode(data, nil, into)
	}
	if err != nil {
		Status(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "", err.Error())
	}
	return err == nil
}

// Status answers with a failure as the API server words it.
func Status(w http.ResponseWriter, code int, reason metav1.StatusReason, kind, message string) {
	st := &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message, //nolint:gosec // an HTTP status
	}
	if kind != "" {
		st.Details = &metav1.StatusDetails{Kind: kind}
	}
	reply(w, code, st)
}

func reply(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // the client may be gone
}

// Flush sends what was written so far.
func Flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
