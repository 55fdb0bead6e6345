package sink

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// errPower is what every call gets after the power was cut.
var errPower = errors.New("no power")

// faulty is a file system that fails at its n-th call, and that knows what a power cut would take:
// bytes that were not synced, and names whose directory was not.
type faulty struct {
	fileSystem
	root  string // of the real file system
	n     int    // calls so far
	at    int    // the call that fails, 0 for none
	err   error
	cut   bool // the power was cut at that call
	calls []string

	synced  map[string]int64  // bytes of files that are durable, by their inode's first name
	fresh   map[string]string // names that are not durable yet, and the file behind them
	gone    map[string][]byte // names that were taken by a rename, and what was there
	renamed map[string]string // names and the file's first name
}

func newFaulty(t *testing.T, root string, at int, err error) *faulty {
	t.Helper()
	r, rerr := os.OpenRoot(root)
	if rerr != nil {
		t.Fatal(rerr)
	}
	t.Cleanup(func() { _ = r.Close() })
	return &faulty{fileSystem: osFiles{r}, root: root, at: at, err: err, synced: make(map[string]int64), fresh: make(map[string]string), gone: make(map[string][]byte), renamed: make(map[string]string)}
}

// call counts a call that changes something or makes it durable.
func (f *faulty) call(what string) error {
	if f.cut {
		return errPower
	}
	f.n++
	f.calls = append(f.calls, what)
	if f.n == f.at {
		f.cut = errors.Is(f.err, errPower)
		return &fs.PathError{Op: what, Path: f.root, Err: f.err}
	}
	return nil
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (file, error) {
	if flag&os.O_CREATE != 0 {
		if err := f.call("create"); err != nil {
			return nil, err
		}
	} else if f.cut {
		return nil, errPower
	}
	inner, err := f.fileSystem.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 {
		f.fresh[name] = name
	}
	return &faultyFile{file: inner, fs: f, name: name}, nil
}

func (f *faulty) Mkdir(name string, perm fs.FileMode) error {
	if err := f.call("mkdir"); err != nil {
		return err
	}
	err := f.fileSystem.Mkdir(name, perm)
	if err == nil {
		f.fresh[name] = name
	}
	return err
}

func (f *faulty) Link(old, to string) error {
	if err := f.call("link"); err != nil {
		return err
	}
	err := f.fileSystem.Link(old, to)
	if err == nil {
		f.fresh[to] = old
	}
	return err
}

func (f *faulty) Rename(old, to string) error {
	if err := f.call("rename"); err != nil {
		return err
	}
	was, _ := os.ReadFile(filepath.Join(f.root, to)) // what a power cut brings back
	err := f.fileSystem.Rename(old, to)
	if err == nil {
		f.renamed[to] = old
	}
	if err == nil && was != nil {
		f.gone[to] = was
	} else if err == nil {
		f.fresh[to] = old
	}
	return err
}

func (f *faulty) Remove(name string) error {
	if err := f.call("remove"); err != nil {
		return err
	}
	return f.fileSystem.Remove(name)
}

type faultyFile struct {
	file
	fs   *faulty
	name string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.call("write"); err != nil {
		n := 0
		if errors.Is(err, syscall.ENOSPC) {
			n, _ = f.file.Write(p[:len(p)/2]) // a disk that fills up takes the first half
		}
		return n, err
	}
	return f.file.Write(p)
}

func (f *faultyFile) Sync() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = f.fs.call("syncdir")
	} else {
		err = f.fs.call("sync")
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		f.fs.synced[f.name] = info.Size()
		return nil
	}
	for name := range f.fs.fresh {
		if path.Dir(name) == path.Clean(f.name) {
			delete(f.fs.fresh, name)
		}
	}
	for name := range f.fs.gone {
		if path.Dir(name) == path.Clean(f.name) {
			delete(f.fs.gone, name)
		}
	}
	return nil
}

// crash takes away what a power cut takes in the worst case.
func (f *faulty) crash(t *testing.T) {
	t.Helper()
	names := make([]string, 0, len(f.fresh))
	for name := range f.fresh {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		if strings.HasPrefix(name, tempDir) && name != tempDir {
			// Temporary files may stay, cut to what was synced: a start has to cope with them.
			_ = os.Truncate(filepath.Join(f.root, name), f.synced[name])
			continue
		}
		if err := os.RemoveAll(filepath.Join(f.root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range f.renamed {
		_ = os.Truncate(filepath.Join(f.root, to), f.synced[from])
	}
	for name, was := range f.gone {
		if err := os.WriteFile(filepath.Join(f.root, name), was, 0o644); err != nil { //nolint:gosec // a test
			t.Fatal(err)
		}
	}
}
