package redact

import (
	"bytes"
	"slices"
)

// KeyLines is how many lines a private key has at most, with what may stand between them: what of a log
// lies further back has no bearing on what comes next.
const KeyLines = maxKeyLines

// KeyRule names the rule that is followed over lines; empty if there is none. No other rule has to know
// what was written before.
func (r *Redactor) KeyRule() string {
	if r.key < 0 {
		return ""
	}
	return r.rules[r.key].name
}

// MayBeInKey tells a writer, at the beginning of a line, that the text goes on with a log whose end so far
// may lie within a private key. What looks like a part of one is removed then.
func (w *Writer) MayBeInKey() {
	if w.r.key >= 0 {
		w.keys.left = maxKeyLines
	}
}

// InKey says whether the text so far may end within a private key.
func (w *Writer) InKey() bool { return w.keys.left > 0 }

// Open returns a copy of the unterminated line that waits for its end, as it came, and whether that is all of
// it: of a very long line the beginning is written already.
func (w *Writer) Open() (line []byte, whole bool) { return bytes.Clone(w.line), w.long == nil }

// GoOnAfter makes a writer go on behind the lines that another one of the same rules has seen.
func (w *Writer) GoOnAfter(before *Writer) { w.keys.left = before.keys.left }

// Recount counts the secrets in text that was redacted before, by what stands in their place. It is for text
// of which no other count is left: two matches that were replaced as one count once, and so do two private
// keys with nothing between; one with other lines in it counts more than once.
type Recount struct {
	names []string
	marks [][]byte // by rule
	key   int      // the rule that is followed over lines, -1 if there is none
	inKey bool
	found []int64
	rest  []byte // of a line that goes on
}

// NewRecount counts for rules of these names. Their replacements are those that a redactor has now, if it
// has them; it may be nil.
func NewRecount(names []string, r *Redactor) *Recount {
	c := &Recount{names: names, key: -1, found: make([]int64, len(names))}
	for i, name := range names {
		mark := defaultMark(name)
		if r != nil {
			if n := slices.IndexFunc(r.rules, func(rule rule) bool { return rule.name == name }); n >= 0 {
				mark = r.rules[n].replacement
			}
		}
		if slices.ContainsFunc(c.marks, func(m []byte) bool { return bytes.Equal(m, mark) }) {
			mark = nil // the first of them has it all
		}
		if c.marks = append(c.marks, mark); name == keyRule {
			c.key = i
		}
	}
	return c
}

// MayBeInKey says that the text goes on with a log whose end so far may lie within a private key, which was
// counted then.
func (c *Recount) MayBeInKey() { c.inKey = true }

// Write takes the next bytes of the text. It never fails.
func (c *Recount) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 && len(c.rest)+len(p) <= MaxLine {
			c.rest = append(c.rest, p...)
			break
		}
		if end == 0 {
			end = len(p)
		}
		if len(c.rest) == 0 {
			c.line(p[:end])
		} else {
			c.line(append(c.rest, p[:end]...))
			c.rest = c.rest[:0]
		}
		p = p[end:]
	}
	return n, nil
}

func (c *Recount) line(line []byte) {
	for i, mark := range c.marks {
		if len(mark) == 0 {
			continue
		}
		n := int64(bytes.Count(line, mark))
		if i == c.key {
			within := c.inKey
			if c.inKey = n > 0; within && n > 0 {
				n--
			}
		}
		c.found[i] += n
	}
}

// Counts returns what was found, as Writer.Counts does.
func (c *Recount) Counts() map[string]int64 {
	counts := make(map[string]int64)
	for i, n := range c.found {
		if n > 0 {
			counts[c.names[i]] = n
		}
	}
	return counts
}
