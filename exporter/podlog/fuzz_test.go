package podlog

import (
	"bytes"
	"strings"
	"testing"
	"testing/iotest"
)

// Whatever a body is, what is held is what came: the body without an error text at its end, and but for a
// piece of a stamp.
func FuzzErrorTexts(f *testing.F) {
	id := strings.TrimPrefix(containerID, "containerd://")
	gone := "rpc error: code = NotFound desc = an error occurred when try to find container \"" + id + "\": not found"
	for _, t := range inBandTexts {
		f.Add(stamped(1, "a\n") + t.prefix + "more")
		f.Add(t.prefix)
		f.Add(stamped(1, "a\n") + t.prefix + "\n")
	}
	f.Add(stamped(1, "a") + gone)
	f.Add(stamped(1, gone) + gone)
	f.Add(stamped(1, gone+"\n"))
	f.Add(stamped(1, "a")[:20] + gone)
	f.Add("unable to retrieve container logs for " + containerID)
	f.Add(stamped(1, "unable to retrieve container logs for containerd://"+id[:11]))
	f.Add(stamped(1, strings.Repeat("z", bufferSize)) + gone)
	f.Fuzz(func(t *testing.T, body string) {
		var out bytes.Buffer
		res, err := New(&out, containerID).Read(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		held := out.String()
		rest, isPrefix := strings.CutPrefix(body, held)
		rest, hasText := strings.CutSuffix(rest, res.Text)
		switch {
		case !isPrefix || !hasText || rest != "" && !partOfStamp([]byte(rest)):
			t.Errorf("held %q and text %q of %q", held, res.Text, body)
		case (res.Text == "") != (res.TextKind == TextNone), res.Own && !strings.Contains(res.Text, id):
			t.Errorf("text %q, kind %q, own %v", res.Text, res.TextKind, res.Own)
		case strings.Contains(res.Text, "\n"), strings.HasSuffix(body, "\n") && res.Text != "":
			t.Errorf("text %q holds a whole line", res.Text)
		case rest != "" && res.Join != JoinShort, res.Appended != int64(len(held)):
			t.Errorf("join %q, appended %d, held %d, left out %q", res.Join, res.Appended, len(held), rest)
		}
		var slow bytes.Buffer
		if again, err := New(&slow, containerID).Read(iotest.OneByteReader(strings.NewReader(body))); err != nil || again != res || slow.String() != held {
			t.Errorf("byte by byte: %+v and not %+v, %v", again, res, err)
		}
	})
}

// Any two bodies: no panic, never more held than was read but for a newline, and results that fit together.
func FuzzJoin(f *testing.F) {
	a, b, c := stamped(1, "a\n"), stamped(2, "b\n"), stamped(3, "c\n")
	for _, bodies := range [][2]string{
		{a + b, b + c}, {a, c}, {a + b, a}, {"", a}, {a, ""}, {a + b[:33], a + b + c}, {a + b[:10], b + c}, {a + a, a + a + a},
		{a + "x\n", "x\n" + b}, {"x", "xy\n"}, {"\n\n", "\n"}, {a + b + c, "rest\n" + b + c}, {a + c + b, b + c}, {b + a + c, c + a},
		{a + "unable to retrieve container logs for " + containerID, a + b}, {join(many(40)), join(many(60)[10:])},
		{stamped(1, strings.Repeat("l", prefixSize)), stamped(1, strings.Repeat("l", prefixSize+1)+"\n")},
	} {
		f.Add(bodies[0], bodies[1], false)
		f.Add(bodies[0], bodies[1], true)
	}
	f.Fuzz(func(t *testing.T, first, second string, refuse bool) {
		var out bytes.Buffer
		l := New(&out, containerID)
		for i, body := range []string{first, second, second} {
			before := l.Bytes()
			l.RefuseHoles = refuse && i > 0
			res, err := l.Read(strings.NewReader(body))
			added := l.Bytes() - before
			if err != nil && (!l.RefuseHoles || res.Join != JoinHole || added != 0) {
				t.Fatalf("read %d: %v, added %d, %+v", i, err, added, res)
			}
			doubt := res.Join == JoinHole || res.Missed > 0
			switch {
			case int64(out.Len()) != l.Bytes(), added != res.Appended && (added != res.Appended+1 || res.Join != JoinHole):
				t.Errorf("read %d: %d bytes written, %d counted, %d added: %+v", i, out.Len(), l.Bytes(), added, res)
			case res.Appended > int64(len(body)), res.Appended < 0, err == nil && res.Bytes != int64(len(body)):
				t.Errorf("read %d of %d bytes: %+v", i, len(body), res)
			case res.Join == JoinFirst && before > 0, res.Join == JoinExact && before == 0, res.Join == JoinEmpty && added > 0:
				t.Errorf("read %d, %d held before: %+v", i, before, res)
			case res.Aligned && (res.Join != JoinExact || res.Missed > 0):
				t.Errorf("read %d: aligned and not exact: %+v", i, res)
			case !res.First.IsZero() == res.Last.IsZero(), !doubt && !res.HoleBefore.IsZero(), l.FirstSecond() > l.Bytes():
				t.Errorf("read %d: stamps %+v", i, res)
			case strings.Count(out.String(), "\n") > int(l.Lines()):
				t.Errorf("read %d: %d lines counted of %q", i, l.Lines(), out.String())
			}
		}
	})
}
