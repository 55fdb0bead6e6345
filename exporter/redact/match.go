package redact

import (
	"cmp"
	"io"
	"slices"
	"unicode/utf8"
)

// maxFailures is how often a rule is tried at the anchors of one line before it searches the rest at once:
// each try may look far, a search never looks at a byte for each of its beginnings.
const maxFailures = 16

// span is a part of a text that is replaced.
type span struct {
	start, end int
	rule       int
	goesOn     bool // it continues one that ended where it starts
}

// view is what of a line is looked at: all of it, or a window.
type view struct {
	text  []byte // from is not 0: what is before from is there for \b and its like
	from  int    // matches begin here or later
	limit int    // and before this
	final bool   // the line ends with the text
	done  []int  // by rule, where its last match ended; nil for a whole line
}

// scratch is what a call of Write needs for a while.
type scratch struct {
	hits  []hit
	spans []span
	last  int // the end of the rule's last match
}

// find appends the spans of a view in the order in which they are replaced. counts counts them.
func (r *Redactor) find(m *scratch, v view, counts func(rule int)) {
	m.hits = m.hits[:0]
	for _, i := range r.always {
		m.hits = append(m.hits, hit{rule: i, at: everywhere})
	}
	m.hits = r.scan.all(m.hits, v.text)
	if len(m.hits) == 0 {
		return
	}
	slices.SortFunc(m.hits, func(a, b hit) int { return cmp.Or(a.rule-b.rule, a.at-b.at) })
	for hits := m.hits; len(hits) > 0; {
		n := 1
		for n < len(hits) && hits[n].rule == hits[0].rule {
			n++
		}
		if i := hits[0].rule; i != r.key {
			m.last = v.from
			if v.done != nil {
				m.last = max(v.from, v.done[i])
			}
			before := len(m.spans)
			r.rules[i].find(m, v, i, hits[:n])
			for range m.spans[before:] {
				counts(i)
			}
			if v.done != nil {
				v.done[i] = m.last
			}
		}
		hits = hits[n:]
	}
}

// find appends the matches of one rule that begin in a view after the last one.
func (r *rule) find(m *scratch, v view, number int, hits []hit) {
	if hits[0].at == everywhere {
		r.search(m, v, number)
		return
	}
	failures := 0
	for _, h := range hits {
		switch {
		case h.at < m.last || r.boundary && !boundary(v.text, h.at):
			continue
		case h.at >= v.limit:
			return
		case failures == maxFailures:
			r.search(m, v, number)
			return
		}
		if loc := r.at.FindSubmatchIndex(v.text[h.at:]); loc != nil {
			r.add(m, v.text, number, loc, h.at)
		} else {
			failures++
		}
	}
}

// search finds all matches from the end of the last one on.
func (r *rule) search(m *scratch, v view, number int) {
	for m.last < v.limit {
		var loc []int
		base := 0
		if m.last == 0 {
			loc = r.whole.FindSubmatchIndex(v.text)
		} else {
			_, size := utf8.DecodeLastRune(v.text[:m.last])
			base = m.last - size
			if loc = r.after.FindSubmatchIndex(v.text[base:]); loc != nil {
				_, size := utf8.DecodeRune(v.text[base+loc[0]:])
				loc[0] += size
			}
		}
		if loc == nil || base+loc[0] >= v.limit {
			return
		}
		r.add(m, v.text, number, loc, base)
	}
}

// add notes a match.
func (r *rule) add(m *scratch, text []byte, number int, loc []int, base int) {
	m.last = base + loc[1]
	s := span{start: base + loc[0], end: base + loc[1], rule: number}
	if g := 2 * r.group; g > 0 && loc[g] >= 0 {
		s.start, s.end = base+loc[g], base+loc[g+1]
	}
	if s.start < s.end && (r.keep == nil || !r.keep(text[base+loc[0]:s.start], text[s.start:s.end])) {
		m.spans = append(m.spans, s)
	}
}

// boundary says whether \b matches at a place where a character of ASCII or another letter begins.
func boundary(text []byte, at int) bool {
	return (at > 0 && word(text[at-1])) != word(text[at])
}

// word is what RE2 takes for \w: ASCII only.
func word(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func order(a, b span) int {
	switch {
	case a.start != b.start:
		return a.start - b.start
	case a.goesOn != b.goesOn:
		if a.goesOn {
			return -1
		}
		return 1
	}
	return a.rule - b.rule
}

// replace writes a text up to limit with its spans replaced, from where the last call has left off. It
// returns where this call leaves off, which is behind limit if the last span ends there, and how many
// spans it has used: the others begin at limit or later.
func (r *Redactor) replace(w io.Writer, text []byte, from, limit int, spans []span) (to, used int, err error) {
	slices.SortFunc(spans, order)
	to = from
	for _, s := range spans {
		if s.start >= limit {
			break
		}
		used++
		if s.start < to || s.goesOn && s.start == to { // a part of what was replaced
			to = max(to, s.end)
			continue
		}
		if err := write(w, text[to:s.start]); err != nil {
			return to, used, err
		}
		if err := write(w, r.rules[s.rule].replacement); err != nil {
			return to, used, err
		}
		to = s.end
	}
	if to < limit {
		if err := write(w, text[to:limit]); err != nil {
			return to, used, err
		}
		to = limit
	}
	return to, used, nil
}

func write(w io.Writer, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}
