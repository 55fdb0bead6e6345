package bundle

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEncodeIsCanonical(t *testing.T) {
	east := time.FixedZone("", 5*3600)
	r := goldenRecord("app")
	end := r.State.FinishedAt.In(east)
	r.State.FinishedAt, r.Objects, r.PodObject = &end, nil, json.RawMessage("{ \"a\":\n[1.50,\"<\"] }")
	b, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"finishedAt": "2026-03-01T10:05:00Z"`, `"objects": [],`, "    \"a\": [\n      1.50,\n      \"<\"\n"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s is not in\n%s", want, b)
		}
	}
	if !bytes.HasSuffix(b, []byte("}\n")) {
		t.Error("no newline at the end")
	}
	if r.State.FinishedAt.Location() != east {
		t.Error("the record was changed")
	}
	if _, err := DecodeStrict(b); err != nil {
		t.Error(err)
	}
	for _, change := range [][2]string{{"\n}", "\n} "}, {"5:00Z", "5:00+00:00"}, {"  \"cluster\"", " \"cluster\""}, {"}\n", "}"}, {`"pod":`, `"new": 1, "pod":`}} {
		if _, err := DecodeStrict(bytes.Replace(b, []byte(change[0]), []byte(change[1]), 1)); err == nil {
			t.Errorf("%q was taken for canonical", change[1])
		}
	}
}

func TestDecodeVersions(t *testing.T) {
	b, err := Encode(goldenRecord("app"))
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{
		"1.0": "", "1.7": "", "1.12": "",
		"2.0": "use a release of kubelogexporter that reads it", "": "no formatVersion", "1": "is not a version", "1.x": "is not a version", "0.9": "1.x",
	} {
		changed := bytes.Replace(b, []byte(`"formatVersion": "1.1"`), []byte(`"formatVersion": "`+version+`", "later": {"x": 1}`), 1)
		r, err := Decode(digested(changed))
		switch {
		case want == "" && (err != nil || r.FormatVersion != version):
			t.Errorf("%q: %v", version, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v", version, err)
		}
	}
	for _, bad := range []string{"", "null", "[]", "{}", string(b) + "{}", string(b[:len(b)/2]), strings.Repeat(" ", MaxRecordSize) + string(b)} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%.20q… was taken for a record", bad)
		}
	}
}

// digested gives changed bytes of a record the digest that they need.
func digested(b []byte) []byte {
	return appendDigest(append(b[:len(b)-digestEnd-len(",\n"):len(b)-digestEnd-len(",\n")], "\n}\n"...))
}

// TestLaterMinorVersion: what a later 1.x adds is no error for today's reader.
func TestLaterMinorVersion(t *testing.T) {
	r := goldenRecord("app")
	r.FormatVersion, r.Container.Type = "1.2", "hologram"
	r.Verdict.Complete, r.Verdict.Tail = false, Part{State: Lost, Cause: "sun_went_out"}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	for _, r.FormatVersion = range []string{"1.0", "1.1"} {
		if err := r.Validate(); err == nil {
			t.Errorf("%s knows no such cause", r.FormatVersion)
		}
	}
}

func TestEncodeOmitsWhatIsTooLarge(t *testing.T) {
	big := json.RawMessage(`"` + strings.Repeat("x", MaxRecordSize-64<<10) + `"`)
	r := goldenRecord("app")
	r.PodObject, r.Events = big, []json.RawMessage{big}
	b, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeStrict(b)
	if err != nil || got.Events != nil || got.PodObject == nil || !cmp.Equal(got.Omitted, []string{"events"}) {
		t.Errorf("%v, %v", got.Omitted, err)
	}
	r.PodObject, r.Events = nil, nil
	r.Objects = []Object{{Frames: make([]Frame, 40_000)}}
	if b, err = Encode(r); err != nil {
		t.Fatal(err)
	}
	if got, err = Decode(b); err != nil || got.Objects[0].Frames != nil || len(got.Omitted) != 3 {
		t.Errorf("%v, %v", got.Omitted, err)
	}
	if len(r.Objects[0].Frames) == 0 {
		t.Error("the record was changed")
	}
	r = goldenRecord("app")
	r.Pod.Message = strings.Repeat("x", MaxRecordSize)
	if _, err = Encode(r); err == nil {
		t.Error("a record too large was encoded")
	}
}

func TestValidate(t *testing.T) {
	stamp := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for name, breakIt := range map[string]func(*Record){
		"cluster":              func(r *Record) { r.Cluster = "" },
		"type":                 func(r *Record) { r.Container.Type = "pod" },
		"no container ID":      func(r *Record) { r.Container.ContainerID = "" },
		"policy":               func(r *Record) { r.Capture.Policy = "" },
		"running and finished": func(r *Record) { r.State.Running = true },
		"no end":               func(r *Record) { r.State.FinishedAt = nil },
		"state":                func(r *Record) { r.Verdict.Head.State = "" },
		"cause of proven":      func(r *Record) { r.Verdict.Head.Cause = CauseRotated },
		"no cause":             func(r *Record) { r.Verdict.Complete, r.Verdict.Head.State = false, Lost },
		"falsely complete":     func(r *Record) { r.Verdict.Head = Part{State: Unproven, Cause: CauseNotWitnessed} },
		"falsely incomplete":   func(r *Record) { r.Verdict.Complete = false },
		"lines":                func(r *Record) { r.Lines++ },
		"raw bytes":            func(r *Record) { r.RawBytes++ },
		"raw hash":             func(r *Record) { r.RawSHA256 = "x" },
		"raw hash of one object": func(r *Record) {
			*r = *goldenRecord("one")
			_ = r.SetLog(writeLog(t, []byte("x"), LogOptions{}, nil).Summary, Zstd)
			r.RawSHA256 = sha(nil)
		},
		"no raw hash":        func(r *Record) { r.RawSHA256 = "" },
		"first stamp":        func(r *Record) { r.FirstStamp = &stamp },
		"key":                func(r *Record) { r.Objects[0].Key = "cluster=other/x" },
		"key twice":          func(r *Record) { r.Objects[0].Key = r.Objects[1].Key },
		"key of another run": func(r *Record) { r.Objects[0].Key = strings.Replace(r.Objects[0].Key, "/app.0.", "/app.1.", 1) },
		"key of the record": func(r *Record) {
			k, _ := KeyOf(r)
			r.Objects[0].Key = k.Record()
		},
		"two compressions": func(r *Record) { r.Objects[0].Key = strings.Replace(r.Objects[0].Key, ".zst", ".gz", 1) },
		"object size":      func(r *Record) { r.Objects[0].StoredBytes = -1 },
		"object md5":       func(r *Record) { r.Objects[0].StoredMD5 = "x" },
		"object hash":      func(r *Record) { r.Objects[0].StoredSHA256 = "x" },
		"frame hole":       func(r *Record) { r.Objects[0].Frames[1].Offset++ },
		"frame raw hole":   func(r *Record) { r.Objects[0].Frames[1].RawOffset++ },
		"frame missing":    func(r *Record) { r.Objects[0].Frames = r.Objects[0].Frames[:2] },
		"frame of one":     func(r *Record) { r.Objects[0].Frames = r.Objects[0].Frames[:1] },
		"frame lines":      func(r *Record) { r.Objects[0].Frames[1].FirstLine = 1 << 40 },
		"frame first line": func(r *Record) { r.Objects[0].Frames[0].FirstLine = 1 },
		"lines overflow": func(r *Record) {
			r.Objects[0].Lines, r.Objects[1].Lines = math.MaxInt64, math.MaxInt64
			sumUp(r)
		},
		"raw bytes overflow": func(r *Record) {
			for i := range 2 {
				r.Objects[i].RawBytes, r.Objects[i].Frames = math.MaxInt64, nil
			}
			sumUp(r)
		},
		"last line":  func(r *Record) { r.LastLines[0] = strings.Repeat("x", 2000) },
		"last lines": func(r *Record) { r.LastLines = make([]string, 21) },
	} {
		r := validRecord(t)
		breakIt(r)
		if err := r.Validate(); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	if err := validRecord(t).Validate(); err != nil {
		t.Error(err)
	}
	r := &Record{}
	if err := r.Validate(); err == nil || strings.Count(err.Error(), "\n") < 5 {
		t.Errorf("not all problems at once: %v", err)
	}
}

// sumUp makes the sums of a record those of its objects, as far as numbers go.
func sumUp(r *Record) {
	r.Lines, r.RawBytes = 0, 0
	for _, o := range r.Objects {
		r.Lines, r.RawBytes = r.Lines+o.Lines, r.RawBytes+o.RawBytes
	}
}

func validRecord(t *testing.T) *Record {
	r := goldenRecord("app")
	o := LogOptions{FrameSize: 1 << 10, MaxStored: 4 << 10}
	if err := r.SetLog(writeLog(t, goldenText(300, 3000), o, nil).Summary, Zstd); err != nil {
		t.Fatal(err)
	}
	if len(r.Objects) < 2 || len(r.Objects[0].Frames) < 3 {
		t.Fatalf("%d objects", len(r.Objects))
	}
	return r
}

func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/*/*/*/*/*/*/_*.json")
	if err != nil || len(names) == 0 {
		f.Fatal("no golden records", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		_ = r.Validate()
		once, err := Encode(r)
		if err != nil {
			return // times outside of RFC 3339
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatalf("what was encoded cannot be decoded: %v\n%s", err, once)
		}
		twice, err := Encode(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("not stable: %v\n%s\n%s", err, once, twice)
		}
		if _, err := DecodeStrict(b); err == nil && !bytes.Equal(once, b) {
			t.Fatalf("taken for canonical:\n%s", b)
		}
	})
}
