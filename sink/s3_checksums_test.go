package sink_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/archive"
	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

func TestS3Checksums(t *testing.T) {
	body := []byte("an object")
	sum := sha256.Sum256(body)
	md5 := strings.Trim(etag(body), `"`)
	for name, c := range map[string]struct {
		headers map[string]string
		want    sink.Checksums
	}{
		"etag":           {nil, sink.Checksums{MD5: md5}},
		"upper case":     {map[string]string{"ETag": strings.ToUpper(etag(body))}, sink.Checksums{MD5: md5}},
		"etag of parts":  {map[string]string{"ETag": `"d41d8cd98f00b204e9800998ecf8427e-2"`}, sink.Checksums{}},
		"strange etag":   {map[string]string{"ETag": `"hello"`}, sink.Checksums{}},
		"kms":            {map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms"}, sink.Checksums{}},
		"kms, two layer": {map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms:dsse"}, sink.Checksums{}},
		"sse-c":          {map[string]string{"X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}, sink.Checksums{}},
		"store's key":    {map[string]string{"X-Amz-Server-Side-Encryption": "AES256"}, sink.Checksums{MD5: md5}},
		"sha256": {map[string]string{"X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(sum[:]), "X-Amz-Checksum-Type": "FULL_OBJECT"},
			sink.Checksums{MD5: md5, SHA256: hex.EncodeToString(sum[:])}},
		"sha256 of parts": {map[string]string{"X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(sum[:]), "X-Amz-Checksum-Type": "COMPOSITE"}, sink.Checksums{MD5: md5}},
		"broken sha256":   {map[string]string{"X-Amz-Checksum-Sha256": "AAAA"}, sink.Checksums{MD5: md5}},
	} {
		asked := false
		f := newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodHead {
				return false
			}
			asked = r.Header.Get("X-Amz-Checksum-Mode") == "ENABLED"
			w.Header().Set("ETag", etag(body))
			for name, value := range c.headers {
				w.Header().Set(name, value)
			}
			http.ServeContent(w, r, "", time.Unix(1_700_000_000, 0), bytes.NewReader(body))
			return true
		})
		got, err := f.open(t).Checksums(t.Context(), "a/b")
		if err != nil || got.MD5 != c.want.MD5 || got.SHA256 != c.want.SHA256 || got.Size != int64(len(body)) || got.Key != "a/b" {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
		if !asked {
			t.Errorf("%s: no checksum was asked for", name)
		}
	}
	f := newFakeS3(t, nil)
	if _, err := f.open(t).Checksums(t.Context(), "a/b"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("of a missing object: %v", err)
	}
}

// TestVerifyS3 verifies an archive in an S3 store: what the store tells of an object is compared at
// level head, and what it refuses is not called damaged.
func TestVerifyS3(t *testing.T) {
	var denied string
	var f *fakeS3
	f = newFakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
		if denied != "" && strings.Contains(r.URL.Path+r.URL.Query().Get("prefix"), denied) {
			refuse(w, http.StatusForbidden, "AccessDenied")
			return true
		}
		if r.URL.Query().Get("delimiter") == "" {
			return false
		}
		f.listFolders(w, r)
		return true
	})
	b := f.open(t)
	o := storeRun(t, b, "shop")
	storeRun(t, b, "pay")
	verify := func(level archive.Level) (archive.Verification, []archive.Finding) {
		t.Helper()
		var found []archive.Finding
		v, err := archive.New(b).Verify(t.Context(), archive.VerifyOptions{Level: level},
			func(f archive.Finding) { found = append(found, f) })
		if err != nil {
			t.Fatal(err)
		}
		return v, found
	}
	for _, level := range []archive.Level{archive.LevelList, archive.LevelHead, archive.LevelData} {
		v, found := verify(level)
		if len(found) > 0 || v.Records != 2 || v.Objects != 2 {
			t.Errorf("%s: %v, %+v", level, found, v)
		}
		if level == archive.LevelHead && v.ChecksumsCompared != 2 {
			t.Errorf("%+v", v)
		}
	}
	f.mu.Lock()
	stored := f.objects["/logs/"+o.Key]
	stored[len(stored)/2] ^= 1
	f.mu.Unlock()
	for _, level := range []archive.Level{archive.LevelHead, archive.LevelData} {
		if _, found := verify(level); len(found) != 1 || found[0].Kind != archive.FoundDamaged || found[0].Key != o.Key {
			t.Errorf("%s: %v", level, found)
		}
	}
	denied = "namespace=pay"
	v, found := verify(archive.LevelData)
	if len(found) != 2 || v.Damaged != 1 || v.Unchecked != 1 || v.Records != 1 {
		t.Errorf("%v, %+v", found, v)
	}
}

// listFolders gives the folders under a prefix.
func (f *fakeS3) listFolders(w http.ResponseWriter, r *http.Request) {
	type folder struct{ Prefix string }
	var page struct {
		XMLName        xml.Name `xml:"ListBucketResult"`
		CommonPrefixes []folder
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	prefix := r.URL.Query().Get("prefix")
	for path := range f.objects {
		key := strings.TrimPrefix(path, r.URL.Path)
		if name, _, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/"); ok && strings.HasPrefix(key, prefix) {
			page.CommonPrefixes = append(page.CommonPrefixes, folder{prefix + name + "/"})
		}
	}
	slices.SortFunc(page.CommonPrefixes, func(a, b folder) int { return strings.Compare(a.Prefix, b.Prefix) })
	page.CommonPrefixes = slices.Compact(page.CommonPrefixes)
	_ = xml.NewEncoder(w).Encode(page)
}

func storeRun(t *testing.T, b sink.Bucket, namespace string) bundle.Object {
	t.Helper()
	var file bytes.Buffer
	w := bundle.NewLogWriter(bundle.LogOptions{Next: func() (io.Writer, error) { return &file, nil }})
	_, err := io.WriteString(w, "2026-02-28T23:59:59.000000000Z a line of "+namespace+"\n")
	sum, cerr := w.Close()
	end := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	proven := bundle.Part{State: bundle.Proven}
	r := &bundle.Record{
		FormatVersion: bundle.FormatVersion, Cluster: "c", Namespace: namespace, Pod: bundle.Pod{Name: "p", UID: "u"},
		Container: bundle.Container{Name: "app", Type: bundle.TypeContainer, ContainerID: "containerd://" + strings.Repeat("ab", 32)},
		State:     bundle.State{FinishedAt: &end}, Verdict: bundle.Verdict{Complete: true, Head: proven, Middle: proven, Tail: proven},
		Capture: bundle.Capture{Policy: "final"},
	}
	serr := r.SetLog(sum, bundle.Zstd)
	k, kerr := bundle.KeyOf(r)
	data, eerr := bundle.Encode(r)
	put := func(key string, b2 []byte) error { return b.Put(context.Background(), key, bytes.NewReader(b2)) }
	if err := errors.Join(err, cerr, serr, kerr, eerr, put(r.Objects[0].Key, file.Bytes()), put(k.Record(), data)); err != nil {
		t.Fatal(err)
	}
	return r.Objects[0]
}
