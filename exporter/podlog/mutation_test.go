package podlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// The worst bug would be a verdict "complete" on a log that misses a line. These tests make logs as
// containers write them and reads as kubelets serve them, honest ones and some that lost, repeated, mixed
// up or invented something, and hold the results against what can be known:
//
//  1. A single read that lost something looks like any other. But if a read joined exactly and missed
//     nothing, then what is held ends with that read, byte for byte.
//  2. So if an honest read of the whole file comes last and nothing was found wrong, then what is held ends
//     with the whole file, whatever came before. If it is Aligned, what is held is the file.
//  3. Of honest reads alone nothing is ever found wrong, however they were cut.
//
// What a read with sinceTime leaves out, because its stamp is older, cannot be known from that read.

// trueLog is what a container has written.
type trueLog struct {
	lines []string // each with its newline; the last may lack it
	ooo   bool     // stamps out of order by more than overlap
}

// overlap is how far before the last stamp a read with sinceTime begins.
const overlap = 5 * time.Second

func newTrueLog(r *rand.Rand, n int) trueLog {
	at := time.Date(2026, 11, 23, 10, 0, 0, r.IntN(1e9), time.UTC)
	var l trueLog
	style := r.IntN(5)
	for i := range n {
		switch {
		case style == 0 && r.IntN(3) > 0: // many equal stamps, as conmon gives all lines of one write
		case style == 1: // a line every few seconds
			at = at.Add(time.Duration(r.IntN(3e9)))
		case style == 2 && r.IntN(12) == 0: // somebody sets the clock
			at, l.ooo = at.Add(time.Duration(r.IntN(120)-60)*time.Second), true
		default:
			at = at.Add(time.Duration(r.IntN(2e8)))
		}
		stamp := at
		if style == 3 && r.IntN(4) == 0 { // stdout and stderr are stamped apart
			stamp = at.Add(-time.Duration(r.IntN(3e8)))
		}
		text := fmt.Sprintf("line %d", i)
		switch r.IntN(40) {
		case 0, 1, 2:
			text = ""
		case 3, 4, 5, 6:
			text = "tick" // the same line again and again
		case 7:
			text = fmt.Sprintf("%d", i) + strings.Repeat("z", r.IntN(2*prefixSize))
		case 8:
			if n < 50 {
				text = strings.Repeat("w", bufferSize-holdBack-40+r.IntN(2*bufferSize)) + fmt.Sprint(i)
			}
		}
		l.lines = append(l.lines, stamp.Format("2006-01-02T15:04:05.000000000Z07:00")+" "+text+"\n")
		if r.IntN(15) == 0 { // the very same line
			l.lines = append(l.lines, l.lines[len(l.lines)-1])
		}
	}
	if r.IntN(3) == 0 {
		last := &l.lines[len(l.lines)-1]
		*last = strings.TrimSuffix(*last, "\n")
	}
	return l
}

func stampOf(line string) time.Time {
	t, _, _ := bundle.ParseStamp([]byte(line))
	return t
}

// since returns the lines that the API serves for a sinceTime, which it rounds down.
func since(lines []string, from time.Time) []string {
	from = from.Truncate(time.Second)
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return stampOf(line).Before(from) })
}

