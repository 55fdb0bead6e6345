package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// printAs prints v as JSON or YAML, or as text if no format is asked for.
func printAs(w io.Writer, format string, v any, text func(io.Writer) error) error {
	switch format {
	case "":
		return text(w)
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print yaml: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	return usagef("--output: unknown format %q", format)
}

// runFormats are the values of -o where runs are listed.
func runFormats() []string { return []string{"wide", "json", "yaml", "name"} }

func checkRunFormat(format string) error {
	if format != "" && !slices.Contains(runFormats(), format) {
		return usagef("--output: %q is none of %s", format, strings.Join(runFormats(), ", "))
	}
	return nil
}

// runTable is a list of archived runs on its way to the user.
type runTable struct {
	Items     []*bundle.Record `json:"items"`
	format    string
	noHeaders bool
	now       time.Time
}

func newRunTable(format string, noHeaders bool, now time.Time) *runTable {
	return &runTable{Items: []*bundle.Record{}, format: format, noHeaders: noHeaders, now: now}
}

// add takes a record, without the parts that the format does not show: they are most of it.
func (t *runTable) add(r *bundle.Record) {
	if t.format != "json" && t.format != "yaml" {
		slim := *r
		slim.PodObject, slim.Events, slim.LastLines, slim.Objects, slim.Pod.Labels = nil, nil, nil, nil, nil
		slim.Capture = bundle.Capture{}
		r = &slim
	}
	t.Items = append(t.Items, r)
}

// print prints the runs, those that ended first first.
func (t *runTable) print(w io.Writer) error {
	slices.SortStableFunc(t.Items, func(a, b *bundle.Record) int {
		return cmp.Or(endOf(a).Compare(endOf(b)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod.Name, b.Pod.Name),
			strings.Compare(a.Container.Name, b.Container.Name), cmp.Compare(a.Container.RestartCount, b.Container.RestartCount))
	})
	switch t.format {
	case "json", "yaml":
		return printAs(w, t.format, t, nil)
	case "name":
		for _, r := range t.Items {
			if _, err := fmt.Fprintln(w, recordKey(r)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(t.Items) == 0 {
		return nil
	}
	return t.table(w, t.format == "wide")
}

func (t *runTable) table(w io.Writer, wide bool) error {
	clusters := wide || slices.ContainsFunc(t.Items, func(r *bundle.Record) bool { return r.Cluster != t.Items[0].Cluster })
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = printable(cells[i])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if !t.noHeaders {
		head := []string{"NAMESPACE", "POD", "CONTAINER", "RESTART", "REASON", "EXIT", "FINISHED", "LINES", "SIZE", "VERDICT"}
		if clusters {
			head = append([]string{"CLUSTER"}, head...)
		}
		if wide {
			head = append(head, "NODE", "IMAGE", "UID", "OWNER", "KEY")
		}
		row(head...)
	}
	for _, r := range t.Items {
		cells := []string{
			r.Namespace, r.Pod.Name, r.Container.Name, strconv.Itoa(int(r.Container.RestartCount)), reason(r), exitStatus(r),
			t.finished(r, wide), strconv.FormatInt(r.Lines, 10), size(r.RawBytes), verdict(r),
		}
		if clusters {
			cells = append([]string{r.Cluster}, cells...)
		}
		if wide {
			cells = append(cells, orNone(r.Pod.NodeName), orNone(r.Container.Image), r.Pod.UID, owner(r), recordKey(r))
		}
		row(cells...)
	}
	return tw.Flush()
}

// printable replaces what would move a terminal's cursor, or do worse: records hold what tenants have written.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// endOf is when the run ended, or for a snapshot up to when it was read.
func endOf(r *bundle.Record) time.Time {
	for _, t := range []*time.Time{r.State.FinishedAt, r.LastStamp, r.State.StartedAt} {
		if t != nil {
			return *t
		}
	}
	return time.Time{}
}

func (t *runTable) finished(r *bundle.Record, wide bool) string {
	switch {
	case r.State.FinishedAt == nil:
		return "-"
	case wide:
		return r.State.FinishedAt.UTC().Format(time.RFC3339)
	}
	return duration.HumanDuration(max(0, t.now.Sub(endOf(r)))) + " ago"
}

func reason(r *bundle.Record) string {
	if r.State.Running {
		return "Running"
	}
	return cmp.Or(r.State.Reason, "Unknown")
}

func exitStatus(r *bundle.Record) string {
	if r.State.ExitCode == nil {
		return "-"
	}
	return strconv.Itoa(int(*r.State.ExitCode))
}

func orNone(s string) string { return cmp.Or(s, "<none>") }

func owner(r *bundle.Record) string {
	if len(r.Pod.Owners) == 0 {
		return "<none>"
	}
	return r.Pod.Owners[0].Kind + "/" + r.Pod.Owners[0].Name
}

func recordKey(r *bundle.Record) string {
	k, err := bundle.KeyOf(r)
	if err != nil {
		return "<none>" // no record of an archive: archive.Record has compared its key
	}
	return k.Record()
}

// size gives bytes in at most three digits and a binary unit.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	digits := 1
	if f >= 99.95 {
		digits = 0
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

// verdict says in a few words what is known of the log: "complete", "head unproven",
// "lost: deleted_before_read", "running".
func verdict(r *bundle.Record) string {
	if r.Verdict.Complete {
		return "complete"
	}
	lost, unproven := parts(r, bundle.Lost), parts(r, bundle.Unproven)
	switch {
	case len(lost) == 3:
		return "lost: " + causes(lost)
	case len(lost) > 0:
		return names(lost) + " lost: " + causes(lost)
	case r.State.Running:
		return "running"
	}
	return names(unproven) + " unproven"
}

// part is a part of a verdict with its name.
type part struct {
	name string
	bundle.Part
}

func parts(r *bundle.Record, state bundle.PartState) []part {
	return slices.DeleteFunc([]part{{"head", r.Verdict.Head}, {"middle", r.Verdict.Middle}, {"tail", r.Verdict.Tail}},
		func(p part) bool { return p.State != state })
}

func names(ps []part) string {
	var s []string
	for _, p := range ps {
		s = append(s, p.name)
	}
	return strings.Join(s, ", ")
}

func causes(ps []part) string {
	var s []string
	for _, p := range ps {
		if c := cmp.Or(string(p.Cause), "unknown"); !slices.Contains(s, c) {
			s = append(s, c)
		}
	}
	return strings.Join(s, ", ")
}
