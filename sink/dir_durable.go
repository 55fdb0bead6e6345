package sink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
)

// settled remembers directories whose names are known to outlive a power cut. A directory that is there may have
// been made by a call that failed, by one that is still under way, or by a process that was killed, so only what
// was synced counts.
type settled struct {
	mu   sync.Mutex
	dirs map[string]struct{}
}

// maxSettled bounds the memory. What is forgotten is synced once more, which costs little where nothing changed.
const maxSettled = 4096

func (s *settled) has(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.dirs[dir]
	return ok
}

func (s *settled) add(dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirs == nil || len(s.dirs) > maxSettled {
		s.dirs = make(map[string]struct{})
	}
	for _, dir := range dirs {
		s.dirs[dir] = struct{}{}
	}
}

// change makes or removes a directory. In the same step it is forgotten, so that nobody takes a new directory for
// the old one of that name.
func (s *settled) change(dir string, change func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := change()
	if err == nil {
		delete(s.dirs, dir)
	}
	return err
}

// settle makes the names in a directory durable, and the names of all directories on the way to it.
func (d *Dir) settle(leaf string) error {
	var unknown []string
	for dir := leaf; dir != "." && !d.settled.has(dir); dir = path.Dir(dir) {
		unknown = append(unknown, dir) // above one that is known all are
	}
	changed := []string{leaf}
	for _, dir := range unknown {
		changed = append(changed, path.Dir(dir))
	}
	for _, dir := range changed {
		err := d.syncDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // Remove has pruned it, so the object has gone
		}
		if err != nil {
			return err
		}
	}
	d.settled.add(unknown)
	return nil
}

func (d *Dir) syncDir(dir string) error {
	f, err := d.root.OpenFile(dir, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// dirTries is how often a directory that Remove prunes meanwhile is made again.
const dirTries = 100

// mkdirs makes the missing directories of a path. Their names are durable after settle.
func (d *Dir) mkdirs(dir string) (err error) {
	for range dirTries { // a parent may be pruned meanwhile, or be a link to nowhere
		if err = d.mkdirsOnce(dir); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (d *Dir) mkdirsOnce(dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := d.root.Stat(dir); err == nil {
		return nil
	}
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		err := d.settled.change(dir[:i], func() error { return d.root.Mkdir(dir[:i], 0o755) })
		if errors.Is(err, fs.ErrExist) {
			if _, err = d.root.Stat(dir[:i]); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("make folder %s: it is a link to nowhere: %w", dir[:i], err)
			}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// prune removes a directory and those above it, as far as they are empty.
func (d *Dir) prune(dir string) {
	for ; dir != "."; dir = path.Dir(dir) {
		if d.settled.change(dir, func() error { return d.root.Remove(dir) }) != nil {
			return // not empty
		}
	}
}
