package redact

import (
	"io"
	"maps"
	"strings"
	"testing"
)

// A redacted text shows how much was replaced in it.
func TestRecount(t *testing.T) {
	r := mustNew(t, append(Builtin()[:1], Rule{Name: "pin", Pattern: `pin=(?P<secret>[0-9]+)`, Replacement: "***"}, Rule{Name: "id", Pattern: `id=(?P<secret>[0-9]+)`, Replacement: "***"}))
	names := append(r.Names(), "gone")
	begin, one, end := "-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "-----END PRIVATE KEY-----"
	for text, want := range map[string]map[string]int64{
		"nothing\n":                 {},
		"pin=1 and pin=2\nid=3\n":   {"pin": 3}, // two rules with one replacement cannot be told apart
		"[REDACTED:gone]\n":         {"gone": 1},
		begin + one + end + "\nx\n": {"private-key": 1},
		"k " + begin + "\n" + one + "\n" + end + " and pin=1\nx\n" + begin + "\n": {"private-key": 2, "pin": 1},
		"unterminated pin=1":                       {},
		strings.Repeat("-", 2*MaxLine) + "pin=1\n": {"pin": 1},
	} {
		redacted, _ := r.Text(text)
		c := NewRecount(names, r)
		for rest := redacted; len(rest) > 0; {
			n := min(len(rest), 7)
			if _, err := io.WriteString(c, rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got := c.Counts(); !maps.Equal(got, want) {
			t.Errorf("%.80q: %v, want %v", redacted, got, want)
		}
	}
	c := NewRecount(names, nil)
	c.MayBeInKey()
	if _, err := io.WriteString(c, "[REDACTED:private-key]\n[REDACTED:private-key]\nx\n"); err != nil || len(c.Counts()) > 0 {
		t.Errorf("a key that was counted before: %v, %v", c.Counts(), err)
	}
}

// A long line that has not ended may never be stored, so it is not counted.
func TestCountsOfWholeLines(t *testing.T) {
	w := builtins().NewWriter(io.Discard)
	for _, piece := range []string{at + "password=hunter2x\n", at + strings.Repeat("password=hunter2x ", 2*MaxLine/18)} {
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Counts()["password"]; got != 1 {
		t.Errorf("%d matches before the line's end", got)
	}
	if err := w.Close(); err != nil || w.Counts()["password"] != 1+2*MaxLine/18 {
		t.Errorf("%d matches, %v", w.Counts()["password"], err)
	}
}
