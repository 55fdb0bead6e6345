package archive

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// folderResult is what was found in one folder.
type folderResult struct {
	Verification
	findings []Finding
	failed   error // nothing could be read, because of this
}

// folderCheck is the work on one folder. Each has its own, so that several can be looked at at once.
type folderCheck struct {
	*verifier
	folder
	folderResult
	checked []*checkedRecord
	sizes   map[string]int64            // of the log objects in this folder and in those that were looked at
	listed  map[string]bool             // the folders whose objects are in sizes
	named   map[string]bool             // log objects that a record names
	told    map[string]FindingKind      // keys that were reported: once is enough
	runs    map[runHash]bool            // with a record here, readable or not; true if there is a final one
	unread  map[runHash]bool            // with a record here that cannot be read
	newer   map[runHash][]bundle.RunKey // the records of a run on the first newer day that has any
}

// checkedRecord is a record that was read.
type checkedRecord struct {
	key bundle.RunKey
	*bundle.Record
	id    runHash
	sound bool
}

// check looks at a folder. It fails only if ctx has ended.
func (v *verifier) check(ctx context.Context, f folder) (*folderResult, error) {
	c := &folderCheck{
		verifier: v, folder: f, sizes: map[string]int64{}, listed: map[string]bool{f.prefix: true}, named: map[string]bool{},
		told: map[string]FindingKind{}, runs: map[runHash]bool{}, unread: map[runHash]bool{}, newer: map[runHash][]bundle.RunKey{},
	}
	c.UnprovenByCause = map[bundle.Cause]int64{}
	c.Foreign = f.foreign
	if f.err != nil {
		c.failed = f.err
		c.found(Finding{Kind: FoundUnchecked, Key: f.prefix, Err: f.err})
		return &c.folderResult, ctx.Err()
	}
	for _, log := range f.logs {
		c.sizes[log.Key] = log.Size
		c.Objects++
		c.Stored += log.Size
	}
	v.o.Progress.Objects.Add(c.Objects)
	for _, run := range f.records {
		c.read(ctx, run)
	}
	if c.Records > 0 {
		c.failed = nil
	}
	if f.met {
		c.meetNewer(ctx)
	}
	c.judge(ctx)
	c.orphans(ctx)
	return &c.folderResult, ctx.Err()
}

func (c *folderCheck) found(f Finding) {
	switch f.Kind {
	case FoundDamaged, FoundMissing, FoundUnchecked:
		if told := c.told[f.Key]; told != "" && (told != FoundUnchecked || f.Kind == FoundUnchecked) {
			return
		}
		c.told[f.Key] = f.Kind
	}
	c.findings = append(c.findings, f)
}

// failedWith reports what a store or a check answered about an object.
func (c *folderCheck) failedWith(key, record string, err error) {
	f := Finding{Kind: FoundUnchecked, Key: key, Record: record, Err: err}
	bad := (*DamagedError)(nil)
	switch {
	case errors.As(err, &bad):
		f.Kind, f.Key, f.Err = FoundDamaged, bad.Key, bad.Err
	case errors.Is(err, sink.ErrNotFound) && record != key:
		f.Kind = FoundMissing
	}
	if f.Record == f.Key {
		f.Record = ""
	}
	c.found(f)
}

// read reads a record.
func (c *folderCheck) read(ctx context.Context, run Run) {
	if ctx.Err() != nil {
		return
	}
	key, id := run.Object.Key, identityOf(run.Key)
	c.runs[id] = c.runs[id] || run.Key.Snapshot.IsZero()
	stored, err := c.bytes(ctx, key)
	if err != nil {
		c.unread[id] = true
		c.failed = err
		c.failedWith(key, key, err)
		return
	}
	c.Records++
	c.Stored += int64(len(stored))
	c.o.Progress.Records.Add(1)
	r, err := bundle.CheckRecord(key, stored)
	if err != nil {
		c.failedWith(key, key, err)
	}
	if r == nil {
		c.unread[id] = true
		return
	}
	c.checked = append(c.checked, &checkedRecord{run.Key, r, id, err == nil})
	for _, o := range r.Objects {
		c.named[o.Key] = true
	}
}

func (c *folderCheck) bytes(ctx context.Context, key string) ([]byte, error) {
	body, err := c.a.openPatiently(ctx, key, &c.o.Progress.Bytes)
	if err != nil {
		return nil, err
	}
	defer body.Close() //nolint:errcheck // read only
	return io.ReadAll(io.LimitReader(body, bundle.MaxRecordSize+1))
}

// meetNewer looks for records of this folder's runs on newer days. Of a run that has a final record here,
// only another final one matters.
func (c *folderCheck) meetNewer(ctx context.Context) {
	missing := len(c.runs)
	for k, err := range c.newerRecords(ctx) {
		if err != nil {
			c.found(Finding{Kind: FoundUnchecked, Key: c.prefix, Err: err})
			return
		}
		id := identityOf(k)
		final, here := c.runs[id]
		known := c.newer[id]
		if !here || final && !k.Snapshot.IsZero() || len(known) > 0 && known[0].Date != k.Date {
			continue
		}
		if len(known) == 0 {
			missing--
		}
		c.newer[id] = append(known, k)
		if missing == 0 && final {
			return
		}
	}
}

// newerRecords yields the keys of the pod's records on newer days, the next day first.
func (c *folderCheck) newerRecords(ctx context.Context) iter.Seq2[bundle.RunKey, error] {
	return func(yield func(bundle.RunKey, error) bool) {
		for _, day := range c.newerDays {
			k := c.key
			k.Date = day
			for o, err := range c.a.listPatiently(ctx, k.Prefix(), sink.ListOptions{}, passing) {
				if err != nil {
					yield(bundle.RunKey{}, err)
					return
				}
				k, kind, _, _, err := bundle.ParseKey(o.Key)
				if err == nil && kind == bundle.KindRecord && !yield(k, nil) {
					return
				}
			}
		}
	}
}
