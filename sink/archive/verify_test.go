package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// live stores a run as the live policy does: a segment and a snapshot for each part of the log but the
// last, whose lines are stamped with their hour, then the last segment and the final record.
func (s *stock) live(pod, uid string, hours ...float64) []*bundle.Record {
	s.t.Helper()
	var files []*bytes.Buffer
	w := bundle.NewLogWriter(bundle.LogOptions{Encoders: s.enc, Next: func() (io.Writer, error) {
		files = append(files, &bytes.Buffer{})
		return files[len(files)-1], nil
	}})
	var keys []string
	var records []*bundle.Record
	for i, h := range hours {
		at := day.Add(time.Duration(h * float64(time.Hour)))
		fmt.Fprintf(w, "%s part %d\n", at.Format("2006-01-02T15:04:05.000000000Z07:00"), i)
		r := run("a", pod, uid, "app", 0, h)
		last := i == len(hours)-1
		cut := w.Cut
		if last {
			cut = w.Close
		} else {
			r.State = bundle.State{Running: true, StartedAt: &day}
			r.Verdict.Complete, r.Verdict.Tail = false, bundle.Part{State: bundle.Unproven, Cause: bundle.CauseStillRunning}
		}
		sum, err := cut()
		if err != nil {
			s.t.Fatal(err)
		}
		r.LastStamp = sum.LastStamp
		keys = append(keys, keyOf(s.t, r).Final().Log(i+1, bundle.Zstd))
		for j := range sum.Objects {
			sum.Objects[j].Key = keys[j]
		}
		if err := errors.Join(r.SetLog(sum, bundle.Zstd), r.Validate()); err != nil {
			s.t.Fatal(err)
		}
		s.put(keys[i], files[i].Bytes())
		b, err := bundle.Encode(r)
		if err != nil {
			s.t.Fatal(err)
		}
		s.put(keyOf(s.t, r).Record(), b)
		records = append(records, r)
	}
	return records
}

