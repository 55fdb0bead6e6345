package podlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const containerID = "containerd://9f3a1c5be0d74a6f8e21b0c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708"

// text makes n stamped lines; some share a stamp, some are empty, some are longer than the buffer.
func text(r *rand.Rand, n int) string {
	var b strings.Builder
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for i := range n {
		if r.IntN(4) > 0 {
			at = at.Add(time.Duration(r.IntN(50_000_000)))
		}
		fmt.Fprintf(&b, "%s ", at.Format("2006-01-02T15:04:05.000000000Z07:00"))
		switch r.IntN(60) {
		case 0: // an empty line
		case 1:
			fmt.Fprintf(&b, "%d %s", i, strings.Repeat("x", r.IntN(3*bufferSize)))
		case 2:
			fmt.Fprintf(&b, "%d %s", i, strings.Repeat("y", prefixSize-40+r.IntN(20)))
		default:
			fmt.Fprintf(&b, "line %d", i)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func read(t *testing.T, l *Log, body string) Result {
	t.Helper()
	res, err := l.Read(iotest.HalfReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	if res.Bytes != int64(len(body)) {
		t.Fatalf("Bytes = %d, the body has %d", res.Bytes, len(body))
	}
	return res
}

// A stream that broke at any byte, and then the whole file: every byte once.
func TestJoinAfterCut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 120 {
		file := text(r, 1+r.IntN(60))
		if round%3 == 0 {
			file = strings.TrimSuffix(file, "\n")
		}
		cut := r.IntN(len(file) + 1)
		var out bytes.Buffer
		l := New(&out, containerID)
		read(t, l, file[:cut])
		held := l.Bytes()
		res := read(t, l, file)
		if out.String() != file {
			t.Fatalf("round %d, cut at %d of %d: held %d bytes", round, cut, len(file), out.Len())
		}
		want := JoinExact
		if held == 0 { // nothing, or a part of a stamp
			want = JoinFirst
		}
		if res.Join != want || res.Missed != 0 {
			t.Fatalf("round %d, cut at %d: join %q, missed %d", round, cut, res.Join, res.Missed)
		}
		if again := read(t, l, file); again.Join != JoinExact || again.Appended != 0 || out.String() != file {
			t.Fatalf("round %d: reading again: join %q, appended %d", round, again.Join, again.Appended)
		}
	}
}

// A read that begins at some line, as sinceTime and rotation make it, joins where it overlaps.
func TestJoinFromLaterLine(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 30 {
		n := 2 + r.IntN(3*ringSize)
		lines := strings.SplitAfter(text(r, n), "\n")
		lines = lines[:len(lines)-1]
		held := 1 + r.IntN(len(lines)-1)
		from := r.IntN(held)
		var out bytes.Buffer
		l := New(&out, containerID)
		read(t, l, strings.Join(lines[:held], ""))
		res := read(t, l, strings.Join(lines[from:], ""))
		if want := strings.Join(lines, ""); out.String() != want || res.Join != JoinExact || res.Missed != 0 {
			t.Fatalf("round %d: %d lines, held %d, from %d: join %q, missed %d, same %v",
				round, n, held, from, res.Join, res.Missed, out.String() == want)
		}
	}
}

func stamped(i int, s string) string {
	return time.Date(2026, 11, 23, 10, 0, i, 5, time.UTC).Format("2006-01-02T15:04:05.000000000Z07:00") + " " + s
}

func TestHoles(t *testing.T) {
	a, b, c, d := stamped(1, "a\n"), stamped(2, "b\n"), stamped(3, "c\n"), stamped(4, "d\n")
	tests := map[string]struct {
		first, second string
		want          string
		join          Join
		missed        int64
	}{
		"nothing overlaps":              {a + b, c + d, a + b + c + d, JoinHole, 0},
		"the file is shorter than held": {a + b + c, a + b, a + b + c, JoinShort, 0},
		"the file is empty now":         {a + b, "", a + b, JoinEmpty, 0},
		"a line in the middle":          {a + c, a + b + c + d, a + c + d, JoinExact, 1},
		"an open line, not continued":   {a + stamped(2, "b"), c, a + b + c, JoinHole, 0},
		"an open line, continued":       {a + stamped(2, "b"), b + c, a + b + c, JoinExact, 0},
		"an open stamp proves nothing":  {a + b[:12], b + c, a + b + c, JoinHole, 0},
		"an open stamp after overlap":   {a + b[:12], a + b + c, a + b + c, JoinExact, 0},
		"equal lines, all held":         {a + a, a + a, a + a, JoinExact, 0},
		"equal lines, one more":         {a + a, a + a + a, a + a + a, JoinExact, 0},
		"swapped lines":                 {a + c + b + d, a + b + c + d, a + c + b + d, JoinExact, 3},
		"an open line, another follows": {a + "hello", a + b, a + "hello\n" + b, JoinHole, 0},
		"an open line, longer than it":  {a + stamped(2, "bbbb"), a + stamped(2, "b\n"), a + stamped(2, "bbbb\n") + stamped(2, "b\n"), JoinHole, 0},
		"cut by since in a long line":   {a + b, "rest of a\n" + b + c, a + b + c, JoinExact, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := New(&out, containerID)
			read(t, l, tt.first)
			res := read(t, l, tt.second)
			if out.String() != tt.want || res.Join != tt.join || res.Missed != tt.missed {
				t.Errorf("join %q, missed %d, held:\n%s", res.Join, res.Missed, out.String())
			}
		})
	}
}

func TestErrorTexts(t *testing.T) {
	id := strings.TrimPrefix(containerID, "containerd://")
	gone := "rpc error: code = NotFound desc = an error occurred when try to find container \"" + id + "\": not found"
	unable := "unable to retrieve container logs for " + containerID
	long := stamped(1, strings.Repeat("z", bufferSize+300))
	tests := map[string]struct {
		body, want, text string
		kind             Text
	}{
		"in place of a log":             {unable, "", unable, TextGone},
		"after the last line":           {stamped(1, "a\n") + gone, stamped(1, "a\n"), gone, TextGone},
		"glued to an unfinished line":   {stamped(1, "a") + gone, stamped(1, "a"), gone, TextGone},
		"glued to a long line":          {long + gone, long, gone, TextGone},
		"inotify used up":               {stamped(1, "a\n") + "failed to create fsnotify watcher: too many open files", stamped(1, "a\n"), "failed to create fsnotify watcher: too many open files", TextRetry},
		"a program that prints one":     {stamped(1, unable+"\n"), stamped(1, unable+"\n"), "", TextNone},
		"a program that ends with one":  {stamped(1, "failed to tail 3 lines"), stamped(1, "failed to tail 3 lines"), "", TextNone},
		"another container's ID, glued": {stamped(1, "a"+strings.ReplaceAll(gone, id, "ffff")), stamped(1, "a"+strings.ReplaceAll(gone, id, "ffff")), "", TextNone},
		"an unknown unstamped piece":    {stamped(1, "a\n") + "hello", stamped(1, "a\n") + "hello", "", TextNone},
		"an error text with a newline":  {stamped(1, "a\n") + unable + "\n", stamped(1, "a\n") + unable + "\n", "", TextNone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, one := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader} {
				var out bytes.Buffer
				res, err := New(&out, containerID).Read(one(strings.NewReader(tt.body)))
				if err != nil || out.String() != tt.want || res.Text != tt.text || res.TextKind != tt.kind {
					t.Errorf("err %v, kind %q, text %q, held %q", err, res.TextKind, res.Text, out.String())
				}
			}
		})
	}
}

