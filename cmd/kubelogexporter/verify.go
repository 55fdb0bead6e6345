package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

type verifyCommand struct {
	a        *app
	sink     sinkFlags
	query    queryFlags
	level    string
	sample   string
	output   string
	progress string
}

func newVerifyCommand(a *app) *cobra.Command {
	v := &verifyCommand{a: a}
	cmd := &cobra.Command{
		Use:   "verify [[NAMESPACE/]POD]",
		Short: "Check that the archive is as it was written, and count what it lacks",
		Long: `Check that what lies in the archive is as it was written, and count the gaps that
its records tell of. Only the archive is read; nothing is changed.

Levels, each with what the one before it does:
  list   every record is read and checked against its digest; every log object
         that it names is there, with its size; no log object lacks a record
  head   the checksums that the store tells of each log object are the record's
         (one request for each; not every store tells them)
  data   every log object is read in place of that: hashes, lines, stamps, frames

Findings, one line each on stdout, with the next step:
  damaged     a stored object is not what it should be
  missing     a record names a log object that is not there
  orphan      a log object, older than an hour, has no record
  unchecked   it could not be looked at, which says nothing about it
  duplicate   a run has two final records; readers take one, nothing is lost

With -o json stdout is one JSON object. "findings" lists the above and also
"gap" (a run of which a part is lost, with "causes"), "leftover" (a log object
that no record names, of a run that has one: of an upload that was broken off)
and "noDigest" (a record of format 1.0: a changed byte may not show), each with
"kind", "key", and where they apply "record", "problem", "next", "causes".
"result" is ok, damaged, unchecked or gaps; "summary" holds the numbers.

A bucket with a lifecycle rule loses old runs object by object: verify what is
younger, with --since.

Exit codes:
  0    intact, without gaps
  1    damaged, or something is missing or an orphan
  2    could not check all of it, or nothing matched, or wrong usage
  3    intact, but with recorded gaps
  130  interrupted`,
		Example: a.examples(`
  {} verify
  {} verify --level data -n shop --since 24h
  {} verify --level data --sample 1%
  {} verify -o json | jq .summary.gapsByCause`),
		Args:              argCount(0, 1, "at most one pod"),
		ValidArgsFunction: a.completePods,
		RunE:              a.begin(v.run),
	}
	v.sink.registerRead(cmd)
	v.query.register(a, cmd)
	f := cmd.Flags()
	f.StringVar(&v.query.until, "until-time", "", "only what ended before this RFC 3339 `time`")
	f.StringVar(&v.level, "level", "list", "how closely to look: "+strings.Join(archive.Levels(), ", "))
	f.StringVar(&v.sample, "sample", "100%", "how much of the archive to look at, chosen by chance, such as 1%")
	f.StringVarP(&v.output, "output", "o", "", "output format: json")
	f.StringVar(&v.progress, "progress", "auto", "how to show progress on stderr: auto, bar, plain or none")
	complete(cmd, "level", words(archive.Levels()...))
	complete(cmd, "output", words("json"))
	complete(cmd, "progress", words("auto", "bar", "plain", "none"))
	return cmd
}

func (v *verifyCommand) run(cmd *cobra.Command, args []string) error {
	if v.output != "" && v.output != "json" {
		return usagef("--output: %q is not json", v.output)
	}
	if v.progress == "auto" && !isTerminal(v.a.stderr) {
		v.progress = "none" // a job's log needs the result, no more
	}
	show, err := newProgress(v.a.stderr, v.progress)
	if err != nil {
		return err
	}
	o := archive.VerifyOptions{Progress: &archive.Progress{}}
	if o.Level, err = archive.ParseLevel(v.level); err != nil {
		return usagef("--level: %q is none of %s", v.level, strings.Join(archive.Levels(), ", "))
	}
	if o.Sample, err = parseShare(v.sample); err != nil {
		return err
	}
	if o.Query, err = v.query.build(args, time.Now()); err != nil {
		return err
	}
	arc, err := v.a.readArchive(cmd.Context(), cmd, &v.sink)
	if err != nil {
		return unchecked(err)
	}
	out := &verifyOutput{show: show, w: v.a.stdout, json: v.output == "json", where: v.sink.sink, sample: v.sample}
	stop := show.start(func() string {
		return fmt.Sprintf("verified %d records and %d log objects, %s read", o.Progress.Records.Load(), o.Progress.Objects.Load(), size(o.Progress.Bytes.Load()))
	})
	out.begin()
	result, err := arc.Verify(cmd.Context(), o, out.finding)
	stop()
	if cmd.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	out.end(result, err)
	return errors.Join(out.err, v.word(result, err))
}

