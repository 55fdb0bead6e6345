package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// storePatience is how long a one-off export waits for a store that refuses everything.
const storePatience = 20 * time.Second

// oneShotTries is how often a one-off export asks for a log before it reports a failure: people wait.
const oneShotTries = 6

// tally counts what a one-off export has done.
type tally struct {
	mu       sync.Mutex
	pods     int
	runs     int
	done     int
	bytes    int64
	already  int
	waiting  int   // logs that wait in the spool, because the store cannot tell what it has of them
	away     error // why, at the last one
	keys     []string
	failures []error
}

func (t *tally) add(change func(*tally)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(t)
}

// StorageError says that captures wait in the spool, because the store does not take them.
type StorageError struct {
	Captures int
	Spool    string
	Err      error
}

func (e *StorageError) Error() string {
	return fmt.Sprintf("%d captures wait in the spool %s, the next run ships them: %v", e.Captures, e.Spool, e.Err)
}

// Unwrap returns why.
func (e *StorageError) Unwrap() error { return e.Err }

// stored counts a record. Only a one-off export keeps its key: an exporter that runs for months has no end of them.
func (e *Exporter) stored(bytes int64, key string) {
	e.tally.add(func(t *tally) {
		t.bytes += bytes
		if e.once {
			t.keys = append(t.keys, key)
		}
	})
}

// Progress is where a one-off export stands at one moment.
type Progress struct {
	Pods, Runs, Done int      // selected pods, container runs found in them, runs finished
	Bytes            int64    // of log text
	Already          int      // runs that were archived before
	Spooled          int      // captures that are not in the bucket yet
	Keys             []string // of the records of the captures; none of an exporter that runs on
	Failures         []error  // of single containers
}

// Progress returns where a one-off export stands. It may be called while Export runs.
func (e *Exporter) Progress() Progress {
	s := &e.tally
	s.mu.Lock()
	defer s.mu.Unlock()
	return Progress{Pods: s.pods, Runs: s.runs, Done: s.done, Bytes: s.bytes, Already: s.already,
		Spooled: e.ship.open.count(), Keys: slices.Clone(s.keys), Failures: slices.Clone(s.failures)}
}

// Export collects the logs of the selected pods once, of running containers too, and returns when
// all of them are in the bucket, or ctx ended. If the store takes none it fails with a *StorageError. Failures of single
// containers are in Progress. Windows of exports do not matter, unless Options.Only names one.
func (e *Exporter) Export(ctx context.Context) error {
	e.once, e.begun = true, time.Now()
	e.tracker.alive = func(r *run) { r.begun = e.begin(r, prioFinished) } // a running container: read what it has written so far
	work, stop := context.WithCancel(ctx)
	defer stop()
	if err := e.ship.recover(work); err != nil {
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { e.queue.run(work) })
	loops.Go(func() { e.ship.run(work) })
	err := e.listOnce(ctx)
	if err == nil {
		err = e.await(ctx)
	}
	stop()
	loops.Wait()
	return err
}

func (e *Exporter) listOnce(ctx context.Context) error {
	namespaces, _, err := e.scope(ctx, e.exports.Load())
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		o := metav1.ListOptions{Limit: 500}
		if e.opts.Selector != nil {
			o.LabelSelector = e.opts.Selector.String()
		}
		for {
			list, err := e.kube.CoreV1().Pods(ns).List(ctx, o)
			if apierrors.IsForbidden(err) {
				if missing := e.access.check(ctx, ns); missing != nil {
					return missing
				}
			}
			if err != nil {
				return fmt.Errorf("list pods: %w", err)
			}
			for i := range list.Items {
				e.take(infoOf(&list.Items[i]))
			}
			if o.Continue = list.Continue; o.Continue == "" {
				break
			}
		}
	}
	return nil
}

func (e *Exporter) take(pod *podInfo) {
	if !e.selects(pod) {
		return
	}
	e.tally.add(func(t *tally) { t.pods++ })
	e.tracker.observe(pod, false)
}

// await returns when every capture is finished and shipped.
func (e *Exporter) await(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		p := e.Progress()
		if p.Done == p.Runs && p.Spooled == 0 {
			return e.awaited()
		}
		if err := e.ship.outageSince(storePatience); err != nil && p.Done == p.Runs {
			return &StorageError{Captures: p.Spooled, Spool: e.opts.Spool, Err: err}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("export: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// awaited returns why logs of running containers wait in the spool, nil if none does.
func (e *Exporter) awaited() error {
	e.tally.mu.Lock()
	defer e.tally.mu.Unlock()
	if e.tally.waiting == 0 {
		return nil
	}
	return &StorageError{Captures: e.tally.waiting, Spool: e.opts.Spool, Err: e.tally.away}
}

// again puts a step that was refused back on the queue; a one-off export gives up at some point.
func (c *capture) again(step func(context.Context)) {
	if c.e.once && c.refused >= oneShotTries {
		err := c.failure()
		c.e.tally.add(func(t *tally) { t.failures = append(t.failures, err) })
		c.drop()
		c.reset()
		c.finish()
		return
	}
	c.next(c.priority(), time.Now().Add(c.pause()), step)
}

// failure says what a capture has failed at.
func (c *capture) failure() error {
	verb, pod := "read", c.run.now().pod
	if c.stuck != nil {
		verb = "spool"
	}
	return fmt.Errorf("%s log of %s/%s/%s: %w", verb, pod.namespace, pod.name, c.run.id.container, c.lastError())
}

func (c *capture) lastError() error {
	if c.stuck != nil {
		return c.stuck
	}
	if n := len(c.reads); n > 0 && c.reads[n-1].Result != "ok" && c.reads[n-1].Result != endedByText {
		return errors.New(c.reads[n-1].Result)
	}
	if n := len(c.texts); n > 0 {
		return errors.New(c.texts[n-1])
	}
	if c.nodeAway {
		return errors.New("its node cannot be reached")
	}
	return errors.New("gave up")
}
