package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
)

// image is a container image of one layer, FROM scratch.
type image struct {
	name  string
	files []imageFile
	cmd   []string
	env   []string
}

// imageFile is a folder when its name ends in a slash, a symbolic link when it
// has a target, else a regular file.
type imageFile struct {
	name   string
	mode   int64
	data   []byte
	target string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeArchive writes the image as an OCI image layout in a tar file, the form
// that "ctr images import" reads. Written here, the images need neither Docker
// nor a registry. The same image gives the same bytes.
func (m image) writeArchive(w io.Writer) error {
	layer, err := m.layer()
	if err != nil {
		return fmt.Errorf("write layer of %s: %w", m.name, err)
	}
	archive := tar.NewWriter(w)
	layerRef, err := writeBlob(archive, "application/vnd.oci.image.layer.v1.tar", layer)
	if err != nil {
		return err
	}
	configRef, err := writeJSONBlob(archive, "application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Cmd": m.cmd, "Env": m.env},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerRef.Digest}},
	})
	if err != nil {
		return err
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifestRef, err := writeJSONBlob(archive, manifestType, map[string]any{
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        configRef,
		"layers":        []descriptor{layerRef},
	})
	if err != nil {
		return err
	}
	// containerd takes the image's full name from its own annotation; the
	// standard one (org.opencontainers.image.ref.name) may hold a tag only.
	manifestRef.Annotations = map[string]string{"io.containerd.image.name": m.name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifestRef}})
	if err != nil {
		return err
	}
	if err := writeFile(archive, imageFile{name: "index.json", mode: 0o644, data: index}); err != nil {
		return err
	}
	layout := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	if err := writeFile(archive, imageFile{name: "oci-layout", mode: 0o644, data: layout}); err != nil {
		return err
	}
	return archive.Close()
}

func (m image) layer() ([]byte, error) {
	var b bytes.Buffer
	layer := tar.NewWriter(&b)
	for _, f := range m.files {
		if err := writeFile(layer, f); err != nil {
			return nil, err
		}
	}
	if err := layer.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeJSONBlob(w *tar.Writer, mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return writeBlob(w, mediaType, data)
}

func writeBlob(w *tar.Writer, mediaType string, data []byte) (descriptor, error) {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	err := writeFile(w, imageFile{name: "blobs/sha256/" + digest, mode: 0o644, data: data})
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}, err
}

func writeFile(w *tar.Writer, f imageFile) error {
	h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch {
	case f.target != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.target
	case f.name[len(f.name)-1] == '/':
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	if _, err := w.Write(f.data); err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	return nil
}

func pauseImage(program []byte) image {
	return image{
		name:  Pause,
		files: []imageFile{{name: "pause", mode: 0o755, data: program}},
		cmd:   []string{"/pause"},
	}
}

// busyboxImage has every applet as a link in /bin, because scripts inside pods
// call them by name.
func busyboxImage(program []byte, applets []string) image {
	files := []imageFile{
		{name: "bin/", mode: 0o755},
		{name: "bin/busybox", mode: 0o755, data: program},
		{name: "etc/", mode: 0o755},
		{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{name: "tmp/", mode: 0o1777},
	}
	for _, applet := range applets {
		if applet != "busybox" {
			files = append(files, imageFile{name: "bin/" + applet, mode: 0o777, target: "busybox"})
		}
	}
	return image{name: Busybox, files: files, cmd: []string{"sh"}, env: []string{"PATH=/bin"}}
}
