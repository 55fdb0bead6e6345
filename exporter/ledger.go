package exporter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// ledgerName is the ledger's file in the spool.
const ledgerName = ".kubelogexporter-runs"

// compactAt is how many lines a ledger may hold beyond twice what is alive before it is written anew.
const compactAt = 4096

// ledger is the durable list of the runs that were seen alive and have no record yet. A run that is
// still in it when a new process starts, and that the cluster no longer shows, ended unseen: it gets
// a record. The file is a journal: a line for each run that was seen alive, a line for each that got
// its record, a line for each snapshot of one that goes on. Only the last are synced to disk one by one,
// because what was stored is continued from there; the others survive the end of the process, and their loss
// on a crash of the whole machine costs records of lost logs, no log.
type ledger struct {
	path string

	mu      sync.Mutex
	file    *os.File
	alive   map[runID]struct{}
	stored  map[runID]string // the keys of the last snapshots of those that have one
	lines   int
	pending []ledgerEntry // those that could not be written yet
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
		Namespace: pod.namespace, Pod: pod.name, Node: pod.node, HostIP: pod.hostIP,
		Labels: pod.labelMap(), Owners: pod.owners, Loose: pod.loose && len(pod.owners) > 0, Type: r.kind, Image: r.image, ImageID: r.imageID,
		RestartCount: r.restart, StartedAt: utc(r.startedAt),
	}
}

// run returns the pod and the run as a tracker takes them.
func (l ledgerEntry) run() (*podInfo, view) {
	pod := &podInfo{namespace: l.Namespace, name: l.Pod, uid: l.UID, labels: flat(l.Labels), owners: l.Owners, loose: l.Loose, node: l.Node, hostIP: l.HostIP}
	v := view{id: l.id(), kind: l.Type, restart: l.RestartCount, image: l.Image, imageID: l.ImageID}
	if l.StartedAt != nil {
		v.startedAt = *l.StartedAt
	}
	return pod, v
}

// openLedger reads the ledger in a spool, or begins one. It returns the runs that are in it, and when
// it was last written: zero if it is new.
func openLedger(spool string) (l *ledger, entries []ledgerEntry, written time.Time, err error) {
	l = &ledger{path: filepath.Join(spool, ledgerName), alive: make(map[runID]struct{}), stored: make(map[runID]string)}
	switch info, err := os.Stat(l.path); {
	case errors.Is(err, fs.ErrNotExist):
		f, err := os.Create(l.path)
		if err != nil {
			return nil, nil, written, fmt.Errorf("begin ledger: %w", err)
		}
		l.file = f
		return l, nil, written, nil
	case err != nil:
		return nil, nil, written, fmt.Errorf("open ledger: %w", err)
	default:
		written = info.ModTime()
	}
	if err := eachEntry(l.path, func(e ledgerEntry) error {
		_, alive := l.alive[e.id()]
		switch {
		case e.Done:
			delete(l.alive, e.id())
			delete(l.stored, e.id())
		case e.names() || alive:
			l.alive[e.id()] = struct{}{}
			if e.Snapshot != "" {
				l.stored[e.id()] = e.Snapshot
			}
		}
		return nil
	}); err != nil {
		return nil, nil, written, err
	}
	return l, entries, written, l.compact(func(e ledgerEntry) { entries = append(entries, e) })
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

// compact writes the ledger anew, without what is done, and shows each line that stays.
func (l *ledger) compact(show func(ledgerEntry)) error {
	tmp := l.path + ".new"
	f, err := os.Create(tmp) //nolint:gosec // in the spool
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	kept := make(map[runID]struct{}, len(l.alive))
	err = eachEntry(l.path, func(e ledgerEntry) error {
		_, alive := l.alive[e.id()]
		if _, twice := kept[e.id()]; !e.names() || !alive || twice {
			return nil
		}
		e.Snapshot = l.stored[e.id()]
		kept[e.id()] = struct{}{}
		show(e)
		return enc.Encode(e)
	})
	if err = errors.Join(err, w.Flush(), f.Sync(), os.Rename(tmp, l.path)); err != nil {
		return errors.Join(fmt.Errorf("write ledger: %w", err), f.Close(), os.Remove(tmp))
	}
	if l.file != nil {
		_ = l.file.Close() // replaced
	}
	l.file, l.lines = f, len(kept)
	return nil
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
	f := l.file
	l.mu.Unlock()
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) { // what has replaced it was synced
		return fmt.Errorf("sync ledger: %w", err)
	}
	return nil
}

// append writes a line. What a full disk, say, keeps from being written is written with the next
// change; the first failure is returned, further ones are not.
func (l *ledger) append(e ledgerEntry) error {
	failing := len(l.pending) > 0
	l.pending = append(l.pending, e)
	var lines bytes.Buffer
	if failing {
		lines.WriteByte('\n') // ends a line of which a part was written
	}
	enc := json.NewEncoder(&lines)
	for _, e := range l.pending {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
	}
	_, err := l.file.Write(lines.Bytes())
	if err == nil {
		l.lines += len(l.pending)
		l.pending = nil
		if l.lines > 2*len(l.alive)+compactAt {
			return l.compact(func(ledgerEntry) {})
		}
		return nil
	}
	if failing {
		return nil
	}
	return fmt.Errorf("write ledger: %w", err)
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}
