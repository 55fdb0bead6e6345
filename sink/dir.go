package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

const (
	tempDir  = ".tmp"  // objects in the making
	lockFile = ".lock" // held by the one process that may remove
)

// Dir is a Bucket in a directory: a key is a path below it. An object is written to a temporary file
// of the same directory, synced, linked to its name and made durable by syncing every directory that
// changed, so a crash at any point leaves the whole object or none.
//
// A Dir also serves as a spool: Temp, Remove and Lock are for that, and no part of Bucket.
type Dir struct {
	path string
	root *os.Root
	next atomic.Uint64
}

var _ Bucket = (*Dir)(nil)

// OpenDir opens a directory as a Bucket and makes it if it is not there.
func OpenDir(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // an archive is read by people and their tools
		return nil, fmt.Errorf("open directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := root.Mkdir(tempDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		_ = root.Close()
		return nil, fmt.Errorf("open directory %s: %w", dir, err)
	}
	return &Dir{path: dir, root: root}, nil
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

// Lock claims the directory for this process until release is called or the process ends, and then
// removes what a dead process left in the making. It fails if another process holds the directory.
func (d *Dir) Lock() (release func() error, err error) {
	f, err := d.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", d.path, err), f.Close())
	}
	if err := d.sweep(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f.Close, nil
}

func (d *Dir) sweep() error {
	entries, err := d.entries(tempDir)
	if err != nil {
		return fmt.Errorf("clean %s: %w", d.path, err)
	}
	for _, e := range entries {
		if err := d.root.Remove(path.Join(tempDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean %s: %w", d.path, err)
		}
	}
	return nil
}

// File is an object in the making. It is read and written like any file; it gets its key by Commit.
type File struct {
	*os.File
	d    *Dir
	name string // below the root
	done bool
}

// Temp begins an object. The caller ends it with Commit or Abort.
func (d *Dir) Temp() (*File, error) {
	for {
		name := path.Join(tempDir, strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(d.next.Add(1), 10))
		f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("begin object in %s: %w", d.path, err)
		}
		return &File{File: f, d: d, name: name}, nil
	}
}

// Commit publishes the file under key, durably, unless an object is there (ErrExists). Whatever the
// result, the file is closed and its temporary name is gone.
func (f *File) Commit(key string) error {
	if f.done {
		return fmt.Errorf("commit %s: %w", key, fs.ErrClosed)
	}
	defer f.Abort() //nolint:errcheck // a leftover in the temporary directory is swept at the next start
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("commit %s in %s: %w", key, f.d.path, err)
	}
	if err := f.d.publish(f.name, key); err != nil {
		return err
	}
	return nil
}

// Abort removes the file if it was not committed. It may be called after Commit, and twice.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	return errors.Join(f.Close(), f.d.root.Remove(f.name))
}

// publish links a synced file to its key. link(2) is the one call that creates a name only if it is
// free, and atomically.
func (d *Dir) publish(name, key string) error {
	var made []string
	for try := 0; ; try++ {
		dirs, err := d.mkdirs(path.Dir(key))
		if err != nil {
			return fmt.Errorf("store %s in %s: %w", key, d.path, err)
		}
		made = append(made, dirs...)
		err = d.root.Link(name, key)
		if errors.Is(err, fs.ErrNotExist) && try < 100 {
			continue // Remove pruned the directory between the two calls
		}
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("store %s in %s: %w", key, d.path, ErrExists)
		}
		if err != nil {
			return fmt.Errorf("store %s in %s: %w", key, d.path, err)
		}
		break
	}
	for _, dir := range append(made, path.Dir(key)) {
		if err := d.syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store %s in %s: %w", key, d.path, err)
		}
	}
	return nil
}

// mkdirs makes the missing directories of a path and returns the parents that changed by it.
func (d *Dir) mkdirs(dir string) (changed []string, err error) {
	if dir == "." {
		return nil, nil
	}
	if _, err := d.root.Stat(dir); err == nil {
		return nil, nil
	}
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		switch err := d.root.Mkdir(dir[:i], 0o755); {
		case err == nil:
			changed = append(changed, path.Dir(dir[:i]))
		case errors.Is(err, fs.ErrNotExist):
			return d.mkdirs(dir) // a parent was pruned meanwhile
		case !errors.Is(err, fs.ErrExist):
			return nil, err
		}
	}
	return changed, nil
}

