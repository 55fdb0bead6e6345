package nodelog

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Expected values follow parseCRILog, logWriter.write and ReadLogs in k8s.io/cri-client/pkg/logs/logs.go
// at v0.37.2, by hand: the module is not among our dependencies.
func TestText(t *testing.T) {
	const z = "2026-01-02T03:04:05.100000000Z " // of the stamp .1Z
	const y = "2026-01-02T03:04:05.120000000Z " // of the stamp .12Z
	long := strings.Repeat("0123456789abcdef", 5<<16)
	for name, test := range map[string]struct {
		files     []string
		text      string
		lines     [2]int64
		malformed int64
		cuts      int64
	}{
		"nothing":           {files: []string{""}},
		"a line":            {files: []string{"2026-01-02T03:04:05.1Z stdout F one\n"}, text: z + "one\n", lines: [2]int64{1, 0}},
		"nine digits":       {files: []string{"2026-01-02T03:04:05.123456789Z stdout F one\n2026-01-02T03:04:05.123456790Z stderr F two\n"}, text: "2026-01-02T03:04:05.123456789Z one\n2026-01-02T03:04:05.123456790Z two\n", lines: [2]int64{1, 1}},
		"no digits":         {files: []string{"2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stdout F b\n"}, text: "2026-01-02T03:04:05.000000000Z a\n2026-01-02T03:04:05.000000000Z b\n", lines: [2]int64{2, 0}},
		"more digits":       {files: []string{"2026-01-02T03:04:05.1Z stdout F a\n2026-01-02T03:04:05.1234567899Z stdout F b\n"}, text: z + "a\n2026-01-02T03:04:05.123456789Z b\n", lines: [2]int64{2, 0}},
		"comma":             {files: []string{"2026-01-02T03:04:05.1Z stdout F a\n2026-01-02T03:04:05,12Z stdout F b\n"}, text: z + "a\n" + y + "b\n", lines: [2]int64{2, 0}},
		"zone":              {files: []string{"2026-01-02T03:04:05.1+02:00 stdout F a\n2026-01-02T03:04:05.12+02:00 stdout F b\n2026-01-02T03:04:05.12-07:30 stdout F c\n2026-01-02T03:04:05.12+00:00 stdout F d\n"}, text: "2026-01-02T03:04:05.100000000+02:00 a\n2026-01-02T03:04:05.120000000+02:00 b\n2026-01-02T03:04:05.120000000-07:30 c\n" + y + "d\n", lines: [2]int64{4, 0}},
		"empty line":        {files: []string{"2026-01-02T03:04:05.1Z stdout F \n2026-01-02T03:04:05.12Z stdout F \n"}, text: z + "\n" + y + "\n", lines: [2]int64{2, 0}},
		"carriage return":   {files: []string{"2026-01-02T03:04:05.1Z stdout F a\r\n"}, text: z + "a\r\n", lines: [2]int64{1, 0}},
		"binary":            {files: []string{"2026-01-02T03:04:05.1Z stdout F \x00\xff\xfe \x1b[0m\n"}, text: z + "\x00\xff\xfe \x1b[0m\n", lines: [2]int64{1, 0}},
		"no last newline":   {files: []string{"2026-01-02T03:04:05.1Z stdout F a\n2026-01-02T03:04:05.12Z stdout F b"}, text: z + "a\n" + y + "b", lines: [2]int64{2, 0}, cuts: 1},
		"partial":           {files: []string{"2026-01-02T03:04:05.1Z stdout P a\n2026-01-02T03:04:05.12Z stdout P b\n2026-01-02T03:04:05.12Z stdout F c\n2026-01-02T03:04:05.12Z stdout F d\n"}, text: z + "abc\n" + y + "d\n", lines: [2]int64{2, 0}},
		"partial at end":    {files: []string{"2026-01-02T03:04:05.1Z stdout P a\n"}, text: z + "a", lines: [2]int64{1, 0}},
		"partial, empty F":  {files: []string{"2026-01-02T03:04:05.1Z stdout P a\n2026-01-02T03:04:05.12Z stdout F \n"}, text: z + "a\n", lines: [2]int64{1, 0}},
		"empty partial":     {files: []string{"2026-01-02T03:04:05.1Z stdout P \n2026-01-02T03:04:05.12Z stdout F a\n"}, text: z + y + "a\n", lines: [2]int64{1, 0}},
		"mixed partials":    {files: []string{"2026-01-02T03:04:05.1Z stdout P a\n2026-01-02T03:04:05.12Z stderr P b\n2026-01-02T03:04:05.12Z stdout F c\n2026-01-02T03:04:05.12Z stderr F d\n"}, text: z + "abc\n" + y + "d\n", lines: [2]int64{1, 1}},
		"other tags":        {files: []string{"2026-01-02T03:04:05.1Z stdout F:x a\n2026-01-02T03:04:05.12Z stdout P:x:y b\n2026-01-02T03:04:05.12Z stdout new c\n"}, text: z + "a\n" + y + "bc\n", lines: [2]int64{2, 0}},
		"malformed":         {files: []string{"\n2026-01-02T03:04:05.1Z stdout F a\nrubbish\n2026-01-02T03:04:05.12Z stdin F b\n2026-01-02T03:04:05.12Z stdout F\n2026-13-02T03:04:05.12Z stdout F c\n{\"log\":\"json-file\"}\n2026-01-02T03:04:05.12Z stdout F d\n"}, text: z + "a\n" + y + "d\n", lines: [2]int64{2, 0}, malformed: 6},
		"malformed inside":  {files: []string{"2026-01-02T03:04:05.1Z stdout P a\nrubbish\n2026-01-02T03:04:05.12Z stdout F b\n"}, text: z + "ab\n", lines: [2]int64{1, 0}, malformed: 1},
		"zeros of a crash":  {files: []string{strings.Repeat("\x00", secondLen) + "stdout F \n" + strings.Repeat("\x00", 9000) + "\n2026-01-02T03:04:05.1Z stdout F a\n"}, text: z + "a\n", lines: [2]int64{1, 0}, malformed: 2},
		"far header":        {files: []string{"2026-01-02T03:04:05.1Z stdout F:" + strings.Repeat("x", maxHeader) + " a\n2026-01-02T03:04:05.1Z stdout F b\n"}, text: z + "b\n", lines: [2]int64{1, 0}, malformed: 1},
		"header cut off":    {files: []string{"2026-01-02T03:04:05.1Z stdout F a\n2026-01-02T03:04:05.12Z std", "2026-01-02T03:04:05.12Z stdout F b\n"}, text: z + "a\n" + y + "b\n", lines: [2]int64{2, 0}, malformed: 1, cuts: 1},
		"line cut off":      {files: []string{"2026-01-02T03:04:05.1Z stdout F a", "2026-01-02T03:04:05.12Z stdout F b\n"}, text: z + "a\n" + y + "b\n", lines: [2]int64{2, 0}, cuts: 1},
		"partial over file": {files: []string{"2026-01-02T03:04:05.1Z stdout P a\n", "2026-01-02T03:04:05.12Z stdout P b\n", "2026-01-02T03:04:05.12Z stdout F c\n"}, text: z + "abc\n", lines: [2]int64{1, 0}},
		"partial cut off":   {files: []string{"2026-01-02T03:04:05.1Z stdout P a", "2026-01-02T03:04:05.12Z stdout F c\n"}, text: z + "ac\n", lines: [2]int64{1, 0}, cuts: 1},
		"5 MiB":             {files: []string{"2026-01-02T03:04:05.1Z stdout F " + long + "\n2026-01-02T03:04:05.12Z stdout F b\n"}, text: z + long + "\n" + y + "b\n", lines: [2]int64{2, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1 << 20, maxHeader, 7, 1} {
				if size < 100 && len(test.text) > 1<<20 {
					continue
				}
				var p parser
				text := convertAll(&p, test.files, func() int { return size })
				if text != test.text {
					t.Fatalf("in pieces of %d: got %.300q, want %.300q", size, text, test.text)
				}
				if p.lines != test.lines || p.malformed != test.malformed || p.cuts != test.cuts {
					t.Errorf("in pieces of %d: lines %v, malformed %d, cuts %d, want %v, %d, %d", size, p.lines, p.malformed, p.cuts, test.lines, test.malformed, test.cuts)
				}
				if slow, malformed := reference(test.files); slow != test.text || malformed != test.malformed {
					t.Errorf("the reference says %.300q, %d", slow, malformed)
				}
			}
		})
	}
}

