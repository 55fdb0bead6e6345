package archive

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Query selects runs. The zero value selects all, every further field narrows.
type Query struct {
	Cluster    string
	Namespaces []string
	Pod        string // the exact name
	PodPattern string // for the name, as path.Match takes it
	UID        string // of the pod
	Container  string
	// Since and Until bound when the runs ended (Since ≤ end < Until). For a snapshot of a run that
	// had not ended, its time counts.
	Since, Until time.Time
	// Snapshots includes every snapshot. Without it, one is left out if the run's final record or a
	// later snapshot of the run is among the answers.
	Snapshots bool
	// exact keeps the last snapshot before Until beside a final record of Until's day: should that turn out to lie
	// behind Until, the snapshot is the answer.
	exact bool
}

// Run is a run that has a record here, as far as the record's key tells.
type Run struct {
	Key bundle.RunKey
	// Object describes the stored record: its size, and when the store received it.
	Object sink.Object
}

// Runs yields the runs that match, from listings alone: namespace by namespace, each from its newest
// day to its oldest, and within a day by pod, UID and container. Since and Until are applied to whole
// days in UTC only; Records applies them exactly. Objects that are no records are passed over. After
// an error, which is that of a listing, nothing more follows.
func (a *Archive) Runs(ctx context.Context, q Query) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		if err := q.check(); err != nil {
			yield(Run{}, err)
			return
		}
		for ns, err := range a.namespaces(ctx, q) {
			if err != nil {
				yield(Run{}, err)
				return
			}
			for run, err := range a.runsOf(ctx, q, ns) {
				if !yield(run, err) || err != nil {
					return
				}
			}
		}
	}
}

