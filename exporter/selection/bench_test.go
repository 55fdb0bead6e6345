package selection_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// manyPods is how many the largest clusters have.
const manyPods = 150_000

func manySubjects() []*selection.Subject {
	subjects := make([]*selection.Subject, manyPods)
	for i := range subjects {
		s := ended(int32(i%3), "Error")
		s.Namespace, s.Pod = fmt.Sprintf("ns-%d", i%500), fmt.Sprintf("app-%d", i)
		s.Labels = selection.Labels{"app", fmt.Sprintf("app-%d", i%100), "tier", "web", "pod-template-hash", "abcdef", "version", "v1"}
		s.Ended = i%2 == 0
		subjects[i] = s
	}
	return subjects
}

func measuredExports(tb testing.TB) map[string]selection.Exports {
	return map[string]selection.Exports{
		"all":    {selection.All()},
		"labels": {compile(tb, selection.Spec{Namespaces: []string{"ns-1*"}, ExcludeNamespaces: []string{"ns-11*"}, Labels: "app in (app-1,app-2),tier!=cache"}), compile(tb, selection.Spec{OwnerKinds: []string{"Job"}})},
		"cel":    {compile(tb, selection.Spec{Expression: "pod.namespace.startsWith('ns-4') && pod.labels['tier'] == 'web' && container.exitCode != 0"})},
		"regexp": {compile(tb, selection.Spec{Expression: "pod.name.matches('^app-[0-9]+7$') || 'canary' in pod.labels"})},
	}
}

// decideAll finds the first export that does not say No, for each subject.
func decideAll(tb testing.TB, exports selection.Exports, subjects []*selection.Subject) {
	for _, s := range subjects {
		for _, e := range exports {
			d, err := e.Match(s)
			if err != nil {
				tb.Fatal(err)
			}
			if d != selection.No {
				break
			}
		}
	}
}

// BenchmarkExports decides about the runs of 150,000 pods once per iteration.
func BenchmarkExports(b *testing.B) {
	subjects := manySubjects()
	for name, exports := range measuredExports(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decideAll(b, exports, subjects)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/manyPods, "ns/pod")
		})
	}
}

// TestSpeed is the bar for this package: a few microseconds for each of 150,000 pods. The limit leaves room
// for a machine that has other work; the best of some tries counts.
func TestSpeed(t *testing.T) {
	if os.Getenv("KUBELOGEXPORTER_SPEED") == "" {
		t.Skip("measures speed, for which a busy machine is bad; KUBELOGEXPORTER_SPEED=1 switches it on")
	}
	const limit = 10 * time.Microsecond
	subjects := manySubjects()
	for name, exports := range measuredExports(t) {
		best := time.Hour
		for n := 0; n < 3 || n < 10 && best > limit; n++ {
			start := time.Now()
			decideAll(t, exports, subjects)
			best = min(best, time.Since(start)/manyPods)
		}
		t.Logf("%s: %v for each pod", name, best)
		if best > limit {
			t.Errorf("%s: %v for each pod, at most %v are wanted", name, best, limit)
		}
	}
}
