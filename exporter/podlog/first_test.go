package podlog

import (
	"strings"
	"testing"
)

// beginnings notes what a log says of its beginning at each write, as an output does.
type beginnings struct {
	log     *Log
	unknown int
	burst   int64
}

func (b *beginnings) Write(p []byte) (int, error) {
	if b.log.First().IsZero() {
		b.unknown++
	}
	b.burst = b.log.FirstSecond()
	return len(p), nil
}

// Whoever is given a line's first bytes can ask for its stamp, and how much was written at once, however the
// line is cut into pieces.
func TestBeginningIsKnownAtTheFirstWrite(t *testing.T) {
	const stamp = "2026-11-23T10:00:00.000000007Z "
	for name, body := range map[string]string{
		"a line":                           stamp + "hi\n",
		"without a newline":                stamp + "hi",
		"longer than the buffer":           stamp + strings.Repeat("x", 3*bufferSize) + "\n",
		"longer, and without a newline":    stamp + strings.Repeat("x", 3*bufferSize),
		"a line, and one without":          stamp + "hi\n" + stamp + "ho",
		"a line, and a longer one without": stamp + "hi\n" + stamp + strings.Repeat("x", 3*bufferSize),
	} {
		t.Run(name, func(t *testing.T) {
			b := &beginnings{}
			b.log = New(b, containerID)
			read(t, b.log, body)
			if b.unknown > 0 || b.burst != int64(len(body)) || b.log.BusiestSecond() != int64(len(body)) {
				t.Errorf("%d writes without a stamp; %d bytes in the first second, %d in the busiest, want %d", b.unknown, b.burst, b.log.BusiestSecond(), len(body))
			}
		})
	}
}
