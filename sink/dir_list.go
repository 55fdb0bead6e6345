package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
)

// List implements Bucket. What cannot be an object is somebody else's and passed over: a name that is no key, what Stat
// does not find, and lost+found. So is a link to a folder within the directory, which is listed where it is. A link that
// leads out of the directory is an error: what is behind it cannot be looked at, and a listing without it would lie.
func (d *Dir) List(ctx context.Context, prefix string, o ListOptions) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if matchesNothing(prefix) || strings.HasPrefix(prefix, lostAndFound) {
			return
		}
		l := lister{d: d, ctx: ctx, prefix: prefix, o: o, yield: yield}
		l.walk(prefix[:strings.LastIndexByte(prefix, '/')+1])
	}
}

// lostAndFound is the folder that a new file system has at its root, and that only root may read.
const lostAndFound = "lost+found/"

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
	if isNowhere(err) {
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
		if CheckKey(dir+e.Name()) == nil && dir+name != lostAndFound {
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
		return true // removed meanwhile, or no file
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
	f, err := d.root.OpenFile(dir+"/", os.O_RDONLY, 0) // the slash, because a pipe is waited for
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	return entries, errors.Join(err, f.Close())
}
