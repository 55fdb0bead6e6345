package archive

import (
	"context"
	"iter"
	"sync"
)

// inOrder does something slow with every item, a few at a time, and yields the results in the order
// of the items. An error among the items is yielded in its place. All goroutines have ended when the
// iteration has, however it ends.
func inOrder[T, R any](ctx context.Context, items iter.Seq2[T, error], do func(context.Context, T) (R, error)) iter.Seq2[R, error] {
	type result struct {
		value R
		err   error
	}
	return func(yield func(R, error) bool) {
		var running sync.WaitGroup
		defer running.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var queue []chan result
		yieldFirst := func() bool {
			r := <-queue[0]
			queue = queue[1:]
			return yield(r.value, r.err)
		}
		for item, err := range items {
			done := make(chan result, 1)
			queue = append(queue, done)
			if err != nil {
				done <- result{err: err}
			} else {
				running.Go(func() {
					value, err := do(ctx, item)
					done <- result{value, err}
				})
			}
			if len(queue) >= parallel && !yieldFirst() {
				return
			}
		}
		for len(queue) > 0 {
			if !yieldFirst() {
				return
			}
		}
	}
}
