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
// lane of dying pods is never blocked by the rest.
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
		q.add(prioProbe, now, do("probe"))
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
		want := []string{"restart", "dying", "finished 1", "restart, later", "finished 2", "probe"}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
		if q.waiting() != 0 {
			t.Errorf("%d tasks left", q.waiting())
		}
	})
}

func TestBackoff(t *testing.T) {
	if backoff(0) != firstBackoff || backoff(1) != firstBackoff || backoff(2) != 2*firstBackoff || backoff(1000) != lastBackoff {
		t.Error(backoff(0), backoff(1), backoff(2), backoff(1000))
	}
}
