package exporter

import (
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// add takes a committed capture, by its record's key.
func (s *shipper) add(key string, rec *bundle.Record) { s.take(key, storedSize(rec)) }

// storedSize returns the size of a record's log objects.
func storedSize(rec *bundle.Record) (size int64) {
	for _, o := range rec.Objects {
		size += o.StoredBytes
	}
	return size
}

// take takes a committed capture, by its record's key and the size of its log objects.
func (s *shipper) take(key string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.known[key]; p != nil {
		p.again = true
		if s.counts(key) {
			s.e.metrics.already.Inc() // it was handed over before, and is not shipped yet
		}
		return
	}
	p := &parcel{key: key, lane: laneOf(size)}
	s.known[key] = p
	s.open.begin()
	if s.counts(key) {
		s.e.metrics.pending.Inc()
	}
	s.line.add(p)
	s.poke()
}

// counts says whether a record stands for a run in the account of metrics.go. The snapshot of a run that
// goes on does not.
func (s *shipper) counts(key string) bool {
	k, _, _, _, err := bundle.ParseKey(key)
	return s.e.once || err != nil || k.Snapshot.IsZero()
}

// leave lets a capture go that is no longer in the spool, and takes it into the account.
func (s *shipper) leave(p *parcel) {
	m := s.e.metrics
	if p.refused {
		p.refused = false
		m.refused.Dec()
	}
	if p.again {
		s.line.later(p, time.Now())
		return
	}
	delete(s.known, p.key)
	if s.counts(p.key) {
		m.pending.Dec()
		if p.stored {
			m.archived.Inc()
		} else {
			m.already.Inc()
		}
	}
	s.open.end()
}

// noteStored notes that a record was stored. Taking it out of the spool may fail, and then it is found in the
// bucket at the next try.
func (s *shipper) noteStored(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.known[key]; p != nil {
		p.stored = true
	}
}
