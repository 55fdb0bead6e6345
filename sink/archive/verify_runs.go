package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// judge looks at the folder's records run by run.
func (c *folderCheck) judge(ctx context.Context) {
	slices.SortStableFunc(c.checked, func(a, b *checkedRecord) int {
		return cmp.Or(strings.Compare(a.key.Container, b.key.Container), strings.Compare(a.key.ID12, b.key.ID12),
			slices.Compare(a.id[:], b.id[:]), final(a.key, b.key), b.key.Snapshot.Compare(a.key.Snapshot))
	})
	for len(c.checked) > 0 && ctx.Err() == nil {
		n := 1
		for n < len(c.checked) && c.checked[n].id == c.checked[0].id {
			n++
		}
		c.run(ctx, c.checked[:n])
		c.checked = c.checked[n:]
	}
}

// run looks at the records of one run, the final one or else the latest snapshot first. A snapshot names
// the same segments as the records that come after it: where they say the same of them, one look at
// the segments is enough.
func (c *folderCheck) run(ctx context.Context, records []*checkedRecord) {
	best := records[0]
	newer := c.newer[best.id]
	superseded := !best.key.Snapshot.IsZero() && len(newer) > 0
	c.duplicates(records, newer)
	for _, r := range records {
		if !c.o.Query.contains(ended(r.Record)) {
			continue
		}
		if r.Digest == "" {
			c.found(Finding{Kind: FoundNoDigest, Key: r.key.Record()})
		}
		if !r.sound {
			continue
		}
		better := best.Record
		switch {
		case r != best && (!best.sound || !c.o.Query.contains(ended(better))):
			better = nil
		case r == best && superseded:
			better = c.next(ctx, newer)
		case r == best:
			c.verdict(r)
			better = nil
		}
		if better == nil || !begins(better.Objects, r.Objects) {
			c.objects(ctx, r)
		}
	}
}

// duplicates reports final records beside the first one.
func (c *folderCheck) duplicates(records []*checkedRecord, newer []bundle.RunKey) {
	for i, r := range records {
		switch {
		case !r.key.Snapshot.IsZero():
		case i > 0:
			c.found(Finding{Kind: FoundDuplicate, Key: r.key.Record(), Record: records[0].key.Record()})
		case len(newer) > 0:
			c.found(Finding{Kind: FoundDuplicate, Key: r.key.Record(), Record: newer[0].Record()})
		}
	}
}

// next loads the record on a newer day that comes after a snapshot, if that one is looked at as well.
func (c *folderCheck) next(ctx context.Context, newer []bundle.RunKey) *bundle.Record {
	k := slices.MinFunc(newer, func(a, b bundle.RunKey) int { return cmp.Or(final(a, b), b.Snapshot.Compare(a.Snapshot)) })
	if !c.chosen(k.Prefix()) {
		return nil
	}
	stored, err := c.bytes(ctx, k.Record())
	if err != nil {
		return nil // it is reported where it lies
	}
	r, err := bundle.CheckRecord(k.Record(), stored)
	if err != nil || !c.o.Query.contains(ended(r)) {
		return nil
	}
	return r
}

// begins says whether a list of objects begins with what another list says.
func begins(long, short []bundle.Object) bool {
	return len(short) <= len(long) && (len(short) == 0 || reflect.DeepEqual(long[:len(short)], short))
}

// verdict counts what a record says about its log.
func (c *folderCheck) verdict(r *checkedRecord) {
	c.Runs++
	if r.Verdict.Complete {
		c.Complete++
	}
	if r.State.Running {
		c.Running++
	}
	lost := causesOf(r.Record, bundle.Lost)
	unproven := slices.DeleteFunc(causesOf(r.Record, bundle.Unproven), func(cause bundle.Cause) bool { return cause == bundle.CauseStillRunning })
	switch {
	case len(lost) > 0:
		c.found(Finding{Kind: FoundGap, Key: r.key.Record(), Causes: lost})
	case len(unproven) > 0:
		c.Unproven++
		for _, cause := range unproven {
			c.UnprovenByCause[cause]++
		}
	}
}

// causesOf returns the causes of the parts of a verdict in a state, each once.
func causesOf(r *bundle.Record, state bundle.PartState) []bundle.Cause {
	var causes []bundle.Cause
	for _, p := range []bundle.Part{r.Verdict.Head, r.Verdict.Middle, r.Verdict.Tail} {
		if p.State == state && !slices.Contains(causes, p.Cause) {
			causes = append(causes, p.Cause)
		}
	}
	return causes
}

// objects looks at the log objects of a record.
func (c *folderCheck) objects(ctx context.Context, r *checkedRecord) {
	for i := range r.Objects {
		c.exists(ctx, r, &r.Objects[i])
		if c.o.Level == LevelHead && c.told[r.Objects[i].Key] == "" && ctx.Err() == nil {
			c.checksums(ctx, r, &r.Objects[i])
		}
	}
	if c.o.Level < LevelData {
		return
	}
	for _, err := range bundle.CheckLog(r.Record, func(key string) (io.ReadCloser, error) {
		return c.a.openPatiently(ctx, key, &c.o.Progress.Bytes)
	}) {
		key := r.key.Record()
		if unread, ok := err.(*bundle.UnreadError); ok { //nolint:errorlint // CheckLog returns it as it is
			key, err = unread.Key, unread.Err
		}
		c.failedWith(key, r.key.Record(), err)
	}
}

