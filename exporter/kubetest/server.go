// Package kubetest is an API server over real HTTP, small enough to misbehave on purpose.
// It is for tests: it knows pods, their logs and access reviews, and nothing of the rest of Kubernetes.
package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
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
	watchers map[chan event]string  // → namespace, empty for all
	logs     map[string]LogHandler
	denied   map[string]bool
	requests []string
	closed   chan struct{}
}

// LogHandler answers one request for a container's log.
type LogHandler func(w http.ResponseWriter, r *http.Request)

type event struct {
	kind   string
	object any
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
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
	s.http = httptest.NewServer(mux)
	t.Cleanup(func() {
		close(s.closed)
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Config tells a client how to reach the server.
func (s *Server) Config() *rest.Config { return &rest.Config{Host: s.http.URL} }

// SetPod stores a copy of the pod, as created or changed, and tells the watchers.
func (s *Server) SetPod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	s.tell(pod.Namespace, event{kind, pod})
}

// DeletePod removes the pod object and tells the watchers.
func (s *Server) DeletePod(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := namespace + "/" + name
	pod := s.pods[key]
	if pod == nil {
		return
	}
	delete(s.pods, key)
	s.rv++
	pod = pod.DeepCopy()
	pod.ResourceVersion = strconv.Itoa(s.rv)
	s.tell(namespace, event{"DELETED", pod})
}

func (s *Server) tell(namespace string, e event) {
	for ch, ns := range s.watchers {
		if ns == "" || ns == namespace {
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
	s.mu.Unlock()
	if pod == nil || h == nil {
		notFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	h(w, r)
}

// watch streams events, beginning with what there is if the client asks for that.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, namespace string) {
	ch := make(chan event, 1<<16)
	var first []event
	s.mu.Lock()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, pod := range s.pods {
			if namespace == "" || pod.Namespace == namespace {
				first = append(first, event{"ADDED", pod})
			}
		}
		end := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
		end.ResourceVersion = strconv.Itoa(s.rv)
		end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		first = append(first, event{"BOOKMARK", end})
	}
	s.watchers[ch] = namespace
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, ch)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	send := func(e event) bool {
		err := enc.Encode(map[string]any{"type": e.kind, "object": e.object})
		Flush(w)
		return err == nil
	}
	Flush(w)
	for _, e := range first {
		if !send(e) {
			return
		}
	}
	for {
		select {
		case e := <-ch:
			if !send(e) {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.closed:
			return
		}
	}
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