// age makes everything that is stored look old.
func (s *stock) age() {
	s.t.Helper()
	old := time.Now().Add(-2 * orphanAge)
	for o, err := range s.dir.List(s.t.Context(), "", sink.ListOptions{}) {
		if err == nil {
			err = os.Chtimes(filepath.Join(s.path, filepath.FromSlash(o.Key)), old, old)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// verify returns the result, and each finding as its kind and key.
func verify(t testing.TB, a *Archive, o VerifyOptions) (Verification, []string) {
	t.Helper()
	var found []string
	v, err := a.Verify(t.Context(), o, func(f Finding) { found = append(found, string(f.Kind)+" "+f.Key) })
	if err != nil {
		t.Fatal(err)
	}
	return v, found
}

func levels() []Level { return []Level{LevelList, LevelHead, LevelData} }

func TestVerifySound(t *testing.T) {
	s := fill(t)
	s.live("worker", "u9", 2, 26, 27, 50, 51)
	s.age()
	var read []int64
	for _, level := range levels() {
		v, found := verify(t, s.Archive, VerifyOptions{Level: level})
		if len(found) > 0 {
			t.Errorf("%s: %q", level, found)
		}
		if v.Records != 17 || v.Runs != 10 || v.Complete != 9 || v.Running != 1 || v.Objects != 8+5 || v.Foreign != 2 || v.Unproven != 0 {
			t.Errorf("%s: %+v", level, v)
		}
		if level == LevelHead && v.ChecksumsNotOffered == 0 {
			t.Errorf("a directory offers no checksums: %+v", v)
		}
		read = append(read, v.Read)
	}
	if read[0] != read[1] || read[2] <= read[1] {
		t.Errorf("%d bytes were read", read)
	}
}

// TestVerifyFindsEveryByte changes the bytes of a small archive: a record, its log, a snapshot and a
// segment on another day. Each time the key of the changed object is named, and nothing else. Of the
// records it is every fifth byte, for time's sake: package bundle's test of the same name takes all.
func TestVerifyFindsEveryByte(t *testing.T) {
	s := newStock(t)
	s.live("worker", "u9", 2, 26)
	s.age()
	var keys []string
	for o := range s.dir.List(t.Context(), "", sink.ListOptions{}) {
		keys = append(keys, o.Key)
	}
	if len(keys) != 4 {
		t.Fatal(keys)
	}
	for _, key := range keys {
		name := filepath.Join(s.path, filepath.FromSlash(key))
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		step := 1
		if strings.HasSuffix(key, ".json") {
			step = 5
		}
		for i := 0; i < len(b); i += step {
			b[i] ^= 1 << (i % 8)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, found := verify(t, s.Archive, VerifyOptions{Level: LevelData}); !cmp.Equal(found, []string{"damaged " + key}) {
				t.Fatalf("byte %d of %s: found %q", i, key, found)
			}
			b[i] ^= 1 << (i % 8)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyFindings(t *testing.T) {
	const record = "cluster=demo/namespace=a/date=2026-03-01/web/u1/_app.0.000000000000.json"
	const log = "cluster=demo/namespace=a/date=2026-03-01/web/u1/app.0.000000000000.log.zst"
	const segment = "cluster=demo/namespace=a/date=2026-03-01/worker/u9/app.0.000000000000.0001.log.zst"
	gone := func([]byte) []byte { return nil }
	lost := bundle.Part{State: bundle.Lost, Cause: bundle.CauseRotated}
	for _, c := range []struct {
		name  string
		level Level
		do    func(*testing.T, *stock)
		want  []string
	}{
		{"missing log", LevelList, func(_ *testing.T, s *stock) { s.damage(log, gone) }, []string{"missing " + log}},
		{"missing log, read", LevelData, func(_ *testing.T, s *stock) { s.damage(log, gone) }, []string{"missing " + log}},
		{"missing segment of another day", LevelList, func(_ *testing.T, s *stock) { s.damage(segment, gone) }, []string{"missing " + segment, "missing " + segment}},
		{"cut log", LevelList, func(_ *testing.T, s *stock) { s.damage(log, func(b []byte) []byte { return b[:len(b)-1] }) }, []string{"damaged " + log}},
		{"grown segment", LevelList, func(_ *testing.T, s *stock) { s.damage(segment, func(b []byte) []byte { return append(b, 0) }) }, []string{"damaged " + segment, "damaged " + segment}},
		{"changed log, listed", LevelList, func(_ *testing.T, s *stock) { s.damage(log, flip) }, nil},
		{"changed log, asked for", LevelHead, func(_ *testing.T, s *stock) { s.damage(log, flip) }, nil}, // a directory has no checksums
		{"changed log, read", LevelData, func(_ *testing.T, s *stock) { s.damage(log, flip) }, []string{"damaged " + log}},
		{"changed record", LevelList, func(_ *testing.T, s *stock) { s.damage(record, flip) }, []string{"damaged " + record}},
		{"no record", LevelList, func(_ *testing.T, s *stock) {
			s.damage(record, func([]byte) []byte { return []byte("{") })
		}, []string{"damaged " + record}},
		{"record of another run", LevelList, func(t *testing.T, s *stock) {
			b, err := bundle.Encode(run("a", "web", "u1", "app", 7, 1))
			if err != nil {
				t.Fatal(err)
			}
			s.damage(record, func([]byte) []byte { return b })
		}, []string{"damaged " + record}},
		{"record that contradicts itself", LevelData, func(t *testing.T, s *stock) {
			r := run("a", "web", "u1", "proxy", 0, 1)
			r.Verdict.Head = lost
			s.putRecord(r)
		}, []string{"damaged " + strings.Replace(record, "app", "proxy", 1)}},
		{"lost record", LevelList, func(_ *testing.T, s *stock) { s.damage(record, gone) }, []string{"orphan " + log}},
		{"young orphan", LevelList, func(_ *testing.T, s *stock) {
			s.damage(record, gone)
			s.damage(log, bytes.Clone) // written just now
		}, nil},
		{"leftover of an upload", LevelList, func(_ *testing.T, s *stock) {
			s.put(strings.Replace(log, ".log", ".1001.log", 1), []byte("x"))
			s.age()
		}, []string{"leftover " + strings.Replace(log, ".log", ".1001.log", 1)}},
		{"orphaned segment", LevelList, func(_ *testing.T, s *stock) {
			s.put(strings.Replace(segment, "/u9/", "/u8/", 1), []byte("x"))
			s.age()
		}, []string{"orphan " + strings.Replace(segment, "/u9/", "/u8/", 1)}},
		{"unnamed segment of a run", LevelList, func(_ *testing.T, s *stock) {
			s.put(strings.Replace(segment, "0001", "0009", 1), []byte("x"))
			s.age()
		}, []string{"leftover " + strings.Replace(segment, "0001", "0009", 1)}},
		{"lost snapshot", LevelData, func(_ *testing.T, s *stock) {
			s.damage(strings.Replace(segment, "app.0.000000000000.0001.log.zst", "_app.0.000000000000.at20260301T020000.000000000Z.json", 1), gone)
		}, nil}, // the final record names its segment, from another day
		{"damaged record may name them", LevelList, func(_ *testing.T, s *stock) {
			s.damage("cluster=demo/namespace=a/date=2026-03-03/worker/u9/_app.0.000000000000.json", flip)
			s.damage("cluster=demo/namespace=a/date=2026-03-01/worker/u9/_app.0.000000000000.at20260301T020000.000000000Z.json", gone)
		}, []string{"damaged cluster=demo/namespace=a/date=2026-03-03/worker/u9/_app.0.000000000000.json"}},
		{"duplicate of another day", LevelData, func(_ *testing.T, s *stock) {
			s.add(run("a", "web", "u1", "app", 0, 30), "a log\n", bundle.LogOptions{})
		}, []string{"duplicate " + record}},
		{"duplicate with another restart count", LevelData, func(_ *testing.T, s *stock) {
			r := run("a", "web", "u1", "app", 3, 1)
			r.Container.ContainerID = run("a", "web", "u1", "app", 0, 1).Container.ContainerID
			s.add(r, "", bundle.LogOptions{})
		}, []string{"duplicate " + strings.Replace(record, ".0.0", ".3.0", 1)}},
		{"no digest", LevelData, func(_ *testing.T, s *stock) {
			r := run("a", "web", "u1", "proxy", 0, 1)
			r.FormatVersion = "1.0"
			s.add(r, "", bundle.LogOptions{})
		}, []string{"noDigest " + strings.Replace(record, "app", "proxy", 1)}},
		{"gap", LevelList, func(_ *testing.T, s *stock) {
			r := run("a", "web", "u1", "proxy", 0, 1)
			r.Verdict = bundle.Verdict{Head: lost, Middle: lost, Tail: bundle.Part{State: bundle.Proven}}
			s.add(r, "", bundle.LogOptions{})
		}, []string{"gap " + strings.Replace(record, "app", "proxy", 1)}},
		{"foreign objects", LevelData, func(_ *testing.T, s *stock) {
			for _, key := range []string{"README.md", "cluster=demo/README", "cluster=DEMO/x", "other/tool/a", "other/tool/b", "cluster=demo/namespace=a/date=soon/x", "cluster=demo/namespace=a/date=2026-03-01/README", "cluster=demo/namespace=a/date=2026-03-01/web/u1/app.log.zst"} {
				s.put(key, []byte("somebody else's"))
			}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStock(t)
			s.add(run("a", "web", "u1", "app", 0, 1), "a log\n", bundle.LogOptions{})
			s.add(run("a", "web", "u1", "app", 1, 30), "another log\n", bundle.LogOptions{Compression: bundle.Gzip})
			s.live("worker", "u9", 2, 26, 50)
			s.age()
			c.do(t, s)
			_, found := verify(t, s.Archive, VerifyOptions{Level: c.level})
			slices.Sort(found)
			want := slices.Compact(c.want) // found in two folders, a damaged segment is told twice
			if got := slices.Compact(found); !cmp.Equal(got, want) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// putRecord stores a record as it is.
func (s *stock) putRecord(r *bundle.Record) {
	s.t.Helper()
	b, err := bundle.Encode(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(keyOf(s.t, r).Record(), b)
}

func TestVerifyCounts(t *testing.T) {
	s := newStock(t)
	part := func(state bundle.PartState, cause bundle.Cause) bundle.Part {
		return bundle.Part{State: state, Cause: cause}
	}
	for i, v := range []bundle.Verdict{
		{Head: part(bundle.Lost, bundle.CauseRotated), Middle: part(bundle.Lost, bundle.CauseRotated), Tail: part(bundle.Unproven, bundle.CauseTailUnproven)},
		{Head: part(bundle.Lost, bundle.CauseRotated), Middle: part(bundle.Proven, ""), Tail: part(bundle.Lost, bundle.CauseNodeLost)},
		{Head: part(bundle.Unproven, bundle.CauseNotWitnessed), Middle: part(bundle.Proven, ""), Tail: part(bundle.Proven, "")},
	} {
		r := run("a", "web", fmt.Sprintf("u%d", i), "app", 0, 1)
		r.Verdict = v
		s.add(r, "x\n", bundle.LogOptions{})
	}
	v, _ := verify(t, s.Archive, VerifyOptions{})
	if v.Gaps != 2 || v.Unproven != 1 || v.Complete != 0 || v.Runs != 3 ||
		!cmp.Equal(v.GapsByCause, map[bundle.Cause]int64{bundle.CauseRotated: 2, bundle.CauseNodeLost: 1}) ||
		!cmp.Equal(v.UnprovenByCause, map[bundle.Cause]int64{bundle.CauseNotWitnessed: 1}) {
		t.Errorf("%+v", v)
	}
}

func TestVerifySubsets(t *testing.T) {
	s := fill(t)
	s.age()
	for _, c := range []struct {
		name          string
		q             Query
		records, runs int64
	}{
		{"namespace", Query{Namespaces: []string{"b"}}, 3, 2},
		{"cluster", Query{Cluster: "demo"}, 12, 9},
		{"no such cluster", Query{Cluster: "other"}, 0, 0},
		{"pod", Query{Namespaces: []string{"a"}, Pod: "web"}, 7, 5},
		{"uid", Query{Pod: "web", UID: "u1"}, 3, 3},
		{"container", Query{Container: "proxy"}, 1, 1},
		{"since", Query{Since: day.Add(48 * time.Hour)}, 3, 2},
		{"until", Query{Until: day.Add(24 * time.Hour)}, 4, 4},
		{"hours", Query{Since: day.Add(30 * time.Hour), Until: day.Add(31 * time.Hour)}, 5, 2},
	} {
		v, found := verify(t, s.Archive, VerifyOptions{Query: c.q, Level: LevelData})
		if v.Records != c.records || v.Runs != c.runs || len(found) > 0 {
			t.Errorf("%s: %d records of %d runs, found %q, want %d of %d", c.name, v.Records, v.Runs, found, c.records, c.runs)
		}
	}
	for _, o := range []VerifyOptions{{Query: Query{Snapshots: true}}, {Sample: 2}, {Query: Query{Pod: "../x"}}} {
		if _, err := s.Verify(t.Context(), o, func(Finding) {}); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestVerifySample(t *testing.T) {
	s := newStock(t)
	for i := range 400 {
		s.add(run("a", fmt.Sprintf("p%d", i), "u", "app", 0, 1), "", bundle.LogOptions{})
	}
	v, _ := verify(t, s.Archive, VerifyOptions{Sample: 0.1, Seed: 7})
	again, _ := verify(t, s.Archive, VerifyOptions{Sample: 0.1, Seed: 7})
	other, _ := verify(t, s.Archive, VerifyOptions{Sample: 0.1, Seed: 8})
	if v.Records < 15 || v.Records > 75 || v.Records+v.NotChosen != 400 || again.Records != v.Records || again.Stored != v.Stored {
		t.Errorf("%d, then %d of 400 records", v.Records, again.Records)
	}
	if v.Stored == other.Stored {
		t.Error("another seed chose the same")
	}
}

// TestFilter: nothing that was added is ever taken for new.
func TestFilter(t *testing.T) {
	var f filter
	wrong := 0
	key := func(i int) runHash {
		return identityOf(bundle.RunKey{UID: fmt.Sprint(i), Container: "app", ID12: "none"})
	}
	for i := range 2 * filterFew {
		if f.add(key(i)) {
			wrong++
		}
	}
	for i := range 2 * filterFew {
		if !f.add(key(i)) {
			t.Fatal("forgotten")
		}
	}
	if wrong > 8 {
		t.Errorf("%d were taken for known", wrong)
	}
}
