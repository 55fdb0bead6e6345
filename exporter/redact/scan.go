package redact

import (
	"encoding/binary"
	"slices"
	"strings"
)

// everywhere is the place of a hit that says only that a rule may match in this text.
const everywhere = -1

// hit is an anchor that was found.
type hit struct {
	rule int
	at   int // where the anchor begins, or everywhere
}

// scanner finds anchors in one pass. It looks at each second pair of bytes only: an anchor has three
// bytes or more, so one of its two pairs is at an even place. A table says whether a pair belongs to an
// anchor, and which; then up to eight bytes are compared at once. Where logs do not speak of secrets,
// that is two loads for two bytes, and none depends on the one before, unlike in an automaton.
type scanner struct {
	table  [1 << 16]uint8 // by pair: a number in probes, 0 for none
	probes [256][]probe
	rules  [][]target // by anchor
}

// probe is an anchor to compare, by a pair of it.
type probe struct {
	value, mask uint64
	size        int // of the anchor, in bytes
	pair        int // where the pair is in the anchor; -1 is one byte before it
	anchor      int
}

// target is a rule that an anchor belongs to.
type target struct {
	rule  int
	exact bool // the rule is tried where the anchor is
}

func newScanner(rules []rule) *scanner {
	s := &scanner{}
	number := make(map[anchor]int)
	var order []anchor
	add := func(a anchor, t target) {
		n, ok := number[a]
		if !ok {
			n = len(order)
			number[a] = n
			order = append(order, a)
			s.rules = append(s.rules, nil)
		}
		s.rules[n] = append(s.rules[n], t)
	}
	for i := range rules {
		for _, a := range rules[i].anchors {
			add(a, target{rule: i, exact: rules[i].at != nil})
			// Without case, k and s have each a third form outside of ASCII. Where one of these is, all
			// rules run that it may concern.
			if a.fold && strings.Contains(a.text, "k") {
				add(anchor{text: "\u212a"}, target{rule: i})
			}
			if a.fold && strings.Contains(a.text, "s") {
				add(anchor{text: "\u017f"}, target{rule: i})
			}
		}
	}
	for n, a := range order {
		s.add(n, a)
	}
	return s
}

func (s *scanner) add(n int, a anchor) {
	p := probe{size: len(a.text), anchor: n}
	for i := range a.text {
		mask := uint64(0xff)
		if a.fold && a.text[i] >= 'a' && a.text[i] <= 'z' {
			mask = 0xdf // all but the bit that makes a letter small
		}
		p.mask |= mask << (8 * i)
		p.value |= uint64(a.text[i]) & mask << (8 * i)
	}
	if len(a.text) == 2 { // only U+017F
		s.enter(p, []byte{a.text[0]}, []byte{a.text[1]})
		p.pair = -1
		var any []byte
		for c := range 256 {
			any = append(any, byte(c))
		}
		s.enter(p, any, []byte{a.text[0]})
		return
	}
	p.pair = rarest(a.text)
	for range 2 {
		s.enter(p, forms(a.text[p.pair], a.fold), forms(a.text[p.pair+1], a.fold))
		p.pair++
	}
}

// enter puts a probe into the table, for all forms of a pair.
func (s *scanner) enter(p probe, firsts, seconds []byte) {
	var own uint8 // one number for all forms that nobody has yet
	for _, x := range firsts {
		for _, y := range seconds {
			slot := &s.table[uint16(x)|uint16(y)<<8]
			if *slot == 0 {
				if own == 0 {
					own = s.newSlot(p.anchor)
				}
				*slot = own
			}
			if !slices.Contains(s.probes[*slot], p) {
				s.probes[*slot] = append(s.probes[*slot], p)
			}
		}
	}
}

// newSlot returns a number that is free, or one that is shared when there are none left.
func (s *scanner) newSlot(n int) uint8 {
	for i := 1; i < len(s.probes); i++ {
		if len(s.probes[i]) == 0 {
			return uint8(i)
		}
	}
	return uint8(1 + n%(len(s.probes)-1))
}

func forms(c byte, fold bool) []byte {
	if fold && c >= 'a' && c <= 'z' {
		return []byte{c, c - 'a' + 'A'}
	}
	return []byte{c}
}

// rarest returns where in an anchor the two pairs begin that logs hold least often.
func rarest(text string) int {
	// Common letters first; all else is rare enough. "://" has no choice.
	const common = "etaoinsrlcdmupghf_yv-b0123456789w.:\"/ "
	cost := func(i int) int {
		at := strings.IndexByte(common, lower(text[i : i+1])[0])
		if at < 0 {
			at = len(common)
		}
		return len(common) + 4 - at
	}
	best, least := 0, 1<<30
	for k := 0; k+minAnchor <= len(text); k++ {
		if c := cost(k)*cost(k+1) + cost(k+1)*cost(k+2); c < least {
			best, least = k, c
		}
	}
	return best
}

// next returns where the first anchor in b was seen, give or take the length of one, or -1.
func (s *scanner) next(b []byte) int {
	for i := 0; i+1 < len(b); i += 2 {
		slot := s.table[uint16(b[i])|uint16(b[i+1])<<8]
		if slot == 0 {
			continue
		}
		for k := range s.probes[slot] {
			if p := &s.probes[slot][k]; p.found(b, i-p.pair) {
				return i
			}
		}
	}
	return -1
}

// all appends the hits in b, in no order.
func (s *scanner) all(hits []hit, b []byte) []hit {
	for i := 0; i+1 < len(b); i += 2 {
		slot := s.table[uint16(b[i])|uint16(b[i+1])<<8]
		if slot == 0 {
			continue
		}
		for k := range s.probes[slot] {
			p := &s.probes[slot][k]
			at := i - p.pair
			if !p.found(b, at) {
				continue
			}
			for _, t := range s.rules[p.anchor] {
				if t.exact {
					hits = append(hits, hit{rule: t.rule, at: at})
				} else {
					hits = append(hits, hit{rule: t.rule, at: everywhere})
				}
			}
		}
	}
	return hits
}

func (p *probe) found(b []byte, at int) bool {
	if at < 0 || at+p.size > len(b) {
		return false
	}
	var word uint64
	if at+8 <= len(b) {
		word = binary.LittleEndian.Uint64(b[at:])
	} else {
		for i, c := range b[at:] {
			word |= uint64(c) << (8 * i)
		}
	}
	return word&p.mask == p.value
}
