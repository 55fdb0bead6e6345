//go:build unix

package sink_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/sink"
)

// keys lists the keys that begin with a prefix.
func keys(t *testing.T, d *sink.Dir, prefix string) (got []string) {
	t.Helper()
	for o, err := range d.List(t.Context(), prefix, sink.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o.Key)
	}
	return got
}

// What is no file is no object, whoever is asked. A pipe above all: who opens one waits for a writer.
func TestDirWithWhatIsNoFile(t *testing.T) {
	link := func(to string) func(string) error {
		return func(path string) error { return os.Symlink(to, path) }
	}
	for name, stray := range map[string]func(path string) error{
		"pipe":               func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"link in a circle":   link("stray"),
		"link to nowhere":    link("nowhere"),
		"link to a folder":   link("folder"),
		"link to the folder": link("."),
	} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t, t.TempDir())
			if err := d.Put(t.Context(), "a/folder/b", strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
			if err := stray(filepath.Join(d.Path(), "a/stray")); err != nil {
				t.Fatal(err)
			}
			if got := keys(t, d, ""); !slices.Equal(got, []string{"a/folder/b"}) {
				t.Errorf("listed are %q", got)
			}
			if got := keys(t, d, "a/stray/"); !strings.HasPrefix(name, "link to") && got != nil {
				t.Errorf("listed in it are %q", got)
			}
			if o, err := d.Stat(t.Context(), "a/stray"); !errors.Is(err, sink.ErrNotFound) {
				t.Errorf("stat: %+v, %v, want ErrNotFound", o, err)
			}
			if _, err := d.Open(t.Context(), "a/stray", 0, -1); !errors.Is(err, sink.ErrNotFound) {
				t.Errorf("open: %v, want ErrNotFound", err)
			}
		})
	}
}

// What cannot be looked at may be a part of the archive: a listing without it would lie.
func TestDirListFailsAtALinkThatLeadsOut(t *testing.T) {
	d := openDir(t, t.TempDir())
	if err := os.Symlink(t.TempDir(), filepath.Join(d.Path(), "a")); err != nil {
		t.Fatal(err)
	}
	for o, err := range d.List(t.Context(), "", sink.ListOptions{}) {
		if err == nil || errors.Is(err, sink.ErrNotFound) {
			t.Errorf("listed is %+v, %v", o, err)
		}
		return
	}
	t.Error("listed is nothing, without an error")
}

// A new file system has a folder that only root may read, and an exporter is not root. What else may not be read fails
// the listing and the count: without it they would lie.
func TestDirAsAnotherUser(t *testing.T) {
	if path := os.Getenv("TEST_USER_DIR"); path != "" {
		useAsAnotherUser(t, path)
		return
	}
	path, err := os.MkdirTemp("", "sink") //nolint:usetesting // others may not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	if err := os.Mkdir(filepath.Join(path, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirAsAnotherUser$") //nolint:gosec // ourselves
	if os.Getuid() == 0 {
		cmd.Path = "/proc/self/exe" // others may not enter its folder
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Env = append(os.Environ(), "TEST_USER_DIR="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// useAsAnotherUser is the other process.
func useAsAnotherUser(t *testing.T, path string) {
	t.Helper()
	d := openDir(t, path)
	lock := func() error {
		release, err := d.Lock()
		if err == nil {
			err = release()
		}
		return err
	}
	if err := lock(); err != nil {
		t.Error(err)
	}
	if err := d.Put(t.Context(), "a/b", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, d, ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("listed are %q", got)
	}
	if got := keys(t, d, "lost+found/"); got != nil {
		t.Errorf("listed in lost+found are %q", got)
	}
	if err := os.Mkdir(filepath.Join(path, "c"), 0); err != nil {
		t.Fatal(err)
	}
	if err := lock(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("lock with a folder that may not be read: %v", err)
	}
	for o, err := range d.List(t.Context(), "b", sink.ListOptions{}) {
		t.Errorf("listed beside it is %+v, %v", o, err)
	}
	var err error
	for _, err = range d.List(t.Context(), "", sink.ListOptions{}) {
	}
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("list a folder that may not be read: %v", err)
	}
}