// exists finds a log object in a listing. One that was not listed is asked for: it may have been stored
// while the listing went on.
func (c *folderCheck) exists(ctx context.Context, r *checkedRecord, o *bundle.Object) {
	size, ok := c.sizes[o.Key]
	if !ok {
		c.list(ctx, o.Key)
		size, ok = c.sizes[o.Key]
	}
	if !ok {
		obj, err := patiently(ctx, passing, func() (sink.Object, error) { return c.a.bucket.Stat(ctx, o.Key) })
		if err != nil {
			c.failedWith(o.Key, r.key.Record(), err)
			return
		}
		size = obj.Size
	}
	if size != o.StoredBytes {
		c.damaged(r, o, fmt.Errorf("it has %d bytes, its record says %d", size, o.StoredBytes))
	}
}

func (c *folderCheck) damaged(r *checkedRecord, o *bundle.Object, err error) {
	c.found(Finding{Kind: FoundDamaged, Key: o.Key, Record: r.key.Record(), Err: err})
}

// list takes in the folder of a log object that lies on another day than its record.
func (c *folderCheck) list(ctx context.Context, key string) {
	k, _, _, _, err := bundle.ParseKey(key)
	if err != nil || c.listed[k.Prefix()] {
		return
	}
	c.listed[k.Prefix()] = true
	for o, err := range c.a.listPatiently(ctx, k.Prefix(), sink.ListOptions{}, passing) {
		if err != nil {
			return // each object is asked for instead
		}
		c.sizes[o.Key] = o.Size
	}
}

// checksums compares what the store tells of an object.
func (c *folderCheck) checksums(ctx context.Context, r *checkedRecord, o *bundle.Object) {
	store, ok := c.a.bucket.(sink.Checksummer)
	if !ok {
		c.ChecksumsNotOffered++
		return
	}
	sums, err := patiently(ctx, passing, func() (sink.Checksums, error) { return store.Checksums(ctx, o.Key) })
	switch {
	case err != nil:
		c.failedWith(o.Key, r.key.Record(), err)
		return
	case sums.SHA256 == "" && (sums.MD5 == "" || o.StoredMD5 == ""):
		c.ChecksumsNotOffered++
		return
	}
	c.ChecksumsCompared++
	switch {
	case sums.SHA256 != "" && sums.SHA256 != o.StoredSHA256:
		c.damaged(r, o, fmt.Errorf("the store says that its sha256 is %s, its record says %s", sums.SHA256, o.StoredSHA256))
	case sums.MD5 != "" && o.StoredMD5 != "" && sums.MD5 != o.StoredMD5:
		c.damaged(r, o, fmt.Errorf("the store says that its MD5 is %s, its record says %s", sums.MD5, o.StoredMD5))
	}
}

// orphans looks for log objects that no record names.
func (c *folderCheck) orphans(ctx context.Context) {
	byRun := map[runHash][]storedLog{}
	var order []runHash
	for _, log := range c.logs {
		id := identityOf(log.key)
		switch {
		case c.named[log.Key], c.unread[id]: // what an unreadable record names, nobody knows
		case c.now.Sub(log.ModTime) < orphanAge:
			c.Young++
		default:
			if byRun[id] == nil {
				order = append(order, id)
			}
			byRun[id] = append(byRun[id], log)
		}
	}
	for _, id := range order {
		if ctx.Err() != nil {
			return
		}
		_, known := c.runs[id]
		logs, elsewhere := c.unnamed(ctx, id, byRun[id])
		for _, log := range logs {
			kind := FoundOrphan
			if known || elsewhere {
				kind = FoundLeftover
			}
			c.found(Finding{Kind: kind, Key: log.Key})
		}
	}
}

// unnamed leaves out of a run's log objects those that a record on a newer day names, and says
// whether there is such a record. Only segments may lie on another day than their record.
func (c *folderCheck) unnamed(ctx context.Context, id runHash, logs []storedLog) (left []storedLog, known bool) {
	isSegment := func(l storedLog) bool { return l.segment > 0 && l.key.Snapshot.IsZero() }
	if !slices.ContainsFunc(logs, isSegment) {
		return logs, false
	}
	for k, err := range c.newerRecords(ctx) {
		if err == nil && identityOf(k) != id {
			continue
		}
		var r *bundle.Record
		if err == nil {
			known = true
			r, err = patiently(ctx, passing, func() (*bundle.Record, error) { return c.a.Record(ctx, k) })
		}
		if bad := (*DamagedError)(nil); errors.As(err, &bad) {
			return nil, known // it is reported where it lies; what it names, nobody knows
		}
		if err != nil {
			c.found(Finding{Kind: FoundUnchecked, Key: c.prefix, Err: fmt.Errorf("whether a record names %s: %w", logs[0].Key, err)})
			return nil, known
		}
		logs = slices.DeleteFunc(logs, func(l storedLog) bool {
			return isSegment(l) && slices.ContainsFunc(r.Objects, func(o bundle.Object) bool { return o.Key == l.Key })
		})
		if !slices.ContainsFunc(logs, isSegment) {
			break
		}
	}
	return logs, known
}
