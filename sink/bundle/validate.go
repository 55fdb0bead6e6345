package bundle

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Causes are all causes of format 1.1. A reader of a later minor version may meet others.
func Causes() []Cause {
	return []Cause{
		CauseReplacedBeforeRead, CauseUnseenRuns, CauseDeletedBeforeRead, CauseNodeLost,
		CauseVanishedWhileDown, CauseRotated, CauseNotWitnessed, CauseTailUnproven, CauseJoinFailed,
		CauseKubeletError, CauseSpoolFull, CauseSpoolDamaged, CauseStillRunning,
	}
}

// Validate reports everything in which the record contradicts itself or FORMAT.md, joined into one
// error. Nil does not say that the stored objects agree with it: only reading them can.
func (r *Record) Validate() error {
	v := &validation{newer: isLater(r.FormatVersion)}
	if err := checkVersion(r.FormatVersion); err != nil {
		v.add("%w", err)
	}
	v.container(r)
	v.state(r)
	v.verdict(r)
	v.log(r)
	v.lastLines(r)
	return v.result()
}

// ValidateLog reports in what the record's description of its log objects contradicts itself. It is
// enough to read the log: a record with a doubtful verdict may still have a sound log.
func (r *Record) ValidateLog() error {
	v := &validation{}
	v.log(r)
	return v.result()
}

type validation struct {
	problems []error
	newer    bool // a later minor version, which may know more causes and container types
}

func (v *validation) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *validation) result() error {
	if len(v.problems) == 0 {
		return nil
	}
	return fmt.Errorf("validate record: %w", errors.Join(v.problems...))
}

func (v *validation) log(r *Record) {
	v.sums(r)
	for i := range r.Objects {
		v.object(r, i)
	}
	if k, err := KeyOf(r); err != nil {
		v.add("%w", err)
	} else {
		v.keys(r, k)
	}
}

func (v *validation) container(r *Record) {
	switch r.Container.Type {
	case TypeContainer, TypeInit, TypeSidecar, TypeEphemeral:
	default:
		if v.newer && r.Container.Type != "" {
			break
		}
		v.add("container type %q is unknown", r.Container.Type)
	}
	if r.Container.ContainerID == "" && len(r.Objects) > 0 {
		v.add("a log is held of a run without a container ID")
	}
	if r.Capture.Policy == "" {
		v.add("capture policy is missing")
	}
}

func (v *validation) state(r *Record) {
	s := r.State
	if s.Running && (s.FinishedAt != nil || s.ExitCode != nil || s.FinishedAtEstimated) {
		v.add("the run is still running and has an end")
	}
	if !s.Running && s.FinishedAt == nil {
		v.add("the run is not running and has no finishedAt")
	}
}

func (v *validation) verdict(r *Record) {
	proven := true
	for _, p := range []struct {
		name string
		Part
	}{{"head", r.Verdict.Head}, {"middle", r.Verdict.Middle}, {"tail", r.Verdict.Tail}} {
		switch p.State {
		case Proven:
			if p.Cause != CauseNone {
				v.add("%s is proven and has the cause %s", p.name, p.Cause)
			}
		case Unproven, Lost:
			proven = false
			if !slices.Contains(Causes(), p.Cause) && (!v.newer || p.Cause == CauseNone) {
				v.add("%s is %s for the unknown cause %q", p.name, p.State, p.Cause)
			}
		default:
			proven = false
			v.add("%s has the unknown state %q", p.name, p.State)
		}
	}
	if r.Verdict.Complete != proven {
		v.add("complete is %t, but head, middle and tail are %s, %s and %s", r.Verdict.Complete,
			r.Verdict.Head.State, r.Verdict.Middle.State, r.Verdict.Tail.State)
	}
	if r.State.Running && r.Verdict.Tail.State == Proven {
		v.add("the tail of a run that is still running is proven")
	}
}

