package s3server

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// labelRecipe marks an image with all that it was made from.
const labelRecipe = "com.github.kubelogexporter.recipe"

// recipe is how one server is built: its nested module, and for which machine.
type recipe struct {
	kind    Kind
	dir     string // the nested module
	version string // of the server's own module
	pkg     string // the server's main package
	arch    string // of the Docker daemon's machine
	hash    string // of all this
}

// image is the name that the server's image goes by. The domain is reserved for tests (RFC 2606), so
// that no registry can answer for it.
func (r recipe) image() string { return "kubelogexporter.test/" + string(r.kind) + ":" + r.version }

// imageOf returns an image of a server that the Docker daemon has, or can get: the one that the
// environment names, else one made of the server's Go module and nothing else.
func imageOf(ctx context.Context, kind Kind, log io.Writer) (string, error) {
	if image := os.Getenv(envImage); image != "" && kind == MinIO {
		return image, nil
	}
	r, err := newRecipe(ctx, kind)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	cache = filepath.Join(cache, "kubelogexporter")
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // programs, for everybody
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	unlock, err := flock(ctx, filepath.Join(cache, string(kind)+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	out, err := exec.CommandContext(ctx, "docker", "image", "inspect", "--format", `{{index .Config.Labels "`+labelRecipe+`"}}`, r.image()).Output()
	if err == nil && strings.TrimSpace(string(out)) == r.hash {
		return r.image(), nil
	}
	binary := filepath.Join(cache, r.hash, string(kind))
	if _, err := os.Stat(binary); err != nil {
		if err := r.build(ctx, binary, log); err != nil {
			return "", err
		}
	}
	return r.image(), r.load(ctx, binary)
}

func newRecipe(ctx context.Context, kind Kind) (recipe, error) {
	dir, err := sourceDir(kind)
	if err != nil {
		return recipe{}, err
	}
	arch, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Arch}}").Output()
	if err != nil {
		return recipe{}, fmt.Errorf("ask Docker for its architecture: %w", err)
	}
	r := recipe{kind: kind, dir: dir, arch: strings.TrimSpace(string(arch))}
	mod, err := r.command(ctx, "mod", "edit", "-json").Output()
	if err != nil {
		return recipe{}, fmt.Errorf("read %s/go.mod: %w", dir, err)
	}
	var file struct {
		Tool    []struct{ Path string }
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(mod, &file); err != nil {
		return recipe{}, fmt.Errorf("read %s/go.mod: %w", dir, err)
	}
	if len(file.Tool) != 1 {
		return recipe{}, fmt.Errorf("read %s/go.mod: %d tools, want one", dir, len(file.Tool))
	}
	r.pkg = file.Tool[0].Path
	for _, m := range file.Require {
		if r.pkg == m.Path || strings.HasPrefix(r.pkg, m.Path+"/") {
			r.version = m.Version
		}
	}
	if r.version == "" {
		return recipe{}, fmt.Errorf("read %s/go.mod: it does not require the module of %s", dir, r.pkg)
	}
	h := sha256.New()
	toolchain, err := r.command(ctx, "version").Output()
	if err != nil {
		return recipe{}, fmt.Errorf("run go version: %w", err)
	}
	fmt.Fprintf(h, "%s%s %q %s", toolchain, r.arch, r.buildArgs(""), mod)
	sums, err := os.ReadFile(filepath.Join(dir, "go.sum")) //nolint:gosec // of this repository
	if err != nil {
		return recipe{}, err
	}
	h.Write(sums)
	r.hash = hex.EncodeToString(h.Sum(nil))[:16]
	return r, nil
}

// sourceDir finds a server's nested module from anywhere inside the repository. A test runs in its
// package's folder, a command where the user is.
func sourceDir(kind Kind) (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		source := filepath.Join(dir, "integration", "s3server", string(kind))
		if _, err := os.Stat(filepath.Join(source, "go.mod")); err == nil {
			return source, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find integration/s3server/%s/go.mod above %s: run this inside a checkout of the repository", kind, start)
		}
	}
}

// command is a go command in the nested module, for the Docker daemon's machine.
func (r recipe) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+r.arch, "GOWORK=off", "GOFLAGS=")
	return cmd
}

func (r recipe) buildArgs(out string) []string {
	return []string{"build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w", "-o", out, r.pkg}
}

// build compiles the server into the cache, whole or not at all.
func (r recipe) build(ctx context.Context, binary string, log io.Writer) error {
	fmt.Fprintf(log, "building %s %s from its Go module, once; 2 to 6 minutes on 2 cores\n", r.kind, r.version)
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil { //nolint:gosec // programs, for everybody
		return fmt.Errorf("make cache folder: %w", err)
	}
	cmd := r.command(ctx, r.buildArgs(binary+".unfinished")...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go build then removes its temporary files
	cmd.WaitDelay = 30 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", r.pkg, err, out)
	}
	return os.Rename(binary+".unfinished", binary)
}

// load makes the image: the one binary and the folders that it needs. "docker import" does that with
// any Docker; "docker build" would ask for a plugin here and warn about its age there.
func (r recipe) load(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, "docker", "import", "--platform", "linux/"+r.arch,
		"--change", `ENTRYPOINT ["/`+string(r.kind)+`"]`,
		"--change", "LABEL "+labelRecipe+"="+r.hash,
		"-", r.image())
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("make image %s: %w", r.image(), err)
	}
	var message strings.Builder
	cmd.Stderr = &message
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make image %s: %w", r.image(), err)
	}
	err = errors.Join(writeImage(in, binary), in.Close())
	if werr := cmd.Wait(); werr != nil {
		return fmt.Errorf("make image %s: %w: %s", r.image(), werr, message.String())
	}
	return err
}

func writeImage(w io.Writer, binary string) error {
	f, err := os.Open(binary) //nolint:gosec // our own file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for name, mode := range map[string]int64{"data/": 0o755, "tmp/": 0o1777} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}); err != nil {
			return err
		}
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Base(binary), Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(t, f); err != nil {
		return err
	}
	return t.Close()
}
