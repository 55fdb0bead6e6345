package archive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// verifier is one call of Verify.
type verifier struct {
	a    *Archive
	o    VerifyOptions
	seed uint64
	now  time.Time
	// These are for the goroutine that lists.
	seen      filter // runs with a record on a day that was listed
	notChosen int64  // folders left out of the sample
}

// folder is what lies in the folder of one pod and day, as far as it is selected.
type folder struct {
	prefix  string
	key     bundle.RunKey // cluster, namespace, date, pod and UID are set
	records []Run
	logs    []storedLog
	foreign int64

	newerDays []string // of the namespace, the next one first
	met       bool     // a run of it may have records on newer days, too
	err       error
}

type storedLog struct {
	key     bundle.RunKey
	segment int
	sink.Object
}

// folders lists what is selected, folder by folder, days from new to old. What cannot be listed is a
// folder with an error. The records of folders that were not chosen for the sample are taken note of, no more.
func (v *verifier) folders(ctx context.Context) iter.Seq2[folder, error] {
	return func(yield func(folder, error) bool) {
		q := v.o.Query
		ok := true
		pass := func(f folder) bool {
			ok = ok && ctx.Err() == nil && yield(f, nil)
			return ok
		}
		clusters := []string{q.Cluster}
		if q.Cluster == "" {
			clusters = v.names(ctx, "", "cluster=", func(name string) bool { return bundle.CheckCluster(name) == nil }, pass)
		}
		for _, cluster := range clusters {
			namespaces := slices.Compact(slices.Sorted(slices.Values(q.Namespaces)))
			if len(namespaces) == 0 && ok {
				namespaces = v.names(ctx, bundle.ClusterPrefix(cluster), "namespace=", func(name string) bool {
					return Query{Namespaces: []string{name}}.check() == nil
				}, pass)
			}
			for _, ns := range namespaces {
				if ok {
					v.namespace(ctx, cluster, ns, pass)
				}
			}
		}
	}
}

// namespace lists one namespace.
func (v *verifier) namespace(ctx context.Context, cluster, ns string, pass func(folder) bool) {
	days := v.names(ctx, bundle.NamespacePrefix(cluster, ns), "date=", func(day string) bool {
		_, err := time.Parse(time.DateOnly, day)
		return err == nil
	}, pass)
	slices.Sort(days)
	for i := range slices.Backward(days) {
		if !v.o.Query.hasDay(days[i]) {
			continue
		}
		prefix := bundle.DayPrefix(cluster, ns, days[i])
		if q := v.o.Query; q.Pod != "" {
			prefix = bundle.PodPrefix(cluster, ns, days[i], q.Pod)
			if q.UID != "" {
				prefix += q.UID + "/"
			}
		}
		if !v.day(ctx, prefix, days[i+1:], pass) {
			return
		}
	}
}

// names lists the folders directly under a prefix whose names begin with marker and are good, without
// it, and passes on how much else there is.
func (v *verifier) names(ctx context.Context, prefix, marker string, good func(string) bool, pass func(folder) bool) []string {
	var names []string
	rest := folder{prefix: prefix}
	for o, err := range v.a.listPatiently(ctx, prefix, sink.ListOptions{Shallow: true}, passing) {
		if err != nil {
			rest.err = err
			break
		}
		name, isFolder := strings.CutSuffix(strings.TrimPrefix(o.Key, prefix), "/")
		if name, ours := strings.CutPrefix(name, marker); isFolder && ours && good(name) {
			names = append(names, name)
		} else {
			rest.foreign++
		}
	}
	if rest.err != nil || rest.foreign > 0 {
		pass(rest)
	}
	return names
}

// day lists a day, or one pod of it.
func (v *verifier) day(ctx context.Context, prefix string, newer []string, pass func(folder) bool) bool {
	var f folder
	flush := func() bool {
		if f.prefix == "" {
			return true
		}
		v.meet(&f)
		if !v.chosen(f.prefix) {
			v.notChosen++
			return true
		}
		return pass(f)
	}
	foreign := folder{prefix: prefix}
	for o, err := range v.a.listPatiently(ctx, prefix, sink.ListOptions{}, passing) {
		if err != nil {
			// Of the last folder not all may have been seen, so nothing can be said about it.
			return pass(folder{prefix: prefix, foreign: foreign.foreign, err: err})
		}
		k, kind, segment, _, err := bundle.ParseKey(o.Key)
		if err != nil {
			foreign.foreign++
			continue
		}
		if k.Prefix() != f.prefix {
			if !flush() {
				return false
			}
			f = folder{prefix: k.Prefix(), key: k, newerDays: newer}
		}
		switch {
		case !v.o.Query.hasKey(k):
		case kind == bundle.KindRecord:
			f.records = append(f.records, Run{Key: k, Object: o})
		default:
			f.logs = append(f.logs, storedLog{k, segment, o})
		}
	}
	return flush() && (foreign.foreign == 0 || pass(foreign))
}

// meet takes note of the runs of a folder, and whether one may have been met before.
func (v *verifier) meet(f *folder) {
	hashes := map[runHash]bool{}
	for _, run := range f.records {
		hashes[identityOf(run.Key)] = true
	}
	for hash := range hashes {
		f.met = v.seen.add(hash) || f.met
	}
}

// chosen says whether a folder belongs to the sample.
func (v *verifier) chosen(prefix string) bool {
	if v.o.Sample == 0 || v.o.Sample == 1 {
		return true
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", v.seed, prefix))
	return float64(binary.BigEndian.Uint64(sum[:])) < v.o.Sample*(1<<64)
}

// identityOf is equal for all records of one container run: FORMAT.md counts a run by pod UID,
// container and container ID. The restart count is but a label, unless the ID was never known.
func identityOf(k bundle.RunKey) runHash {
	if k.ID12 != bundle.ID12("") {
		k.Restart = 0
	}
	return sameRun(k)
}

// filter remembers which of millions of runs it has met, in a fixed amount of memory. It may take a run
// for one that it has met before, never the other way round: with ten million runs in it, one time in 2,700.
type filter struct {
	few  map[runHash]bool // as long as they are few, exactly
	bits []uint64         // then a Bloom filter
}

const (
	filterFew  = 1 << 16 // some 3 MiB
	filterBits = 1 << 28 // 32 MiB
)

// add returns whether the run was perhaps added before.
func (f *filter) add(run runHash) bool {
	if f.bits != nil {
		return f.set(run)
	}
	met := f.few[run]
	if f.few == nil {
		f.few = map[runHash]bool{}
	}
	f.few[run] = true
	if len(f.few) > filterFew {
		f.bits = make([]uint64, filterBits/64)
		for run := range f.few {
			f.set(run)
		}
		f.few = nil
	}
	return met
}

// set sets the run's bits and returns whether all of them were set.
func (f *filter) set(run runHash) bool {
	met := true
	for i := range 4 {
		bit := binary.BigEndian.Uint32(run[4*i:]) % filterBits
		met = met && f.bits[bit/64]&(1<<(bit%64)) != 0
		f.bits[bit/64] |= 1 << (bit % 64)
	}
	return met
}
