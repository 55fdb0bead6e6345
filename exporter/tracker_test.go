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
	tr := newTracker(func(*run, priority) bool { return false }, func(*run) {}, func(runID) {}, func(*run) {})
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
				if _, got := r.witnessedHead(); got != tt.want {
					t.Errorf("the beginning counts as seen: %v", got)
				}
			})
		})
	}
}