// After a broken connection all bytes that came are kept, and the break is reported.
func TestBrokenBody(t *testing.T) {
	body := stamped(1, "a\n") + stamped(2, "b")
	var out bytes.Buffer
	l := New(&out, containerID)
	_, err := l.Read(io.MultiReader(strings.NewReader(body), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if !errors.Is(err, io.ErrUnexpectedEOF) || out.String() != body {
		t.Errorf("err %v, held %q", err, out.String())
	}
	var werr *WriteError
	if _, err := New(full{}, containerID).Read(strings.NewReader(body)); !errors.As(err, &werr) {
		t.Errorf("a full disk came back as %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A read that does not continue what is held leaves nothing of itself if holes are refused.
func TestRefuseHoles(t *testing.T) {
	const held = "2026-01-02T03:04:05.000000001Z a\n2026-01-02T03:04:05.000000002Z b\n"
	for name, tt := range map[string]struct{ first, second, want string }{
		"another run's":       {held, "2026-01-02T03:05:00.000000001Z x\n2026-01-02T03:05:00.000000002Z y\n", ""},
		"an open line's heir": {held + "2026-01-02T03:04:06.000000001Z half", "2026-01-02T03:04:06.000000001Z half and more\n", " and more\n"},
		"no heir":             {held + "2026-01-02T03:04:06.000000001Z half", "2026-01-02T03:04:07.000000001Z other\n", ""},
		"an overlap":          {held, "2026-01-02T03:04:05.000000002Z b\n2026-01-02T03:05:00.000000002Z y\n", "2026-01-02T03:05:00.000000002Z y\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			l := New(&b, "")
			if _, err := l.Read(strings.NewReader(tt.first)); err != nil {
				t.Fatal(err)
			}
			l.RefuseHoles = true
			_, err := l.Read(strings.NewReader(tt.second))
			if refused := errors.Is(err, ErrHole); refused != (tt.want == "") {
				t.Errorf("error %v", err)
			}
			if got := strings.TrimPrefix(b.String(), tt.first); got != tt.want {
				t.Errorf("appended %q, want %q", got, tt.want)
			}
			l.RefuseHoles = false
			if tt.want == "" {
				if res, err := l.Read(strings.NewReader(tt.second)); err != nil || res.Join != JoinHole {
					t.Errorf("accepted afterwards: %+v, %v", res, err)
				}
			}
		})
	}
}

// A log whose beginning was redacted meets reads that were not, by the stamps of its lines.
func TestCompareStamps(t *testing.T) {
	a, b, c, d := stamped(1, "a\n"), stamped(2, "b\n"), stamped(3, "c\n"), stamped(4, "d\n")
	masked := strings.NewReplacer("a", "*", "b", "*")
	long := stamped(3, strings.Repeat("x", 2*bufferSize)+"\n")
	for name, tt := range map[string]struct {
		held   string
		reads  []string
		want   string // what the reads add
		join   Join
		missed int64
	}{
		"the same lines":                    {held: a + b, reads: []string{a + b}, join: JoinExact},
		"more":                              {held: a + b, reads: []string{b + c, b + c + d}, want: c + d, join: JoinExact},
		"an older stamp behind the last":    {held: b + a, reads: []string{b + a + stamped(0, "n\n")}, want: stamped(0, "n\n"), join: JoinExact},
		"two of one stamp, and a third":     {held: a + a, reads: []string{a + a + a}, want: a, join: JoinExact},
		"a long line":                       {held: a + b, reads: []string{a + b + long, a + b + long + d}, want: long + d, join: JoinExact},
		"a line that is cut":                {held: a + b, reads: []string{b + c[:len(c)-1], b + c + d}, want: c + d, join: JoinExact},
		"a line in between":                 {held: a + c, reads: []string{a + b + c + d}, want: d, join: JoinExact, missed: 1},
		"nothing that is held":              {held: a + b, reads: []string{c + d}, want: c + d, join: JoinHole},
		"a line cut that nothing goes on":   {held: a + b, reads: []string{b + c[:len(c)-1], d}, want: c + d, join: JoinHole},
		"and what came behind it once more": {held: a + b, reads: []string{b + c[:len(c)-1], d, c + d}, want: c + d, join: JoinExact},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := New(&out, containerID)
			l.CompareStamps()
			if err := l.Resume(strings.NewReader(masked.Replace(tt.held)), 2, int64(len(tt.held)), time.Time{}); err != nil {
				t.Fatal(err)
			}
			if end, ok := l.End(); !ok || end.Times != strings.Count(tt.held, tt.held[len(tt.held)-len(a):]) {
				t.Errorf("it ends with %+v, %v", end, ok)
			}
			var res Result
			for _, body := range tt.reads {
				res = read(t, l, body)
			}
			if out.String() != tt.want || res.Join != tt.join || res.Missed != tt.missed {
				t.Errorf("join %q, missed %d, added %d bytes, want %d", res.Join, res.Missed, out.Len(), len(tt.want))
			}
		})
	}
}

// A log ends with another's lines only if it has all of those that have the last stamp.
func TestEndsWith(t *testing.T) {
	const a, b, c = "2026-03-01T12:00:00.000000001Z a\n", "2026-03-01T12:00:00.000000002Z b\n", "2026-03-01T12:00:00.000000002Z c\n"
	for _, tt := range []struct {
		one, other string
		want       bool
	}{
		{a + b, b, true},
		{b, a + b, true},
		{c, b + c, false}, // it lacks a line of that stamp
		{a + b, a + b, true},
		{a + b + c, a + b + c, true},
		{"2026-03-01T11:00:00.000000000Z before\n" + a + b + c, a + b + c, true},
		{a + b + c, a + b, false},
		{a + b, a + b + c, false},
		{a + b + c, a + c, true}, // both end with the same line
		{a + b, a + c + b, false},
		{a + "2026-03-01T12:00:00.000000002Z b", a + b, false},
		{a, "", false},
		{"", "", true},
	} {
		logs := [2]*Log{New(io.Discard, "id"), New(io.Discard, "id")}
		for i, text := range []string{tt.one, tt.other} {
			if _, err := logs[i].Read(strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		if logs[0].EndsWith(logs[1]) != tt.want {
			t.Errorf("%q with the end of %q: not %v", tt.one, tt.other, tt.want)
		}
	}
}