// parseShare reads a percentage, or a share of 1.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share > 0 && share <= 1) {
		return 0, usagef("--sample: %q is no percentage above 0, such as 1%%", text)
	}
	return share, nil
}

// unchecked gives an error the exit code that says that nothing is known about the archive.
func unchecked(err error) error {
	hints := advice(err)
	if coded := (*codeError)(nil); errors.As(err, &coded) {
		hints = coded.hints
	}
	return &codeError{error: err, code: exitUnchecked, hints: hints}
}

// word turns a result into an exit code. What is damaged is damaged, whatever else could not be checked.
func (v *verifyCommand) word(found archive.Verification, failed error) error {
	bad := found.Damaged + found.Missing + found.Orphans
	switch result := verifyResult(found, failed); {
	case result == "damaged":
		return &codeError{error: errors.Join(fmt.Errorf("the archive is damaged: %s", count(int(bad), "object", "objects")), failed), code: exitDamaged}
	case failed != nil:
		return unchecked(failed)
	case result == "unchecked" && found.Unchecked == 0 && found.NotChosen > 0:
		return &codeError{
			error: fmt.Errorf("nothing was verified: none of %s fell into the sample", count(int(found.NotChosen), "folder", "folders")), code: exitUnchecked,
			hints: []string{"raise --sample"},
		}
	case result == "unchecked" && found.Unchecked == 0:
		return &codeError{
			error: fmt.Errorf("nothing was verified: no archived runs match in %s", v.sink.sink), code: exitUnchecked,
			hints: []string{v.a.name + " ls lists the runs that there are; if the archive is elsewhere, name it with --sink"},
		}
	case result == "unchecked":
		return &codeError{error: fmt.Errorf("not everything could be checked: %s", count(int(found.Unchecked), "place", "places")), code: exitUnchecked}
	case result == "gaps":
		return codeOnly(exitGaps)
	}
	return nil
}

func verifyResult(v archive.Verification, failed error) string {
	switch {
	case v.Damaged+v.Missing+v.Orphans > 0:
		return "damaged"
	case failed != nil, v.Unchecked > 0, v.Records+v.Objects == 0:
		return "unchecked"
	case v.Gaps > 0:
		return "gaps"
	}
	return "ok"
}

// describe says what a finding is about, and what to do. The problem is empty where the kind says it all.
func describe(f archive.Finding) (problem, next string) {
	if f.Err != nil {
		problem = strings.ReplaceAll(f.Err.Error(), "\n", "; ")
	}
	switch f.Kind {
	case archive.FoundDamaged:
		next = "restore it from a copy or an older version of the object"
		if path.Ext(f.Key) == ".json" {
			next += "; the log objects beside it can be read with zstdcat or zcat"
		}
	case archive.FoundMissing:
		problem, next = "its record names it, and it is not there", "restore it from a copy; was it removed by a lifecycle rule?"
	case archive.FoundOrphan:
		problem, next = "no record tells of it", "restore its record from a copy; the text can be read with zstdcat or zcat"
	case archive.FoundUnchecked:
		next = cmp.Or(strings.Join(advice(f.Err), "; "), "verify again")
	case archive.FoundDuplicate:
		problem = "another final record of the same run is " + f.Record
	case archive.FoundGap:
		problem = "a part of the log is lost"
	}
	return problem, next
}

// byCause lists counts, the highest first: "rotated 3, node_lost 1".
func byCause(counts map[bundle.Cause]int64) string {
	causes := slices.SortedFunc(maps.Keys(counts), func(a, b bundle.Cause) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var s []string
	for _, cause := range causes {
		s = append(s, fmt.Sprintf("%s %d", cause, counts[cause]))
	}
	return strings.Join(s, ", ")
}
