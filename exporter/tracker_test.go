package exporter

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Pods come and go for ever; of one that is gone nothing is kept, whether or not a container of it ever ran.
func TestTrackerForgetsPods(t *testing.T) {
	t.Parallel()
	tr := newTracker(func(*run, priority) bool { return false }, func(*run) {}, func(*run) {}, func(*run) {})
	for i := range 10 {
		p := &podInfo{namespace: "shop", name: fmt.Sprint(i), uid: types.UID(fmt.Sprint(i)), version: fmt.Sprint(2*i + 1)}
		tr.observe(p, false)
		gone := *p
		gone.version = fmt.Sprint(2*i + 2)
		tr.observe(&gone, true)
	}
	if n := len(tr.pods); n > 0 {
		t.Errorf("%d pods are kept that are gone", n)
	}
}

// A log that was empty, and at the next look, long after, is not, may have been rotated in between.
func TestWitnessHead(t *testing.T) {
	for name, tt := range map[string]struct {
		young, wait, first time.Duration
		want               bool
	}{
		"soon":                      {young: time.Second, wait: 4 * time.Second, first: 2 * time.Second, want: true},
		"a look late, a line soon":  {young: time.Second, wait: time.Minute, first: 2 * time.Second, want: true},
		"a line long after a look":  {young: time.Second, wait: time.Minute, first: 50 * time.Second},
		"it was empty when not new": {young: time.Minute, wait: 4 * time.Second, first: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &run{view: view{startedAt: time.Now()}, tracker: newTracker(nil, nil, nil, nil)}
				time.Sleep(tt.young)
				empty := time.Now()
				r.witnessHead(time.Time{})
				time.Sleep(tt.wait)
				r.witnessHead(empty.Add(tt.first))
				if _, empty := r.witnessedHead(); !empty.IsZero() != tt.want {
					t.Errorf("the beginning counts as seen: %v", !empty.IsZero())
				}
			})
		})
	}
}

// A log that is empty at the end proves nothing if there was time to fill a file since it was last seen empty.
func TestEmptyUntil(t *testing.T) {
	for name, tt := range map[string]struct {
		young, stream, rest time.Duration // before the look, of a stream from then on, and after it
		want                bool
	}{
		"at once":                      {young: time.Second, rest: time.Second, want: true},
		"long after":                   {young: time.Second, rest: time.Minute},
		"long after, under a stream":   {young: time.Second, stream: time.Hour, rest: time.Second, want: true},
		"long after a stream":          {young: time.Second, stream: time.Hour, rest: time.Minute},
		"it was not new at the stream": {young: time.Minute, stream: time.Hour, rest: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &run{view: view{startedAt: time.Now()}, tracker: newTracker(nil, nil, nil, nil)}
				time.Sleep(tt.young)
				r.witnessHead(time.Time{})
				opened := time.Now()
				time.Sleep(tt.stream)
				if tt.stream > 0 {
					r.stayedEmpty(opened)
				}
				time.Sleep(tt.rest)
				if got := r.emptyUntil(time.Now()); got != tt.want {
					t.Errorf("the log counts as empty from its beginning on: %v", got)
				}
			})
		})
	}
}
