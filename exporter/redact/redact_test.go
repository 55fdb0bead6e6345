package redact

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const at = "2026-11-23T10:00:00.123456789Z "

func mustNew(t testing.TB, rules []Rule) *Redactor {
	t.Helper()
	r, err := New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// builtins is made once: with the race detector that takes a while.
var builtins = sync.OnceValue(func() *Redactor {
	r, err := New(Builtin())
	if err != nil {
		panic(err)
	}
	return r
})

// redact writes a log in pieces; cut says how long the next one is.
func redact(t testing.TB, r *Redactor, log []byte, cut func() int) (string, map[string]int64) {
	t.Helper()
	var out bytes.Buffer
	w := r.NewWriter(&out)
	for rest := log; len(rest) > 0; {
		piece := slices.Clone(rest[:min(max(cut(), 0), len(rest))])
		if n, err := w.Write(piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		rest = rest[len(piece):]
		clear(piece) // a writer must not keep what it was given
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), w.Counts()
}

func whole() int { return 1 << 30 }

// reference runs every expression on every line, without anchors, tries and windows.
func reference(r *Redactor, log []byte) (string, map[string]int64) {
	var out bytes.Buffer
	counts := make(map[string]int64)
	k := keys{rule: r.key, end: r.keyEnd, maxLine: r.maxMatch}
	for line := range bytes.Lines(log) {
		text := bytes.TrimSuffix(line, []byte("\n"))
		n := stampLen(text)
		out.Write(text[:n])
		text = text[n:]
		var m scratch
		for i := range r.rules {
			if i == r.key {
				continue
			}
			before := len(m.spans)
			for _, loc := range r.rules[i].whole.FindAllSubmatchIndex(text, -1) {
				r.rules[i].add(&m, text, i, loc, 0)
			}
			if n := len(m.spans) - before; n > 0 {
				counts[r.rules[i].name] += int64(n)
			}
		}
		if r.key >= 0 {
			k.find(&m, view{text: text, limit: len(text), final: true}, r.rules[r.key].whole)
		}
		// Every byte of a span is marked with the span that its group begins with.
		slices.SortStableFunc(m.spans, order)
		group, end := -1, 0
		owner := make([]int, len(text)) // one more than the span's number
		for i, s := range m.spans {
			if s.start >= end {
				group, end = i, s.end
			}
			end = max(end, s.end)
			for b := s.start; b < s.end; b++ {
				owner[b] = group + 1
			}
		}
		for b := 0; b < len(text); b++ {
			switch g := owner[b] - 1; {
			case g < 0:
				out.WriteByte(text[b])
			case b == m.spans[g].start:
				out.Write(r.rules[m.spans[g].rule].replacement)
			}
		}
		if bytes.HasSuffix(line, []byte("\n")) {
			out.WriteByte('\n')
		}
	}
	if k.count > 0 {
		counts[r.rules[r.key].name] = k.count
	}
	return out.String(), counts
}

func same(t testing.TB, what string, log []byte, got, want string, gotCounts, wantCounts map[string]int64) {
	t.Helper()
	if got != want {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		from := max(i-60, 0)
		t.Fatalf("%s:\nlog  %.300q\ndiffer at %d:\n got …%.200q\nwant …%.200q", what, log, i, got[from:], want[from:])
	}
	if d := cmp.Diff(wantCounts, gotCounts); d != "" {
		t.Fatalf("%s: counts of %.300q: %s", what, log, d)
	}
}

func TestOneLine(t *testing.T) {
	r := mustNew(t, []Rule{
		{Name: "card", Pattern: `\bcard-[0-9]{4}\b`},
		{Name: "pin", Pattern: `(?i)pin=(?P<secret>[0-9]+)`, Replacement: "$1"},
		{Name: "start", Pattern: `^begin [a-z]+`, Replacement: "^"},
		{Name: "end", Pattern: `[a-z]+ finish$`, Replacement: "$"},
		{Name: "perhaps", Pattern: `perhaps(?P<secret>:[a-z]+)?!`},
		{Name: "wide", Pattern: `aaa.*zzz`},
		{Name: "tail", Pattern: `zz-[0-9]+`},
		{Name: "digits", Pattern: `[0-9]{12}`},
	})
	if got := r.Slow(); !slices.Equal(got, []string{"digits"}) {
		t.Errorf("slow: %v", got)
	}
	for _, c := range []struct{ in, want string }{
		{at + "card-1234 card-12345 xcard-1234 card-9999", at + "[REDACTED:card] card-12345 xcard-1234 [REDACTED:card]"},
		{"card-1234", "[REDACTED:card]"},
		{at + "PIN=1234, Pin=5, pin=x", at + "PIN=$1, Pin=$1, pin=x"},
		{at + "p\u0131n=1 \u212aey", at + "p\u0131n=1 \u212aey"},
		{at + strings.Repeat("pin=x ", 2*maxFailures) + "pin=5 pin=x pin=6", at + strings.Repeat("pin=x ", 2*maxFailures) + "pin=$1 pin=x pin=$1"},
		{at + "begin abc begin abc", at + "^ begin abc"},
		{at + "abc finish finish", at + "abc $"},
		{at + "perhaps:so! perhaps!", at + "perhaps[REDACTED:perhaps]! [REDACTED:perhaps]"},
		{at + "xaaa card-1234 pin=5 zzzy", at + "x[REDACTED:wide]y"},                               // inside another
		{at + "card-1234 aaa zzz-34 zz-5", at + "[REDACTED:card] [REDACTED:wide] [REDACTED:tail]"}, // and beyond its end
		{at + "n 123456789012 123456789012345678901234", at + "n [REDACTED:digits] [REDACTED:digits][REDACTED:digits]"},
		{"2026-11-23T10:00:00.123456789+01:00 202611231000", "2026-11-23T10:00:00.123456789+01:00 [REDACTED:digits]"},
		{at + "\xff\x00card-1234\xc3\r", at + "\xff\x00[REDACTED:card]\xc3\r"},
		{at, at},
		{"", ""},
		{at + "nothing here", at + "nothing here"},
	} {
		for _, end := range []string{"", "\n", "\n" + at + "next\n"} {
			got, _ := redact(t, r, []byte(c.in+end), whole)
			if got != c.want+end {
				t.Errorf("%q:\n got %q\nwant %q", c.in+end, got, c.want+end)
			}
		}
	}
}

// TestStamps: digits of a stamp are no match, whatever the rules.
func TestStamps(t *testing.T) {
	r := mustNew(t, []Rule{{Name: "all", Pattern: `.+`}, {Name: "year", Pattern: `2026`}})
	got, counts := redact(t, r, []byte(at+"a 2026\n"+at+"\n2026-11-23 no stamp\n"), whole)
	if want := at + "[REDACTED:all]\n" + at + "\n[REDACTED:all]\n"; got != want {
		t.Errorf("got %q", got)
	}
	if d := cmp.Diff(map[string]int64{"all": 2, "year": 2}, counts); d != "" {
		t.Error(d)
	}
}

func TestText(t *testing.T) {
	r := builtins()
	got, counts := r.Text("fatal: cannot connect\npassword=hunter2")
	if got != "fatal: cannot connect\npassword=[REDACTED:password]" || counts["password"] != 1 {
		t.Errorf("%q, %v", got, counts)
	}
	if got, counts := r.Text(""); got != "" || len(counts) != 0 {
		t.Errorf("%q, %v", got, counts)
	}
}

func TestNewRefuses(t *testing.T) {
	many := make([]Rule, maxRules+1)
	for _, c := range []struct {
		rules []Rule
		want  string
	}{
		{[]Rule{{Name: "", Pattern: "a"}}, "1 to 63 characters"},
		{[]Rule{{Name: strings.Repeat("a", 64), Pattern: "a"}}, "1 to 63 characters"},
		{[]Rule{{Name: "A b", Pattern: "a"}}, "lower-case letters"},
		{[]Rule{{Name: "a", Pattern: ""}}, "no pattern"},
		{[]Rule{{Name: "a", Pattern: "("}}, "missing closing )"},
		{[]Rule{{Name: "a", Pattern: "a(?=b)"}}, "RE2"},
		{[]Rule{{Name: "a", Pattern: "x*"}}, "matches the empty text"},
		{[]Rule{{Name: "a", Pattern: `\b`}}, "matches the empty text"},
		{[]Rule{{Name: "a", Pattern: `foo|`}}, "matches the empty text"},
		{[]Rule{{Name: "a", Pattern: "x", Replacement: "a\nb"}}, "not one line"},
		{[]Rule{{Name: "a", Pattern: "x", Replacement: strings.Repeat("x", 300)}}, "longer than 256"},
		{[]Rule{{Name: "a", Pattern: "x"}, {Name: "a", Pattern: "y"}}, "another rule of this name"},
		{[]Rule{{Name: "a", Pattern: "("}, {Name: "b", Pattern: ")"}}, `redaction rule "b"`},
		{many, "more than 1000"},
	} {
		if _, err := New(c.rules); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100v: %v, want an error with %q", c.rules, err, c.want)
		}
	}
	if _, err := New([]Rule{{Name: "a", Pattern: `\Qa.b`}}); err != nil { // what is open at its end
		t.Error(err)
	}
}

func TestAnchors(t *testing.T) {
	for _, c := range []struct {
		pattern string
		want    string // in order; "~" before those without case
		atStart bool
	}{
		{`foobar`, "foobar", true},
		{`foo(?:bar|baz)\d`, "foobar foobaz", true},
		{`\bfoobar`, "foobar", true},
		{`^foobar`, "foobar", false},
		{`(?i)Foobar[0-9]`, "~foobar", true},
		{`(?i:foo)bar`, "~foobar", true},
		{`(?i:foo)BAR`, "~foobar", true},
		{`fo[a-z]+barbar`, "barbar", false},
		{`foo([a-z]+barbar)`, "foo", true},
		{`[ab]foo`, "afoo bfoo", true},
		{`a?bcd`, "bcd abcd", true},
		{`.*foobar`, "foobar", false},
		{`[a-z]+://x`, "://x", false},
		{`(?:foobar)+`, "foobar", true},
		{`(?:ab){2,}`, "abab", true},
		{`x(?:foobar|.)y`, "", false},
		{`foo|[0-9]`, "", false},
		{`[0-9]{16}`, "", false},
		{`ab`, "", false},
		{`abcdefghijkl`, "abcdefgh", true},
		{`(?i)größe`, "", false},
		{`(?i)größenwahn`, "~enwahn", false},
		{`größe`, "größe", true},
		{"a\ufffdbcd", "bcd", false},
	} {
		r := mustNew(t, []Rule{{Name: "a", Pattern: c.pattern}})
		var got []string
		for _, a := range r.rules[0].anchors {
			if a.fold {
				a.text = "~" + a.text
			}
			got = append(got, a.text)
		}
		if s := strings.Join(got, " "); s != c.want || (r.rules[0].at != nil) != c.atStart {
			t.Errorf("%s: %q, at the start: %v", c.pattern, s, r.rules[0].at != nil)
		}
	}
}

// words are what logs of the tests below are made of: parts of secrets, so that many are nearly whole.
func words() []string {
	w := []string{
		" ", " ", "\n", "\n" + at, "\n" + at, "=", ":", "\"", "\\\"", "/", "@", ".", "-", "_", "a", "B7", "0", "é", "\xff", "\xc5", "\u017f", "\u212a",
		"token", "to\u212aen", "secret", "\u017fecret", "SECRET", "password", "Passwd", "api_key", "api", "key", "://", "://user:hunter2@", "user", "host", "authorization", "Bearer ", "basic ",
		"hunter2hunter", "9f8e7d6c5b4a39281706", "eyJ", "eyJhbGciOiJ9.eyJzdWIiOiI5.c2lnbmF0", "eyJhbGciOiJ9", ".eyJzdWIiOiI5.", "AKIA", "ABCDEFGHIJKLMNOP", "ghp_", "xoxb-", "sig=", "&", "SG.", "12345678:AA", "AccountKey=",
		"-----BEGIN ", "RSA ", "PRIVATE KEY-----", "-----END ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
		strings.Repeat("x", 50), strings.Repeat("4Hk", 40), "kkk key-aab", "key-abcabc", "1234-5678", "1234-",
	}
	return w
}

func randomLog(rnd *rand.Rand, n int, newlines bool) []byte {
	all := words()
	b := []byte(at)
	for range n {
		w := all[rnd.IntN(len(all))]
		if !newlines && rnd.IntN(8) > 0 {
			w = strings.Trim(w, "\n")
		}
		b = append(b, w...)
	}
	return b
}

func cuts(rnd *rand.Rand) func() int {
	longest := []int{1, 3, 40, 300, 5000}[rnd.IntN(5)]
	return func() int { return rnd.IntN(longest + 1) }
}

// TestDifferential compares with every expression run on every line.
func TestDifferential(t *testing.T) {
	r := mustNew(t, append(Builtin(),
		Rule{Name: "number", Pattern: `[0-9]{4}-[0-9]{4}`},
		Rule{Name: "middle", Pattern: `[a-z]+ key-[abc]{2,}`},
		Rule{Name: "first", Pattern: `^(?:key|user)=[^ ]+`},
		Rule{Name: "kelvin", Pattern: `(?i)kk(?P<secret>.)key`}))
	found := make(map[string]int64)
	for seed := range uint64(180) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		log := randomLog(rnd, 1+rnd.IntN(120), true)
		want, wantCounts := reference(r, log)
		got, counts := redact(t, r, log, cuts(rnd))
		same(t, fmt.Sprint("seed ", seed), log, got, want, counts, wantCounts)
		for name, n := range counts {
			found[name] += n
		}
	}
	for _, name := range []string{"token", "secret", "password", "url-password", "private-key", "jwt", "number", "middle", "kelvin", "api-key"} {
		if found[name] < 3 {
			t.Errorf("%s was found %d times only: the test shows nothing", name, found[name])
		}
	}
}

