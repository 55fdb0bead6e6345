package sink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
)

const (
	tempDir  = ".tmp"  // objects in the making
	lockFile = ".lock" // held by the one process that may remove
)

// Dir is a Bucket in a directory: a key is a path below it. An object is written to a temporary file
// of the same directory, synced, linked to its name and made durable by syncing every directory whose
// names are not known to be, so a crash at any point leaves the whole object or none.
//
// A Dir also serves as a spool: Lock, Temp, Draft, Remove, SetAside, Used and Free are for that, and no part
// of Bucket.
type Dir struct {
	path string
	root fileSystem
	next atomic.Uint64
	used atomic.Int64 // bytes, from Lock on

	settled settled
}

var (
	_ Bucket   = (*Dir)(nil)
	_ Replacer = (*Dir)(nil)
)

// OpenDir opens a directory as a Bucket and makes it if it is not there.
func OpenDir(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // an archive is read by people and their tools
		return nil, fmt.Errorf("open directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	d, err := newDir(dir, osFiles{root})
	if err != nil {
		_ = root.Close()
	}
	return d, err
}

// ReadDir opens a directory that is only read: it must be there, and nothing is made in it.
func ReadDir(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return &Dir{path: dir, root: osFiles{root}}, nil
}

func newDir(dir string, root fileSystem) (*Dir, error) {
	if err := root.Mkdir(tempDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("open directory %s: %w", dir, err)
	}
	return &Dir{path: dir, root: root}, nil
}

// Path returns the directory.
func (d *Dir) Path() string { return d.path }

// Lock claims the directory for this process until release is called or the process ends, removes what
// a dead process left in the making, but for its drafts, and counts what is there. It fails if another
// process holds the directory.
func (d *Dir) Lock() (release func() error, err error) {
	f, err := os.OpenFile(filepath.Join(d.path, lockFile), os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // nothing secret
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", d.path, err), f.Close())
	}
	if err := errors.Join(d.sweep(), d.count()); err != nil {
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
		if e.IsDir() {
			continue // a draft
		}
		if err := d.root.Remove(path.Join(tempDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean %s: %w", d.path, err)
		}
	}
	return nil
}

// File is an object in the making. It is read and written like any file; it gets its key by Commit.
type File struct {
	file
	d    *Dir
	name string // below the root
	size int64
	done bool
}

// Temp begins an object. The caller ends it with Commit or Abort.
func (d *Dir) Temp() (*File, error) { return d.temp(tempDir) }

func (d *Dir) temp(dir string) (*File, error) {
	for {
		f, err := d.create(path.Join(dir, d.unused()))
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// unused makes a name that no other process of this machine makes at the same time.
func (d *Dir) unused() string {
	return strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(d.next.Add(1), 10)
}

func (d *Dir) create(name string) (*File, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("begin object in %s: %w", d.path, err)
	}
	return &File{file: f, d: d, name: name}, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.size += int64(n)
	f.d.used.Add(int64(n))
	return n, err
}

// Truncate changes the size. What is written next is counted as if it came behind that.
func (f *File) Truncate(size int64) error {
	err := f.file.Truncate(size)
	if err == nil {
		f.d.used.Add(size - f.size)
		f.size = size
	}
	return err
}

// Commit publishes the file under key, durably, unless an object is there (ErrExists). After an error the file
// is as it was, and may be committed again: what is in it may be nowhere else.
func (f *File) Commit(key string) error {
	if f.done {
		return fmt.Errorf("commit %s: %w", key, fs.ErrClosed)
	}
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("commit %s in %s: %w", key, f.d.path, err)
	}
	if err := f.d.publish(f.name, key); err != nil {
		return err
	}
	f.size = 0    // it counts under its key from now on
	_ = f.Abort() // a second name in the temporary directory is swept at the next start
	return nil
}

// Abort removes the file if it was not committed. It may be called after Commit, and twice.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	f.done = true
	f.d.used.Add(-f.size)
	return errors.Join(f.Close(), f.d.root.Remove(f.name))
}

// publish links a synced file to its key. link(2) is the one call that creates a name only if it is
// free, and atomically.
func (d *Dir) publish(name, key string) error {
	dir := path.Dir(key)
	for try := 0; ; try++ {
		err := d.mkdirs(dir)
		if err == nil {
			err = d.root.Link(name, key)
			if errors.Is(err, fs.ErrNotExist) && try < dirTries {
				continue // Remove pruned the directory between the two calls
			}
		}
		if errors.Is(err, fs.ErrExist) {
			return d.exists(key)
		}
		if err == nil {
			err = d.settle(dir)
		}
		if err != nil {
			return fmt.Errorf("store %s in %s: %w", key, d.path, err)
		}
		return nil
	}
}

// exists returns ErrExists for an object that is there, once its name is durable: who stored it may have been
// killed, or have failed, before it was.
func (d *Dir) exists(key string) error {
	err := d.settle(path.Dir(key))
	if err == nil {
		err = ErrExists
	}
	return fmt.Errorf("store %s in %s: %w", key, d.path, err)
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
		return d.exists(key)
	}
	f, err := d.written(ctx, key, body)
	if err != nil {
		return err
	}
	defer f.Abort() //nolint:errcheck // a leftover is swept at the next start
	return f.Commit(key)
}

