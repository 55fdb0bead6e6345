package selection

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// names is a list of patterns and a list of exceptions.
type names struct{ include, exclude []string }

func (n names) all() bool {
	return len(n.exclude) == 0 && (len(n.include) == 0 || slices.Contains(n.include, "*"))
}

func (n names) match(name string) bool {
	return (len(n.include) == 0 || anyMatch(n.include, name) != "") && anyMatch(n.exclude, name) == ""
}

// why words what match found.
func (n names) why(name string) string {
	if p := anyMatch(n.exclude, name); p != "" {
		return fmt.Sprintf("%q is excluded by %s", name, p)
	}
	if len(n.include) == 0 {
		return fmt.Sprintf("%q is not excluded", name)
	}
	if p := anyMatch(n.include, name); p != "" {
		return fmt.Sprintf("%q matches %s", name, p)
	}
	return fmt.Sprintf("%q matches none of %s", name, strings.Join(n.include, ", "))
}

func anyMatch(patterns []string, name string) string {
	for _, p := range patterns {
		if p == name {
			return p
		}
		if ok, _ := path.Match(p, name); ok { // checked by Compile
			return p
		}
	}
	return ""
}

func literal(pattern string) bool { return !strings.ContainsAny(pattern, `*?[\`) }

// covers says whether n surely takes every name that other takes.
func (n names) covers(other names) bool {
	if len(n.include) > 0 && !slices.Contains(n.include, "*") {
		if len(other.include) == 0 {
			return false
		}
		for _, p := range other.include {
			if !slices.Contains(n.include, p) && (!literal(p) || anyMatch(n.include, p) == "") {
				return false
			}
		}
	}
	for _, p := range n.exclude {
		if slices.Contains(other.exclude, p) {
			continue
		}
		if len(other.include) == 0 {
			return false
		}
		for _, taken := range other.include {
			if !literal(taken) || anyMatch([]string{p}, taken) != "" {
				return false
			}
		}
	}
	return true
}

// checkPattern says what keeps a pattern from ever matching a name; dots says whether names hold dots.
func checkPattern(p string, dots bool) *Problem {
	allowed := "names hold lower-case letters, digits and \"-\""
	if dots {
		allowed = "names hold lower-case letters, digits, \"-\" and \".\""
	}
	switch {
	case p == "":
		return &Problem{Text: "the pattern is empty", Allowed: "a name, or a glob such as prod-*"}
	case strings.HasPrefix(p, "!"):
		return &Problem{Text: fmt.Sprintf("%q can match no name", p), Allowed: allowed + "; exceptions go into the exclude list, without \"!\""}
	case strings.ContainsAny(p, "{}"):
		return &Problem{Text: fmt.Sprintf("%q can match no name", p), Allowed: allowed + "; globs have no {a,b}: write one entry for each"}
	case strings.Contains(p, "[!"):
		return &Problem{Text: fmt.Sprintf("%q is no glob", p), Allowed: "*, ?, [a-z] and [^a-z]", Hint: strings.ReplaceAll(p, "[!", "[^")}
	}
	if _, err := path.Match(p, ""); err != nil {
		return &Problem{Text: fmt.Sprintf("%q is no glob: a \"[\" is not closed, or a range is not whole", p), Allowed: "*, ?, [a-z] and [^a-z]"}
	}
	class := false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '[':
			class = true
		case c == ']':
			class = false
		case class, c == '*', c == '?', c == '-', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.' && dots:
		default:
			problem := &Problem{Text: fmt.Sprintf("%q can match no name", p), Allowed: allowed, Offset: i}
			if lower := strings.ToLower(p); strings.Contains(p, ".*") {
				problem.Hint = strings.ReplaceAll(p, ".*", "*")
				problem.Allowed += "; this is a glob, no regular expression"
			} else if lower != p && checkPattern(lower, dots) == nil {
				problem.Hint = lower
			}
			return problem
		}
	}
	return nil
}
