// Package archive answers questions about stored container logs from the bucket alone: which runs
// there are, what their records say, and the text of their logs. It never writes to the bucket and
// never holds a whole log.
//
// Methods that read many objects do so a few at a time, with goroutines that have all ended when the
// method returns or its iterator stops.
package archive

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// parallel is how many requests one call has under way at most. Records and listings are answered in
// some 10 ms each by S3, so that 8 read a few hundred records a second, which no store minds.
const parallel = 8

// Archive reads what exporters have stored in a bucket. Safe for concurrent use.
type Archive struct {
	bucket sink.Bucket
}

// New returns the archive in a bucket.
func New(b sink.Bucket) *Archive { return &Archive{bucket: b} }

// DamagedError says that a stored object is not what it should be. Other objects are not affected.
type DamagedError = bundle.DamagedError

// Clusters lists the names of the clusters that have logs here.
func (a *Archive) Clusters(ctx context.Context) ([]string, error) {
	return a.folders(ctx, "", "cluster=")
}

// Namespaces lists the namespaces of a cluster that have logs here.
func (a *Archive) Namespaces(ctx context.Context, cluster string) ([]string, error) {
	return a.folders(ctx, bundle.ClusterPrefix(cluster), "namespace=")
}

// Days lists the days, in UTC, on which runs of a namespace ended, as YYYY-MM-DD from old to new.
func (a *Archive) Days(ctx context.Context, cluster, namespace string) ([]string, error) {
	return a.folders(ctx, bundle.NamespacePrefix(cluster, namespace), "date=")
}

// folders lists the folders directly under a prefix whose names begin with marker, without it.
func (a *Archive) folders(ctx context.Context, prefix, marker string) ([]string, error) {
	var names []string
	for o, err := range a.listPatiently(ctx, prefix+marker, sink.ListOptions{Shallow: true}, busy) {
		if err != nil {
			return nil, err
		}
		if name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, prefix+marker), "/"); ok && name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

// Record loads the record of a run. It fails with a *DamagedError if what is stored is no record or
// is that of another run, and with sink.ErrNotFound if nothing is.
func (a *Archive) Record(ctx context.Context, k bundle.RunKey) (*bundle.Record, error) {
	key := k.Record()
	body, err := a.bucket.Open(ctx, key, 0, bundle.MaxRecordSize+1)
	if err != nil {
		return nil, fmt.Errorf("open record %s: %w", key, err)
	}
	defer body.Close() //nolint:errcheck // read only
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", key, err)
	}
	r, err := bundle.Decode(b)
	if err != nil {
		return nil, &DamagedError{Key: key, Err: err}
	}
	if own, err := bundle.KeyOf(r); err != nil {
		return nil, &DamagedError{Key: key, Err: err}
	} else if own != k {
		return nil, &DamagedError{Key: key, Err: fmt.Errorf("it is the record of %s", own)}
	}
	return r, nil
}
