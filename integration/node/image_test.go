package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestImageArchive(t *testing.T) {
	m := busyboxImage([]byte("program"), []string{"busybox", "sh", "ls"})
	var b, again bytes.Buffer
	if err := m.writeArchive(&b); err != nil {
		t.Fatal(err)
	}
	if err := m.writeArchive(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same image gave different bytes")
	}

	files := untar(t, b.Bytes())
	if len(files) != 5 { // layer, config, manifest, index, layout
		t.Fatalf("archive has %d files, want 5", len(files))
	}
	for name, data := range files {
		if digest, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s has other content than its name says", name)
			}
		}
	}
	var index struct{ Manifests []descriptor }
	decode(t, files["index.json"], &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != Busybox {
		t.Fatalf("index names %+v, want one manifest for %s", index.Manifests, Busybox)
	}
	blob := func(d descriptor) []byte {
		data := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		if len(data) != d.Size {
			t.Fatalf("blob %s has %d bytes, want %d", d.Digest, len(data), d.Size)
		}
		return data
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, blob(index.Manifests[0]), &manifest)
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, blob(manifest.Config), &config)
	if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Fatalf("layers %+v do not match diff_ids %v", manifest.Layers, config.RootFS.DiffIDs)
	}
	layer := untar(t, blob(manifest.Layers[0]))
	if string(layer["bin/busybox"]) != "program" {
		t.Errorf("bin/busybox is %q", layer["bin/busybox"])
	}
	if _, ok := layer["bin/sh"]; !ok {
		t.Error("bin/sh is missing")
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
