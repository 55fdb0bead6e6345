package exporter

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What will vanish first goes first, whatever was there before; a task runs not before its time; the
// lane of dying pods is never blocked by the rest, and neither the rest by first looks.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := newQueue(1, 1, 1)
		var mu sync.Mutex
		var order []string
		do := func(name string) func(context.Context) {
			return func(context.Context) {
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Second)
			}
		}
		now := time.Now()
		q.add(prioFinished, now, do("finished 1"))
		q.add(prioFinished, now, do("finished 2"))
		q.add(prioRestart, now.Add(1500*time.Millisecond), do("restart, later"))
		q.add(prioRestart, now, do("restart"))
		var loop sync.WaitGroup
		loop.Go(func() { q.run(ctx) })
		time.Sleep(500 * time.Millisecond)
		q.add(prioDying, time.Now(), do("dying"))
		time.Sleep(10 * time.Second)
		cancel()
		loop.Wait()
		want := []string{"restart", "dying", "finished 1", "restart, later", "finished 2"}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
		if q.waiting() != 0 {
			t.Errorf("%d tasks left", q.waiting())
		}
	})
}

// First looks and finished logs that take for ever leave room for what vanishes within seconds.
func TestQueueKeepsRoom(t *testing.T) {
	for name, slow := range map[string]priority{"first looks": prioProbe, "finished logs": prioFinished, "logs of owned pods": prioOwned} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				q := newQueue(1, 1, 8)
				var loop sync.WaitGroup
				loop.Go(func() { q.run(ctx) })
				hang := func(ctx context.Context) { <-ctx.Done() }
				for range 100 {
					q.add(slow, time.Now(), hang)
				}
				time.Sleep(time.Second)
				begun := make(chan priority, 3)
				for _, p := range []priority{prioRestart, prioClosing} {
					q.add(p, time.Now(), func(context.Context) { begun <- p })
				}
				time.Sleep(time.Second)
				if len(begun) != 2 {
					t.Errorf("%d of 2 urgent reads have begun", len(begun))
				}
				if slow == prioProbe {
					q.add(prioFinished, time.Now(), func(context.Context) { begun <- prioFinished })
					if time.Sleep(time.Second); len(begun) != 3 {
						t.Error("first looks hold up reads")
					}
				}
				cancel()
				loop.Wait()
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	if backoff(0) != firstBackoff || backoff(1) != firstBackoff || backoff(2) != 2*firstBackoff || backoff(1000) != lastBackoff {
		t.Error(backoff(0), backoff(1), backoff(2), backoff(1000))
	}
}

// waiting returns how many tasks have not begun.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.delayed)
	for l := range q.ready {
		n += len(q.ready[l])
	}
	return n
}
