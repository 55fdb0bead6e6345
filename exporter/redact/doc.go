// Package redact removes secrets from log text while it streams. It never changes a line's stamp, the
// number of lines or a byte outside of what a rule matches, and it never holds a log in memory.
//
// A rule is a regular expression of Go (RE2). It sees one line at a time, without the stamp and without
// the newline; bytes that are not UTF-8 pass unchanged. All rules see the text as it was written, none
// what another one left of it. Where matches overlap, all that they cover is replaced once, by the
// replacement of the one that begins first. The private keys of the built-in set are the one exception
// to the rule of one line: from their BEGIN on they are followed over lines.
//
// The result is the same however the text is cut into calls of Write.
//
// Lines up to MaxLine are matched as a whole. A longer line goes through in windows, which overlap, so
// that every match up to MaxMatch is found as it would be in the whole line. A longer match in
// such a line may be missed, or found shorter.
//
// Before any regular expression runs, one pass looks for anchors: literal text without which a rule
// cannot match, derived from its expression. So a rule costs almost nothing on lines that do not concern
// it. A rule without an anchor of three bytes, such as [0-9]{16}, runs on each line, which is slow:
// Redactor.Slow names such rules.
package redact
