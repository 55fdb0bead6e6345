package sink_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/sink"
	"github.com/kubelogexporter/kubelogexporter/sink/sinktest"
)

func TestDir(t *testing.T) {
	sinktest.TestBucket(t, func(t *testing.T) sink.Bucket { return openDir(t, t.TempDir()) })
}

func openDir(t *testing.T, path string) *sink.Dir {
	t.Helper()
	d, err := sink.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// files lists everything below a directory that is no directory, hidden files too.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestDirFile(t *testing.T) {
	d := openDir(t, t.TempDir())
	temp := func(text string) *sink.File {
		t.Helper()
		f, err := d.Temp()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, text); err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second, third := temp("first"), temp("second"), temp("third")
	for o, err := range d.List(t.Context(), "", sink.ListOptions{}) {
		t.Errorf("before a commit the directory lists %+v, %v", o, err)
	}
	if err := first.Commit("a/b"); err != nil {
		t.Fatal(err)
	}
	if err := second.Commit("a/b"); !errors.Is(err, sink.ErrExists) {
		t.Errorf("commit under a name that is taken: got %v, want ErrExists", err)
	}
	if err := third.Commit("../a"); !errors.Is(err, sink.ErrInvalidKey) {
		t.Errorf("commit under no key: got %v, want ErrInvalidKey", err)
	}
	fourth := temp("fourth")
	if err := fourth.Abort(); err != nil {
		t.Errorf("abort: %v", err)
	}
	for _, f := range []*sink.File{first, second, third, fourth} {
		if err := f.Abort(); err != nil {
			t.Errorf("abort once more: %v", err)
		}
		if err := f.Commit("late"); err == nil {
			t.Error("commit once more: no error")
		}
	}
	if got := files(t, d.Path()); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("left are %q, want a/b only", got)
	}
	f, err := d.File("a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	if data, err := io.ReadAll(f); err != nil || string(data) != "first" {
		t.Errorf("a/b holds %q, %v", data, err)
	}
	if _, err := d.File("a"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("a directory as an object: got %v, want ErrNotFound", err)
	}
}

// TestDirLock locks a directory twice: in this process, and in another one that then dies without a
// word. What the dead one left in the making is swept, objects stay.
func TestDirLock(t *testing.T) {
	if path := os.Getenv("TEST_LOCK_DIR"); path != "" {
		holdLock(t, path)
		return
	}
	path := t.TempDir()
	d := openDir(t, path)
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDir(t, path).Lock(); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second lock: got %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}

	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirLock$") //nolint:gosec // ourselves
	other.Env = append(os.Environ(), "TEST_LOCK_DIR="+path)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	if _, err := d.Lock(); err == nil {
		t.Error("lock while another process holds it: no error")
	}
	if got := len(files(t, path)); got != 3 {
		t.Errorf("%d files, want the lock, an object and one in the making: %q", got, files(t, path))
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	release, err = d.Lock()
	if err != nil {
		t.Fatalf("lock after the other process died: %v", err)
	}
	defer release() //nolint:errcheck // the end of the test
	if got := files(t, path); !slices.Equal(got, []string{".lock", "done"}) {
		t.Errorf("after the sweep there are %q, want the lock and the object", got)
	}
}

// holdLock is the other process.
func holdLock(t *testing.T, path string) {
	t.Helper()
	d := openDir(t, path)
	if _, err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), "done", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Temp(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	<-t.Context().Done() // until it is killed
	select {}
}

