package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The results stand between these lines of the Markdown file.
const (
	beginMark = "<!-- bench: begin, written by make bench -->"
	endMark   = "<!-- bench: end -->"
)

// words puts counts in words: "38 complete, 2 unproven".
func words(counts map[string]int) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[what], what))
	}
	return strings.Join(parts, ", ")
}

func (r row) latencyWords() string {
	if len(r.latency) == 0 {
		return "–"
	}
	text := fmt.Sprintf("%.1f s / %.1f s", r.latency[len(r.latency)/2].Seconds(), r.latency[len(r.latency)-1].Seconds())
	if len(r.ours) > 0 {
		text += fmt.Sprintf(", ours %.1f s", r.ours[len(r.ours)/2].Seconds())
	}
	return text
}

func (r row) keptWords() string {
	if r.written == 0 {
		return "–"
	}
	percent := 100 * float64(r.kept) / float64(r.written)
	if r.kept < r.written {
		percent = min(percent, 99.9) // not rounded up to all of them
	}
	return fmt.Sprintf("%d of %d (%.4g %%)", r.kept, r.written, percent)
}

func (r row) perGB() string {
	if !r.workload.large || r.tally.bytes == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", r.cpu.Seconds()/(float64(r.tally.bytes)/1e9))
}

func (r row) cells() []string {
	return []string{
		r.client, r.keptWords(), fmt.Sprint(r.twice), fmt.Sprint(r.tally.cut), words(r.ends), fmt.Sprintf("%.2f", r.cpu.Seconds()), r.perGB(),
		peakWords(r.peak), r.latencyWords(),
	}
}

func peakWords(n int64) string {
	if n == 0 {
		return "–" // it was too short to be looked at
	}
	return fmt.Sprint(n >> 20)
}

func heads() []string {
	return []string{"client", "lines kept", "twice", "cut", "verdicts or exit codes", "CPU s", "CPU s per GB", "peak MiB", "exit → record, median / max"}
}

// table is a Markdown table.
func table(heads []string, rows [][]string) string {
	var s strings.Builder
	line := func(cells []string) { fmt.Fprintf(&s, "| %s |\n", strings.Join(cells, " | ")) }
	line(heads)
	rule := make([]string, len(heads))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, cells := range rows {
		escaped := slices.Clone(cells)
		for i := range escaped {
			escaped[i] = strings.ReplaceAll(escaped[i], "|", `\|`)
		}
		line(escaped)
	}
	return s.String()
}

// report prints the results, writes them into the file, and fails if a record says more than is true.
func (b *bench) report(ctx context.Context) error {
	b.say("results\n")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	last := ""
	for _, r := range b.rows {
		if r.workload.title != last {
			last = r.workload.title
			fmt.Fprintf(w, "\n%s\n%s\n", last, strings.Join(heads(), "\t"))
		}
		fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
	}
	for _, section := range []struct{ heads, rows [][]string }{{[][]string{costHeads()}, b.costRows()}, {[][]string{speedHeads()}, b.speedRows()}} {
		if len(section.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		for _, cells := range append(section.heads, section.rows...) {
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println()
	err := errors.Join(b.failed, b.write(ctx))
	if len(b.wrong) > 0 {
		err = errors.Join(err, fmt.Errorf("FALSE VERDICTS: %d RECORDS SAY COMPLETE AND LINES ARE MISSING:\n%s", len(b.wrong), strings.Join(b.wrong, "\n")))
	}
	return err
}

func costHeads() []string {
	return []string{"who", "text", "CPU s (median)", "all tries", "CPU s per GB"}
}

func (b *bench) costRows() [][]string {
	var rows [][]string
	for _, c := range b.costs {
		var tries []string
		for _, u := range c.tries {
			tries = append(tries, fmt.Sprintf("%.2f", u.cpu.Seconds()))
		}
		rows = append(rows, []string{c.who, fmt.Sprintf("%.1f MB", float64(c.bytes)/1e6), fmt.Sprintf("%.2f", c.cpu().Seconds()), strings.Join(tries, ", "), fmt.Sprintf("%.1f", c.perGB())})
	}
	return rows
}

func speedHeads() []string {
	return []string{"benchmark", "MB/s", "allocs per MB", "speed of zstd alone", "the same in CPU time"}
}

func (b *bench) speedRows() [][]string {
	var rows [][]string
	or := func(s, unit string) string {
		if s == "" {
			return "–"
		}
		return s + unit
	}
	for _, s := range b.speeds {
		rows = append(rows, []string{s.name, or(s.values["MB/s"], ""), or(s.values["allocs/MB"], ""), or(s.values["of-plain-%"], " %"), or(s.values["cpu-of-plain-%"], " %")})
	}
	return rows
}

// text is the part of the file that is measured.
func (b *bench) text(ctx context.Context) (string, error) {
	about, err := b.about(ctx)
	if err != nil {
		return "", err
	}
	var s strings.Builder
	fmt.Fprintf(&s, "Measured on %s, in %.0f minutes.\n\n", time.Now().UTC().Format(time.DateOnly), time.Since(b.begin).Minutes())
	var rows [][]string
	for _, pair := range about {
		rows = append(rows, pair[:])
	}
	s.WriteString(table([]string{"what", "which"}, rows))
	rows = nil
	for i, r := range b.rows {
		rows = append(rows, r.cells())
		if i+1 < len(b.rows) && b.rows[i+1].workload.title == r.workload.title {
			continue
		}
		how := "One client after the other, each on fresh pods."
		if r.workload.together || b.gather {
			how = "All clients on the same pods, at the same time."
		}
		fmt.Fprintf(&s, "\n### %s\n\n%s\n\n%s", r.workload.title, how, table(heads(), rows))
		rows = nil
	}
	if len(b.wrong) > 0 {
		fmt.Fprintf(&s, "\n**FALSE VERDICTS: %d records say complete and lines are missing.**\n", len(b.wrong))
	}
	if rows := b.costRows(); len(rows) > 0 {
		fmt.Fprintf(&s, "\n### CPU time to read and compress the logs of 4 ended containers\n\nThey take turns, %d times; the median counts.\n\n%s", costTries, table(costHeads(), rows))
	}
	if rows := b.speedRows(); len(rows) > 0 {
		fmt.Fprintf(&s, "\n### The capture path without a cluster\n\n%s", table(speedHeads(), rows))
	}
	return s.String(), nil
}

// write puts the results into the file, if they are whole.
func (b *bench) write(ctx context.Context) error {
	text, err := b.text(ctx)
	if err != nil {
		return err
	}
	if b.scale != 1 || len(b.workloads) < len(allWorkloads()) || len(b.clients) < len(clientNames()) || !b.goBench || b.failed != nil {
		b.say("not all was measured, so %s stays as it is; it would say:\n\n%s", b.markdown, text)
		return nil
	}
	name := filepath.Join(b.root, b.markdown)
	if filepath.IsAbs(b.markdown) {
		name = b.markdown
	}
	old, err := os.ReadFile(name) //nolint:gosec // named by the user
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	before, rest, ok1 := strings.Cut(string(old), beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok1 || !ok2 {
		return fmt.Errorf("write results: %s lacks the lines %q and %q", b.markdown, beginMark, endMark)
	}
	fresh := before + beginMark + "\n\n" + text + "\n" + endMark + after
	if err := os.WriteFile(name, []byte(fresh), 0o644); err != nil { //nolint:gosec // a document
		return fmt.Errorf("write results: %w", err)
	}
	b.say("written to %s", b.markdown)
	return nil
}
