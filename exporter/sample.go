package exporter

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

const (
	// sampleEvery and sampleRate bound what reading back costs: at most 1,440 records and 84 GiB a day,
	// some cents at the price of AWS.
	sampleEvery = time.Minute
	sampleRate  = 1 << 20 // bytes per second
	sampleChunk = 64 << 10
	// sampleKeys is how many keys wait to be picked at most. Which they are of those that were archived is
	// left to chance.
	sampleKeys = 256
	// sampleAge is how long a key waits at most. Lifecycle rules count in days: an object that one has
	// removed is not damaged.
	sampleAge = 20 * time.Hour
)

// sampler reads back some of what was archived, and compares it with its record: a store that loses or
// changes what it has accepted is to be noticed while the spool's other captures can still be kept.
type sampler struct {
	bucket  sink.Bucket
	log     *slog.Logger
	limit   *rate.Limiter
	results *prometheus.CounterVec

	mu   sync.Mutex
	keys []sampleKey
	told int // how many keys came since the list was last empty
}

type sampleKey struct {
	key string // of a record
	at  time.Time
}

// newSampler returns a sampler that does nothing until run is called. reg may be nil.
func newSampler(b sink.Bucket, log *slog.Logger, reg prometheus.Registerer) *sampler {
	s := &sampler{
		bucket: b, log: log, limit: rate.NewLimiter(sampleRate, sampleChunk),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "kubelogexporter", Name: "readback_total",
			Help: "Archived records and their log objects that were read back, by result: ok, damaged or error. An error says nothing about them."}, []string{"result"}),
	}
	for _, result := range []string{"ok", "damaged", "error"} {
		s.results.WithLabelValues(result) // so that an increase of damaged from 0 can be seen
	}
	if reg != nil {
		reg.MustRegister(s.results)
	}
	return s
}

// archived tells the sampler of a record that is in the bucket with its log objects. It does not block.
func (s *sampler) archived(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	s.told++
	if len(s.keys) < sampleKeys {
		s.keys = append(s.keys, sampleKey{key, time.Now()})
		return
	}
	// Each key has the same chance, however many come.
	if i := rand.IntN(s.told); i < len(s.keys) {
		s.keys[i] = sampleKey{key, time.Now()}
	}
}

// expire forgets keys that waited too long. Those that are left are no sample of all that came, so
// counting begins anew.
func (s *sampler) expire() {
	kept := s.keys[:0]
	for _, k := range s.keys {
		if time.Since(k.at) < sampleAge {
			kept = append(kept, k)
		}
	}
	if len(kept) < len(s.keys) {
		s.told = len(kept)
	}
	s.keys = kept
}

// pick takes a key by chance.
func (s *sampler) pick() (key sampleKey, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if len(s.keys) == 0 {
		return key, false
	}
	i := rand.IntN(len(s.keys))
	key = s.keys[i]
	s.keys = append(s.keys[:i], s.keys[i+1:]...)
	if len(s.keys) == 0 {
		s.told = 0
	}
	return key, true
}

// run reads back a record every minute, until ctx ends.
func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if k, ok := s.pick(); ok {
			s.judge(ctx, k, s.readBack(ctx, k.key))
		}
	}
}

// judge counts a result. What could not be read is tried again some time.
func (s *sampler) judge(ctx context.Context, k sampleKey, err error) {
	bad := (*bundle.DamagedError)(nil)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		s.results.WithLabelValues("ok").Inc()
	case errors.As(err, &bad):
		s.results.WithLabelValues("damaged").Inc()
		s.log.Error("what was archived is damaged in the bucket", "key", bad.Key, "err", bad.Err)
	default:
		s.results.WithLabelValues("error").Inc()
		s.log.Warn("cannot read back what was archived, will try again", "key", k.key, "err", err, "fix", sink.Hint(err))
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.keys) < sampleKeys {
			s.keys = append(s.keys, k)
		}
	}
}

// readBack checks a record and its log object, or one of them if there are several: a long log must
// not occupy the sampler for hours. A long run's first ones may be old enough for a rule to have removed them, and say
// nothing.
func (s *sampler) readBack(ctx context.Context, key string) error {
	open := func(key string) (io.ReadCloser, error) {
		body, err := s.bucket.Open(ctx, key, 0, -1)
		if errors.Is(err, sink.ErrNotFound) {
			return nil, &bundle.DamagedError{Key: key, Err: errors.New("it is not there any more")}
		}
		if err != nil {
			return nil, err
		}
		return &slowReader{ReadCloser: body, ctx: ctx, limit: s.limit}, nil
	}
	body, err := open(key)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // read only
	stored, err := io.ReadAll(io.LimitReader(body, bundle.MaxRecordSize+1))
	if err != nil {
		return err
	}
	r, err := bundle.CheckRecord(key, stored)
	if err != nil {
		return err
	}
	if len(r.Objects) <= 1 {
		return errors.Join(bundle.CheckLog(r, open)...)
	}
	var young []int
	for i, o := range r.Objects {
		if o.LastStamp != nil && time.Since(*o.LastStamp) < sampleAge {
			young = append(young, i)
		}
	}
	if len(young) == 0 {
		return nil
	}
	return bundle.CheckObject(r, young[rand.IntN(len(young))], open)
}

// slowReader keeps to a rate.
type slowReader struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // lives for one reading
	limit *rate.Limiter
}

func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p[:min(len(p), sampleChunk)])
	if werr := r.limit.WaitN(r.ctx, n); werr != nil && err == nil {
		err = werr
	}
	return n, err
}