// convertAll feeds the files as Reader does, in pieces of the sizes that size gives.
func convertAll(p *parser, files []string, size func() int) string {
	var out, in []byte
	for _, file := range files {
		for len(file) > 0 {
			n := min(size(), len(file))
			in = append(in, file[:n]...)
			file = file[n:]
			var used int
			out, used = p.convert(out, in)
			in = append(in[:0], in[used:]...)
		}
		p.end(in, false)
		in = in[:0]
	}
	return string(out)
}

// reference is the kubelet's code, line by line, with our two rules for what it has none: how long a
// header may be, and a full line that its file cuts off while another follows.
func reference(files []string) (text string, malformed int64) {
	var out strings.Builder
	newLine, cut := true, false
	for _, file := range files {
		for line := range strings.Lines(file) {
			stamp, rest, ok1 := strings.Cut(line, " ")
			stream, rest, ok2 := strings.Cut(rest, " ")
			tags, content, ok3 := strings.Cut(rest, " ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if !ok1 || !ok2 || !ok3 || err != nil || stream != "stdout" && stream != "stderr" || len(line)-len(content) > maxHeader {
				malformed++
				continue
			}
			partial := strings.Split(tags, ":")[0] == "P"
			if partial {
				content = strings.TrimSuffix(content, "\n")
			}
			if cut {
				out.WriteString("\n")
			}
			if newLine || cut {
				out.WriteString(at.Format("2006-01-02T15:04:05.000000000Z07:00") + " ")
			}
			out.WriteString(content)
			newLine = content == "" || strings.HasSuffix(content, "\n")
			cut = !partial && !strings.HasSuffix(content, "\n")
		}
	}
	return out.String(), malformed
}

