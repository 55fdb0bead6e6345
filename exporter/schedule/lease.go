package schedule

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/util/retry"
)

// annotationPrefix begins the annotations of a LeaseState; the schedule's name ends them.
const annotationPrefix = "schedule.kubelogexporter.dev/"

// LeaseState is a State in the annotations of a Lease, so that it outlives the pod that the program runs
// in. Several processes may share one: none starts what another has started. It needs the rights to get,
// create and update leases in its namespace.
type LeaseState struct {
	leases coordination.LeaseInterface
	name   string
	one    sync.Mutex // writes at a time: this process need not compete with itself
}

// NewLeaseState returns a State in the Lease of this name, which is made when something is stored. It
// talks to nobody yet.
func NewLeaseState(leases coordination.LeaseInterface, name string) *LeaseState {
	return &LeaseState{leases: leases, name: name}
}

// Load returns the time for a name, zero if there is none.
func (s *LeaseState) Load(ctx context.Context, name string) (time.Time, error) {
	lease, err := s.leases.Get(ctx, s.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read schedule state: %w", err)
	}
	return s.time(lease, name)
}

func (s *LeaseState) time(lease *coordinationv1.Lease, name string) (time.Time, error) {
	text := lease.Annotations[annotationPrefix+name]
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("read schedule state: lease %s, annotation %s%s: %w", s.name, annotationPrefix, name, err)
	}
	return t, nil
}

// Store replaces the time for a name. It returns ErrTaken if the lease has this time or a later one, by
// less than an hour: more is a clock that was wrong.
func (s *LeaseState) Store(ctx context.Context, name string, t time.Time) error {
	s.one.Lock()
	defer s.one.Unlock()
	// All schedules share the Lease, and many may be due in one minute, in each of several processes.
	again := wait.Backoff{Duration: 50 * time.Millisecond, Jitter: 1, Steps: 200}
	err := retry.OnError(again, func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }, func() error {
		lease, err := s.leases.Get(ctx, s.name, metav1.GetOptions{})
		missing := apierrors.IsNotFound(err)
		switch {
		case missing:
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
		case err != nil:
			return err
		}
		if old, err := s.time(lease, name); err == nil && !t.After(old) && old.Sub(t) < maxAhead {
			return ErrTaken
		}
		if lease.Annotations == nil {
			lease.Annotations = make(map[string]string)
		}
		lease.Annotations[annotationPrefix+name] = t.UTC().Format(time.RFC3339Nano)
		if missing {
			_, err = s.leases.Create(ctx, lease, metav1.CreateOptions{})
		} else {
			_, err = s.leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write schedule state: %w", err)
	}
	return nil
}
