package redact

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// small makes lines long that are not, for windows in quick tests.
func small(r *Redactor) *Redactor {
	r.maxLine, r.maxMatch = 200, 60
	return r
}

// TestWindows: in a long line all matches up to the bound are found as in the whole line.
func TestWindows(t *testing.T) {
	rules := []Rule{
		{Name: "bounded", Pattern: `\bkey-[abc]{1,20}\b`},
		{Name: "group", Pattern: `token=(?P<secret>[a-z0-9]{1,30})`},
		{Name: "phase", Pattern: `4Hk4Hk4`},
		{Name: "number", Pattern: `[0-9]{4}-[0-9]{4}`},
		{Name: "first", Pattern: `^key-a.{3}`},
		{Name: "last", Pattern: `.{4}x$`},
		{Name: "before", Pattern: `(?:^|[^a-z])user.{0,10}`},
		Builtin()[0],
	}
	if rules[7].Name != "private-key" {
		t.Fatal("the rule for keys is missing")
	}
	r, ref := small(mustNew(t, rules)), mustNew(t, rules)
	ref.maxMatch = r.maxMatch
	found := make(map[string]int64)
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		log := randomLog(rnd, 1+rnd.IntN(300), false)
		want, wantCounts := reference(ref, log)
		got, counts := redact(t, r, log, cuts(rnd))
		same(t, fmt.Sprint("seed ", seed), log, got, want, counts, wantCounts)
		for name, n := range counts {
			found[name] += n
		}
	}
	for _, rule := range rules {
		if found[rule.Name] < 3 {
			t.Errorf("%s was found %d times only: the test shows nothing", rule.Name, found[rule.Name])
		}
	}
}

// TestWindowsSliding moves what is hard over all places of a long line.
func TestWindowsSliding(t *testing.T) {
	rules := []Rule{
		{Name: "bounded", Pattern: `\bkey-[abc]{1,20}\b`},
		{Name: "far", Pattern: `user.{0,30}(?P<secret>host)`},
		{Name: "number", Pattern: `[0-9]{4}-[0-9]{4}`},
		{Name: "before", Pattern: `.{3}token`},
		{Name: "dots", Pattern: `\.{4}x`},
		Builtin()[0],
	}
	r, ref := small(mustNew(t, rules)), mustNew(t, rules)
	ref.maxMatch = r.maxMatch
	begin, end := "-----BEGIN "+"PRIVATE KEY-----", "-----END "+"PRIVATE KEY-----"
	for _, text := range []string{
		"user key-abc 1234-5678 host 1234-5678",
		"userkey-abc1234-5678host",
		begin + end[5:] + " 1234-5678 " + end + "BEGIN PRIVATE KEY----- 1234-5678",
		begin + " 1234-5678 " + end + begin[5:] + " 1234-5678 token",
		"éééé" + "token" + "éétoken", "....x",
	} {
		for i, filler := range []string{".", "é", "a", " "} {
			for place := i % 5; place < 330; place += 5 {
				log := []byte(at + strings.Repeat(filler, place) + text + strings.Repeat(filler, 400-place) + "\n" + at + "next\n")
				want, wantCounts := reference(ref, log)
				got, counts := redact(t, r, log, func() int { return 90 })
				same(t, fmt.Sprintf("%q at %d between %q", text, place, filler), log, got, want, counts, wantCounts)
			}
		}
	}
}

// TestWindowsAtFullSize puts a secret of the longest length at every kind of place in a line of 1 MiB.
func TestWindowsAtFullSize(t *testing.T) {
	r := mustNew(t, []Rule{{Name: "blob", Pattern: `\bblob:[a-z]+;`}})
	secret := "blob:" + strings.Repeat("q", MaxMatch-6) + ";"
	step := MaxLine - MaxMatch
	for _, place := range []int{0, step - MaxMatch, step - 100, step - 1, step, step + 1, MaxLine - MaxMatch/2, MaxLine, 2*step - 7, 3 * step} {
		line := strings.Repeat("-", place) + secret + strings.Repeat("-", 4*MaxLine-place)
		got, counts := redact(t, r, []byte(at+line+"\n"), func() int { return 40_000 })
		if want := at + strings.Replace(line, secret, "[REDACTED:blob]", 1) + "\n"; got != want || counts["blob"] != 1 {
			t.Errorf("at %d: found %d, text right: %v", place, counts["blob"], got == want)
		}
	}
}

// TestMemory: no more than a window is held of a line, and nothing much between lines.
func TestMemory(t *testing.T) {
	r := builtins()
	w := r.NewWriter(&bytes.Buffer{})
	piece := bytes.Repeat([]byte("password=hunter2 "), 1000)
	for range 30 {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
		if cap(w.line) > 2*(MaxLine+MaxMatch) {
			t.Fatalf("%d bytes are held", cap(w.line))
		}
	}
	if _, err := w.Write([]byte("\n" + at + "abc")); err != nil {
		t.Fatal(err)
	}
	if cap(w.line) > keepBuffer {
		t.Errorf("%d bytes are kept", cap(w.line))
	}
	if n := w.Counts()["password"]; n != 30_000 {
		t.Errorf("found %d", n)
	}
}
