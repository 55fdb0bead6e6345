package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// asideDir holds what cannot be used and must not be thrown away.
	asideDir = ".set-aside"
	// aboutFile says in a draft what it is about.
	aboutFile = "about"
)

// Remove takes an object away, and the directories that become empty by it. It belongs to the spool:
// only the process that holds the lock may call it. ErrNotFound says that there was no object.
func (d *Dir) Remove(key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	info, err := d.root.Lstat(key)
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err == nil {
		err = d.root.Remove(key)
	}
	if err != nil {
		return d.notFound("remove", key, err)
	}
	d.used.Add(-info.Size())
	d.prune(path.Dir(key))
	return nil
}

// SetAside moves an object out of the way, where no List shows it, and a file beside it that says why.
// Nothing ever removes it from there. It returns the path of its new place.
func (d *Dir) SetAside(key, why string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	to, err := d.aside(key, key, why)
	if err != nil {
		return "", d.notFound("set aside", key, err)
	}
	d.prune(path.Dir(key))
	return filepath.Join(d.path, to), nil
}

// IsSetAside says whether an object that had the key was set aside.
func (d *Dir) IsSetAside(key string) bool {
	_, err := d.root.Lstat(path.Join(asideDir, key))
	return err == nil
}

// SetAsideFor is SetAside for an object that another one takes the place of. There is one of them under the
// key at any time; if the process ends in the middle the old one may be in both places.
func (d *Dir) SetAsideFor(ctx context.Context, key, why string, body io.Reader) (string, error) {
	f, err := d.written(ctx, key, body)
	if err != nil {
		return "", err
	}
	defer f.Abort() //nolint:errcheck // a leftover is swept at the next start
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("set aside %s in %s: %w", key, d.path, err)
	}
	to, err := d.asideAs(d.root.Link, key, key, why)
	if err == nil {
		if err = d.root.Rename(f.name, key); err == nil {
			f.size = 0 // it counts under the key from now on
			err = d.syncDir(path.Dir(key))
		}
	}
	if err != nil {
		return "", d.notFound("set aside", key, err)
	}
	return filepath.Join(d.path, to), nil
}

// aside moves a file or a directory to asideDir, under a name that is free there.
func (d *Dir) aside(from, name, why string) (to string, err error) {
	return d.asideAs(d.root.Rename, from, name, why)
}

func (d *Dir) asideAs(move func(from, to string) error, from, name, why string) (to string, err error) {
	if _, err := d.root.Lstat(from); err != nil {
		return "", err
	}
	to = path.Join(asideDir, name)
	for n := 2; ; n++ {
		_, err := d.root.Lstat(to)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", err
		}
		to = path.Join(asideDir, name+"."+strconv.Itoa(n))
	}
	if err := d.mkdirs(path.Dir(to)); err != nil {
		return "", err
	}
	if err := move(from, to); err != nil {
		return "", err
	}
	err = errors.Join(d.settle(path.Dir(to)), d.syncDir(path.Dir(from)))
	// The reason comes last: on a full disk the move succeeds and the reason may not.
	_ = d.writeFile(to+".reason.txt", why+"\n")
	return to, err
}

func (d *Dir) writeFile(name, text string) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// Used returns how many bytes of objects there are, finished and in the making. It counts from Lock on.
func (d *Dir) Used() int64 { return d.used.Load() }

// count walks the directory, and removes folders that are empty: who had removed their last file was killed.
func (d *Dir) count() error {
	var used int64
	var folders []string
	err := filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(d.path, path) // it is below
		switch {
		case e != nil && e.IsDir() && name+"/" == lostAndFound:
			return fs.SkipDir
		case err != nil:
			return err
		case e.IsDir():
			if !strings.HasPrefix(name, ".") {
				folders = append(folders, name)
			}
			return nil
		}
		info, err := e.Info()
		if err == nil {
			used += info.Size()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("count %s: %w", d.path, err)
	}
	for _, folder := range slices.Backward(folders) {
		_ = d.root.Remove(folder) // fails where something is in it
	}
	d.used.Store(used)
	return nil
}

