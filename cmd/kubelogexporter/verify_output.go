package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a descriptor fits
}

// verifyOutput prints findings as they come: there may be many.
type verifyOutput struct {
	show          *progress
	w             io.Writer
	json          bool
	where, sample string
	printed       int
	err           error
}

func (o *verifyOutput) print(format string, args ...any) {
	if o.err == nil {
		o.err = o.show.print(o.w, fmt.Sprintf(format, args...))
	}
}

func (o *verifyOutput) begin() {
	if o.json {
		o.print("{\n  \"findings\": [")
	}
}

// jsonFinding and jsonSummary are documented in the command's help.
type jsonFinding struct {
	Kind    archive.FindingKind `json:"kind"`
	Key     string              `json:"key"`
	Record  string              `json:"record,omitempty"`
	Problem string              `json:"problem,omitempty"`
	Next    string              `json:"next,omitempty"`
	Causes  []bundle.Cause      `json:"causes,omitempty"`
}

type jsonSummary struct {
	Sink   string `json:"sink"`
	Level  string `json:"level"`
	Sample string `json:"sample"`

	Runs        int64 `json:"runs"`
	Records     int64 `json:"records"`
	LogObjects  int64 `json:"logObjects"`
	StoredBytes int64 `json:"storedBytes"`
	ReadBytes   int64 `json:"readBytes"`

	Damaged    int64 `json:"damaged"`
	Missing    int64 `json:"missing"`
	Orphans    int64 `json:"orphans"`
	Unchecked  int64 `json:"unchecked"`
	Duplicates int64 `json:"duplicates"`
	Leftovers  int64 `json:"leftovers"`
	NoDigest   int64 `json:"noDigest"`
	Foreign    int64 `json:"foreign"`
	Young      int64 `json:"young"`

	ChecksumsCompared   int64 `json:"checksumsCompared"`
	ChecksumsNotOffered int64 `json:"checksumsNotOffered"`

	Complete        int64                  `json:"complete"`
	Running         int64                  `json:"running"`
	Gaps            int64                  `json:"gaps"`
	GapsByCause     map[bundle.Cause]int64 `json:"gapsByCause"`
	Unproven        int64                  `json:"unproven"`
	UnprovenByCause map[bundle.Cause]int64 `json:"unprovenByCause"`
}

func (o *verifyOutput) finding(f archive.Finding) {
	problem, next := describe(f)
	if o.json {
		separator := ""
		if o.printed > 0 {
			separator = ","
		}
		o.print("%s\n    %s", separator, o.encode(jsonFinding{f.Kind, f.Key, f.Record, problem, next, f.Causes}, ""))
		o.printed++
		return
	}
	switch f.Kind {
	case archive.FoundGap, archive.FoundLeftover, archive.FoundNoDigest:
		return // the summary counts them
	}
	line := fmt.Sprintf("%-9s %s: %s", f.Kind, cmp.Or(f.Key, "the whole archive"), problem)
	if next != "" {
		line += " (" + next + ")"
	}
	o.print("%s\n", line)
}

func (o *verifyOutput) encode(v any, indent string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if indent != "" {
		e.SetIndent(indent, "  ")
	}
	if err := e.Encode(v); err != nil && o.err == nil {
		o.err = err
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (o *verifyOutput) end(v archive.Verification, failed error) {
	if !o.json {
		o.summary(v, failed)
		return
	}
	close := "\n  ]"
	if o.printed == 0 {
		close = "]"
	}
	o.print("%s,\n  \"result\": %q,\n  \"summary\": %s\n}\n", close, verifyResult(v, failed), o.encode(jsonSummary{
		Sink: o.where, Level: v.Level.String(), Sample: o.sample,
		Runs: v.Runs, Records: v.Records, LogObjects: v.Objects, StoredBytes: v.Stored, ReadBytes: v.Read,
		Damaged: v.Damaged, Missing: v.Missing, Orphans: v.Orphans, Unchecked: v.Unchecked, Duplicates: v.Duplicates,
		Leftovers: v.Leftovers, NoDigest: v.NoDigest, Foreign: v.Foreign, Young: v.Young,
		ChecksumsCompared: v.ChecksumsCompared, ChecksumsNotOffered: v.ChecksumsNotOffered,
		Complete: v.Complete, Running: v.Running, Gaps: v.Gaps, GapsByCause: v.GapsByCause, Unproven: v.Unproven, UnprovenByCause: v.UnprovenByCause,
	}, "  "))
}

// summary prints the numbers. The number of gaps is always among them.
func (o *verifyOutput) summary(v archive.Verification, failed error) {
	row := func(name, format string, args ...any) { o.print("%-10s %s\n", name, fmt.Sprintf(format, args...)) }
	of := func(n int64, causes map[bundle.Cause]int64) string {
		s := fmt.Sprintf("%d of %s", n, count(int(v.Runs), "run", "runs"))
		if n > 0 {
			s += ": " + byCause(causes)
		}
		return s
	}
	sample := ""
	if v.NotChosen > 0 {
		sample = ", a sample of " + o.sample
	}
	row("verified", "%s at level %s%s", o.where, v.Level, sample)
	row("stored", "%s, %s, %s (%s read)", count(int(v.Records), "record", "records"), count(int(v.Objects), "log object", "log objects"), size(v.Stored), size(v.Read))
	row("damaged", "%d", v.Damaged)
	row("missing", "%d", v.Missing)
	row("orphans", "%d", v.Orphans)
	row("unchecked", "%d", v.Unchecked)
	if v.Level == archive.LevelHead {
		row("checksums", "%d compared, %d not offered by the store", v.ChecksumsCompared, v.ChecksumsNotOffered)
	}
	row("gaps", "%s", of(v.Gaps, v.GapsByCause))
	row("unproven", "%s", of(v.Unproven, v.UnprovenByCause))
	row("complete", "%d of %s, %d had not ended", v.Complete, count(int(v.Runs), "run", "runs"), v.Running)
	for _, note := range []struct {
		n    int64
		text string
	}{
		{v.Duplicates, "duplicate final records"},
		{v.Leftovers, "log objects left over from uploads that were broken off"},
		{v.Young, "log objects without a record that are less than an hour old"},
		{v.NoDigest, "records of format 1.0, without a digest: a changed byte in them may not show"},
		{v.Foreign, "objects or folders that are not the archive's"},
	} {
		if note.n > 0 {
			row("note", "%d %s", note.n, note.text)
		}
	}
	o.print("%s\n", map[string]string{
		"ok":        fmt.Sprintf("OK: intact, with %d gaps", v.Gaps),
		"gaps":      fmt.Sprintf("INTACT, but with %s", count(int(v.Gaps), "gap", "gaps")),
		"damaged":   fmt.Sprintf("DAMAGED, and with %s", count(int(v.Gaps), "gap", "gaps")),
		"unchecked": "NOT CHECKED completely",
	}[verifyResult(v, failed)])
}
