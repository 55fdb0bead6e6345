package bundle

import (
	"bytes"
	"testing"
	"time"
)

func TestParseStamp(t *testing.T) {
	for line, want := range map[string]string{
		"2026-03-01T10:00:00.123456789Z x":       "2026-03-01T10:00:00.123456789Z",
		"2024-02-29T23:59:59.000000000+05:30 ":   "2024-02-29T18:29:59Z",
		"2026-03-01T10:00:00.123456789-23:59  x": "2026-03-02T09:59:00.123456789Z",
		"2026-03-01T10:00:00.123456789Z":         "",
		"2026-03-01T10:00:00.123456789Z\n":       "",
		"2026-03-01T10:00:00.12345678Z x":        "",
		"2026-03-01T10:00:00.1234567890Z x":      "",
		"2026-03-01T10:00:00Z x":                 "",
		"2026-02-29T10:00:00.123456789Z x":       "",
		"2026-13-01T10:00:00.123456789Z x":       "",
		"2026-00-01T10:00:00.123456789Z x":       "",
		"2026-03-00T10:00:00.123456789Z x":       "",
		"2026-03-01T24:00:00.123456789Z x":       "",
		"2026-03-01T10:00:60.123456789Z x":       "",
		"2026-03-01T10:00:00,123456789Z x":       "",
		"2026-03-01t10:00:00.123456789z x":       "",
		"2026-03-01T10:00:00.123456789+0530 xxx": "",
		"2026-03-01T10:00:00.123456789+24:00 x":  "",
		"2026-03-01T10:00:00.123456789*05:30 x":  "",
		"":                                       "",
	} {
		got, n, ok := ParseStamp([]byte(line))
		if ok != (want != "") || ok && got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %t", line, got, ok)
		}
		if ok && line[n-1] != ' ' {
			t.Errorf("%q: the text begins at %d", line, n)
		}
	}
}

// FuzzParseStamp compares with the standard library: what is taken here is the same time there, and
// prints as the same stamp.
func FuzzParseStamp(f *testing.F) {
	f.Add([]byte("2026-03-01T10:00:00.123456789Z x"))
	f.Add([]byte("2026-03-01T10:00:00.123456789+05:30 x"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got, n, ok := ParseStamp(line)
		if !ok {
			if want, err := time.Parse(stampLayout+" ", string(line)); err == nil && bytes.HasSuffix(line, []byte(" ")) && line[19] == '.' {
				if _, offset := want.Zone(); offset > -24*3600 && offset < 24*3600 && line[len(line)-3] != '6' {
					t.Fatalf("%q was not taken", line)
				}
			}
			return
		}
		want, err := time.Parse(time.RFC3339Nano, string(line[:n-1]))
		if err != nil || !want.Equal(got) {
			t.Fatalf("%q: %v, not %v (%v)", line, got, want, err)
		}
	})
}
