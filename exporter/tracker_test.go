package exporter

import (
	"fmt"
	"testing"

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