// Records yields the records of the runs that match, in the order of Runs. An error of a single
// record is yielded in its place, and the others follow; a *DamagedError says that the record itself
// is to blame. After an error of a listing nothing follows.
func (a *Archive) Records(ctx context.Context, q Query) iter.Seq2[*bundle.Record, error] {
	q.exact = !q.Until.IsZero() && !q.Snapshots
	records := inOrder(ctx, a.Runs(ctx, q), func(ctx context.Context, run Run) (*bundle.Record, error) {
		return patiently(ctx, busy, func() (*bundle.Record, error) { return a.Record(ctx, run.Key) })
	})
	over := map[runHash]bool{}
	return func(yield func(*bundle.Record, error) bool) {
		for r, err := range records {
			if err == nil && (q.exact && q.outdated(r, over) || !q.contains(ended(r))) {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// outdated says whether a record is a snapshot of a run that was over before Until. Those are remembered of Until's day
// only: of other days choose has left such snapshots out.
func (q Query) outdated(r *bundle.Record, over map[runHash]bool) bool {
	k, err := bundle.KeyOf(r)
	if err != nil {
		return false // no record of an archive: Record has compared its key
	}
	if !r.State.Running && q.lastDay(k) && ended(r).Before(q.Until) {
		over[sameRun(k)] = true
	}
	return r.State.Running && over[sameRun(k)]
}

// lastDay says whether a record is of the day that Until lies in.
func (q Query) lastDay(k bundle.RunKey) bool { return k.Date == q.Until.UTC().Format(time.DateOnly) }

// ended is the time that Since and Until are compared with.
func ended(r *bundle.Record) time.Time {
	for _, t := range []*time.Time{r.State.FinishedAt, r.LastStamp, r.State.StartedAt} {
		if t != nil {
			return *t
		}
	}
	return time.Time{}
}

func (q Query) contains(t time.Time) bool {
	return (q.Since.IsZero() || !t.Before(q.Since)) && (q.Until.IsZero() || t.Before(q.Until))
}

// hasDay says whether a run that ended on this day can match.
func (q Query) hasDay(date string) bool {
	day, err := time.Parse(time.DateOnly, date)
	return err == nil && (q.Since.IsZero() || day.AddDate(0, 0, 1).After(q.Since)) && (q.Until.IsZero() || day.Before(q.Until))
}

func (q Query) hasKey(k bundle.RunKey) bool {
	fits := q.PodPattern == ""
	if !fits {
		fits, _ = path.Match(q.PodPattern, k.Pod) // check has seen that it is a pattern
	}
	return fits && (q.Pod == "" || k.Pod == q.Pod) && (q.UID == "" || k.UID == q.UID) &&
		(q.Container == "" || k.Container == q.Container)
}

// check refuses names that cannot be names, before they become part of a prefix.
func (q Query) check() error {
	if _, err := path.Match(q.PodPattern, ""); err != nil {
		return fmt.Errorf("query archive: pod pattern %q: %w", q.PodPattern, err)
	}
	names := q.Namespaces
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		k := bundle.RunKey{
			Cluster: cmp.Or(q.Cluster, "c"), Namespace: cmp.Or(name, "n"), Date: time.DateOnly,
			Pod: cmp.Or(q.Pod, "p"), UID: cmp.Or(q.UID, "u"), Container: cmp.Or(q.Container, "c"), ID12: bundle.ID12(""),
		}
		if err := k.Check(); err != nil {
			return fmt.Errorf("query archive: %w", err)
		}
	}
	return nil
}

type namespace struct{ cluster, name string }

func (a *Archive) namespaces(ctx context.Context, q Query) iter.Seq2[namespace, error] {
	return func(yield func(namespace, error) bool) {
		clusters := []string{q.Cluster}
		if q.Cluster == "" {
			var err error
			if clusters, err = a.Clusters(ctx); err != nil {
				yield(namespace{}, err)
				return
			}
		}
		for _, cluster := range clusters {
			names := slices.Sorted(slices.Values(q.Namespaces))
			names = slices.Compact(names)
			if len(names) == 0 {
				var err error
				if names, err = a.Namespaces(ctx, cluster); err != nil {
					yield(namespace{}, err)
					return
				}
			}
			for _, name := range names {
				if !yield(namespace{cluster, name}, nil) {
					return
				}
			}
		}
	}
}

// runsOf yields the matching runs of one namespace. Days go from new to old, so that the final record
// of a run comes before its snapshots, which may lie on earlier days.
func (a *Archive) runsOf(ctx context.Context, q Query, ns namespace) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		days, err := a.Days(ctx, ns.cluster, ns.name)
		if err != nil {
			yield(Run{}, err)
			return
		}
		days = slices.DeleteFunc(days, func(day string) bool { return !q.hasDay(day) })
		slices.Sort(days)
		slices.Reverse(days)
		seen := map[runHash]bool{}
		for pod, err := range a.podsOf(ctx, q, ns, days) {
			if err != nil {
				yield(Run{}, err)
				return
			}
			for _, run := range choose(pod, q, seen) {
				if !yield(run, nil) {
					return
				}
			}
		}
	}
}

// choose leaves out snapshots that something better was seen of. The runs are those of one pod on one day.
func choose(runs []Run, q Query, seen map[runHash]bool) []Run {
	slices.SortFunc(runs, func(a, b Run) int {
		return cmp.Or(strings.Compare(a.Key.Container, b.Key.Container), cmp.Compare(a.Key.Restart, b.Key.Restart),
			strings.Compare(a.Key.ID12, b.Key.ID12), final(a.Key, b.Key), b.Key.Snapshot.Compare(a.Key.Snapshot))
	})
	if q.Snapshots {
		return runs
	}
	return slices.DeleteFunc(runs, func(run Run) bool {
		snapshot := !run.Key.Snapshot.IsZero()
		if q.exact && q.lastDay(run.Key) {
			switch {
			case !snapshot:
				return false // only its content tells whether it lies before Until
			case !run.Key.Snapshot.Before(q.Until):
				return true
			}
		}
		id := sameRun(run.Key)
		known := seen[id]
		seen[id] = true
		return known && snapshot
	})
}

// final sorts final records before snapshots.
func final(a, b bundle.RunKey) int {
	return cmp.Compare(boolean(!a.Snapshot.IsZero()), boolean(!b.Snapshot.IsZero()))
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// runHash stands for a run in 16 bytes: a namespace may hold millions.
type runHash [16]byte

// sameRun is equal for all records of one run, on whatever day they lie.
func sameRun(k bundle.RunKey) runHash {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s.%d.%s", k.UID, k.Container, k.Restart, k.ID12))
	return runHash(sum[:16])
}

// podsOf yields the records of one pod and day at a time. A query for one pod asks for its folder on
// each day; any other lists whole days, or what of them begins as its pattern does.
func (a *Archive) podsOf(ctx context.Context, q Query, ns namespace, days []string) iter.Seq2[[]Run, error] {
	if q.Pod == "" {
		begins := q.PodPattern
		if i := strings.IndexAny(begins, `*?[\`); i >= 0 {
			begins = begins[:i]
		}
		return func(yield func([]Run, error) bool) {
			for _, day := range days {
				for pod, err := range byPod(a.list(ctx, q, bundle.DayPrefix(ns.cluster, ns.name, day)+begins)) {
					if !yield(pod, err) || err != nil {
						return
					}
				}
			}
		}
	}
	prefixes := func(yield func(string, error) bool) {
		for _, day := range days {
			prefix := bundle.PodPrefix(ns.cluster, ns.name, day, q.Pod)
			if q.UID != "" {
				prefix += q.UID + "/"
			}
			if !yield(prefix, nil) {
				return
			}
		}
	}
	lists := inOrder(ctx, prefixes, func(ctx context.Context, prefix string) ([]Run, error) {
		var runs []Run
		for run, err := range a.list(ctx, q, prefix) {
			if err != nil {
				return nil, err
			}
			runs = append(runs, run)
		}
		return runs, nil
	})
	return func(yield func([]Run, error) bool) {
		for runs, err := range lists {
			if err != nil {
				yield(nil, err)
				return
			}
			for pod := range byPod(each(runs)) { //nolint:errcheck // each yields no error
				if !yield(pod, nil) {
					return
				}
			}
		}
	}
}

// list yields the records under a prefix that match.
func (a *Archive) list(ctx context.Context, q Query, prefix string) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		for o, err := range a.listPatiently(ctx, prefix, sink.ListOptions{}, busy) {
			if err != nil {
				yield(Run{}, err)
				return
			}
			k, kind, _, _, err := bundle.ParseKey(o.Key)
			if err != nil || kind != bundle.KindRecord || !q.hasKey(k) {
				continue
			}
			if !yield(Run{Key: k, Object: o}, nil) {
				return
			}
		}
	}
}

// byPod groups runs that come sorted by key.
func byPod(runs iter.Seq2[Run, error]) iter.Seq2[[]Run, error] {
	return func(yield func([]Run, error) bool) {
		var pod []Run
		for run, err := range runs {
			if err != nil {
				yield(nil, err)
				return
			}
			if len(pod) > 0 && pod[0].Key.Prefix() != run.Key.Prefix() {
				if !yield(pod, nil) {
					return
				}
				pod = nil
			}
			pod = append(pod, run)
		}
		if len(pod) > 0 {
			yield(pod, nil)
		}
	}
}

func each(runs []Run) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		for _, run := range runs {
			if !yield(run, nil) {
				return
			}
		}
	}
}
