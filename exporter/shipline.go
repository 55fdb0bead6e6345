package exporter

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

const (
	// shipBackoff and maxShipBackoff bound the wait between two tries of one capture that met a passing
	// fault; maxItemBackoff is for one that is refused while others are taken.
	shipBackoff    = time.Second
	maxShipBackoff = time.Minute
	maxItemBackoff = 5 * time.Minute
	// While nothing is taken, one capture is tried at a time. A store that does not answer may be back in
	// a moment; what people have to mend takes longer, and a minute after that everything goes on.
	awayBackoff, maxAwayBackoff = time.Second, 30 * time.Second
	holdBackoff, maxHoldBackoff = 5 * time.Second, time.Minute
	// slowPause is how long nothing is sent after the store has asked for less without saying for how long.
	slowPause, maxSlowPause = 200 * time.Millisecond, 10 * time.Second
	// unanswered and answered are how many failures in a row shut the gate. A connection may break, and
	// a store that answers at all says what it wants.
	unanswered = 4
	answered   = 12
	// failingLong is how long there may be nothing but failures, however few, before the gate shuts.
	failingLong = time.Minute
	// lonelyTries is after how many tries a capture that is held while all others go through counts as
	// refused itself, whatever the store's word for it.
	lonelyTries = 3
	// largeCapture is from which size on a capture goes in the lane of the large ones.
	largeCapture = 1 << 20
)

// fullJitter is a random wait up to a bound that doubles with each try: of a thousand captures that
// failed together no two are tried together (AWS, "Exponential Backoff And Jitter").
func fullJitter(first, most time.Duration, tries int) time.Duration {
	d := min(first<<min(max(tries-1, 0), 16), most)
	return d/16 + rand.N(d-d/16)
}

func itemBackoff(tries int) time.Duration { return fullJitter(holdBackoff, maxItemBackoff, tries) }

// parcel is a capture on its way.
type parcel struct {
	key     string
	lane    int
	seq     uint64 // the older, the lower
	tries   int
	at      time.Time // not to be tried before
	refused bool
	err     error // why it was refused last
	stored  bool  // its record was put into the bucket by this process
	again   bool  // it was handed over once more: there may be another record by now
}

const (
	laneSmall = iota
	laneLarge
	shipLanes
)

func laneOf(size int64) int {
	if size >= largeCapture {
		return laneLarge
	}
	return laneSmall
}

// line orders captures: the oldest first in each of two lanes, so that large ones on a slow line do not
// hold up small ones. One that waits for its next try holds up nobody. How many are uploaded at a time is
// found by trying: one more after as many successes as there are uploads, half of them when the store
// asks for less (Chiu and Jain 1989: that is what makes many clients of one store fair and stable).
type line struct {
	seq     uint64
	ready   [shipLanes]seqHeap
	delayed delayHeap
	busy    [shipLanes]int

	most     float64
	limit    float64
	starting bool // nothing was slowed down yet: grow by one for each success
	slowedAt time.Time
	pause    time.Time // nothing is sent before
	slowed   int       // times in a row
}

func newLine(uploads int) line {
	l := line{most: float64(uploads)}
	l.restart()
	return l
}

// restart begins carefully, because others come back at the same time.
func (l *line) restart() { l.limit, l.starting = min(4, l.most), true }

func (l *line) add(p *parcel) {
	l.seq++
	p.seq = l.seq
	heap.Push(&l.ready[p.lane], p)
}

// later puts a capture back, to be tried again.
func (l *line) later(p *parcel, at time.Time) {
	p.at = at
	heap.Push(&l.delayed, p)
}

// next takes the oldest capture that may be uploaded now, or returns nil.
func (l *line) next(now time.Time) *parcel {
	for len(l.delayed) > 0 && !l.delayed[0].at.After(now) {
		p, _ := heap.Pop(&l.delayed).(*parcel)
		heap.Push(&l.ready[p.lane], p)
	}
	if now.Before(l.pause) {
		return nil
	}
	for lane := range l.ready {
		if l.busy[lane] < l.room(lane) && len(l.ready[lane]) > 0 {
			p, _ := heap.Pop(&l.ready[lane]).(*parcel)
			l.busy[lane]++
			p.tries++
			return p
		}
	}
	return nil
}

// room is how many captures of a lane may be uploaded at a time: the large ones have a quarter of their
// own, and one at least.
func (l *line) room(lane int) int {
	if lane == laneLarge {
		return max(1, int(l.limit/4))
	}
	return max(1, int(l.limit))
}

