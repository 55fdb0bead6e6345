package selection

import "time"

// Subject is one container run with its pod, as far as it is known at the moment of the decision.
type Subject struct {
	Namespace, Pod, UID, Node string
	// OwnerKind and OwnerName are the pod's controller's; empty for a pod without one.
	OwnerKind, OwnerName string
	ServiceAccount       string
	Labels               Labels // of the pod
	// Phase is the pod's. It counts from the run's end on only: before, it may still change.
	Phase string

	Container     string
	ContainerKind string // one of Kinds
	Image         string
	Restart       int32 // the run's, not the pod's
	StartedAt     time.Time

	// Ended says that the run has ended; only then are the fields below known.
	Ended            bool
	ExitCode, Signal int32
	Reason           string
	FinishedAt       time.Time
}

// Kinds are the kinds of container there are, as records call them.
func Kinds() []string { return []string{"container", "initContainer", "sidecar", "ephemeralContainer"} }

// Labels are a pod's labels: key, value, key, value and so on. The zero value has none. A list takes a
// third of a map's memory.
type Labels []string

// Lookup returns the value of a label, and whether there is one.
func (l Labels) Lookup(key string) (value string, exists bool) {
	for i := 0; i+1 < len(l); i += 2 {
		if l[i] == key {
			return l[i+1], true
		}
	}
	return "", false
}

// Has says whether there is a label.
func (l Labels) Has(key string) bool { _, ok := l.Lookup(key); return ok }

// Get returns the value of a label, "" if there is none.
func (l Labels) Get(key string) string { v, _ := l.Lookup(key); return v }

func (l Labels) asMap() map[string]string {
	m := make(map[string]string, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		m[l[i]] = l[i+1]
	}
	return m
}
