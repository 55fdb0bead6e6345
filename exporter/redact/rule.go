package redact

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// maxRules keeps rule numbers small; nobody needs as many.
	maxRules = 1000
	// maxReplacement keeps a replacement from being longer than what a line can bear.
	maxReplacement = 256
	// group is the name of the part of a match that is replaced.
	group = "secret"
)

// Rule says what to remove.
type Rule struct {
	// Name is of lower-case letters, digits and "-", at most 63, and unique.
	Name string
	// Pattern is a regular expression of Go. If it has a group named "secret" that took part in a match,
	// only that part is replaced, otherwise the whole match. It must not match the empty text.
	Pattern string
	// Replacement stands for the secret; "$" means nothing in it. Empty is "[REDACTED:name]".
	Replacement string

	// keep says of what would be replaced that it is surely no secret; before is the match up to there.
	keep func(before, value []byte) bool
	key  bool // followed over lines, see keys.go; Pattern is its BEGIN
}

// rule is a Rule that is ready for work.
type rule struct {
	name        string
	replacement []byte
	keep        func(before, value []byte) bool
	key         bool
	group       int // index of the group that is replaced, 0 for the whole

	whole *regexp.Regexp // the pattern
	// after is the pattern behind one more character: a search that begins inside a text looks at the
	// character before, as a search from the beginning does.
	after *regexp.Regexp

	anchors []anchor // none: it runs on each line
	// at is the pattern at the beginning of a text. It is set if each match begins with an anchor: then
	// it is tried where anchors are, which is much faster than a search.
	at       *regexp.Regexp
	boundary bool // at lacks the \b that the pattern begins with
}

// Redactor is a set of rules that were compiled once. It is never changed, so it may be shared.
type Redactor struct {
	rules  []rule
	scan   *scanner
	always []int // rules without anchors
	key    int   // the rule that is followed over lines, -1 if there is none
	keyEnd *regexp.Regexp
	pool   sync.Pool

	maxLine, maxMatch int // the constants, but in tests
}

// New compiles rules. The error names all that are wrong.
func New(rules []Rule) (*Redactor, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("compile redaction rules: %d are more than %d", len(rules), maxRules)
	}
	r := &Redactor{rules: make([]rule, len(rules)), key: -1, maxLine: MaxLine, maxMatch: MaxMatch}
	r.pool.New = func() any { return new(scratch) }
	seen := make(map[string]bool, len(rules))
	var errs []error
	for i, src := range rules {
		compiled, err := compile(src)
		if err == nil && seen[src.Name] {
			err = errors.New("there is another rule of this name")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("redaction rule %q: %w", src.Name, err))
			continue
		}
		seen[src.Name] = true
		r.rules[i] = compiled
		switch {
		case src.key:
			r.key, r.keyEnd = i, regexp.MustCompile(keyEnd)
		case len(compiled.anchors) == 0:
			r.always = append(r.always, i)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.scan = newScanner(r.rules)
	return r, nil
}

// Slow names the rules that run on each line, because their patterns have no anchor.
func (r *Redactor) Slow() []string {
	names := make([]string, 0, len(r.always))
	for _, i := range r.always {
		names = append(names, r.rules[i].name)
	}
	return names
}

// Names names all rules, in order.
func (r *Redactor) Names() []string {
	names := make([]string, 0, len(r.rules))
	for i := range r.rules {
		names = append(names, r.rules[i].name)
	}
	return names
}

func compile(src Rule) (rule, error) {
	r := rule{name: src.Name, replacement: []byte(src.Replacement), keep: src.keep, key: src.key}
	if src.Replacement == "" {
		r.replacement = defaultMark(src.Name)
	}
	if err := checkName(src.Name); err != nil {
		return r, err
	}
	switch {
	case len(src.Replacement) > maxReplacement:
		return r, fmt.Errorf("its replacement is longer than %d bytes", maxReplacement)
	case strings.ContainsAny(src.Replacement, "\r\n") || !utf8.ValidString(src.Replacement):
		return r, errors.New("its replacement is not one line of text")
	case src.Pattern == "":
		return r, errors.New("it has no pattern")
	}
	tree, err := syntax.Parse(src.Pattern, syntax.Perl)
	if err != nil {
		return r, fmt.Errorf("its pattern is not a regular expression of Go (RE2): %w", err)
	}
	if minLen(tree) == 0 {
		return r, errors.New("its pattern matches the empty text")
	}
	// The tree's own text can stand inside another expression; the rule's, such as `\Qa`, may not.
	text := tree.String()
	var anchors []anchor
	inner, boundary := cutBoundary(tree)
	anchors, atStart := anchorsOf(inner)
	r.anchors = anchors
	exprs := []string{text, `(?s:.)(?:` + text + `)`}
	if atStart {
		r.boundary = boundary
		exprs = append(exprs, `\A(?:`+inner.String()+`)`)
	}
	for i, to := range []**regexp.Regexp{&r.whole, &r.after, &r.at}[:len(exprs)] {
		if *to, err = regexp.Compile(exprs[i]); err != nil {
			return r, fmt.Errorf("its pattern is too large: %w", err)
		}
	}
	r.group = max(r.whole.SubexpIndex(group), 0)
	return r, nil
}

// defaultMark stands for what a rule of this name has found, if nothing else is said.
func defaultMark(name string) []byte { return []byte("[REDACTED:" + name + "]") }

func checkName(name string) error {
	if name == "" || len(name) > 63 {
		return errors.New("its name is not of 1 to 63 characters")
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return errors.New(`its name is not of lower-case letters, digits and "-"`)
		}
	}
	return nil
}

// cutBoundary takes the \b from the beginning of an expression.
func cutBoundary(re *syntax.Regexp) (*syntax.Regexp, bool) {
	if re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpWordBoundary {
		return re, false
	}
	rest := *re
	rest.Sub = re.Sub[1:]
	return &rest, true
}

// minLen returns how many characters a match has at least.
func minLen(re *syntax.Regexp) int {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpCapture, syntax.OpPlus:
		return minLen(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min * minLen(re.Sub[0])
	case syntax.OpConcat:
		n := 0
		for _, sub := range re.Sub {
			n += minLen(sub)
		}
		return n
	case syntax.OpAlternate:
		n := minLen(re.Sub[0])
		for _, sub := range re.Sub[1:] {
			n = min(n, minLen(sub))
		}
		return n
	case syntax.OpNoMatch:
		return 1
	}
	return 0
}