func (v *validation) sums(r *Record) {
	var lines, raw int64
	var first, last *time.Time
	for _, o := range r.Objects {
		if lines, raw = lines+o.Lines, raw+o.RawBytes; lines < 0 || raw < 0 {
			v.add("its objects have more lines or bytes than can be counted")
			return
		}
		if first == nil {
			first = o.FirstStamp
		}
		if o.LastStamp != nil {
			last = o.LastStamp
		}
	}
	if lines != r.Lines {
		v.add("%d lines, but its objects have %d", r.Lines, lines)
	}
	if raw != r.RawBytes {
		v.add("%d raw bytes, but its objects have %d", r.RawBytes, raw)
	}
	if !sameTime(first, r.FirstStamp) || !sameTime(last, r.LastStamp) {
		v.add("first and last stamp are not those of its objects")
	}
	switch {
	case len(r.Objects) == 0 && r.RawSHA256 != "":
		v.add("a raw hash without a log")
	case len(r.Objects) > 0 && !isHash(r.RawSHA256):
		v.add("raw hash %q is not a sha256", r.RawSHA256)
	case len(r.Objects) == 1 && r.RawSHA256 != r.Objects[0].RawSHA256:
		v.add("its raw hash is not that of its only object")
	}
	if len(r.RawSHA256State) > 0 && !r.State.Running {
		v.add("a log that has ended is not continued")
	}
}

func sameTime(a, b *time.Time) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(*b)
}

func isHash(s string) bool { return len(s) == 64 && only(s, lowerHex) }

func (v *validation) object(r *Record, i int) {
	o := &r.Objects[i]
	if o.RawBytes <= 0 || o.StoredBytes <= 0 || o.Lines < 0 {
		v.add("object %q: sizes must be above 0", o.Key)
	}
	if !isHash(o.RawSHA256) || !isHash(o.StoredSHA256) {
		v.add("object %q: a hash is not a sha256", o.Key)
	}
	if o.StoredMD5 != "" && (len(o.StoredMD5) != 32 || !only(o.StoredMD5, lowerHex)) {
		v.add("object %q: %q is not an MD5", o.Key, o.StoredMD5)
	}
	if len(o.Frames) == 0 {
		return
	}
	if len(o.Frames) == 1 {
		v.add("object %q: a single frame is not listed", o.Key)
	}
	var next Frame
	for j, f := range o.Frames {
		if f.Offset != next.Offset || f.RawOffset != next.RawOffset || f.FirstLine < next.FirstLine || j == 0 && f.FirstLine != 0 ||
			f.StoredBytes <= 0 || f.RawBytes <= 0 || f.StoredBytes > o.StoredBytes-f.Offset || f.RawBytes > o.RawBytes-f.RawOffset {
			v.add("object %q: frame %d does not follow the one before", o.Key, j)
			return
		}
		next = Frame{Offset: f.Offset + f.StoredBytes, RawOffset: f.RawOffset + f.RawBytes, FirstLine: f.FirstLine}
	}
	// Behind the last frame there may be a seek table.
	if next.RawOffset != o.RawBytes || next.Offset > o.StoredBytes || next.FirstLine > o.Lines {
		v.add("object %q: its frames do not add up to it", o.Key)
	}
}

// keys checks that the objects are those of this run, so that a record cannot lead a reader elsewhere.
// Their order is that of the record: an object that found its key taken was given a later segment.
func (v *validation) keys(r *Record, k RunKey) {
	seen := map[string]bool{}
	var compressions [Gzip + 1]bool
	for _, o := range r.Objects {
		run, kind, _, c, err := ParseKey(o.Key)
		if err != nil || kind != KindLog || !k.owns(run) {
			v.add("object %q is not one of this run", o.Key)
			continue
		}
		if seen[o.Key] {
			v.add("object %q is named twice", o.Key)
		}
		seen[o.Key], compressions[c] = true, true
	}
	if compressions[Zstd] && compressions[Gzip] {
		v.add("its objects are compressed in two ways")
	}
}

func (v *validation) lastLines(r *Record) {
	if len(r.LastLines) > MaxLastLines || int64(len(r.LastLines)) > r.Lines {
		v.add("%d last lines", len(r.LastLines))
	}
	for _, l := range r.LastLines {
		if len(l) > MaxLastLine {
			v.add("a last line of %d bytes", len(l))
			return
		}
	}
}
