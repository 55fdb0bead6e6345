package kubetest

import (
	"encoding/json"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SetPodQuietly stores a copy of the pod and tells nobody: only a list, or a watch that begins with what
// there is, will show it. So pass the states that an API server no longer holds when a watcher has been away.
func (s *Server) SetPodQuietly(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(pod)
}

// DeletePodQuietly removes the pod object and tells nobody.
func (s *Server) DeletePodQuietly(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(namespace, name)
}

// TellAgain tells the watchers the pod's state once more.
func (s *Server) TellAgain(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod := s.pods[namespace+"/"+name]; pod != nil {
		s.tell(event{"MODIFIED", pod, namespace, s.rv})
	}
}

// CloseWatches ends every watch that is open, as an API server does after some minutes. A watch that
// goes on from its resource version misses nothing.
func (s *Server) CloseWatches() { s.endWatches(event{}) }

// ExpireWatches ends every watch with 410 Gone and forgets what has happened so far: whoever watches has
// to begin anew.
func (s *Server) ExpireWatches() { s.endWatches(event{kind: "ERROR", object: expired()}) }

func (s *Server) endWatches(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.kind != "" {
		s.history, s.oldest = nil, s.rv
	}
	for ch := range s.watchers {
		ch <- e
		delete(s.watchers, ch)
	}
}

// Watches returns how many watches are open.
func (s *Server) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

func expired() *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "The resourceVersion for the provided watch is too old.",
	}
}

// watch streams events, beginning with what there is if the client asks for that, or with what happened
// since the resource version that it names.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, namespace string) {
	ch := make(chan event, 1<<16)
	q := r.URL.Query()
	s.mu.Lock()
	first := s.beginning(namespace, q.Get("sendInitialEvents") == "true", q.Get("resourceVersion"))
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
		if e.kind == "" {
			return false
		}
		err := enc.Encode(map[string]any{"type": e.kind, "object": e.object})
		return err == nil && e.kind != "ERROR"
	}
	for _, e := range first {
		if !send(e) {
			return
		}
	}
	for {
		Flush(w)
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

// beginning returns the events that a watch begins with. The lock is held.
func (s *Server) beginning(namespace string, all bool, from string) []event {
	var first []event
	rv, err := strconv.Atoi(from)
	switch {
	case all:
		for _, pod := range s.pods {
			if namespace == "" || pod.Namespace == namespace {
				first = append(first, event{kind: "ADDED", object: pod})
			}
		}
		end := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
		end.ResourceVersion = strconv.Itoa(s.rv)
		end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		first = append(first, event{kind: "BOOKMARK", object: end})
	case err != nil || rv == 0:
	case rv < s.oldest:
		first = append(first, event{kind: "ERROR", object: expired()})
	default:
		for _, e := range s.history {
			if e.rv > rv && (namespace == "" || namespace == e.namespace) {
				first = append(first, e)
			}
		}
	}
	return first
}
