package podlog

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// many makes n short lines, ten a second.
func many(n int) []string {
	lines := make([]string, n)
	at := time.Date(2026, 11, 23, 10, 0, 0, 7, time.UTC)
	for i := range lines {
		lines[i] = fmt.Sprintf("%s line %d\n", at.Add(time.Duration(i)*100*time.Millisecond).Format("2006-01-02T15:04:05.000000000Z07:00"), i)
	}
	return lines
}

func join(lines []string) string { return strings.Join(lines, "") }

// without returns lines without those from i to before k.
func without(lines []string, i, k int) []string {
	return append(append([]string(nil), lines[:i]...), lines[k:]...)
}

// Aligned vouches for every line that is held, not only for those that are remembered one by one.
func TestAligned(t *testing.T) {
	lines := many(6*ringSize + 9)
	swapped := append([]string(nil), lines...)
	swapped[10], swapped[11] = swapped[11], swapped[10]
	changed := append([]string(nil), lines...)
	changed[10] = strings.Replace(changed[10], "line", "lime", 1)
	tests := map[string]struct {
		held, read string
		aligned    bool
		missed     bool
	}{
		"the same file":                 {join(lines), join(lines), true, false},
		"the same file, longer now":     {join(lines[:2000]), join(lines), true, false},
		"held up to a cut line":         {strings.TrimSuffix(join(lines[:2000]), " 1999\n"), join(lines), true, false},
		"only a cut line is held":       {lines[0][:35], join(lines), true, false},
		"a few lines":                   {join(lines[:5]), join(lines[:9]), true, false},
		"a rotated file":                {join(lines), join(lines[1500:]), false, false},
		"an old line is not held":       {join(without(lines, 10, 11)), join(lines), false, true},
		"an old line is not read":       {join(lines), join(without(lines, 10, 11)), false, true},
		"old lines, more than the ring": {join(without(lines, 10, 2*ringSize)), join(lines), false, true},
		"old lines in another order":    {join(swapped), join(lines), false, true},
		"an old line is another":        {join(changed), join(lines), false, true},
		"the first line is not held":    {join(lines[1:]), join(lines), false, true},
		"a young line is not held":      {join(without(lines, 6*ringSize, 6*ringSize+1)), join(lines), false, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := New(&out, containerID)
			read(t, l, tt.held)
			res := read(t, l, tt.read)
			if res.Aligned != tt.aligned || res.Missed > 0 != tt.missed {
				t.Errorf("aligned %v, missed %d, join %q", res.Aligned, res.Missed, res.Join)
			}
		})
	}
}

// What was read before the ring began is compared by the hash from a second's first line on.
func TestOlderThanTheRing(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	var lines []string
	for i := range 10 * ringSize { // 2,000 lines a second
		lines = append(lines, fmt.Sprintf("%s line %d\n", at.Add(time.Duration(i)*500*time.Microsecond).Format("2006-01-02T15:04:05.000000000Z07:00"), i))
	}
	const from = 2000 // the first line of a second that is older than the ring
	for name, tt := range map[string]struct {
		held, read []string
		missed     bool
	}{
		"the same":            {lines, lines[from:], false},
		"a line is not held":  {without(lines, 2100, 2101), lines[from:], true},
		"a line is not read":  {lines, without(lines, 2100, 2101)[from:], true},
		"its first line also": {without(lines, from, from+5), lines[from:], true},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := New(&out, containerID)
			read(t, l, join(tt.held))
			res := read(t, l, join(tt.read)+stamped(59, "new\n"))
			doubt := res.Missed > 0 || res.Unchecked > 0
			if res.Join != JoinExact || doubt != tt.missed || !strings.HasSuffix(out.String(), "new\n") {
				t.Errorf("join %q, missed %d, unchecked %d", res.Join, res.Missed, res.Unchecked)
			}
		})
	}
}

func TestFirstSecond(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 500, time.UTC)
	line := func(after time.Duration, s string) string {
		return at.Add(after).Format("2006-01-02T15:04:05.000000000Z07:00") + " " + s
	}
	a, b, c, d := line(0, "a\n"), line(time.Second, "b\n"), line(time.Second+1, "c\n"), line(0, "d\n")
	long := line(time.Millisecond, strings.Repeat("x", 3*bufferSize)+"\n")
	for name, tt := range map[string]struct {
		reads []string
		want  int
	}{
		"nothing":             {nil, 0},
		"a quiet one":         {[]string{a + c}, len(a)},
		"to the second's end": {[]string{a + b + c + d}, len(a + b)},
		"a long line":         {[]string{a + long + c}, len(a + long)},
		"an open line":        {[]string{a + b[:32]}, len(a) + 32},
		"an open line, later": {[]string{a + b[:32], a + b + c + d}, len(a + b)},
		"an open line, young": {[]string{a, a + c[:32]}, len(a)},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(&bytes.Buffer{}, containerID)
			for _, body := range tt.reads {
				read(t, l, body)
			}
			if got := l.FirstSecond(); got != int64(tt.want) {
				t.Errorf("%d bytes, want %d", got, tt.want)
			}
		})
	}
}

func TestOwn(t *testing.T) {
	id := strings.TrimPrefix(containerID, "containerd://")
	other := strings.Repeat("0", 64)
	gone := "rpc error: code = NotFound desc = an error occurred when try to find container \"" + id + "\": not found"
	for body, own := range map[string]bool{
		"unable to retrieve container logs for " + containerID:               true,
		"unable to retrieve container logs for containerd://" + other:        false,
		stamped(1, "a\n") + gone:                                             true,
		stamped(1, "a") + gone:                                               true,
		stamped(1, "a\n") + strings.ReplaceAll(gone, id, other):              false,
		stamped(1, "a\n") + "context canceled":                               false,
		stamped(1, "a\n"):                                                    false,
		stamped(1, gone+"\n"):                                                false,
		"failed to open log file \"/var/log/pods/x_" + id + "/0.log\": gone": true,
	} {
		res := read(t, New(&bytes.Buffer{}, containerID), body)
		if res.Own != own {
			t.Errorf("own %v for %q", res.Own, body)
		}
		if res := read(t, New(&bytes.Buffer{}, ""), body); res.Own {
			t.Errorf("own without an ID for %q", body)
		}
	}
	if _, _, ok := bundle.ParseStamp([]byte(stamped(1, "a\n"))); !ok {
		t.Error("the tests' stamps are none")
	}
}

func TestBusiestSecond(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	line := func(after time.Duration) string {
		return at.Add(after).Format("2006-01-02T15:04:05.000000000Z") + " x\n"
	}
	var log strings.Builder
	for _, after := range []time.Duration{0, time.Second, 1200 * time.Millisecond, 1100 * time.Millisecond, 3 * time.Second} {
		log.WriteString(line(after))
	}
	l := New(&bytes.Buffer{}, containerID)
	if _, err := l.Read(strings.NewReader(log.String())); err != nil {
		t.Fatal(err)
	}
	if got, want := l.BusiestSecond(), int64(3*len(line(0))); got != want {
		t.Errorf("busiest second %d bytes, want %d", got, want)
	}
}
