package exporter

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

const (
	// recordRoom is what is kept free for records: a run whose log finds no room still gets one. A record
	// has a few KiB, so this is enough for some thousands.
	recordRoom = 8 << 20
	// defaultMinFree is what is left to others on the spool's file system.
	defaultMinFree = 64 << 20
	// optionalShare is the part of the room, in percent, that captures may not use whose logs stay at
	// their source for a while: it is for pods that are being deleted.
	optionalShare = 15
	// askFree is how often the file system is asked for its free space.
	askFree = 250 * time.Millisecond
)

// errSpoolFull says that there is no room for a capture. Its log stays where it is, as long as it does.
var errSpoolFull = errors.New("the spool is full")

// space says whether the spool has room. What is committed is never given up for what comes.
type space struct {
	spool        *sink.Dir
	max, minFree int64
	log          *slog.Logger
	metrics      *metrics
	freeBytes    func() (int64, error) // the spool's, but for tests

	mu     sync.Mutex
	asked  time.Time
	free   int64
	refuse [2]bool // optional, all: told so
}

func newSpace(spool *sink.Dir, o Options, m *metrics) *space {
	return &space{spool: spool, max: o.SpoolMaxBytes, minFree: orDefault(o.SpoolMinFree, defaultMinFree), log: o.Log, metrics: m, freeBytes: spool.Free}
}

// admits says whether there is room for more of a capture. An urgent one is of a log that is about to
// vanish.
func (s *space) admits(urgent bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.asked) >= askFree {
		s.asked = now
		free, err := s.freeBytes()
		if err != nil {
			free = 1 << 62 // the quota alone counts
		}
		s.free = free
	}
	room, records, optional := s.free-s.minFree, int64(recordRoom), int64(4*recordRoom)
	if s.max > 0 {
		records = min(records, s.max/20)
		optional = s.max * optionalShare / 100
		room = min(room, s.max-s.spool.Used())
	}
	s.tell(0, "optional", room <= records+optional)
	s.tell(1, "all", room <= records)
	if urgent {
		return !s.refuse[1]
	}
	return !s.refuse[0]
}

// tell says once when room ends and when there is some again.
func (s *space) tell(i int, which string, full bool) {
	if s.refuse[i] == full {
		return
	}
	s.refuse[i] = full
	v := 0.0
	if full {
		v = 1
		s.log.Warn("the spool is full, logs stay at their source as long as it has them", "captures", which, "used", s.spool.Used(), "max", s.max, "free", s.free)
	} else {
		s.log.Info("the spool has room again", "captures", which, "used", s.spool.Used())
	}
	s.metrics.spoolFull.WithLabelValues(which).Set(v)
}
