package exporter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// ledgerName is the ledger's file in the spool.
const ledgerName = ".kubelogexporter-runs"

// compactAt is how many lines a ledger may hold beyond twice what is alive before it is written anew.
const compactAt = 4096

// writeAgain is how long nothing is written after a write has failed: what is to be written waits in memory.
const writeAgain = time.Second

// syncWithin is how soon what was noted is on the disk.
const syncWithin = time.Second

// ledger is the durable list of the runs that were seen, or are known by a restart count, and have no record yet. A run
// that is still in it when a new process starts, and that the cluster no longer shows, ended unseen: it gets
// a record. It also holds the restart counts of the containers whose runs have theirs. The file is a journal: a
// line for each run that was seen, a line for each that got its record, a line for each snapshot of one that
// goes on. Only the last are synced to disk one by one, because what was stored is continued from there; the others
// survive the end of the process, and a crash of the whole machine costs those of the last second: records of lost
// logs, no log.
//
// A disk that is full or fails keeps nobody from working: the file stays as it is, and what is to be noted
// waits until it can be.
type ledger struct {
	path string

	mu       sync.Mutex
	file     *os.File // nil while it cannot be opened
	alive    map[runID]struct{}
	stored   map[runID]string // the keys of the last snapshots of those that have one
	counted  counts
	lines    int          // in the file
	kept     int          // lines when it was written anew
	compact  int          // the number of lines at which it is written anew, unless most of them are alive
	pending  bytes.Buffer // lines that could not be written yet
	torn     bool         // the file may end within a line
	failure  error        // of the last write, nil if it went well
	failedAt time.Time
	unsynced bool // something was written after the last sync began
	syncing  *time.Timer
	syncErr  error // told with the next line
	closed   bool
}

// ledgerEntry is one line: a run that was seen alive, or what became of one: with Done it got its record,
// with nothing but a Snapshot so much of it was stored.
type ledgerEntry struct {
	Done         bool                 `json:"done,omitempty"`
	Snapshot     string               `json:"snapshot,omitempty"` // key of the last one
	UID          types.UID            `json:"uid"`
	Container    string               `json:"container"`
	ContainerID  string               `json:"containerID"`
	Namespace    string               `json:"namespace,omitempty"`
	Pod          string               `json:"pod,omitempty"`
	Mirror       types.UID            `json:"mirror,omitempty"` // of a static pod
	Node         string               `json:"node,omitempty"`
	HostIP       string               `json:"hostIP,omitempty"`
	Labels       map[string]string    `json:"labels,omitempty"`
	Owners       []bundle.Owner       `json:"owners,omitempty"`
	Loose        bool                 `json:"loose,omitempty"` // none of them is its controller
	Type         bundle.ContainerType `json:"type,omitempty"`
	Image        string               `json:"image,omitempty"`
	ImageID      string               `json:"imageID,omitempty"`
	RestartCount int32                `json:"restartCount,omitempty"`
	StartedAt    *time.Time           `json:"startedAt,omitempty"`
}

// names says whether the line tells which run it is, and not only what became of it.
func (l ledgerEntry) names() bool { return l.Pod != "" }

func (l ledgerEntry) id() runID {
	return runID{podUID: l.UID, container: l.Container, containerID: l.ContainerID}
}

func entryOf(r *run, pod *podInfo) ledgerEntry {
	return ledgerEntry{
		UID: r.id.podUID, Container: r.id.container, ContainerID: r.id.containerID,
		Namespace: pod.namespace, Pod: pod.name, Mirror: pod.mirror, Node: pod.node, HostIP: pod.hostIP,
		Labels: pod.labelMap(), Owners: pod.owners, Loose: pod.loose && len(pod.owners) > 0, Type: r.kind, Image: r.image, ImageID: r.imageID,
		RestartCount: r.restart, StartedAt: utc(r.startedAt),
	}
}

