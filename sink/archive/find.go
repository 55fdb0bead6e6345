package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// ErrAmbiguous says that a name fits more than one thing and the caller must narrow it. The text
// lists the choices.
var ErrAmbiguous = errors.New("ambiguous")

// Pod is what the archive has of one pod.
type Pod struct {
	Cluster, Namespace, Name, UID string
	// Runs are sorted by container; of one container the newest run comes first.
	Runs []Run
}

// Find looks for the pod with the name q.Pod. If several pods had that name, one after the other, it
// takes the newest, unless q.UID names one. It fails with sink.ErrNotFound if no run matches, and
// with ErrAmbiguous if there is such a pod in more than one cluster or namespace.
func (a *Archive) Find(ctx context.Context, q Query) (*Pod, error) {
	if q.Pod == "" {
		return nil, errors.New("find pod: no name given")
	}
	byUID := map[string]*Pod{}
	places := map[string]bool{}
	newest := ""
	for run, err := range a.Runs(ctx, q) {
		if err != nil {
			return nil, fmt.Errorf("find pod %s: %w", q.Pod, err)
		}
		k := run.Key
		places[k.Cluster+"/"+k.Namespace] = true
		pod := byUID[k.UID]
		if pod == nil {
			pod = &Pod{Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Pod, UID: k.UID}
			byUID[k.UID] = pod
		}
		pod.Runs = append(pod.Runs, run)
		newest = max(newest, k.Date)
	}
	switch {
	case len(places) == 0:
		return nil, fmt.Errorf("find pod %s: %w", q.Pod, sink.ErrNotFound)
	case len(places) > 1:
		return nil, fmt.Errorf("find pod %s: %w: it is in %s", q.Pod, ErrAmbiguous, strings.Join(slices.Sorted(maps.Keys(places)), ", "))
	}
	var candidates []*Pod
	for _, pod := range byUID {
		pod.sort()
		if slices.ContainsFunc(pod.Runs, func(r Run) bool { return r.Key.Date == newest }) {
			candidates = append(candidates, pod)
		}
	}
	return a.newest(ctx, candidates)
}

// newest picks from pods that had one name and ended on the same day the one that started last: two
// pods of one name never run at the same time, and a UID does not tell which came first.
func (a *Archive) newest(ctx context.Context, pods []*Pod) (*Pod, error) {
	if len(pods) == 1 {
		return pods[0], nil
	}
	slices.SortFunc(pods, func(a, b *Pod) int { return strings.Compare(a.UID, b.UID) })
	items := func(yield func(bundle.RunKey, error) bool) {
		for _, pod := range pods {
			if !yield(pod.Runs[0].Key, nil) {
				return
			}
		}
	}
	records := inOrder(ctx, items, a.Record)
	best, at, i := pods[0], time.Time{}, 0
	for r, err := range records {
		if err != nil {
			return nil, fmt.Errorf("find pod %s: %w", best.Name, err)
		}
		t := ended(r)
		if r.State.StartedAt != nil {
			t = *r.State.StartedAt
		}
		if t.After(at) {
			best, at = pods[i], t
		}
		i++
	}
	return best, nil
}

func (p *Pod) sort() {
	slices.SortStableFunc(p.Runs, func(a, b Run) int {
		return cmp.Or(strings.Compare(a.Key.Container, b.Key.Container), cmp.Compare(b.Key.Restart, a.Key.Restart),
			strings.Compare(b.Key.Date, a.Key.Date), final(a.Key, b.Key), b.Key.Snapshot.Compare(a.Key.Snapshot))
	})
}

// Containers lists the names of the containers that have runs here, sorted.
func (p *Pod) Containers() []string {
	var names []string
	for _, run := range p.Runs {
		if !slices.Contains(names, run.Key.Container) {
			names = append(names, run.Key.Container)
		}
	}
	return names
}

// Latest returns the run of a container that is back runs before its newest: 0 is the newest, 1 is
// what kubectl logs --previous means. The container may be empty if there is only one. The errors
// are those of WithRestart.
func (p *Pod) Latest(container string, back int) (Run, error) {
	runs, err := p.of(container)
	if err != nil {
		return Run{}, err
	}
	if back < 0 || back >= len(runs) {
		return Run{}, fmt.Errorf("find run: container %s of pod %s has %d archived runs, not %d: %w",
			runs[0].Key.Container, p.Name, len(runs), back+1, sink.ErrNotFound)
	}
	return runs[back], nil
}

// WithRestart returns the run of a container with a restart count. The container may be empty if
// there is only one. It fails with sink.ErrNotFound if there is no such run or container, and with
// ErrAmbiguous if a container must be named.
func (p *Pod) WithRestart(container string, restart int32) (Run, error) {
	runs, err := p.of(container)
	if err != nil {
		return Run{}, err
	}
	i := slices.IndexFunc(runs, func(r Run) bool { return r.Key.Restart == restart })
	if i < 0 {
		return Run{}, fmt.Errorf("find run: container %s of pod %s has no archived run with restart count %d: %w",
			runs[0].Key.Container, p.Name, restart, sink.ErrNotFound)
	}
	return runs[i], nil
}

// of returns the runs of a container, the newest first; there is at least one.
func (p *Pod) of(container string) ([]Run, error) {
	names := p.Containers()
	if container == "" {
		if len(names) > 1 {
			return nil, fmt.Errorf("find run: pod %s: %w: it has the containers %s", p.Name, ErrAmbiguous, strings.Join(names, ", "))
		}
		container = names[0]
	}
	if !slices.Contains(names, container) {
		return nil, fmt.Errorf("find run: pod %s has no container %s here, only %s: %w", p.Name, container, strings.Join(names, ", "), sink.ErrNotFound)
	}
	seen := map[runHash]bool{} // for queries that include all snapshots
	return slices.DeleteFunc(slices.Clone(p.Runs), func(r Run) bool {
		id := sameRun(r.Key)
		skip := r.Key.Container != container || seen[id]
		seen[id] = true
		return skip
	}), nil
}