// TestHostile: text that almost matches everywhere does not take for ever.
func TestHostile(t *testing.T) {
	r := builtins()
	for _, text := range []string{"eyJaaaaaaaa", "token", "://a:", "-----BEGIN ", "secret=", "bearer aaaaaaaaaaaaaaaaa:", "SG.", "\u017f\u212a"} {
		log := []byte(at + strings.Repeat(text, (100<<10)/len(text)) + "\n")
		redact(t, r, log, func() int { return 32 << 10 })
	}
}

func TestWriterErrors(t *testing.T) {
	r := builtins()
	broken := errors.New("disk full")
	for n := range 4 {
		w := r.NewWriter(&failing{after: n, err: broken})
		_, err := w.Write([]byte(at + "password=hunter2\n" + at + "password=hunter3\n"))
		if !errors.Is(err, broken) {
			t.Errorf("after %d writes: %v", n, err)
		}
		if _, err := w.Write([]byte("x\n")); !errors.Is(err, broken) {
			t.Errorf("the next write: %v", err)
		}
		if err := w.Close(); !errors.Is(err, broken) {
			t.Errorf("close: %v", err)
		}
	}
	w := r.NewWriter(&bytes.Buffer{})
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("write after close succeeded")
	}
}

type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

// TestConcurrent uses one Redactor from many goroutines, for the race detector.
func TestConcurrent(t *testing.T) {
	r := builtins()
	log := randomLog(rand.New(rand.NewPCG(1, 1)), 3000, true)
	want, _ := redact(t, r, log, whole)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if got, _ := redact(t, r, log, func() int { return 100 + i }); got != want {
				t.Error("another result")
			}
		})
	}
	all.Wait()
}