// run returns the pod and the run as a tracker takes them.
func (l ledgerEntry) run() (*podInfo, view) {
	pod := &podInfo{namespace: l.Namespace, name: l.Pod, uid: l.UID, mirror: l.Mirror, labels: flat(l.Labels), owners: l.Owners, loose: l.Loose, node: l.Node, hostIP: l.HostIP}
	v := view{id: l.id(), unseen: strings.HasPrefix(l.ContainerID, unseenID), kind: l.Type, restart: l.RestartCount, image: l.Image, imageID: l.ImageID}
	if l.StartedAt != nil {
		v.startedAt = *l.StartedAt
	}
	return pod, v
}

// openLedger reads the ledger in a spool, or begins one. It returns the runs that are in it, and when
// it was last written: zero if it is new. An error says what could not be read or written of it; the ledger
// can be used all the same.
func openLedger(spool string) (l *ledger, entries []ledgerEntry, written time.Time, err error) {
	l = &ledger{path: filepath.Join(spool, ledgerName), alive: make(map[runID]struct{}), stored: make(map[runID]string), counted: make(counts), compact: compactAt, torn: true}
	switch info, err := os.Stat(l.path); {
	case errors.Is(err, fs.ErrNotExist):
		l.torn = false
		return l, nil, written, l.write()
	case err != nil:
		return l, nil, written, fmt.Errorf("open ledger: %w", err)
	default:
		written = info.ModTime()
	}
	err = eachEntry(l.path, func(e ledgerEntry) error {
		l.lines++
		_, alive := l.alive[e.id()]
		switch {
		case e.Done:
			delete(l.alive, e.id())
			delete(l.stored, e.id())
			l.counted.take(e)
		case e.names() || alive:
			l.alive[e.id()] = struct{}{}
			if e.Snapshot != "" {
				l.stored[e.id()] = e.Snapshot
			}
		}
		return nil
	})
	if err == nil {
		err = l.eachAlive(func(e ledgerEntry) error {
			entries = append(entries, e)
			return nil
		})
	}
	if err != nil {
		l.compact = math.MaxInt // who is alive is not known, and must not be written
		return l, entries, written, err
	}
	return l, entries, written, l.writeAnew()
}

// eachAlive shows the line of each run that is alive.
func (l *ledger) eachAlive(do func(ledgerEntry) error) error {
	seen := make(map[runID]struct{}, len(l.alive))
	return eachEntry(l.path, func(e ledgerEntry) error {
		_, alive := l.alive[e.id()]
		if _, twice := seen[e.id()]; e.Done || !e.names() || !alive || twice {
			return nil
		}
		e.Snapshot = l.stored[e.id()]
		seen[e.id()] = struct{}{}
		return do(e)
	})
}

// eachEntry reads a ledger. A last line that was cut by a crash is dropped, and so is a damaged one: the
// run that it named is forgotten, the others are not.
func eachEntry(path string, do func(ledgerEntry) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		var e ledgerEntry
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if err := do(e); err != nil {
			return err
		}
	}
}

