package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one mistake, or one warning.
type Error struct {
	// File, Line and Column say where it is, counted from 1, the column in characters. Line is 0 if it is
	// not in the file: then Place says where it is.
	File         string
	Line, Column int
	Place        string // such as "environment variable KUBELOGEXPORTER_CLUSTER" or "flag --cluster"
	Path         string // of the value, such as exports[0].selection.labels
	Message      string // what is wrong
	Allowed      string // what would be right; may be empty
	Hint         string // what was likely meant; may be empty
	Warning      bool

	source string // the line, without secrets
	width  int    // of the offending text, in characters
}

// Error returns the place and the message in one line.
func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	case e.Place != "":
		b.WriteString(e.Place + ": ")
	default:
		b.WriteString(e.File + ": ")
	}
	if e.Warning {
		b.WriteString("warning: ")
	}
	if e.Path != "" && e.Line > 0 {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Allowed != "" {
		b.WriteString("; allowed: " + e.Allowed)
	}
	if e.Hint != "" {
		b.WriteString("; did you mean " + e.Hint + "?")
	}
	return oneLine(b.String())
}

// Excerpt returns the line with a caret under the place, "" if there is none.
func (e *Error) Excerpt() string {
	if e.Line == 0 || e.source == "" {
		return ""
	}
	number := fmt.Sprintf("%5d | ", e.Line)
	pad := []rune(strings.Repeat(" ", len(number)))
	for i, r := range []rune(e.source) {
		if i >= e.Column-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		pad = append(pad, r)
	}
	room := utf8.RuneCountInString(e.source) - e.Column + 1
	return number + e.source + "\n" + string(pad) + strings.Repeat("^", max(1, min(e.width, room))) + "\n"
}

// Errors are mistakes in the order of their places.
type Errors []*Error

// Error returns all of them, each with its line of the file.
func (e Errors) Error() string {
	var b strings.Builder
	for _, one := range e {
		b.WriteString(one.Error() + "\n" + one.Excerpt())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Place, b.Place))
	})
}

// oneLine keeps control characters of a file out of the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// hideSecrets takes out of a line what follows a key that sounds like a secret, and the user of a URL.
// Secrets do not belong in the file, but if one is there, the message about it must not show it.
func hideSecrets(line string) string {
	value := regexp.MustCompile(`(?i)((?:secret|passw|token|accesskey|access_key|apikey|credential)[a-z_-]*["']?\s*:\s+)(\S.*)$`)
	if m := value.FindStringSubmatchIndex(line); m != nil {
		key := strings.ToLower(strings.Trim(line[m[2]:m[3]], "\"' :=\t"))
		if !strings.HasSuffix(key, "file") && key != "credentials" {
			line = line[:m[4]] + "***"
		}
	}
	return regexp.MustCompile(`://[^/@\s]*@`).ReplaceAllString(line, "://***@")
}

func soundsSecret(key string) bool {
	return hideSecrets(key+": x") != key+": x"
}
