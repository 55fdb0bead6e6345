package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// Level says how closely Verify looks.
type Level int

// The levels. Each does what the one before it does, but that LevelData asks for no checksums: it
// reads the bytes themselves.
const (
	// LevelList reads every record, and finds every log object that they name in a listing, with its size.
	LevelList Level = iota
	// LevelHead also compares the checksums that the store tells of each object.
	LevelHead
	// LevelData also reads every log object and compares it with everything that its record says of it.
	LevelData
)

// Levels are the names that ParseLevel reads, in their order.
func Levels() []string { return []string{"list", "head", "data"} }

// ParseLevel reads the name of a level.
func ParseLevel(name string) (Level, error) {
	for i, known := range Levels() {
		if name == known {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("parse level: %q is none of list, head and data", name)
}

// String returns the name that ParseLevel reads.
func (l Level) String() string { return Levels()[l] }

// VerifyOptions say what to verify and how closely.
type VerifyOptions struct {
	// Query selects runs. Snapshots must be left out: what belongs to a run is found by its pod.
	Query Query
	Level Level
	// Sample is the part of the archive to look at, above 0 and up to 1; 0 means all of it. It is chosen
	// by chance, all runs of a pod that ended on one day together.
	Sample float64
	// Seed makes the choice repeatable; 0 chooses anew each time.
	Seed uint64
	// Progress counts along, unless it is nil.
	Progress *Progress
}

// Progress tells how far Verify has come.
type Progress struct {
	Records atomic.Int64 // records read
	Objects atomic.Int64 // log objects found in listings
	Bytes   atomic.Int64 // bytes read, of records and log objects
}

// FindingKind sorts findings.
type FindingKind string

// The kinds of findings.
const (
	// FoundDamaged: a stored object is not what it should be.
	FoundDamaged FindingKind = "damaged"
	// FoundMissing: a record names a log object that is not there.
	FoundMissing FindingKind = "missing"
	// FoundOrphan: there is a log object, an hour old or older, and no record of its run that could name it.
	FoundOrphan FindingKind = "orphan"
	// FoundUnchecked: something could not be looked at. That says nothing about it.
	FoundUnchecked FindingKind = "unchecked"
	// FoundDuplicate: a run has more than one final record. Readers take one; nothing is lost.
	FoundDuplicate FindingKind = "duplicate"
	// FoundLeftover: a log object that no record names, of a run that has a record. An upload that was
	// broken off leaves such; nothing is lost.
	FoundLeftover FindingKind = "leftover"
	// FoundNoDigest: a record of format 1.0, in which a changed byte may not show.
	FoundNoDigest FindingKind = "noDigest"
	// FoundGap: a sound record that says that a part of its log is lost.
	FoundGap FindingKind = "gap"
)

// Finding is something that Verify has to tell about one key.
type Finding struct {
	Kind FindingKind
	// Key is of the object that the finding is about. For FoundUnchecked it may be a prefix.
	Key string
	// Record is the key of the record by which it was found, if that is another object.
	Record string
	Err    error
	// Causes of a gap, each once.
	Causes []bundle.Cause
}

// Verification is the result of Verify in numbers.
type Verification struct {
	Level   Level
	Records int64 // records looked at, snapshots among them
	Runs    int64 // container runs that they are of
	Objects int64 // log objects
	Stored  int64 // bytes of records and log objects in the store
	Read    int64 // bytes read

	Damaged, Missing, Orphans, Unchecked int64
	Duplicates, Leftovers, NoDigest      int64
	// NotChosen counts the folders of a pod and day that were left out of the sample.
	NotChosen int64
	// Foreign counts what lies in the archive's folders and is not part of it. Folders of others count as one.
	Foreign int64
	// Young counts log objects without a record that are less than an hour old: theirs may be on its way.
	Young int64
	// ChecksumsCompared and ChecksumsNotOffered count log objects at LevelHead.
	ChecksumsCompared, ChecksumsNotOffered int64

	Complete int64 // runs of which nothing is missing, as is proven
	Running  int64 // runs that had not ended when they were last read
	// Gaps counts runs of which a part is lost, Unproven those of which none is lost and not all is
	// proven; the maps count them by cause, a run once for each of its causes.
	Gaps, Unproven               int64
	GapsByCause, UnprovenByCause map[bundle.Cause]int64
}

const (
	// orphanAge is far more than an exporter needs from a log object to its record.
	orphanAge = time.Hour
	// giveUp is after how many places in a row that could not be looked at Verify takes the store to be away.
	giveUp = 3 * parallel
)

// Verify looks at everything that the query selects, and reports what it finds, in the order of Runs.
// What cannot be looked at is a finding, too; the error says that Verify itself came to an end before
// its time, because ctx ended or everything failed. The numbers are of what was done until then.
//
// It needs a fixed amount of memory, beside the names of days and what lies in the folder of one pod and
// day. Two things may lie on other days than a run's final record: segments, and snapshots. So days
// are looked at from new to old, as Runs does. A log object that no record of its own folder names is
// looked for in the pod's folders of all newer days, and only then is an orphan. Which runs were
// seen on newer days is kept in a filter that errs to one side only: a hit is looked up.
func (a *Archive) Verify(ctx context.Context, o VerifyOptions, report func(Finding)) (total Verification, err error) {
	if o.Query.Snapshots {
		return Verification{}, errors.New("verify archive: a query for snapshots cannot be verified")
	}
	if o.Sample < 0 || o.Sample > 1 {
		return Verification{}, fmt.Errorf("verify archive: a sample of %g is not between 0 and 1", o.Sample)
	}
	if err := o.Query.check(); err != nil {
		return Verification{}, err
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	v := &verifier{a: a, o: o, seed: cmp.Or(o.Seed, rand.Uint64()), now: time.Now()}
	total = Verification{Level: o.Level, GapsByCause: map[bundle.Cause]int64{}, UnprovenByCause: map[bundle.Cause]int64{}}
	defer func() { total.Read, total.NotChosen = o.Progress.Bytes.Load(), v.notChosen }()
	failures := 0
	for result, err := range inOrder(ctx, v.folders(ctx), v.check) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return total, err
		}
		for _, f := range result.findings {
			total.count(f)
			report(f)
		}
		total.add(&result.Verification)
		if failures++; result.failed == nil {
			failures = 0
		}
		if failures >= giveUp {
			return total, fmt.Errorf("verify archive: nothing could be read in %d places in a row, in the last one because: %w", failures, result.failed)
		}
	}
	return total, ctx.Err()
}

// count counts a finding.
func (v *Verification) count(f Finding) {
	switch f.Kind {
	case FoundDamaged:
		v.Damaged++
	case FoundMissing:
		v.Missing++
	case FoundOrphan:
		v.Orphans++
	case FoundUnchecked:
		v.Unchecked++
	case FoundDuplicate:
		v.Duplicates++
	case FoundLeftover:
		v.Leftovers++
	case FoundNoDigest:
		v.NoDigest++
	case FoundGap:
		v.Gaps++
		for _, cause := range f.Causes {
			v.GapsByCause[cause]++
		}
	}
}

// add adds what was counted of one folder, beside its findings.
func (v *Verification) add(o *Verification) {
	v.Records += o.Records
	v.Runs += o.Runs
	v.Objects += o.Objects
	v.Stored += o.Stored
	v.Foreign += o.Foreign
	v.Young += o.Young
	v.ChecksumsCompared += o.ChecksumsCompared
	v.ChecksumsNotOffered += o.ChecksumsNotOffered
	v.Complete += o.Complete
	v.Running += o.Running
	v.Unproven += o.Unproven
	for cause, n := range o.UnprovenByCause {
		v.UnprovenByCause[cause] += n
	}
}
