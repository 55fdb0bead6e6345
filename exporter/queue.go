package exporter

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// priority orders work by how soon its log will vanish. Lower goes first.
type priority int

const (
	prioDying    priority = iota // a pod that is being deleted: its log lives about a second longer than it
	prioRestart                  // a run that was replaced: its log lives until its successor dies
	prioClosing                  // the second look at a log whose first read is done
	prioOwned                    // a finished pod that its owner may delete, such as a Job with a TTL
	prioFinished                 // a finished pod that stays
	prioLive                     // the log of a run that goes on
	prioProbe                    // the first look at a run that goes on
)

// task is one piece of work. It runs once, at or after its time, in a goroutine of the queue.
type task struct {
	prio priority
	at   time.Time
	seq  uint64
	do   func(context.Context)
}

// queue runs tasks by priority under four limits: one for the streams of dying pods, which nothing
// else can use up, one for those of running pods, which may last for days, one for first looks, of which there
// may be as many as there are containers, and one for everything else. Of that a part is kept for logs that
// vanish within seconds. pods/log is exempt from the API server's own flow control, so nobody else would slow
// us down.
type queue struct {
	mu      sync.Mutex
	seq     uint64
	delayed timeHeap
	ready   [lanes]prioHeap
	free    [lanes]int
	kept    int           // of laneRest, for what is as urgent as a closing read
	wake    chan struct{} // has room for one: something changed
	tasks   sync.WaitGroup
}

const (
	laneDying = iota
	laneLive
	laneProbe
	laneRest
	lanes
)

// newQueue returns a queue with a quarter of rest kept for urgent tasks, and as many first looks at a time.
func newQueue(dying, live, rest int) *queue {
	return &queue{
		free: [lanes]int{laneDying: dying, laneLive: live, laneProbe: max(1, rest/4), laneRest: rest}, kept: rest / 4,
		wake: make(chan struct{}, 1),
	}
}

// add puts work on the queue, to run not before at.
func (q *queue) add(prio priority, at time.Time, do func(context.Context)) {
	q.mu.Lock()
	q.seq++
	heap.Push(&q.delayed, task{prio: prio, at: at, seq: q.seq, do: do})
	q.mu.Unlock()
	q.poke()
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends and every task that was begun has returned. Tasks get ctx.
func (q *queue) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(q.dispatch(ctx))
		select {
		case <-ctx.Done():
			q.tasks.Wait()
			return
		case <-q.wake:
		case <-timer.C:
		}
	}
}

// dispatch starts what may start now and returns how long nothing more will become due.
func (q *queue) dispatch(ctx context.Context) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.delayed) > 0 && !q.delayed[0].at.After(now) {
		t, _ := heap.Pop(&q.delayed).(task)
		heap.Push(&q.ready[lane(t.prio)], t)
	}
	for l := range q.ready {
		for q.mayStart(l) {
			t, _ := heap.Pop(&q.ready[l]).(task)
			q.free[l]--
			q.tasks.Go(func() {
				defer q.done(l)
				t.do(ctx)
			})
		}
	}
	if len(q.delayed) == 0 {
		return time.Hour
	}
	return time.Until(q.delayed[0].at)
}

// mayStart says whether a lane has room for what is ready in it. The lock is held.
func (q *queue) mayStart(l int) bool {
	if q.free[l] == 0 || len(q.ready[l]) == 0 {
		return false
	}
	return l != laneRest || q.free[l] > q.kept || q.ready[l][0].prio <= prioClosing
}

func (q *queue) done(l int) {
	q.mu.Lock()
	q.free[l]++
	q.mu.Unlock()
	q.poke()
}

func lane(p priority) int {
	switch p {
	case prioDying:
		return laneDying
	case prioLive:
		return laneLive
	case prioProbe:
		return laneProbe
	}
	return laneRest
}

type timeHeap []task

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timeHeap) Push(x any)        { *h = append(*h, x.(task)) } //nolint:forcetypeassert // heap.Push of this file only
func (h *timeHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = task{}
	*h = old[:len(old)-1]
	return t
}

type prioHeap []task

func (h prioHeap) Len() int { return len(h) }
func (h prioHeap) Less(i, j int) bool {
	if h[i].prio != h[j].prio {
		return h[i].prio < h[j].prio
	}
	return h[i].seq < h[j].seq
}
func (h prioHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *prioHeap) Push(x any)   { *h = append(*h, x.(task)) } //nolint:forcetypeassert // heap.Push of this file only
func (h *prioHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = task{}
	*h = old[:len(old)-1]
	return t
}
