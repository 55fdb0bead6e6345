package bundle

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// scanAll passes a text through a scanner in pieces of the lengths that next gives.
func scanAll(text []byte, next func() int) Summary {
	var s scanner
	got := Summary{RawBytes: int64(len(text))}
	if len(text) > 0 {
		got.RawSHA256 = sha(text)
	}
	for rest := text; len(rest) > 0; {
		n := min(next(), len(rest))
		s.feed(rest[:n])
		rest = rest[n:]
	}
	got.FirstStamp, got.LastStamp = s.take()
	got.Lines, got.LastLines = s.newlines, s.lastLines()
	if s.open {
		got.Lines++
	}
	return got
}

// TestScanner: what is learnt of a text does not depend on how it is cut.
func TestScanner(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range 1500 {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		text := randomLog(rnd, rnd.IntN(60), 2500)
		longest := 1 + rnd.IntN(1<<rnd.IntN(13))
		got := scanAll(text, func() int { return 1 + rnd.IntN(longest) })
		if diff := cmp.Diff(describe(text), got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("text %d, pieces up to %d (-want +got):\n%s", i, longest, diff)
		}
	}
}

func TestScannerShortTexts(t *testing.T) {
	for _, text := range []string{
		"", "\n", "\n\n", "x", "2026-03-01T10:00:00.123456789Z x", "2026-03-01T10:00:00.123456789Z ", "2026-03-01T10:00:00.123456789Z",
		"2026-03-01T10:00:00.123456789+05:30 ", "no stamp\n2026-03-01T10:00:00.123456789Z x", "2026-03-01T10:00:00.123456789Z x\n2026-03-0",
	} {
		for n := 1; n <= len(text)+1; n++ {
			got := scanAll([]byte(text), func() int { return n })
			if diff := cmp.Diff(describe([]byte(text)), got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%q in pieces of %d (-want +got):\n%s", text, n, diff)
			}
		}
	}
}