// FuzzCuts: the result does not depend on how the log is cut, with windows too; stamps and lines stay.
func FuzzCuts(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(randomLog(rand.New(rand.NewPCG(seed, 3)), 60, seed%2 == 0), seed)
	}
	r, windows := builtins(), small(mustNew(f, Builtin()))
	f.Fuzz(func(t *testing.T, log []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		for _, r := range []*Redactor{r, windows} {
			want, wantCounts := redact(t, r, log, whole)
			got, counts := redact(t, r, log, cuts(rnd))
			same(t, "cuts", log, got, want, counts, wantCounts)
			lines, outLines := bytes.Split(log, []byte("\n")), strings.Split(got, "\n")
			if len(lines) != len(outLines) {
				t.Fatalf("%d lines became %d", len(lines), len(outLines))
			}
			for i, line := range lines {
				if stamp := line[:stampLen(line)]; !strings.HasPrefix(outLines[i], string(stamp)) {
					t.Fatalf("stamp %q became %.50q", stamp, outLines[i])
				}
			}
		}
		want, wantCounts := reference(r, log)
		got, counts := redact(t, r, log, cuts(rnd))
		same(t, "every expression on every line", log, got, want, counts, wantCounts)
	})
}

// FuzzPattern: for any pattern, anchors never change the result.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{`foo(bar|baz)+`, `(?i)k?secret`, `\bab[cd]e{2,}`, `a|bcd`, `(?i)[ks]ab`, `x*abc$`, `(?P<secret>ab)?cde`, `(?:ab){3}`, `é+abc`, `\Qabc`, `(^|x)abc`} {
		f.Add(p, []byte(at+"foobarbaz \u212asecret abcee bcd ſab xabc ababab éabc"))
	}
	f.Fuzz(func(t *testing.T, pattern string, log []byte) {
		if len(pattern) > 60 {
			return
		}
		r, err := New([]Rule{{Name: "a", Pattern: pattern}})
		if err != nil {
			return
		}
		want, wantCounts := reference(r, log)
		got, counts := redact(t, r, log, whole)
		same(t, pattern, log, got, want, counts, wantCounts)
	})
}

// A termination message may be the end of a log, and begin within a key.
func TestTextThatBeginsWithinAKey(t *testing.T) {
	r, err := New(Builtin())
	if err != nil {
		t.Fatal(err)
	}
	const line = "MIIJKQIBAAKCAgEAtDQ3mVq8b0cVw7kQpZr1s5Yx9uJ2nLh4Gf6TeRaSdWqBzXcV"
	message := strings.Repeat(line+"\n", 30) + "-----END RSA PRIVATE KEY-----\npanic: no such file\n"
	if text, _ := r.Text(message); strings.Contains(text, line) || !strings.Contains(text, "panic: no such file") {
		t.Errorf("%q", text)
	}
}