func (d *Dir) syncDir(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Put implements Bucket.
func (d *Dir) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("store %s in %s: %w", key, d.path, err)
	}
	if _, err := d.Stat(ctx, key); err == nil {
		return fmt.Errorf("store %s in %s: %w", key, d.path, ErrExists)
	}
	f, err := d.Temp()
	if err != nil {
		return err
	}
	defer f.Abort() //nolint:errcheck // a leftover is swept at the next start
	if _, err := io.Copy(f, &ctxReader{ctx, body}); err != nil {
		return fmt.Errorf("store %s in %s: %w", key, d.path, err)
	}
	return f.Commit(key)
}

// ctxReader ends a long copy when its context ends.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives for one call of Put
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// File opens an object as a file, to be sent elsewhere with its size known. The caller closes it.
func (d *Dir) File(key string) (*os.File, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	f, err := d.root.Open(key)
	if err != nil {
		return nil, d.notFound("open", key, err)
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, errors.Join(fmt.Errorf("open %s in %s: %w", key, d.path, ErrNotFound), err, f.Close())
	}
	return f, nil
}

// notFound words a failure to reach an object, and marks the one that callers branch on.
func (d *Dir) notFound(verb, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = ErrNotFound
	}
	return fmt.Errorf("%s %s in %s: %w", verb, key, d.path, err)
}

// Open implements Bucket.
func (d *Dir) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("open %s in %s: offset %d is negative", key, d.path, offset)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", key, d.path, err)
	}
	f, err := d.File(key)
	if err != nil {
		return nil, err
	}
	if length < 0 {
		length = 1<<63 - 1 - offset
	}
	return struct {
		io.Reader
		io.Closer
	}{&ctxReader{ctx, io.NewSectionReader(f, offset, length)}, f}, nil
}

// Stat implements Bucket.
func (d *Dir) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	if err := ctx.Err(); err != nil {
		return Object{}, fmt.Errorf("stat %s in %s: %w", key, d.path, err)
	}
	info, err := d.root.Stat(key)
	if err == nil && info.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Object{}, d.notFound("stat", key, err)
	}
	return Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}

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
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if err := d.root.Remove(dir); err != nil {
			break // not empty
		}
	}
	return nil
}

// List implements Bucket.
func (d *Dir) List(ctx context.Context, prefix string, o ListOptions) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if matchesNothing(prefix) {
			return
		}
		l := lister{d: d, ctx: ctx, prefix: prefix, o: o, yield: yield}
		l.walk(prefix[:strings.LastIndexByte(prefix, '/')+1])
	}
}

type lister struct {
	d      *Dir
	ctx    context.Context //nolint:containedctx // lives for one call of List
	prefix string
	o      ListOptions
	yield  func(Object, error) bool
}

// walk lists a directory, given with its slash, and returns whether to go on. Names are ordered as
// their keys are: a directory's name counts with its slash, which comes after "-" and ".".
func (l *lister) walk(dir string) bool {
	if err := l.ctx.Err(); err != nil {
		return l.fail(err)
	}
	entries, err := l.d.entries(path.Join(".", dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return true
	}
	if err != nil {
		return l.fail(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		if name[0] != '.' {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if !l.visit(dir + name) {
			return false
		}
	}
	return true
}

func (l *lister) visit(key string) bool {
	folder := strings.HasSuffix(key, "/")
	inside := strings.HasPrefix(key, l.prefix)
	switch {
	case !inside && !(folder && strings.HasPrefix(l.prefix, key)):
		return true
	case folder && l.o.After != "" && key <= l.o.After && !strings.HasPrefix(l.o.After, key):
		return true // everything in it comes before After
	case folder && l.o.Shallow && inside:
		if key <= l.o.After {
			return true
		}
		return l.yield(Object{Key: key}, nil)
	case folder:
		return l.walk(key)
	case key <= l.o.After:
		return true
	}
	obj, err := l.d.Stat(l.ctx, key)
	if errors.Is(err, ErrNotFound) {
		return true // removed meanwhile
	}
	if err != nil {
		return l.fail(err)
	}
	return l.yield(obj, nil)
}

func (l *lister) fail(err error) bool {
	l.yield(Object{}, fmt.Errorf("list %q in %s: %w", l.prefix, l.d.path, err))
	return false
}

func (d *Dir) entries(dir string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	return entries, errors.Join(err, f.Close())
}