// written writes a body to a temporary file, and checks its hash if it is known.
func (d *Dir) written(ctx context.Context, key string, body io.Reader) (*File, error) {
	f, err := d.Temp()
	if err != nil {
		return nil, err
	}
	var to io.Writer = f
	whole, known := body.(Whole)
	sum := sha256.New()
	if known {
		to = io.MultiWriter(f, sum)
	}
	if _, err = io.Copy(to, &ctxReader{ctx, body}); err == nil && known && hex.EncodeToString(sum.Sum(nil)) != whole.SHA256 {
		err = fmt.Errorf("%w: its sha256 is %x and should be %s", ErrDamaged, sum.Sum(nil), whole.SHA256)
	}
	if err != nil {
		_ = f.Abort() // a leftover is swept at the next start
		return nil, fmt.Errorf("store %s in %s: %w", key, d.path, err)
	}
	return f, nil
}

// Replace implements Replacer. Between the look at what is there and the change another process may
// change it too.
func (d *Dir) Replace(ctx context.Context, key string, body io.ReadSeeker, old Object) error {
	f, err := d.written(ctx, key, body)
	if err != nil {
		return err
	}
	defer f.Abort() //nolint:errcheck // a leftover is swept at the next start
	if err := f.Sync(); err != nil {
		return fmt.Errorf("replace %s in %s: %w", key, d.path, err)
	}
	now, err := d.Stat(ctx, key)
	if err != nil {
		return err
	}
	if now != old {
		return fmt.Errorf("replace %s in %s: %w", key, d.path, ErrChanged)
	}
	err = d.root.Rename(f.name, key)
	if err == nil {
		d.used.Add(-old.Size)
		f.size = 0 // it counts under the key from now on
		err = d.settle(path.Dir(key))
	}
	if err != nil {
		return fmt.Errorf("replace %s in %s: %w", key, d.path, err)
	}
	return nil
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
func (d *Dir) File(key string) (interface {
	Content
	io.Closer
}, error) {
	return d.file(key)
}

func (d *Dir) file(key string) (file, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if _, err := d.info("open", key); err != nil {
		return nil, err // before it is opened: a pipe is waited for
	}
	f, err := d.root.OpenFile(key, os.O_RDONLY, 0)
	if err != nil {
		return nil, d.notFound("open", key, err)
	}
	return f, nil
}

// info describes an object's file. Only a regular file is an object.
func (d *Dir) info(verb, key string) (fs.FileInfo, error) {
	info, err := d.root.Stat(key)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, d.notFound(verb, key, err)
	}
	return info, nil
}

// notFound words a failure to reach an object, and marks the one that callers branch on.
func (d *Dir) notFound(verb, key string, err error) error {
	if isNowhere(err) {
		err = ErrNotFound
	}
	return fmt.Errorf("%s %s in %s: %w", verb, key, d.path, err)
}

// isNowhere says that a path leads to nothing, as one through a file does, and links in a circle (ELOOP).
func isNowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// Open implements Bucket.
func (d *Dir) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fmt.Errorf("open %s in %s: offset %d is negative", key, d.path, offset)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", key, d.path, err)
	}
	f, err := d.file(key)
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
	info, err := d.info("stat", key)
	if err != nil {
		return Object{}, err
	}
	return Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil
}
