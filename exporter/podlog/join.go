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
	if j.seen == 1 && l.lines > 0 && m.prefix == l.first.prefix {
		j.aligned = true
	}
	keep := j.candidates[:0]
	for _, c := range j.candidates {
		if c == l.lines || l.at(c).prefix == m.prefix {
			keep = append(keep, c)
		}
	}
	broken := len(j.candidates) > 0 && len(keep) == 0
	if j.candidates = keep; len(keep) > 0 {
		if keep[0] == l.lines { // every complete line matched: this one continues the open line
			j.join(p)
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
	if at := j.byPrefix[m.prefix]; len(at) > 0 {
		if j.aligned && j.res.Missed == 0 && !slices.Contains(at, j.seen-1) {
			j.missed(m) // the same file from its first line on, and yet another number of lines up to here
		}
		j.candidates = append(j.candidates, at...)
		return
	}
	if _, _, stamped := bundle.ParseStamp(l.open.prefix); stamped && bytes.HasPrefix(p, l.open.prefix[:min(len(p), len(l.open.prefix))]) {
		j.join(p)
		return
	}
	j.unplaced(m, broken)
}

// join marks that the overlap was followed to its end; the line that begins now continues the open
// line, if there is one, and is new otherwise.
func (j *joiner) join(p []byte) {
	o := &j.log.open
	if n := int64(len(p)); o.n > 0 {
		same := false
		if n >= o.n {
			same = xxhash.Sum64(p[:o.n]) == o.digest.Sum64()
		} else {
			same = p[n-1] != '\n' && bytes.HasPrefix(p, o.prefix)
		}
		if !same {
			j.hole(j.cur.mark) // it looked like the open line's continuation and is another line
			return
		}
		j.cur.resumed = true
	}
	j.res.Aligned = j.isAligned(j.seen - 1)
	j.res.Join = JoinExact
	j.appending = true
	j.cur.write = true
}

// isAligned says whether the first n lines of the read are all the complete lines that are held.
func (j *joiner) isAligned(n int64) bool {
	return n == j.log.lines && (j.aligned || n == 0) && j.chain == j.log.chain
}

// unplaced handles a line that is not among the remembered ones: an older one, one that was missed,
// unless that is counted already, or the first line after a hole.
func (j *joiner) unplaced(m mark, counted bool) {
	l := j.log
	var ringStamp int64
	if start := l.ringStart(); start < l.lines {
		ringStamp = l.at(start).stamp
	}
	last := int64(0)
	if !l.lastStamp.IsZero() {
		last = l.lastStamp.UnixNano()
	}
	switch {
	case m.stamp == 0 && j.res.Last.IsZero():
		// the rest of a long line that sinceTime cut: the kubelet prints its later parts without a stamp
	case j.aligned && j.seen <= l.ringStart():
		// the same file from the same first line: still before the lines that are remembered
	case m.stamp != 0 && m.stamp <= ringStamp && l.ringStart() > 0:
		// older than the lines that are remembered
	case m.stamp != 0 && m.stamp <= last:
		if !counted {
			j.missed(m)
		}
	default:
		j.hole(m)
	}
}

func (j *joiner) missed(m mark) {
	if j.res.Missed++; j.res.Missed == 1 {
		j.res.HoleBefore = time.Unix(0, m.stamp).UTC()
	}
	j.res.HoleAfter = j.res.HoleBefore
}

// hole gives up looking for an overlap: this line and all after it are taken as new.
func (j *joiner) hole(m mark) {
	l := j.log
	j.res.Join = JoinHole
	j.res.HoleAfter = l.lastStamp
	if m.stamp != 0 {
		j.res.HoleBefore = time.Unix(0, m.stamp).UTC()
	}
	j.appending = true
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
	j.res.Appended += int64(len(rest))
	return j.log.write(rest)
}

// closeOpen ends an unterminated line that nothing continues, so that the next line stands alone.
// The newline is the only byte that this program ever adds; the hole says so.
func (j *joiner) closeOpen() error {
	o := &j.log.open
	_, _ = o.digest.Write([]byte{'\n'})
	j.log.hold(mark{prefix: xxhash.Sum64(o.prefix), full: o.digest.Sum64()})
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
	if c.write {
		c.mark.full = full
		j.log.hold(c.mark)
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
	alive := slices.DeleteFunc(j.candidates, func(at int64) bool { return at == l.lines })
	switch {
	case len(alive) == len(keep):
	case len(alive) > 0:
		j.candidates, j.parked = alive, true
	default: // the last line held: all after it is new
		j.res.Aligned = j.isAligned(j.seen)
		j.res.Join = JoinExact
		j.appending = true
	}
	return nil
}

// leaveOpen ends a read in the middle of a line.
func (j *joiner) leaveOpen() error {
	j.inLine = false
	c := &j.cur
	if !c.write || (c.resumed && !c.checked) {
		return nil
	}
	o := &j.log.open
	o.n, o.digest = c.n, c.digest
	j.log.noteStamp(c.mark.stamp)
	return nil
}
