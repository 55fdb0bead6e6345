package sink

import (
	"io"
	"io/fs"
	"os"
)

// fileSystem is what a Dir asks of the operating system, below its root. Tests put one in between that
// fails, or that loses what was not synced.
type fileSystem interface {
	OpenFile(name string, flag int, perm fs.FileMode) (file, error)
	Mkdir(name string, perm fs.FileMode) error
	Link(old, new string) error
	Rename(old, new string) error
	Remove(name string) error
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
}

// file is an open file or directory.
type file interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
	ReadDir(n int) ([]fs.DirEntry, error)
}

// osFiles is the file system itself.
type osFiles struct{ *os.Root }

// OpenFile implements fileSystem.
func (o osFiles) OpenFile(name string, flag int, perm fs.FileMode) (file, error) {
	f, err := o.Root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // and no file in an interface
	}
	return f, nil
}
