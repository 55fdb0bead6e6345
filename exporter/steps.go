package exporter

import (
	"context"
	"sync"
	"time"
)

// steps are those of one capture. They run one after the other on the queue, never two at once.
type steps struct {
	queue *queue

	mu      sync.Mutex
	turn    int // of the step that may run next: a step put on the queue before is void
	busy    bool
	hurried bool // the step that runs is to be followed by the next one at once
	haste   priority
	patient bool // the next step has to wait for its time even if the pod is dying
	pending func(context.Context)
}

// next puts the next step on the queue.
func (s *steps) next(p priority, at time.Time, step func(context.Context)) {
	s.put(p, at, step, false)
}

// put makes a step the pending one. Nothing of the capture is touched afterwards: the step may run already.
func (s *steps) put(p priority, at time.Time, step func(context.Context), patient bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hurried && !patient { // while the step ran that has chosen this time
		p, at = s.haste, time.Now()
	}
	s.turn++
	s.busy, s.hurried, s.patient, s.pending = false, false, patient, step
	s.schedule(p, at)
}

// schedule puts the pending step on the queue, in place of where it was. The lock is held.
func (s *steps) schedule(p priority, at time.Time) {
	turn, step := s.turn, s.pending
	s.queue.add(p, at, func(ctx context.Context) {
		s.mu.Lock()
		void := turn != s.turn
		if !void {
			s.busy, s.pending = true, nil
		}
		s.mu.Unlock()
		if !void {
			step(ctx)
		}
	})
}

// hurry moves the pending step to the front, or the next one if a step runs already, which may have looked at the pod
// too soon.
func (s *steps) hurry(p priority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		s.hurried, s.haste = true, p
	}
	if s.busy || s.pending == nil || s.patient {
		return
	}
	s.turn++
	s.schedule(p, time.Now())
}
