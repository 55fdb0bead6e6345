package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrTaken says that another process deals with what is due at this time.
var ErrTaken = errors.New("another process has taken it")

// ErrDamaged says that a state cannot be read, and so is empty.
var ErrDamaged = errors.New("it is damaged")

// State keeps for each schedule the time from which it is counted: the scheduled time of the last export
// that was started, skipped or missed, or the time when the schedule was first set. It is what a
// restarted program, or another leader, goes on from. The methods must return when the context ends,
// and may be called at the same time.
type State interface {
	// Load returns the time for a name, zero if there is none.
	Load(ctx context.Context, name string) (time.Time, error)
	// Store replaces the time for a name. It returns when the time is safe. One that several processes
	// share returns ErrTaken if another one was faster.
	Store(ctx context.Context, name string, t time.Time) error
}

// FileState is a State in a file of JSON, for one process at a time. It is written anew for each Store, so
// that a crash at any point leaves the old or the new file.
type FileState struct {
	path string

	mu    sync.Mutex
	times map[string]time.Time
}

// OpenFileState reads a state file. One that does not exist is empty; its directory must exist. One that is
// damaged is empty too, and can be used, but the error is ErrDamaged then.
func OpenFileState(path string) (*FileState, error) {
	s := &FileState{path: path, times: make(map[string]time.Time)}
	b, err := os.ReadFile(path) //nolint:gosec // named by the caller
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read schedule state: %w", err)
	}
	if err := json.Unmarshal(b, &s.times); err != nil {
		clear(s.times)
		return s, fmt.Errorf("read schedule state %s: %w: %w", path, ErrDamaged, err)
	}
	if s.times == nil { // "null"
		s.times = make(map[string]time.Time)
	}
	return s, nil
}

// Load returns the time for a name, zero if there is none.
func (s *FileState) Load(_ context.Context, name string) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[name], nil
}

// Store replaces the time for a name and returns when the file is on the disk.
func (s *FileState) Store(_ context.Context, name string, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, had := s.times[name]
	s.times[name] = t.UTC()
	if err := s.write(); err != nil {
		if s.times[name] = old; !had {
			delete(s.times, name)
		}
		return fmt.Errorf("write schedule state: %w", err)
	}
	return nil
}

func (s *FileState) write() error {
	b, err := json.MarshalIndent(s.times, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	f, err := os.CreateTemp(dir, filepath.Base(s.path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir) //nolint:gosec // the file's own
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