func (l *line) concurrency() int { return l.room(laneSmall) }

func (l *line) uploading() int { return l.busy[laneSmall] + l.busy[laneLarge] }

// others says whether a capture is ready to be uploaded.
func (l *line) others() bool { return len(l.ready[laneSmall])+len(l.ready[laneLarge]) > 0 }

func (l *line) free(p *parcel) { l.busy[p.lane]-- }

// wait is how long next will return nil, unless something changes.
func (l *line) wait(now time.Time) time.Duration {
	d := time.Hour
	if len(l.delayed) > 0 {
		d = l.delayed[0].at.Sub(now)
	}
	if now.Before(l.pause) && l.others() {
		d = min(d, l.pause.Sub(now))
	}
	return d
}

// slower halves the concurrency, once for all the uploads that were under way together, and sends nothing
// for a moment, or for as long as the store asks.
func (l *line) slower(began, now time.Time, after time.Duration) {
	l.starting = false
	if asked := now.Add(after); asked.After(l.pause) {
		l.pause = asked
	}
	if began.Before(l.slowedAt) {
		return
	}
	l.slowedAt = now
	l.slowed++
	l.limit = max(1, l.limit/2)
	if pause := now.Add(fullJitter(slowPause, maxSlowPause, l.slowed)); pause.After(l.pause) {
		l.pause = pause
	}
}

func (l *line) faster() {
	l.slowed = 0
	if l.starting {
		l.limit = min(l.most, l.limit+1)
		return
	}
	l.limit = min(l.most, l.limit+1/l.limit)
}

// gate shuts when the store takes nothing. Then one capture is tried now and then, another one each time,
// so that no single one keeps it shut.
type gate struct {
	failing error // the last upload's, if no other has succeeded since
	since   time.Time
	inARow  int

	shut   bool
	reason string // for the metric, and told
	heard  string // of the last try
	trying bool
	tries  int
	next   time.Time
}

// wait is how long nothing may be uploaded; 0 means that something may.
func (g *gate) wait(now time.Time, uploading int) time.Duration {
	switch {
	case !g.shut:
		return 0
	case g.trying || uploading > 0:
		return time.Hour // its end wakes us
	}
	return max(g.next.Sub(now), 0)
}

// fail takes a failure and says whether there is something to tell: the gate has shut, or it is shut for another
// reason now. That has to come twice in a row, because what stands in front of a store that is away has many words
// for it.
func (g *gate) fail(now time.Time, class sink.Class, err error) (tell bool) {
	if g.failing == nil {
		g.since = now
	}
	straggler := g.shut && !g.trying // it was under way when the gate shut
	g.failing, g.trying = err, false
	g.inARow++
	if straggler {
		return false
	}
	reason := sink.Reason(err)
	again := reason == g.heard
	g.heard = reason
	most := unanswered
	if sink.Answered(err) {
		most = answered
	}
	switch {
	case !g.shut:
		if class != sink.ClassHold && g.inARow < most && now.Sub(g.since) < failingLong {
			return false
		}
		g.shut, g.tries, g.reason, tell = true, 0, reason, true
	case again && reason != g.reason:
		g.reason, tell = reason, true
	}
	g.tries++
	wait := fullJitter(awayBackoff, maxAwayBackoff, g.tries)
	if class == sink.ClassHold {
		wait = fullJitter(holdBackoff, maxHoldBackoff, g.tries)
	}
	g.next = now.Add(max(wait, sink.RetryAfter(err)))
	return tell
}

// succeed takes a success and says whether the gate was shut, and for what.
func (g *gate) succeed() (reason string, wasShut bool) {
	reason, wasShut = g.reason, g.shut
	*g = gate{}
	return reason, wasShut
}

type seqHeap []*parcel

func (h seqHeap) Len() int           { return len(h) }
func (h seqHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h seqHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *seqHeap) Push(x any)        { *h = append(*h, x.(*parcel)) } //nolint:forcetypeassert // heap.Push of this file only
func (h *seqHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}

type delayHeap []*parcel

func (h delayHeap) Len() int           { return len(h) }
func (h delayHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h delayHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *delayHeap) Push(x any)        { *h = append(*h, x.(*parcel)) } //nolint:forcetypeassert // heap.Push of this file only
func (h *delayHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