// mutate does something to a body that no kubelet should do, and says what.
func mutate(r *rand.Rand, lines []string) ([]string, string) {
	lines = slices.Clone(lines)
	if len(lines) == 0 {
		return lines, "nothing to change"
	}
	i := r.IntN(len(lines))
	k := min(len(lines), i+1+r.IntN(3))
	if r.IntN(6) == 0 {
		k = i + 1 + r.IntN(len(lines)-i)
	}
	switch r.IntN(7) {
	case 0, 1:
		return slices.Delete(lines, i, k), fmt.Sprintf("dropped %d to %d", i, k)
	case 2:
		return slices.Insert(lines, k, lines[i:k]...), fmt.Sprintf("repeated %d to %d", i, k)
	case 3:
		o := r.IntN(len(lines))
		lines[i], lines[o] = lines[o], lines[i]
		return lines, fmt.Sprintf("swapped %d and %d", i, o)
	case 4:
		other := newTrueLog(r, 1+r.IntN(4)).lines
		return slices.Insert(lines, i, other...), fmt.Sprintf("%d lines of another log at %d", len(other), i)
	case 5:
		b := []byte(lines[i])
		if p := len(b) - 1 - r.IntN(min(len(b), 40)); b[p] != '\n' {
			b[p] ^= 1
		}
		lines[i] = string(b)
		return lines, fmt.Sprintf("changed a byte of %d", i)
	}
	if i > 0 {
		lines[i-1] = strings.TrimSuffix(lines[i-1], "\n")
	}
	return lines, fmt.Sprintf("no newline before %d", i)
}

// scenario is one log, how it was read, and how that went.
type scenario struct {
	t     *testing.T
	r     *rand.Rand
	truth trueLog
	out   bytes.Buffer
	log   *Log
	fine  bool // no result spoke against the middle
	story []string
}

func (s *scenario) failf(format string, args ...any) {
	s.t.Helper()
	story := strings.Join(s.story, "\n")
	if len(s.truth.lines) < 30 {
		story += "\nthe log:\n" + shorten(s.truth.lines) + "held:\n" + shorten(strings.SplitAfter(s.out.String(), "\n"))
	}
	s.t.Fatalf(format+"\n%s", append(args, story)...)
}

func shorten(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		if len(line) > 90 {
			line = line[:80] + fmt.Sprintf("… %d bytes, ends %q\n", len(line), line[len(line)-3:])
		}
		b.WriteString(line)
	}
	return b.String() + "\n"
}

// read lets the log take one body and holds the result against rule 1.
func (s *scenario) read(body, what string) Result {
	s.t.Helper()
	before := s.log.Bytes()
	res, err := s.log.Read(strings.NewReader(body))
	s.story = append(s.story, fmt.Sprintf("%s, %d bytes: %s, appended %d, missed %d, unchecked %d, aligned %v, text %q",
		what, len(body), res.Join, res.Appended, res.Missed, res.Unchecked, res.Aligned, res.TextKind))
	added := s.log.Bytes() - before
	switch {
	case err != nil:
		s.failf("error %v", err)
	case int64(s.out.Len()) != s.log.Bytes(), res.Bytes != int64(len(body)):
		s.failf("%d bytes held, %d counted, %d read", s.out.Len(), s.log.Bytes(), res.Bytes)
	case added != res.Appended && (added != res.Appended+1 || res.Join != JoinHole):
		s.failf("%d bytes added, %d counted", added, res.Appended)
	case res.Aligned && (res.Join != JoinExact || res.Missed > 0):
		s.failf("aligned and not exact")
	case res.Join == JoinEmpty && res.Appended > 0, res.Join == JoinEmpty && len(body) > len(res.Text):
		s.failf("empty with something in it")
	}
	doubt := res.Join == JoinHole || res.Missed > 0 || res.Unchecked > 0
	s.fine = s.fine && !doubt
	if !doubt && (res.Join == JoinExact || res.Join == JoinFirst) {
		s.endsWith(strings.TrimSuffix(body, res.Text))
	}
	return res
}

