package podlog

import (
	"bytes"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// begin takes the first bytes of a line, all of it if it is short, and decides whether it is new.
func (j *joiner) begin(p []byte) error {
	m := j.markLine(p)
	j.cur = lineState{mark: m}
	j.cur.digest.Reset()
	j.inLine = true
	switch l := j.log; {
	case j.appending:
		j.cur.write = true
		j.cur.resumed = l.open.n > 0 // only where an exact join ended at the open line
	default:
		j.place(m, p)
	}
	if j.refused() {
		return ErrHole
	}
	if j.cur.resumed {
		j.cur.skip = j.log.open.n
	}
	if j.cur.write {
		j.started()
	}
	return j.more(p)
}

// place finds where a line of the read stands in what is held.
func (j *joiner) place(m mark, p []byte) {
	l := j.log
	if j.from != nil {
		j.after++
	}
	keep := j.candidates[:0]
	for _, c := range j.candidates {
		if at, ok := j.reach(c, m); ok && (len(keep) == 0 || keep[len(keep)-1] != at) {
			keep = append(keep, at)
		}
	}
	broken := len(j.candidates) > 0 && len(keep) == 0
	if j.candidates = keep; len(keep) > 0 {
		if keep[0] == l.lines { // every complete line matched: this one continues the open line
			j.join(m, p)
		}
		return
	}
	if broken {
		j.missed(m) // the lines before it matched, so something lies between them that is not held
	}
	if j.parked {
		j.hole(m) // a shorter overlap was complete, and a longer one has failed after it
		return
	}
	j.anchor(m)
	if at := j.byPrefix[m.prefix]; len(at) > 0 && !j.older(m) {
		j.found(m, at)
		return
	}
	if l.opensWith(p) {
		j.join(m, p)
		return
	}
	j.unplaced(m, broken)
}

// anchor notes that the read has come to an anchor, from which on its lines are counted and hashed.
func (j *joiner) anchor(m mark) {
	if j.from != nil || j.placed || j.res.Missed > 0 {
		return
	}
	if a := j.log.anchorAt(m.prefix); a != nil {
		j.from, j.chain = a, a.chain
		if a.index == 0 && j.seen > 1 && j.res.First.UnixNano() != m.stamp {
			j.missed(m) // there are lines before the first one held
		}
	}
}

// older says whether a line stands before those that are remembered one by one, by the number of lines
// since the anchor. A line in the ring that is younger than the ring's first line shows that it does not.
func (j *joiner) older(m mark) bool {
	l := j.log
	start := l.ringStart()
	return j.from != nil && j.from.index+j.after < start && m.stamp <= l.at(start).stamp
}

// found takes up the places in the ring where a line may stand. Before it the read may have shown where
// that must be: so many lines after an anchor, or at the ring's beginning after lines too old for it.
func (j *joiner) found(m mark, at []int64) {
	l := j.log
	expected := int64(-1)
	switch {
	case j.placed || j.res.Missed > 0:
	case j.from != nil:
		expected = max(j.from.index+j.after, l.ringStart())
		if expected != j.from.index+j.after {
			j.missed(m) // the same lines so far, and yet another number of them
			expected = -1
		}
	case j.res.Unchecked > 0:
		expected = l.ringStart()
	}
	j.placed = true
	if expected >= 0 {
		if i, ok := j.reach(expected, m); ok && i < l.lines {
			at = []int64{i}
		} else {
			j.missed(m)
		}
	}
	j.candidates = append(j.candidates, at...)
}

// reach returns where the next line of the read stands if it continues at a place in the log. Held lines
// that the read need not contain are passed over.
func (j *joiner) reach(at int64, m mark) (int64, bool) {
	l := j.log
	from := at
	for ; at < l.lines && l.at(at).prefix != m.prefix; at++ {
		if !j.filtered(l.at(at)) {
			return 0, false
		}
	}
	for i := from; i < at; i++ {
		j.skipped = max(j.skipped, l.at(i).stamp)
	}
	return at, true
}

// filtered says whether a held line is older than any whole second that the read can have asked for:
// where stamps are out of order, sinceTime leaves out lines in the middle. Not of a read that begins with
// the first line held.
func (j *joiner) filtered(m mark) bool {
	if j.from != nil && j.from.index == 0 && j.after == j.seen-1 {
		return false
	}
	return m.stamp != 0 && m.stamp < j.oldest/second*second
}

// join marks that the overlap was followed to its end; the line that begins now continues the open
// line, if there is one, and is new otherwise.
func (j *joiner) join(m mark, p []byte) {
	o := &j.log.open
	if n := int64(len(p)); o.n > 0 {
		same := false
		if n >= o.n {
			same = xxhash.Sum64(p[:o.n]) == o.digest.Sum64()
		} else {
			known := min(len(p), len(o.prefix))
			same = p[n-1] != '\n' && bytes.Equal(p[:known], o.prefix[:known])
		}
		if !same {
			j.hole(m) // it looked like the open line's continuation and is another line
			return
		}
		j.cur.resumed = true
	}
	j.joined(m, j.seen-1)
	j.cur.write = true
}

// joined marks that the first n lines of the read led to the end of the complete lines held.
func (j *joiner) joined(m mark, n int64) {
	l := j.log
	switch {
	case j.skipped > 0:
	case j.from == nil:
		j.res.Aligned = l.lines == 0 && n == 0
	case j.chain == l.chain:
		j.res.Aligned = j.from.index == 0 && n == l.lines
	case j.res.Missed == 0:
		j.missed(m) // from the anchor on, something is not the same
	}
	j.res.Join = JoinExact
	j.append()
}

// append takes all that comes from here on as new. A stream may go on for days: what was for finding the
// place is given back.
func (j *joiner) append() {
	j.appending = true
	j.byPrefix, j.candidates = nil, nil
}

// unplaced handles a line that is not among the remembered ones: an older one, one that was missed,
// unless that is counted already, or the first line after a hole.
func (j *joiner) unplaced(m mark, counted bool) {
	l := j.log
	last := int64(0)
	if !l.lastStamp.IsZero() {
		last = l.lastStamp.UnixNano()
	}
	oldest := last // of the ring; clocks can be set back
	if start := l.ringStart(); start < l.lines {
		oldest = min(last, l.at(start).stamp)
	}
	switch {
	case m.stamp == 0 && j.res.Last.IsZero():
		// the rest of a long line that sinceTime cut: the kubelet prints its later parts without a stamp
	case j.from != nil && j.from.index+j.after < l.ringStart():
		// before the lines that are remembered; the hash has it
	case m.stamp != 0 && m.stamp <= oldest && l.ringStart() > 0 && !j.placed:
		j.res.Unchecked++
	case m.stamp != 0 && m.stamp <= last:
		if !counted {
			j.missed(m)
		}
	default:
		j.hole(m)
	}
}

func (j *joiner) missed(m mark) {
	if j.res.Missed++; j.res.Missed == 1 && m.stamp != 0 {
		j.res.HoleBefore = time.Unix(0, m.stamp).UTC()
	}
	j.res.HoleAfter = j.res.HoleBefore
}

// refused says whether the read must end here, with nothing of it taken.
func (j *joiner) refused() bool { return j.log.RefuseHoles && j.res.Join == JoinHole }

// hole gives up looking for an overlap: this line and all after it are taken as new.
func (j *joiner) hole(m mark) {
	l := j.log
	j.res.Join = JoinHole
	j.res.HoleAfter = l.lastStamp
	if m.stamp != 0 {
		j.res.HoleBefore = time.Unix(0, m.stamp).UTC()
	}
	j.append()
	j.cur.write = true
}

// more takes bytes of the line in progress: hashes them, and writes what is new of them.
func (j *joiner) more(p []byte) error {
	c := &j.cur
	rest := p
	if c.resumed && !c.checked {
		n := min(int64(len(p)), c.skip-c.n)
		_, _ = c.digest.Write(p[:n])
		c.n += n
		rest = p[n:]
		if c.n < c.skip {
			return nil
		}
		c.checked = true
		if c.digest.Sum64() != j.log.open.digest.Sum64() {
			// The open line was another one: what follows cannot be told apart from a hole.
			j.res.Join, j.res.Aligned = JoinHole, false
			j.res.HoleAfter = j.log.lastStamp
			if j.refused() {
				return ErrHole
			}
		}
	}
	if !c.write {
		_, _ = c.digest.Write(rest)
		c.n += int64(len(rest))
		return nil
	}
	if c.n == 0 && j.log.open.n > 0 && !c.resumed {
		if err := j.closeOpen(); err != nil {
			return err
		}
	}
	_, _ = c.digest.Write(rest)
	c.n += int64(len(rest))
	if o := &j.log.open; len(o.prefix) < prefixSize {
		o.prefix = append(o.prefix, rest[:min(len(rest), prefixSize-len(o.prefix))]...)
	}
	j.log.noteStamp(c.mark.stamp) // before whoever takes the bytes asks for it
	j.log.begun = c.n
	j.res.Appended += int64(len(rest))
	return j.log.write(rest)
}

// closeOpen ends an unterminated line that nothing continues, so that the next line stands alone.
// The newline is the only byte that this program ever adds; the hole says so.
func (j *joiner) closeOpen() error {
	o := &j.log.open
	_, _ = o.digest.Write([]byte{'\n'})
	if len(o.prefix) < prefixSize {
		o.prefix = append(o.prefix, '\n')
	}
	t, stamp, stamped := bundle.ParseStamp(o.prefix)
	m := j.log.markOf(o.prefix, stamp)
	if !j.log.byStamp {
		m.full = o.digest.Sum64()
	}
	if stamped {
		m.stamp = t.UnixNano()
	}
	j.log.hold(m, o.n+1)
	*o = openLine{}
	return j.log.write([]byte{'\n'})
}

// finish takes the last bytes of a line, with its newline, and moves on to the next.
func (j *joiner) finish(p []byte) error {
	if err := j.more(p); err != nil {
		return err
	}
	j.inLine = false
	c := &j.cur
	full := c.digest.Sum64()
	if j.log.byStamp {
		full = c.mark.full
	}
	if c.resumed && !c.checked { // the line ends before what is held of it
		j.res.Join, j.res.Aligned = JoinHole, false
		j.res.HoleAfter = j.log.lastStamp
		if j.refused() {
			return ErrHole
		}
		return j.closeOpen()
	}
	if c.write {
		c.mark.full = full
		j.log.hold(c.mark, c.n)
		j.log.open = openLine{}
		return nil
	}
	l := j.log
	j.chain = chained(j.chain, full)
	keep := j.candidates[:0]
	for _, at := range j.candidates {
		if at < l.lines && l.at(at).full == full {
			keep = append(keep, at+1)
		}
	}
	if len(j.candidates) > 0 && len(keep) == 0 {
		j.missed(c.mark)
	}
	j.candidates = keep
	if l.open.n > 0 {
		return nil
	}
	// Of several overlaps that fit, the longest counts: of two equal lines, both may be held.
	alive := slices.DeleteFunc(slices.Clone(j.candidates), func(at int64) bool { return at == l.lines })
	switch {
	case len(alive) == len(keep):
	case len(alive) > 0:
		j.candidates, j.parked = alive, true
	default: // the last line held: all after it is new
		j.joined(c.mark, j.seen)
	}
	return nil
}

// leaveOpen ends a read in the middle of a line.
func (j *joiner) leaveOpen() error {
	j.inLine = false
	c := &j.cur
	if c.resumed && !c.checked {
		j.short = true // it ended before the end of what is held
		return nil
	}
	if !c.write {
		return nil
	}
	o := &j.log.open
	o.n, o.digest = c.n, c.digest
	return nil
}
