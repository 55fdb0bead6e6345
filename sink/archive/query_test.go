package archive

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kubelogexporter/kubelogexporter/sink"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// A run whose end lies behind Until on the same day is shown as it was before: by its last snapshot until then. Of the
// snapshots no other is read, there may be hundreds.
func TestRecordsUntil(t *testing.T) {
	const since, until = 26, 36 // hours: the second day from two o'clock to noon
	for _, c := range []struct {
		name      string
		end       float64 // 0: there is no final record
		snapshots []float64
		want      []string
		opened    int
	}{
		{"ended before", 33, []float64{30, 31, 32}, []string{"02 a/u/app.0"}, 2},
		{"ended behind", 37, []float64{29, 30, 31, 36, 36.5}, []string{"02 a/u/app.0@07"}, 2},
		{"ended at", 36, []float64{30, 31}, []string{"02 a/u/app.0@07"}, 2},
		{"ended on the next day", 50, []float64{30, 31, 40}, []string{"02 a/u/app.0@07"}, 1},
		{"not ended", 0, []float64{20, 30, 31, 40}, []string{"02 a/u/app.0@07"}, 1},
		{"first seen behind", 37, []float64{36, 36.5}, nil, 1},
		{"last seen too early", 37, []float64{20, 25}, nil, 2},
		{"ended too early by another clock", 25, []float64{24.5, 27}, nil, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStock(t)
			if c.end > 0 {
				s.add(run("a", "web", "u", "app", 0, c.end), "", bundle.LogOptions{})
			}
			for _, hours := range c.snapshots {
				s.add(snapshot(run("a", "web", "u", "app", 0, hours)), "", bundle.LogOptions{})
			}
			counter := &openCounter{Bucket: s.dir, opens: map[string]int{}}
			q := Query{Since: day.Add(since * time.Hour), Until: day.Add(until * time.Hour)}
			if diff := cmp.Diff(c.want, records(t, New(counter).Records(t.Context(), q))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n := len(counter.opens); n != c.opened {
				t.Errorf("%d records read, want %d", n, c.opened)
			}
		})
	}
}

// The last snapshot may lie on an earlier day than the end, which counts if it lies before Until.
func TestRecordsUntilOverDays(t *testing.T) {
	s := newStock(t)
	s.add(run("a", "web", "u", "app", 0, 30), "", bundle.LogOptions{})
	s.add(snapshot(run("a", "web", "u", "app", 0, 20)), "", bundle.LogOptions{})
	for hours, want := range map[float64]string{29: "01 a/u/app.0@20", 31: "02 a/u/app.0", 24: "01 a/u/app.0@20", 48: "02 a/u/app.0"} {
		q := Query{Until: day.Add(time.Duration(hours * float64(time.Hour)))}
		if diff := cmp.Diff([]string{want}, records(t, s.Records(t.Context(), q))); diff != "" {
			t.Errorf("until %v (-want +got):\n%s", q.Until, diff)
		}
	}
}

// A store that asks for less is asked again, by whoever reads records.
func TestRecordsOfABusyStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, busy := range []*sink.StoreError{{Status: 503, Code: "SlowDown"}, {Status: 503, Code: "ServiceUnavailable"}, {Status: 429, Code: "TooManyRequests"}} {
			busy.Err = errors.New("try again")
			n := 0
			for _, err := range New(&busyStore{Bucket: fill(t).Archive.bucket, err: busy}).Records(t.Context(), Query{}) {
				if err != nil {
					t.Fatalf("%s, after %d records: %v", busy.Code, n, err)
				}
				n++
			}
			if n == 0 {
				t.Error("no records")
			}
		}
	})
}

// busyStore fails at the second opening and the second listing.
type busyStore struct {
	sink.Bucket
	err          error
	opens, lists atomic.Int32
}

func (b *busyStore) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if b.opens.Add(1) == 2 {
		return nil, b.err
	}
	return b.Bucket.Open(ctx, key, offset, length)
}

func (b *busyStore) List(ctx context.Context, prefix string, o sink.ListOptions) iter.Seq2[sink.Object, error] {
	if b.lists.Add(1) == 2 {
		return func(yield func(sink.Object, error) bool) { yield(sink.Object{}, b.err) }
	}
	return b.Bucket.List(ctx, prefix, o)
}