// Free returns how many bytes the file system has left for this user.
func (d *Dir) Free() (int64, error) {
	n, err := free(d.path)
	if err != nil {
		return 0, fmt.Errorf("ask for the space left in %s: %w", d.path, err)
	}
	return n, nil
}

// Draft is a group of files in the making which outlives its process: the next one finds it with Drafts,
// as far as its bytes got. It is not synced, so a machine that loses its power may lose it.
type Draft struct {
	d     *Dir
	name  string // below the root
	n     int
	began time.Time // of one that was found
}

// Began returns when a draft that was found was begun, zero if that is not known.
func (f *Draft) Began() time.Time { return f.began }

// Draft begins a draft. What it is about is handed to whoever finds it.
func (d *Dir) Draft(about []byte) (*Draft, error) {
	f := &Draft{d: d, name: path.Join(tempDir, d.unused())}
	for errors.Is(d.root.Mkdir(f.name, 0o755), fs.ErrExist) {
		f.name = path.Join(tempDir, d.unused())
	}
	if err := d.writeFile(path.Join(f.name, aboutFile), string(about)); err != nil {
		_ = f.Remove()
		return nil, err
	}
	return f, nil
}

// Temp begins a file of the draft. It may be committed or aborted like any other.
func (f *Draft) Temp() (*File, error) {
	f.n++
	return f.d.create(path.Join(f.name, strconv.Itoa(f.n)))
}

// Remove removes the draft with every file in it that was not committed.
func (f *Draft) Remove() error {
	entries, err := f.d.entries(f.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		name := path.Join(f.name, e.Name())
		if info, serr := f.d.root.Lstat(name); serr == nil {
			f.d.used.Add(-info.Size())
		}
		err = errors.Join(err, f.d.root.Remove(name))
	}
	return errors.Join(err, f.d.root.Remove(f.name))
}

// SetAside moves the draft out of the way, with a file that says why.
func (f *Draft) SetAside(why string) (string, error) {
	to, err := f.d.aside(f.name, path.Base(f.name), why)
	if err != nil {
		return "", fmt.Errorf("set aside %s in %s: %w", f.name, f.d.path, err)
	}
	return filepath.Join(f.d.path, to), nil
}

// About returns what the draft is about. It may be cut, if the machine lost its power.
func (f *Draft) About() ([]byte, error) {
	file, err := f.d.root.OpenFile(path.Join(f.name, aboutFile), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("read draft in %s: %w", f.d.path, err)
	}
	defer file.Close() //nolint:errcheck // read only
	return io.ReadAll(file)
}

// Files opens the draft's files in the order in which they were begun. The caller closes them.
func (f *Draft) Files() ([]io.ReadCloser, error) {
	entries, err := f.d.entries(f.name)
	if err != nil {
		return nil, fmt.Errorf("read draft in %s: %w", f.d.path, err)
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var files []io.ReadCloser
	for _, n := range numbers {
		file, err := f.d.root.OpenFile(path.Join(f.name, strconv.Itoa(n)), os.O_RDONLY, 0)
		if err != nil {
			return files, fmt.Errorf("read draft in %s: %w", f.d.path, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// Drafts returns what a dead process has left in the making, the oldest first.
func (d *Dir) Drafts() ([]*Draft, error) {
	entries, err := d.entries(tempDir)
	if err != nil {
		return nil, fmt.Errorf("read drafts in %s: %w", d.path, err)
	}
	var drafts []*Draft
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		f := &Draft{d: d, name: path.Join(tempDir, e.Name())}
		if info, err := d.root.Lstat(path.Join(f.name, aboutFile)); err == nil {
			f.began = info.ModTime()
		}
		drafts = append(drafts, f)
	}
	slices.SortFunc(drafts, func(a, b *Draft) int { return cmp.Or(a.began.Compare(b.began), strings.Compare(a.name, b.name)) })
	return drafts, nil
}