func TestDirRemove(t *testing.T) {
	d := openDir(t, t.TempDir())
	for _, key := range []string{"a/b/c/one", "a/two"} {
		if err := d.Put(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Remove("a/b/c/one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.Path(), "a/b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty directory a/b is still there: %v", err)
	}
	if err := d.Remove("a/b/c/one"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("remove again: got %v, want ErrNotFound", err)
	}
	for _, key := range []string{"..", ".tmp", ".lock", "", "/"} {
		if err := d.Remove(key); !errors.Is(err, sink.ErrInvalidKey) {
			t.Errorf("remove %q: got %v, want ErrInvalidKey", key, err)
		}
	}
	if _, err := d.Stat(t.Context(), "a/two"); err != nil {
		t.Errorf("the other object: %v", err)
	}
	if err := d.Remove("a"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("remove a folder that holds an object: got %v, want ErrNotFound", err)
	}
	if err := os.Mkdir(filepath.Join(d.Path(), "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("empty"); !errors.Is(err, sink.ErrNotFound) {
		t.Errorf("remove a folder that is empty: got %v, want ErrNotFound", err)
	}
}

// TestDirRemoveBesidePut stores and removes objects of one folder at once: Remove prunes the folder
// just when Put has made it.
func TestDirRemoveBesidePut(t *testing.T) {
	d := openDir(t, t.TempDir())
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			for i := range 100 {
				key := fmt.Sprintf("a/b/c/%d-%d", w, i)
				if err := d.Put(t.Context(), key, strings.NewReader("x")); err != nil {
					t.Error(err)
				}
				if err := d.Remove(key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if got := files(t, d.Path()); len(got) != 0 {
		t.Errorf("left are %q", got)
	}
}

// TestDirSymlink checks that a link inside the directory is no way out of it.
func TestDirSymlink(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	write(t, secret, "not yours")
	d := openDir(t, t.TempDir())
	for name, target := range map[string]string{"file": secret, "dir": outside, "up": "../" + filepath.Base(filepath.Dir(secret))} {
		if err := os.Symlink(target, filepath.Join(d.Path(), name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"file", "dir/secret", "up/secret"} {
		if r, err := d.Open(t.Context(), key, 0, -1); err == nil {
			data, _ := io.ReadAll(r)
			t.Errorf("open %s: got %q", key, data)
		}
		if o, err := d.Stat(t.Context(), key); err == nil {
			t.Errorf("stat %s: got %+v", key, o)
		}
	}
	if err := d.Put(t.Context(), "dir/new", strings.NewReader("x")); err == nil {
		t.Error("put through a link: no error")
	}
	if err := d.Remove("dir/secret"); err == nil {
		t.Error("remove through a link: no error")
	}
	if got := files(t, outside); !slices.Equal(got, []string{"secret"}) {
		t.Errorf("outside there are now %q", got)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, where := range []string{"dir:one", "dir:" + dir + "/two", "file://" + dir + "/three", "./four", "five/six", dir + "/seven"} {
		b, err := sink.Open(t.Context(), where, sink.S3Options{})
		if _, ok := b.(*sink.Dir); err != nil || !ok {
			t.Errorf("open %q: %T, %v, want a directory", where, b, err)
		}
	}
	for _, name := range []string{"one", "two", "three", "four", "five/six", "seven"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	b, err := sink.Open(t.Context(), "s3://logs/team/a/", sink.S3Options{Endpoint: "http://minio:9000"})
	if s, ok := b.(*sink.S3); err != nil || !ok || s.String() != "s3://logs/team/a/ at http://minio:9000" {
		t.Errorf("open s3: %v, %v", b, err)
	}
	for _, where := range []string{"", "dir:", "s3:", "s3://", "s3:///x", "s3://UPPER", "file://host/path", "file:", "gs://bucket", "http://minio/bucket"} {
		if b, err := sink.Open(t.Context(), where, sink.S3Options{}); err == nil {
			t.Errorf("open %q: got %v and no error", where, b)
		}
	}
}

// What is somebody else's is no reason to list nothing.
func TestDirListsBesideStrays(t *testing.T) {
	for name, stray := range map[string]string{"backslash": `x\y`, "latin-1": "r\xe9sum\xe9", "lost+found": "lost+found/piece"} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t, t.TempDir())
			if err := d.Put(t.Context(), "a/b", strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.Path(), stray)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, path, "not ours")
			for _, o := range []sink.ListOptions{{}, {Shallow: true}} {
				var keys []string
				for obj, err := range d.List(t.Context(), "", o) {
					if err != nil {
						t.Fatal(err)
					}
					keys = append(keys, obj.Key)
				}
				if len(keys) != 1 || !strings.HasPrefix(keys[0], "a/") {
					t.Errorf("keys %q", keys)
				}
			}
		})
	}
}

// A new file system has a folder that only root may read.
func TestDirUsedWithoutLostAndFound(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "lost+found", "piece"), "not ours")
	d := openDir(t, dir)
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // the end of the test
	if d.Used() != 0 {
		t.Errorf("%d bytes are counted", d.Used())
	}
}

// A folder that was moved to another disk and linked, which is not mounted: that is an error, and no endless loop.
func TestDirPutThroughALinkToNowhere(t *testing.T) {
	d := openDir(t, t.TempDir())
	if err := os.Symlink("elsewhere", filepath.Join(d.Path(), "a")); err != nil {
		t.Fatal(err)
	}
	debug.SetMaxStack(16 << 20)
	for _, key := range []string{"a/b", "a/b/c"} {
		if err := d.Put(t.Context(), key, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "make folder a: it is a link to nowhere") {
			t.Errorf("store %s: %v", key, err)
		}
	}
}

// Who is killed between the removal of a file and that of its folder leaves an empty one.
func TestDirLockRemovesEmptyFolders(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"a/b/c", "d/e"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "d/file"), "x")
	release, err := openDir(t, dir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // the end of the test
	for name, want := range map[string]bool{"a": false, "d/e": false, "d/file": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a replaced object took counts no more.
func TestDirUsedAfterReplace(t *testing.T) {
	d := openDir(t, t.TempDir())
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release() //nolint:errcheck // the end of the test
	before := d.Used()
	if err := d.Put(t.Context(), "a/b", strings.NewReader("12345")); err != nil {
		t.Fatal(err)
	}
	old, err := d.Stat(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Replace(t.Context(), "a/b", strings.NewReader("1234567"), old); err != nil {
		t.Fatal(err)
	}
	if n := d.Used() - before; n != 7 {
		t.Errorf("%d bytes are counted, want 7", n)
	}
}