// writeAnew writes the ledger without what is done. The old file is replaced by one that is whole and on the
// disk, or stays.
func (l *ledger) writeAnew() error {
	tmp := l.path + ".new"
	f, err := os.Create(tmp) //nolint:gosec // in the spool
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	lines := 0
	err = l.eachAlive(func(e ledgerEntry) error {
		lines++
		return enc.Encode(e)
	})
	lines += l.counted.each(func(e ledgerEntry) {
		if err == nil {
			err = enc.Encode(e)
		}
	})
	for _, step := range []func() error{w.Flush, f.Sync, func() error { return os.Rename(tmp, l.path) }} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write ledger: %w", err), f.Close(), os.Remove(tmp))
	}
	if l.file != nil {
		_ = l.file.Close() // replaced
	}
	l.file, l.lines, l.kept, l.torn = f, lines, lines, false
	if err := syncDir(filepath.Dir(l.path)); err != nil { // or a power cut brings the old one back
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the spool
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// add notes a run that was seen alive.
func (l *ledger) add(e ledgerEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.alive[e.id()]; ok {
		return nil
	}
	l.alive[e.id()] = struct{}{}
	return l.append(e)
}

// done notes that a run has its record.
func (l *ledger) done(id runID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.alive[id]; !ok {
		return nil
	}
	delete(l.alive, id)
	delete(l.stored, id)
	return l.append(ledgerEntry{Done: true, UID: id.podUID, Container: id.container, ContainerID: id.containerID})
}

// snapshot notes that a snapshot of a run was stored.
func (l *ledger) snapshot(id runID, snapshot string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.alive[id]; !ok {
		return nil
	}
	l.stored[id] = snapshot
	return l.append(ledgerEntry{Snapshot: snapshot, UID: id.podUID, Container: id.container, ContainerID: id.containerID})
}

// sync makes what was noted outlive the machine's power. It may take a while, and holds up nobody.
func (l *ledger) sync() error {
	if l == nil { // of a one-off export
		return nil
	}
	l.mu.Lock()
	l.retry()
	f, err := l.file, l.failure
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) { // what has replaced it was synced
		return fmt.Errorf("sync ledger: %w", err)
	}
	return nil
}

// syncSoon lets what was written be synced within syncWithin, and the next line tell of it if that fails.
func (l *ledger) syncSoon() {
	l.unsynced = true
	if l.syncing == nil && !l.closed {
		l.syncing = time.AfterFunc(syncWithin, l.syncNow)
	}
}

func (l *ledger) syncNow() {
	l.mu.Lock()
	l.unsynced = false
	l.mu.Unlock()
	err := l.sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.syncing = nil
	if err != nil {
		l.syncErr = err
	}
	if l.unsynced { // since
		l.syncSoon()
	}
}

// append writes a line. What a full disk, say, keeps from being written is written later; the first failure
// is returned, further ones are not.
func (l *ledger) append(e ledgerEntry) error {
	if err := json.NewEncoder(&l.pending).Encode(e); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	failing := l.failure != nil
	l.retry()
	if l.failure != nil {
		if failing {
			return nil
		}
		return l.failure
	}
	l.syncSoon()
	err := l.syncErr
	l.syncErr = nil
	if l.lines <= l.compact || l.lines <= 2*max(len(l.alive), l.kept)+compactAt {
		return err
	}
	err = l.writeAnew()
	if l.compact = compactAt; err != nil {
		l.compact += l.lines // reading it all again for each line would hold up everybody
	}
	return err
}

// retry writes what is pending, unless that has failed a moment ago.
func (l *ledger) retry() {
	if l.failure != nil && time.Since(l.failedAt) < writeAgain {
		return
	}
	if l.failure = l.write(); l.failure != nil {
		l.failedAt = time.Now()
	}
}

// write writes what is pending. A line of which a part was written is ended, and written again.
func (l *ledger) write() error {
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) //nolint:gosec // nothing secret
		if err != nil {
			return fmt.Errorf("open ledger: %w", err)
		}
		l.file = f
	}
	if l.pending.Len() == 0 {
		return nil
	}
	if l.torn {
		if _, err := l.file.Write([]byte{'\n'}); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
		l.torn = false
	}
	n, err := l.file.Write(l.pending.Bytes())
	whole := bytes.LastIndexByte(l.pending.Bytes()[:n], '\n') + 1
	l.lines += bytes.Count(l.pending.Next(whole), []byte{'\n'})
	l.torn = n > whole || err != nil
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// close writes what is pending, as far as it can be, and closes the file.
func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.syncing != nil {
		l.syncing.Stop()
	}
	err := l.write()
	if l.file != nil && err == nil {
		err = l.file.Sync()
	}
	if l.file != nil {
		if cerr := l.file.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("close ledger: %w", cerr))
		}
	}
	return err
}
