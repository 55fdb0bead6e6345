package bundle

import (
	"strings"
	"testing"
	"time"
)

func TestKeys(t *testing.T) {
	run := RunKey{
		Cluster: "prod-eu", Namespace: "shop", Date: "2026-03-01", Pod: "cart-7d9f.v2-abcde",
		UID: "0f3c6d1e-93a1-4a53-9d0c-1f0b7a5f2f11", Container: "app", Restart: 12, ID12: "0123456789ab",
	}
	snapshot := run
	snapshot.Snapshot = time.Date(2026, 3, 1, 23, 59, 59, 1000, time.UTC)
	const folder = "cluster=prod-eu/namespace=shop/date=2026-03-01/cart-7d9f.v2-abcde/0f3c6d1e-93a1-4a53-9d0c-1f0b7a5f2f11/"
	for _, c := range []struct {
		key     string
		made    string
		run     RunKey
		kind    Kind
		segment int
		c       Compression
	}{
		{"_app.12.0123456789ab.json", run.Record(), run, KindRecord, 0, Zstd},
		{"app.12.0123456789ab.log.zst", run.Log(0, Zstd), run, KindLog, 0, Zstd},
		{"app.12.0123456789ab.log.gz", run.Log(0, Gzip), run, KindLog, 0, Gzip},
		{"app.12.0123456789ab.0001.log.zst", run.Log(1, Zstd), run, KindLog, 1, Zstd},
		{"app.12.0123456789ab.12345.log.gz", run.Log(12345, Gzip), run, KindLog, 12345, Gzip},
		{"_app.12.0123456789ab.at20260301T235959.000001000Z.json", snapshot.Record(), snapshot, KindRecord, 0, Zstd},
		{"app.12.0123456789ab.at20260301T235959.000001000Z.log.zst", snapshot.Log(0, Zstd), snapshot, KindLog, 0, Zstd},
		{"app.12.0123456789ab.at20260301T235959.000001000Z.0002.log.gz", snapshot.Log(2, Gzip), snapshot, KindLog, 2, Gzip},
	} {
		if c.made != folder+c.key {
			t.Errorf("made %q, not %q", c.made, folder+c.key)
		}
		run, kind, segment, comp, err := ParseKey(folder + c.key)
		if err != nil || run != c.run || kind != c.kind || segment != c.segment || comp != c.c {
			t.Errorf("%s: %+v %v %v %v %v", c.key, run, kind, segment, comp, err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	const good = "cluster=c/namespace=n/date=2026-03-01/p/u/a.0.0123456789ab.log.zst"
	if _, _, _, _, err := ParseKey(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"cluster=c", "cluster="}, {"cluster=c", "cluster=.."}, {"cluster=c", "cluster=C"}, {"cluster=c", "cluster=a..b"},
		{"cluster=c", "cluster=" + strings.Repeat("c", 64)}, {"cluster=c", "c"}, {"cluster=c", "/cluster=c"},
		{"=n", "=n.m"}, {"=n", "=-"}, {"2026-03-01", "2026-02-29"}, {"2026-03-01", "0001-01-01"}, {"2026-03-01", "2026-3-1"},
		{"/p/", "//"}, {"/p/", "/../"}, {"/p/", "/p/p/"}, {"/p/", "/P/"}, {"/p/", "/" + strings.Repeat("p", 254) + "/"},
		{"/u/", "/./"}, {"/u/", "/-/"}, {"/u/", "/ü/"}, {"/u/", "/" + strings.Repeat("u", 129) + "/"},
		{"a.0", "a_b.0"}, {"a.0", ".0"}, {"a.0", "a.00"}, {"a.0", "a.+1"}, {"a.0", "a.-1"}, {"a.0", "a.2147483648"}, {"a.0", "_a.0"},
		{"0123456789ab", "0123456789AB"}, {"0123456789ab", "0123456789a"}, {"0123456789ab", "None"},
		{".log", ".0.log"}, {".log", ".001.log"}, {".log", ".0000.log"}, {".log", ".00001.log"}, {".log", ".1.log"}, {".log", ".0001.0001.log"},
		{".log", ".at20260301T000000Z.log"}, {".log", ".at20260302T000000.000000000Z.log"}, {".log", ".at20260301T000000.5Z.log"},
		{".zst", ".zst.zst"}, {".zst", ""}, {".zst", ".json"}, {".log.zst", ".json"}, {".zst", ".zst\n"},
	} {
		key := strings.Replace(good, change[0], change[1], 1)
		if run, _, _, _, err := ParseKey(key); err == nil {
			t.Errorf("%q was taken for %+v", key, run)
		}
	}
}

func TestID12(t *testing.T) {
	for id, want := range map[string]string{
		"": "none",
		"containerd://0123456789abcdef0123456789abcdef": "0123456789ab",
		"cri-o://fedcba987654":                          "fedcba987654",
		"0123456789ab":                                  "0123456789ab",
		"docker://":                                     "none",
		"containerd://My-Container":                     sha([]byte("My-Container"))[:12],
		"containerd://0123456789abcdef/..":              sha([]byte("0123456789abcdef/.."))[:12],
		"abc":                                           sha([]byte("abc"))[:12],
	} {
		if got := ID12(id); got != want {
			t.Errorf("%q: %s, not %s", id, got, want)
		}
	}
}

func TestKeyOf(t *testing.T) {
	east := time.FixedZone("", 5*3600)
	end := time.Date(2026, 3, 2, 1, 0, 0, 0, east) // still March 1 in UTC
	r := goldenRecord("app")
	r.State.FinishedAt = &end
	k, err := KeyOf(r)
	if err != nil || k.Date != "2026-03-01" || !k.Snapshot.IsZero() {
		t.Errorf("%+v, %v", k, err)
	}
	r.State = State{Running: true, StartedAt: &end}
	if k, err = KeyOf(r); err != nil || k.Date != "2026-03-01" || !k.Snapshot.Equal(end) {
		t.Errorf("%+v, %v", k, err)
	}
	last := end.Add(24 * time.Hour)
	r.LastStamp = &last
	if k, err = KeyOf(r); err != nil || k.Date != "2026-03-02" || !k.Snapshot.Equal(last) {
		t.Errorf("%+v, %v", k, err)
	}
	if back, _, _, _, err := ParseKey(k.Record()); err != nil || back != k {
		t.Errorf("%+v, %v", back, err)
	}
	r.Pod.Name = "../../etc"
	if _, err = KeyOf(r); err == nil {
		t.Error("a pod name left its prefix")
	}
	r = goldenRecord("app")
	r.State.FinishedAt = nil
	if _, err = KeyOf(r); err == nil {
		t.Error("a run without an end was named")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("cluster=c/namespace=n/date=2026-03-01/p.q/u-1/a.0.0123456789ab.at20260301T000000.000000001Z.0001.log.zst")
	f.Add("cluster=c/namespace=n/date=2026-03-01/p/u/_a.1.none.json")
	f.Add("cluster=c/namespace=n/date=2026-03-01/p/u/a.1.none.0010.log.gz")
	f.Fuzz(func(t *testing.T, key string) {
		run, kind, segment, c, err := ParseKey(key)
		if err != nil {
			return
		}
		again := run.Record()
		if kind == KindLog {
			again = run.Log(segment, c)
		}
		if again != key {
			t.Fatalf("%q came back as %q", key, again)
		}
		if len(key) > 1024 || strings.Contains(key, "..") || strings.HasPrefix(key, "/") {
			t.Fatalf("%q is not fit to be a key", key)
		}
		for part := range strings.SplitSeq(key, "/") {
			if len(part) == 0 || len(part) > 255 {
				t.Fatalf("%q has a part of %d bytes", key, len(part))
			}
		}
	})
}

// FuzzRunKey goes the other way: whatever Check lets through comes back from its keys.
func FuzzRunKey(f *testing.F) {
	f.Add("c", "n", "2026-03-01", "p.q", "u", "a", int32(3), "0123456789ab", int64(0), 1)
	f.Add("c", "n", "2026-03-01", "p.log.zst", "u.json", "at", int32(0), "none", int64(1772323200000000001), 0)
	f.Fuzz(func(t *testing.T, cluster, ns, date, pod, uid, container string, restart int32, id string, at int64, segment int) {
		k := RunKey{Cluster: cluster, Namespace: ns, Date: date, Pod: pod, UID: uid, Container: container, Restart: restart, ID12: id}
		if at != 0 {
			k.Snapshot = time.Unix(0, at).UTC()
		}
		if k.Check() != nil || segment < 0 || segment > maxSegment {
			return
		}
		for c := range Gzip + 1 {
			back, kind, seg, comp, err := ParseKey(k.Log(segment, c))
			if err != nil || back != k || kind != KindLog || seg != segment || comp != c {
				t.Fatalf("%s: %+v %v %d %v %v", k.Log(segment, c), back, kind, seg, comp, err)
			}
		}
		if back, kind, _, _, err := ParseKey(k.Record()); err != nil || back != k || kind != KindRecord {
			t.Fatalf("%s: %+v %v %v", k.Record(), back, kind, err)
		}
		if !strings.HasPrefix(k.Record(), PodPrefix(cluster, ns, date, pod)) {
			t.Fatalf("%s is not below its pod's prefix", k)
		}
	})
}
