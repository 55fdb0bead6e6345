package redact

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// minAnchor is what a scan can look for with every second pair of bytes, see scanner. maxAnchor
	// is what can be compared at once.
	minAnchor = 3
	maxAnchor = 8
	// maxSet is how many literals may stand for an expression.
	maxSet = 64
	// maxClass is how many characters of a class are spelled out.
	maxClass = 8
)

// anchor is a literal: text that holds none of a rule's anchors has no match of it.
type anchor struct {
	text string // in lower case if fold
	fold bool   // upper-case ASCII is the same
}

// facts are what is known about the text that an expression matches. A nil set is unknown.
type facts struct {
	exact  []anchor // it matches these and nothing else
	prefix []anchor // each match begins with one of these
	inside []anchor // each match holds one of these
}

// anchorsOf derives a rule's anchors. atStart says that each match begins with one of them, and that
// the expression does not look at what is before.
func anchorsOf(re *syntax.Regexp) (set []anchor, atStart bool) {
	f := analyse(re)
	if usable(f.prefix) && !looksBack(re) {
		return cut(f.prefix), true
	}
	if best := better(f.inside, f.prefix); usable(best) {
		return cut(best), false
	}
	return nil, false
}

func usable(set []anchor) bool { return shortest(set) >= minAnchor }

// shortest is 0 for an unknown set.
func shortest(set []anchor) int {
	if len(set) == 0 {
		return 0
	}
	n := len(set[0].text)
	for _, a := range set[1:] {
		n = min(n, len(a.text))
	}
	return n
}

// cut shortens anchors to what can be compared at once, and drops those that begin with another one.
func cut(set []anchor) []anchor {
	var all []anchor
	for _, a := range set {
		if len(a.text) > maxAnchor {
			a.text = a.text[:maxAnchor]
		}
		all = append(all, a)
	}
	slices.SortStableFunc(all, func(a, b anchor) int { return len(a.text) - len(b.text) })
	var kept []anchor
	for _, a := range all {
		if !slices.ContainsFunc(kept, func(k anchor) bool { return k.fold == a.fold && strings.HasPrefix(a.text, k.text) }) {
			kept = append(kept, a)
		}
	}
	return kept
}

// better prefers the set whose shortest literal is longer, then the smaller one.
func better(a, b []anchor) []anchor {
	la, lb := min(shortest(a), maxAnchor), min(shortest(b), maxAnchor)
	if lb > la || lb == la && len(b) < len(a) {
		return b
	}
	return a
}

// looksBack says whether an expression may ask for what is before its first character.
func looksBack(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if looksBack(sub) {
				return true
			}
			if minLen(sub) > 0 {
				return false
			}
		}
		return false
	}
	return slices.ContainsFunc(re.Sub, looksBack)
}

func analyse(re *syntax.Regexp) facts {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return exactly([]anchor{{}})
	case syntax.OpLiteral:
		return literal(re)
	case syntax.OpCharClass:
		return class(re)
	case syntax.OpCapture:
		return analyse(re.Sub[0])
	case syntax.OpQuest:
		if f := analyse(re.Sub[0]); f.exact != nil {
			return exactly(union([]anchor{{}}, f.exact))
		}
	case syntax.OpPlus:
		f := analyse(re.Sub[0])
		return facts{prefix: f.prefix, inside: f.inside}
	case syntax.OpRepeat:
		return repeat(re)
	case syntax.OpConcat:
		return concat(re.Sub)
	case syntax.OpAlternate:
		return alternate(re.Sub)
	}
	return facts{} // any character, any number of times, nothing at all
}

func exactly(set []anchor) facts { return facts{exact: set, prefix: set, inside: set} }

// literal: without case only ASCII has an anchor, since other letters may have other lengths in the
// other case. U+FFFD stands for any byte that is not UTF-8.
func literal(re *syntax.Regexp) facts {
	fold := re.Flags&syntax.FoldCase != 0
	var runs []anchor
	run, whole := "", true
	end := func() {
		if run != "" {
			runs = append(runs, anchor{text: run, fold: fold})
		}
		run = ""
	}
	var prefix []anchor
	for _, c := range re.Rune {
		if c == utf8.RuneError || fold && c >= utf8.RuneSelf {
			if whole && run != "" {
				prefix = []anchor{{text: run, fold: fold}}
			}
			whole = false
			end()
			continue
		}
		if fold && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		run += string(c)
	}
	end()
	if whole {
		return exactly(runs)
	}
	f := facts{prefix: prefix}
	for _, r := range runs {
		f.inside = better(f.inside, []anchor{r})
	}
	return f
}

func class(re *syntax.Regexp) facts {
	var set []anchor
	for i := 0; i < len(re.Rune); i += 2 {
		for c := re.Rune[i]; c <= re.Rune[i+1]; c++ {
			if c == utf8.RuneError || len(set) == maxClass {
				return facts{}
			}
			set = append(set, anchor{text: string(c)})
		}
	}
	return exactly(set)
}

func repeat(re *syntax.Regexp) facts {
	if re.Min == 0 {
		return facts{}
	}
	f := analyse(re.Sub[0])
	once := facts{prefix: f.prefix, inside: f.inside}
	if f.exact == nil || re.Min > maxAnchor {
		return once
	}
	set := []anchor{{}}
	for range re.Min {
		if set = cross(set, f.exact); set == nil {
			return once
		}
	}
	if re.Min == re.Max {
		return exactly(set)
	}
	return facts{prefix: set, inside: set}
}

func alternate(subs []*syntax.Regexp) facts {
	all := analyse(subs[0])
	for _, sub := range subs[1:] {
		f := analyse(sub)
		all.exact = union(all.exact, f.exact)
		all.prefix = union(all.prefix, f.prefix)
		all.inside = union(all.inside, f.inside)
	}
	return all
}

// concat follows runs of parts of which everything is known: what is next to each other is one literal.
func concat(subs []*syntax.Regexp) facts {
	run := []anchor{{}}
	whole := true
	var all facts
	for _, sub := range subs {
		f := analyse(sub)
		all.inside = better(all.inside, f.inside)
		if f.exact != nil {
			if longer := cross(run, f.exact); longer != nil {
				run = longer
				continue
			}
		}
		if longer := cross(run, f.prefix); longer != nil {
			run = longer
		}
		all.inside = better(all.inside, run)
		if whole {
			all.prefix, whole = run, false
		}
		if run = f.exact; run == nil {
			run = []anchor{{}}
		}
	}
	all.inside = better(all.inside, run)
	if whole {
		return exactly(run)
	}
	return all
}

// union is unknown if one of the sets is, or if it would be too large.
func union(a, b []anchor) []anchor {
	if a == nil || b == nil || len(a)+len(b) > maxSet {
		return nil
	}
	return append(slices.Clone(a), b...)
}

// cross appends each of b to each of a.
func cross(a, b []anchor) []anchor {
	if a == nil || b == nil || len(a)*len(b) > maxSet {
		return nil
	}
	var set []anchor
	for _, x := range a {
		for _, y := range b {
			z := anchor{text: x.text + y.text, fold: x.fold || y.fold}
			if z.fold {
				z.text = lower(z.text)
			}
			set = append(set, z)
		}
	}
	return set
}

// lower is of ASCII only.
func lower(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, s)
}
