package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write golden files that do not exist yet; those that exist are never changed")

// goldenDirs are archives of each version of the format in miniature. Their files were written once
// and are never edited: whatever the code becomes, it must go on reading them.
var goldenDirs = map[string]string{"1.0": "testdata/v1", "1.1": "testdata/v1.1"}

// goldenRecord is a record without a log, complete in all other respects.
func goldenRecord(container string) *Record {
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	end := time.Date(2026, 3, 1, 10, 5, 0, 0, time.UTC)
	exit := int32(0)
	return &Record{
		FormatVersion: FormatVersion,
		Cluster:       "demo",
		Namespace:     "shop",
		Pod: Pod{
			Name: "cart-5d8f7c9b6-x2x7k", UID: "8c1f1f6e-52a8-4e0b-9d2b-0c4a3f1f7a01", NodeName: "node-1", Phase: "Succeeded",
			Labels: map[string]string{"app": "cart", "pod-template-hash": "5d8f7c9b6"},
			Owners: []Owner{
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart-5d8f7c9b6", UID: "0d9d4f5e-2e39-4d1d-8a55-1d0a6c0a7b02"},
				{APIVersion: "apps/v1", Kind: "Deployment", Name: "cart", UID: "f1b1a6a0-6d43-4b0f-9f0e-7f3f3f6b9c03"},
			},
		},
		Container: Container{
			Name: container, Type: TypeContainer, Image: "registry.example/cart:1.4", ImageID: "registry.example/cart@sha256:" + strings.Repeat("ab", 32),
			ContainerID: "containerd://" + sha([]byte(container)),
		},
		State: State{StartedAt: &start, FinishedAt: &end, ExitCode: &exit, Reason: "Completed"},
		Verdict: Verdict{
			Complete: true,
			Head:     Part{State: Proven, Evidence: []string{"the first line was seen while the container ran"}},
			Middle:   Part{State: Proven, Evidence: []string{"every further read overlapped what was held"}},
			Tail:     Part{State: Proven, Evidence: []string{"a full read after the end brought nothing new"}},
		},
		Objects: []Object{},
		Capture: Capture{
			ExporterVersion: "0.1.0", Policy: "final",
			Reads: []Read{{Time: end.Add(1500 * time.Millisecond), Method: "get", RawBytes: 0, Result: "ok"}},
		},
		PodObject: json.RawMessage(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"cart-5d8f7c9b6-x2x7k"}}`),
	}
}

func goldenText(lines, length int) []byte {
	var b []byte
	at := time.Date(2026, 3, 1, 10, 0, 0, 123456789, time.UTC)
	for i := range lines {
		b = at.AppendFormat(b, stampLayout)
		b = fmt.Appendf(b, " line %d of %d <äöü> & \x1b[31mred\x1b[0m %s\n", i+1, lines, strings.Repeat("x", i*7%length))
		at = at.Add(137 * time.Millisecond)
	}
	return b
}

// goldenRuns are the cases of the golden set.
func goldenRuns() []struct {
	record *Record
	text   []byte
	o      LogOptions
} {
	type run = struct {
		record *Record
		text   []byte
		o      LogOptions
	}
	now := time.Date(2026, 3, 1, 10, 0, 5, 0, time.UTC)
	one := int32(137)

	unterminated := goldenRecord("unterminated")
	unterminated.Container.RestartCount = 3
	unterminated.State.ExitCode, unterminated.State.Signal, unterminated.State.Reason = &one, 9, "OOMKilled"
	unterminated.Verdict.Complete = false
	unterminated.Verdict.Tail = Part{State: Unproven, Cause: CauseTailUnproven}
	unterminated.Capture.KubeletErrors = []string{"unable to retrieve container logs for containerd://0123"}
	unterminated.Events = []json.RawMessage{json.RawMessage(`{"reason":"OOMKilling","count":1}`)}

	lost := goldenRecord("lost")
	lost.Verdict = Verdict{
		Head:   Part{State: Lost, Cause: CauseNodeLost, Evidence: []string{"the node was deleted"}},
		Middle: Part{State: Lost, Cause: CauseNodeLost, After: &now},
		Tail:   Part{State: Lost, Cause: CauseNodeLost},
	}
	lost.State.FinishedAtEstimated, lost.State.ExitCode = true, nil

	unseen := goldenRecord("unseen")
	unseen.Container.ContainerID = ""
	unseen.Verdict = lost.Verdict
	unseen.Verdict.Head.Cause, unseen.Verdict.Middle.Cause, unseen.Verdict.Tail.Cause = CauseUnseenRuns, CauseUnseenRuns, CauseUnseenRuns

	snapshot := goldenRecord("snapshot")
	snapshot.State = State{Running: true, StartedAt: snapshot.State.StartedAt}
	snapshot.Verdict.Complete = false
	snapshot.Verdict.Tail = Part{State: Unproven, Cause: CauseStillRunning}
	snapshot.Capture.Policy = "export"

	init := goldenRecord("migrate")
	init.Container.Type = TypeInit

	frames := LogOptions{FrameSize: 1 << 10}
	segments := LogOptions{FrameSize: 1 << 10, MaxStored: 3 << 10}
	gzipSegments := segments
	gzipSegments.Compression = Gzip
	return []run{
		{goldenRecord("single"), goldenText(40, 50), LogOptions{}},
		{goldenRecord("tiny"), []byte("2026-03-01T10:00:00.000000000Z x\n"), LogOptions{}},
		{goldenRecord("gzip"), goldenText(40, 50), LogOptions{Compression: Gzip}},
		{goldenRecord("frames"), goldenText(100, 50), frames},
		{goldenRecord("segments"), goldenText(200, 3000), segments},
		{goldenRecord("gzip-segments"), goldenText(200, 3000), gzipSegments},
		{unterminated, bytes.TrimSuffix(goldenText(25, 2000), newline), LogOptions{}},
		{goldenRecord("empty"), nil, LogOptions{}},
		{init, goldenText(3, 10), LogOptions{}},
		{lost, nil, LogOptions{}},
		{unseen, nil, LogOptions{}},
		{snapshot, goldenText(7, 10), LogOptions{}},
	}
}

// makeGolden writes one case with today's code.
func makeGolden(t *testing.T, r *Record, text []byte, o LogOptions) map[string][]byte {
	t.Helper()
	w := writeLog(t, text, o, nil)
	if err := r.SetLog(w.Summary, o.Compression); err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		t.Fatalf("%s: %v", r.Container.Name, err)
	}
	files := map[string][]byte{}
	for i, obj := range r.Objects {
		files[obj.Key] = w.files[i]
	}
	k, err := KeyOf(r)
	if err != nil {
		t.Fatal(err)
	}
	if files[k.Record()], err = Encode(r); err != nil {
		t.Fatal(err)
	}
	return files
}

// TestGolden reads the golden archive, and checks that today's code would write the same records,
// except for what depends on the version of the compressor.
func TestGolden(t *testing.T) {
	for version, dir := range goldenDirs {
		t.Run(version, func(t *testing.T) { testGolden(t, version, dir) })
	}
	if goldenDirs[FormatVersion] == "" {
		t.Errorf("there is no golden archive of format %s", FormatVersion)
	}
}

func testGolden(t *testing.T, version, goldenDir string) {
	for _, run := range goldenRuns() {
		run.record.FormatVersion = version
		files := makeGolden(t, run.record, run.text, run.o)
		for key, b := range files {
			name := filepath.Join(goldenDir, filepath.FromSlash(key))
			if _, err := os.Stat(name); *update && errors.Is(err, fs.ErrNotExist) {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		k, _ := KeyOf(run.record)
		b, err := os.ReadFile(filepath.Join(goldenDir, filepath.FromSlash(k.Record())))
		if err != nil {
			t.Errorf("%v; new cases are written with -update", err)
			continue
		}
		golden, err := DecodeStrict(b)
		if err != nil {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if len(run.record.Objects) == 1 && golden.RawSHA256 != run.record.RawSHA256 || golden.Lines != run.record.Lines {
			t.Errorf("%s: the text is another one today", k)
		}
		run.record.Objects = golden.Objects
		if today, err := Encode(run.record); err != nil || !bytes.Equal(today, b) {
			t.Errorf("%s is written differently today: %v\n%s", k, err, today)
		}
	}
}

// TestGoldenReads reads every file of the golden archive without knowing how it was made.
func TestGoldenReads(t *testing.T) {
	for version, dir := range goldenDirs {
		t.Run(version, func(t *testing.T) { testGoldenReads(t, version, dir) })
	}
}

func testGoldenReads(t *testing.T, version, goldenDir string) {
	records, logs := 0, map[string]bool{}
	named := map[string]bool{}
	err := filepath.WalkDir(goldenDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(goldenDir, name)
		if err != nil {
			return err
		}
		key = filepath.ToSlash(key)
		_, kind, _, _, err := ParseKey(key)
		if err != nil {
			return err
		}
		if kind == KindLog {
			logs[key] = true
			return nil
		}
		records++
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		r, err := DecodeStrict(b)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if err := r.Validate(); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		for _, o := range r.Objects {
			named[o.Key] = true
		}
		if r.FormatVersion != version || (r.Digest != "") != (version != "1.0") {
			return fmt.Errorf("%s: format %s with the digest %q", key, r.FormatVersion, r.Digest)
		}
		if r, err = CheckRecord(key, b); err != nil {
			return err
		}
		open := func(key string) (io.ReadCloser, error) {
			return os.Open(filepath.Join(goldenDir, filepath.FromSlash(key)))
		}
		if errs := CheckLog(r, open); len(errs) > 0 {
			return errors.Join(errs...)
		}
		return checkGoldenLog(t, goldenDir, key, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	if records < 12 || len(logs) < 12 || len(logs) != len(named) {
		t.Fatalf("%d records and %d logs, of which records name %d", records, len(logs), len(named))
	}
}

func checkGoldenLog(t *testing.T, goldenDir, key string, r *Record) error {
	var whole []byte
	for _, o := range r.Objects {
		stored, err := os.ReadFile(filepath.Join(goldenDir, filepath.FromSlash(o.Key)))
		if err != nil {
			return err
		}
		_, _, _, c, err := ParseKey(o.Key)
		if err != nil {
			return err
		}
		raw := readLog(t, stored, c)
		if sha(stored) != o.StoredSHA256 || sha(raw) != o.RawSHA256 || int64(len(raw)) != o.RawBytes || int64(len(stored)) != o.StoredBytes {
			return fmt.Errorf("%s is not what its record says", o.Key)
		}
		for i, f := range o.Frames {
			lr, err := NewLogReader(bytes.NewReader(stored[f.Offset:]), c)
			if err != nil {
				return err
			}
			rest, err := io.ReadAll(lr)
			if err != nil || !bytes.Equal(rest, raw[f.RawOffset:]) {
				return fmt.Errorf("%s: cannot read from frame %d: %w", o.Key, i, err)
			}
		}
		whole = append(whole, raw...)
	}
	if len(whole) == 0 && r.RawBytes == 0 {
		return nil
	}
	s := describe(whole)
	if s.RawSHA256 != r.RawSHA256 || s.Lines != r.Lines || !s.FirstStamp.Equal(*r.FirstStamp) || !s.LastStamp.Equal(*r.LastStamp) {
		return fmt.Errorf("%s: the log is not what its record says", key)
	}
	return nil
}
