package redact

import (
	"bytes"
	"regexp"
)

const (
	// maxKeyLines is how many lines after a BEGIN may belong to a key; one of RSA with 16,384 bits has
	// 200, and a PGP key some more. If no END comes, nothing is removed after them.
	maxKeyLines = 500
	// minPrefixed is how long a word must be to be a part of a key behind other text on its line.
	minPrefixed = 16
)

const (
	keyRule  = "private-key" // the built-in rule's name
	keyBegin = `-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----`
	keyEnd   = `-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----`
)

// keys follows private keys over lines: text is removed from a BEGIN to its END. Between lines only what
// looks like a part of a key is removed, because other lines may stand between, and an END may be missing.
type keys struct {
	rule int
	end  *regexp.Regexp
	// maxLine is how long a line of a key may be: a whole one without line ends has 13 KB at most, and a
	// window of a longer line holds as much.
	maxLine int
	left    int  // how many lines may still belong to a key
	open    bool // in a long line, between windows: its BEGIN was seen and no END yet
	count   int64
}

// find appends the spans of a view.
func (k *keys) find(m *scratch, v view, begin *regexp.Regexp) {
	p := v.from
	if v.done != nil {
		p = max(p, v.done[k.rule])
	}
	switch {
	case k.open:
		if p = k.close(m, v, p, v.from, true); k.open {
			return
		}
	case k.left > 0 && v.from == 0:
		k.left--
		if at := k.end.FindIndex(v.text[:min(len(v.text), k.maxLine)]); at != nil {
			m.spans = append(m.spans, span{start: 0, end: at[1], rule: k.rule})
			k.left, p = 0, at[1]
		} else if from, to := material(v.text); from < to && v.final && len(v.text) <= k.maxLine {
			m.spans = append(m.spans, span{start: from, end: to, rule: k.rule})
			return
		}
	}
	for p < v.limit {
		at := begin.FindIndex(v.text[p:])
		if at == nil || p+at[0] >= v.limit {
			break
		}
		k.count++
		if p = k.close(m, v, p+at[1], p+at[0], false); k.open {
			break
		}
	}
	if v.done != nil {
		v.done[k.rule] = p
	}
}

// close looks for the END from p on of what began at start, and returns where to go on.
func (k *keys) close(m *scratch, v view, p, start int, goesOn bool) int {
	s := span{start: start, rule: k.rule, goesOn: goesOn}
	at := k.end.FindIndex(v.text[min(p, len(v.text)):])
	if k.open = at == nil; !k.open {
		s.end = p + at[1]
		k.left = 0
		m.spans = append(m.spans, s)
		return s.end
	}
	s.end = v.limit
	if v.final {
		k.open, k.left = false, maxKeyLines
		m.spans = append(m.spans, s)
		return len(v.text)
	}
	m.spans = append(m.spans, s)
	return p
}

// material returns the part of a line that may be a part of a key: all of it but for quotes and the
// like, or its last word if that is long enough.
func material(text []byte) (from, to int) {
	const around = " \t\r\"'`,;|>+\\"
	to = len(bytes.TrimRight(text, around))
	if bytes.HasSuffix(text[:to], []byte(`\n`)) { // of a string in source code
		to = len(bytes.TrimRight(text[:to-2], around))
	}
	from = to
	for from > 0 && base64Byte(text[from-1]) {
		from--
	}
	if to-from < minPrefixed && len(bytes.Trim(text[:from], around)) > 0 {
		return 0, 0
	}
	return from, to
}

func base64Byte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '+' || c == '/' || c == '='
}