// endsWith checks that what is held ends with a body. Lines older than the whole second of the body's
// oldest stamp are not in it if it was asked for with sinceTime, so they are left out.
func (s *scenario) endsWith(body string) {
	s.t.Helper()
	lines := strings.SplitAfter(body, "\n")
	for len(lines) > 0 && stampOf(lines[0]).IsZero() {
		lines = lines[1:] // the rest of a line that was cut
	}
	var oldest time.Time
	for _, line := range lines {
		if t := stampOf(line); !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	held := s.out.String()
	if want := strings.Join(lines, ""); !strings.HasSuffix(held, want) &&
		!strings.HasSuffix(strings.Join(sinceStamped(strings.SplitAfter(held, "\n"), oldest), ""), want) {
		s.failf("joined exactly, and what is held does not end with what was read:\n%s", shorten(lines))
	}
}

func sinceStamped(lines []string, from time.Time) []string {
	from = from.Truncate(time.Second)
	return slices.DeleteFunc(lines, func(line string) bool {
		t := stampOf(line)
		return !t.IsZero() && t.Before(from)
	})
}

// honest serves the first n lines, all of them or those since the last stamp held.
func (s *scenario) honest(n int, whole bool) []string {
	lines := s.truth.lines[:n]
	if whole || s.log.Last().IsZero() {
		return lines
	}
	return since(lines, s.log.Last().Add(-overlap))
}

func newScenario(t *testing.T, seed uint64, lines int) *scenario {
	s := &scenario{t: t, r: rand.New(rand.NewPCG(seed, 7)), fine: true}
	s.story = []string{fmt.Sprintf("seed %d, %d lines", seed, lines)}
	s.truth = newTrueLog(s.r, lines)
	s.log = New(&s.out, containerID)
	return s
}

// size is mostly small, because most of what can go wrong is seen in a few lines.
func size(seed uint64) int {
	if seed%100 == 99 {
		return ringSize + int(seed*131%(2*ringSize))
	}
	return 1 + int(seed*7%23)
}

// cut ends a body anywhere, sometimes with the kubelet's words.
func cut(r *rand.Rand, body string) string {
	body = body[:r.IntN(len(body)+1)]
	id := strings.TrimPrefix(containerID, "containerd://")
	switch r.IntN(6) {
	case 0:
		return body + "rpc error: code = NotFound desc = an error occurred when try to find container \"" + id + "\": not found"
	case 1:
		return body + "unable to retrieve container logs for " + containerID
	}
	return body
}

// mutatedReads plays rules 1 and 2: whatever reads lost or invented, an honest read of the whole file at
// the end either shows that something is wrong, or all of the file is held. It returns which.
func mutatedReads(t *testing.T, seed uint64) (right bool) {
	s := newScenario(t, seed, size(seed))
	n := 0
	for range 1 + s.r.IntN(4) {
		n += s.r.IntN(len(s.truth.lines) - n + 1)
		lines, what := s.honest(n, s.r.IntN(3) == 0), "honest"
		if s.r.IntN(2) == 0 {
			lines, what = mutate(s.r, lines)
		}
		body := strings.Join(lines, "")
		if s.r.IntN(3) == 0 {
			body, what = cut(s.r, body), what+", cut"
		}
		s.read(body, what)
	}
	whole := strings.Join(s.truth.lines, "")
	res := s.read(whole, "the whole file")
	if res.Aligned && s.fine && s.out.String() != whole {
		s.failf("aligned, and the file is not what is held")
	}
	return s.fine && (res.Join == JoinExact || res.Join == JoinFirst) // then read has compared it
}

// honestReads plays rule 3: honest reads, cut anywhere, never raise a doubt, and bring every byte once.
func honestReads(t *testing.T, seed uint64) {
	s := newScenario(t, seed, size(seed))
	n := 0
	for range 1 + s.r.IntN(4) {
		n += s.r.IntN(len(s.truth.lines) - n + 1)
		body, what := strings.Join(s.honest(n, s.truth.ooo || s.r.IntN(3) == 0), ""), "honest"
		if s.r.IntN(2) == 0 {
			body, what = cut(s.r, body), "honest, cut"
		}
		s.read(body, what)
	}
	whole := s.truth.ooo || s.r.IntN(2) == 0
	res := s.read(strings.Join(s.honest(len(s.truth.lines), whole), ""), fmt.Sprintf("the end, whole %v", whole))
	if !s.fine || res.Join != JoinExact && res.Join != JoinFirst {
		s.failf("a doubt about honest reads")
	}
	if s.out.String() != strings.Join(s.truth.lines, "") {
		s.failf("what is held is not the log")
	}
	if res.Join == JoinExact && whole && !res.Aligned {
		s.failf("the whole file is not aligned")
	}
}

// resume puts another log in place of the scenario's, as the next process does: it knows the text up to
// the last line end, of which it has read no more than the last lines.
func (s *scenario) resume() {
	s.t.Helper()
	held := s.out.String()
	held = held[:strings.LastIndexByte(held, '\n')+1]
	s.out.Truncate(len(held))
	lines := strings.SplitAfter(held, "\n")
	lines = lines[:len(lines)-1]
	from := s.r.IntN(len(lines) + 1)
	for last := lastStamp(lines); from > 0 && !stampOf(lines[from-1]).Before(last.Add(-overlap-time.Second)); {
		from--
	}
	s.story = append(s.story, fmt.Sprintf("resumed with the last %d of %d lines", len(lines)-from, len(lines)))
	first := s.log.First()
	s.log = New(&s.out, containerID)
	if err := s.log.Resume(strings.NewReader(strings.Join(lines[from:], "")), int64(len(lines)), int64(len(held)), first); err != nil {
		s.failf("%v", err)
	}
	if s.log.Lines() != int64(len(lines)) || s.log.Bytes() != int64(len(held)) || len(lines) > 0 && !s.log.First().Equal(first) {
		s.failf("%d lines, %d bytes from %v on after a resumption", s.log.Lines(), s.log.Bytes(), s.log.First())
	}
}

func lastStamp(lines []string) (t time.Time) {
	for _, line := range lines {
		if s := stampOf(line); !s.IsZero() {
			t = s
		}
	}
	return t
}

// resumedReads plays rule 3 over several processes: every byte once, and no doubt. What a read brings of
// the time before the lines that are known may be left unchecked.
func resumedReads(t *testing.T, seed uint64) {
	s := newScenario(t, seed, size(seed))
	n := 0
	for range 1 + s.r.IntN(4) {
		n += s.r.IntN(len(s.truth.lines) - n + 1)
		s.read(strings.Join(s.honest(n, s.truth.ooo), ""), "honest")
		s.resume()
	}
	res := s.read(strings.Join(s.honest(len(s.truth.lines), s.truth.ooo), ""), "the end")
	if s.truth.ooo {
		return // the reads went back to lines that are no longer known, and may look like others or like new ones
	}
	if !s.fine || res.Join == JoinHole {
		s.failf("a doubt about honest reads")
	}
	if s.out.String() != strings.Join(s.truth.lines, "") {
		s.failf("what is held is not the log")
	}
	if got := int64(strings.Count(s.out.String(), "\n")); s.log.Lines() != got && s.log.Lines() != got+1 {
		s.failf("%d lines, counted %d", s.log.Lines(), got)
	}
}

// mutatedResumptions is mutatedReads over several processes.
func mutatedResumptions(t *testing.T, seed uint64) {
	s := newScenario(t, seed, size(seed))
	n := 0
	for range 1 + s.r.IntN(4) {
		n += s.r.IntN(len(s.truth.lines) - n + 1)
		lines, what := s.honest(n, s.r.IntN(3) == 0), "honest"
		if s.r.IntN(2) == 0 {
			lines, what = mutate(s.r, lines)
		}
		s.read(strings.Join(lines, ""), what)
		if s.r.IntN(2) == 0 {
			s.resume()
		}
	}
	whole := strings.Join(s.truth.lines, "")
	if res := s.read(whole, "the whole file"); res.Aligned && s.fine && s.out.String() != whole {
		s.failf("aligned, and the file is not what is held")
	}
}

func TestResumedReads(t *testing.T) {
	for seed := range uint64(2000) {
		resumedReads(t, seed)
		mutatedResumptions(t, seed)
	}
}

func TestMutatedReads(t *testing.T) {
	const rounds = 2000
	right := 0
	for seed := range uint64(rounds) {
		if mutatedReads(t, seed) {
			right++
		}
	}
	if right < rounds/10 || right > rounds*9/10 {
		t.Errorf("%d of %d were found right: the test does not try much", right, rounds)
	}
}

func TestHonestReads(t *testing.T) {
	for seed := range uint64(2000) {
		honestReads(t, seed)
	}
}

// FuzzMutatedReads and FuzzHonestReads try other seeds than the tests.
func FuzzMutatedReads(f *testing.F) {
	f.Add(uint64(1 << 32))
	f.Fuzz(func(t *testing.T, seed uint64) { mutatedReads(t, seed) })
}

func FuzzHonestReads(f *testing.F) {
	f.Add(uint64(1 << 32))
	f.Fuzz(func(t *testing.T, seed uint64) { honestReads(t, seed) })
}

// What the tests above have found, each as small as it can be.
func TestFoundByMutation(t *testing.T) {
	a, b, c, d := stamped(1, "a\n"), stamped(2, "b\n"), stamped(3, "c\n"), stamped(4, "d\n")
	long := stamped(3, strings.Repeat("l", 3*bufferSize))
	same, long1 := stamped(1, "same\n"), stamped(1, strings.Repeat("l", prefixSize))
	late := stamped(2, "late, from the other stream\n")
	tests := map[string]struct {
		first, second string
		want          string
		join          Join
		missed        int64
	}{
		"cut within a line that is held":             {a + b + c, a + b[:len(b)-2], a + b + c, JoinShort, 0},
		"cut before the end of the open line":        {a + stamped(2, "bbbb"), a + stamped(2, "bb"), a + stamped(2, "bbbb"), JoinShort, 0},
		"cut before the end of a long open line":     {a + long, a + long[:2*bufferSize], a + long, JoinShort, 0},
		"a long open line is shorter":                {a + long, a + long[:2*bufferSize] + "\n" + d, a + long + "\n" + d, JoinHole, 0},
		"cut within the first stamp":                 {"", a[:9], "", JoinShort, 0},
		"cut within a stamp, after what is held":     {a, a + b[:9], a, JoinShort, 0},
		"cut within a stamp, after a hole":           {a, c + d[:9], a + c, JoinHole, 0},
		"a line that the exporter closed, read":      {a + stamped(2, "b") + "\n" + c, a + b + c, a + b + c, JoinExact, 0},
		"sinceTime left out a line in the middle":    {a + b + c + late, c + d, a + b + c + late + d, JoinExact, 0},
		"and one before the last":                    {a + b + c + late + d, c + d, a + b + c + late + d, JoinExact, 0},
		"and it was not sinceTime":                   {a + b + c + late + d, c + stamped(2, "x\n") + d, a + b + c + late + d, JoinExact, 1},
		"and sinceTime was before that":              {a + b + c + late, c + d + stamped(2, "x\n"), a + b + c + late + d + stamped(2, "x\n"), JoinExact, 1},
		"equal lines in the middle of a second":      {a + same + same, same + same + b, a + same + same + b, JoinExact, 0},
		"long lines that differ at their end":        {a + long1 + "1\n" + b, long1 + "2\n" + b + c, a + long1 + "1\n" + b + c, JoinExact, 1},
		"a long open line is another":                {a + long, a + long[:2*bufferSize] + "X" + long[2*bufferSize+1:] + "tail\n", a + long + "tail\n", JoinHole, 0},
		"another log's lines among the held":         {a + stamped(0, "x\n") + b, a + b, a + stamped(0, "x\n") + b, JoinExact, 1},
		"two equal lines, the second one open":       {a + b + b[:len(b)-1], a + b[:len(b)-1], a + b + b[:len(b)-1], JoinShort, 0},
		"two equal lines, the second one open, read": {a + b + b[:len(b)-1], a + b + b + c, a + b + b + c, JoinExact, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := New(&out, containerID)
			read(t, l, tt.first)
			res := read(t, l, tt.second)
			if out.String() != tt.want || res.Join != tt.join || res.Missed != tt.missed {
				t.Errorf("join %q, missed %d, held:\n%s", res.Join, res.Missed, shorten(strings.SplitAfter(out.String(), "\n")))
			}
		})
	}
}
