package sink

import (
	"cmp"
	"errors"
	"sync/atomic"
	"time"
)

// Patience is how long requests to a store may take. A zero field means what fits stores and lines of every
// kind, so only tests set one.
type Patience struct {
	// Stall is how long no byte may move.
	Stall time.Duration
	// Pace is how many bytes a second an upload brings at least, until one has been cut, and Grace what it may
	// take beside its bytes.
	Pace  int64
	Grace time.Duration
}

// errTooSlow says that an upload was cut because it brought fewer bytes a second than it has to. The line, or the
// store, is asked for too much.
var errTooSlow = errors.New("too slow")

// pace is how slow an upload may be before it is cut: one that trickles holds its place and its file
// for hours. After a cut less is asked for, so that a slow line brings a large object up in the end.
type pace struct {
	first    int64 // bytes a second
	grace    time.Duration
	halvings atomic.Int32
}

const (
	// firstPace is 128 KiB/s: 64 MiB within nine minutes.
	firstPace = 128 << 10
	// maxHalvings leaves 512 B/s.
	maxHalvings = 8
	// paceGrace is what a request may take beside its bytes.
	paceGrace = 30 * time.Second
	// paceSample is from which size on an upload tells how fast the line is: a small one says how far away the
	// store is.
	paceSample = 1 << 20
)

func (p *pace) init(o Patience) {
	p.first, p.grace = cmp.Or(o.Pace, firstPace), cmp.Or(o.Grace, paceGrace)
}

// limit is how long an upload may take after how many cuts.
func (p *pace) limit(size int64) (limit time.Duration, cuts int32) {
	cuts = p.halvings.Load()
	return p.grace + p.after(size, cuts), cuts
}

// after is how long the bytes alone may take after so many cuts.
func (p *pace) after(size int64, cuts int32) time.Duration {
	return time.Duration(size) * time.Second / time.Duration(max(1, p.first>>cuts))
}

// cut takes note of an upload that was cut at a limit. Of several that were under way together the first counts.
func (p *pace) cut(cuts int32) {
	if cuts < maxHalvings {
		p.halvings.CompareAndSwap(cuts, cuts+1)
	}
}

// arrived takes note of an upload that was not cut. More is asked for again only after one that would have been
// fast enough for it: if any did, small objects would undo what a large one on a slow line has shown, and it
// would be cut for ever.
func (p *pace) arrived(size int64, took time.Duration, cuts int32) {
	if cuts > 0 && size >= paceSample && took <= p.after(size, cuts-1) {
		p.halvings.CompareAndSwap(cuts, cuts-1)
	}
}