func FuzzCRI(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.1Z stdout P a\n2026-01-02T03:04:05.12Z stderr F b\n\x01 2026-01-02T03:04:05.12Z stdout F c"), uint64(1))
	f.Add([]byte("2026-01-02T03:04:05+01:00 stdout F \n2026-01-02T03:04:05.123456789+01:00 stderr P:x \n\n\n stdout F\n"), uint64(2))
	f.Add([]byte("2026-01-02T03:04:05,5Z stdout F a\x012026-01-02T03:04:05.0000000001Z stdout F b\n"), uint64(3))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		files := strings.Split(string(data), "\x01")
		want, malformed := reference(files)
		random := rand.New(rand.NewPCG(seed, 0))
		for _, size := range []func() int{func() int { return 1 << 20 }, func() int { return 1 }, func() int { return 1 + random.IntN(60) }} {
			var p parser
			if got := convertAll(&p, files, size); got != want || p.malformed != malformed {
				t.Fatalf("got %q, %d malformed, want %q, %d", got, p.malformed, want, malformed)
			}
		}
	})
}

func BenchmarkCRI(b *testing.B) {
	for name, line := range map[string]string{
		"80":  strings.Repeat("x", 80-36),
		"200": strings.Repeat("x", 200-36),
	} {
		b.Run(name, func(b *testing.B) {
			var file bytes.Buffer
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			for file.Len() < 1<<20 {
				at = at.Add(12345 * time.Nanosecond)
				file.WriteString(at.Format(time.RFC3339Nano) + " stdout F " + line + "\n")
			}
			data := file.Bytes()
			var p parser
			out := make([]byte, 0, len(data))
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				out, _ = p.convert(out[:0], data)
			}
		})
	}
}
