package podlog

import (
	"bytes"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// mark stands for a line that was written.
type mark struct {
	prefix, full uint64 // of at most prefixSize bytes, and of the whole line with its newline
	stamp        int64  // Unix nanoseconds, 0 without a stamp
}

// anchor is a line from which on a read can be compared with what is held, however much that is.
type anchor struct {
	prefix uint64 // of the line
	index  int64  // its place in the log
	chain  uint64 // of the lines before it
}

type openLine struct {
	n      int64
	digest xxhash.Digest // of its n bytes
	prefix []byte        // its first prefixSize bytes at most
}

// chained adds the hash of the next line to that of all lines before it. Order and number count.
func chained(chain, line uint64) uint64 { return chain*0x9E3779B97F4A7C15 + line + 1 }

func (l *Log) ringStart() int64 { return l.lines - int64(len(l.ring)) }
func (l *Log) at(i int64) mark  { return l.ring[i%ringSize] }

// hold remembers a complete line of n bytes that was written.
func (l *Log) hold(m mark, n int64) {
	a := anchor{prefix: m.prefix, index: l.lines, chain: l.chain}
	if l.lines == 0 {
		l.first = a
	}
	if m.stamp != 0 && (l.heldStamp == 0 || m.stamp/second != l.heldStamp/second) {
		if len(l.anchors) == anchorCount {
			l.anchors = append(l.anchors[:0], l.anchors[1:]...)
		}
		l.anchors = append(l.anchors, a)
	}
	if m.stamp != 0 {
		l.heldStamp = m.stamp
	}
	if len(l.ring) < ringSize {
		if len(l.ring) == cap(l.ring) {
			l.ring = slices.Grow(l.ring, min(max(16, len(l.ring)), ringSize-len(l.ring)))
		}
		l.ring = append(l.ring, m)
	} else {
		l.ring[l.lines%ringSize] = m
	}
	l.lines++
	l.begun = 0
	l.chain = chained(l.chain, m.full)
	l.noteStamp(m.stamp)
	if !l.pastFirst {
		l.firstSecond += n
	}
	l.thisSecond += n
	l.busiest = max(l.busiest, l.thisSecond)
}

func (l *Log) noteStamp(ns int64) {
	if ns == 0 {
		return
	}
	l.lastStamp = time.Unix(0, ns).UTC()
	l.found = l.found || ns == l.sought
	if l.firstStamp.IsZero() {
		l.firstStamp = l.lastStamp
	}
	if since := ns - l.secondFrom; since >= second || since <= -second {
		l.secondFrom, l.thisSecond = ns, 0
	}
	l.pastFirst = l.pastFirst || l.lastStamp.Sub(l.firstStamp) > time.Second
}

// Seek lets Found say whether a line with that stamp was held from now on.
func (l *Log) Seek(stamp time.Time) {
	if l.found = false; !stamp.IsZero() {
		l.sought = stamp.UnixNano()
	}
}

// Found says whether the line is held that was sought. Where none was, it is not.
func (l *Log) Found() bool { return l.found }

// anchorAt returns the anchor that a line may be, the first line held before all others.
func (l *Log) anchorAt(prefix uint64) *anchor {
	if l.lines > 0 && l.first.prefix == prefix {
		return &l.first
	}
	for i := range l.anchors {
		if l.anchors[i].prefix == prefix {
			return &l.anchors[i]
		}
	}
	return nil
}

// opensWith says whether a line, or the beginning of one, may be the open line.
func (l *Log) opensWith(p []byte) bool {
	if _, _, stamped := bundle.ParseStamp(l.open.prefix); !stamped {
		return false
	}
	n := min(len(p), len(l.open.prefix))
	return bytes.Equal(p[:n], l.open.prefix[:n])
}

// CompareStamps makes a log know complete lines by their stamps alone, and not by their text: what is held
// from before was redacted, and what a read brings is not. Stamps have nanoseconds, so that a sequence of
// them tells one log from another. It is called before anything is held.
func (l *Log) CompareStamps() { l.byStamp = true }

// End tells where a log's complete lines end.
type End struct {
	Last   time.Time // stamp of the last line
	Times  int       // how many of the lines that are remembered have it
	Oldest time.Time // the oldest stamp of those
}

// End tells where the lines held end; false if they may end with more lines of one stamp than are
// remembered, or within a line.
func (l *Log) End() (end End, ok bool) {
	oldest := l.heldStamp
	for _, m := range l.ring {
		if m.stamp == 0 {
			continue
		}
		if oldest = min(oldest, m.stamp); m.stamp == l.heldStamp {
			end.Times++
		}
	}
	end.Last, end.Oldest = time.Unix(0, l.heldStamp).UTC(), time.Unix(0, oldest).UTC()
	return end, end.Times > 0 && end.Times < ringSize && l.open.n == 0
}

// EndsWith says whether a log ends with another's last lines: all those that have its last stamp.
func (l *Log) EndsWith(o *Log) bool {
	if l.open.n != o.open.n || l.open.n > 0 && l.open.digest.Sum64() != o.open.digest.Sum64() {
		return false
	}
	for i := int64(1); i <= int64(len(o.ring)); i++ {
		last := o.at(o.lines - i)
		if i > 1 && last.stamp != 0 && last.stamp < o.lastStamp.UnixNano() {
			return true
		}
		if i > int64(len(l.ring)) || l.at(l.lines-i).full != last.full || l.at(l.lines-i).stamp != last.stamp {
			return false
		}
	}
	return o.lines == int64(len(o.ring)) && (o.lines > 0 || l.lines == 0)
}
