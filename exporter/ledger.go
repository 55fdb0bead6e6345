package exporter

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
// its record. Lines are not synced to disk one by one: they survive the end of the process, and the
// list is a safety net whose loss on a crash of the whole machine costs records of lost logs, no log.
type ledger struct {
	path string

	mu    sync.Mutex
	file  *os.File
	alive map[runID]ledgerEntry
	lines int
	err   error // of the last write, told once
}

// ledgerEntry is one line: a run that was seen alive or, with Done, one that got its record.
type ledgerEntry struct {
	Done         bool                 `json:"done,omitempty"`
	UID          types.UID            `json:"uid"`
	Container    string               `json:"container"`
	ContainerID  string               `json:"containerID"`
	Namespace    string               `json:"namespace,omitempty"`
	Pod          string               `json:"pod,omitempty"`
	Node         string               `json:"node,omitempty"`
	HostIP       string               `json:"hostIP,omitempty"`
	Labels       map[string]string    `json:"labels,omitempty"`
	Owners       []bundle.Owner       `json:"owners,omitempty"`
	Type         bundle.ContainerType `json:"type,omitempty"`
	Image        string               `json:"image,omitempty"`
	ImageID      string               `json:"imageID,omitempty"`
	RestartCount int32                `json:"restartCount,omitempty"`
	StartedAt    *time.Time           `json:"startedAt,omitempty"`
}

func (l ledgerEntry) id() runID {
	return runID{podUID: l.UID, container: l.Container, containerID: l.ContainerID}
}

func entryOf(r *run, pod *corev1.Pod) ledgerEntry {
	return ledgerEntry{
		UID: r.id.podUID, Container: r.id.container, ContainerID: r.id.containerID,
		Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, HostIP: pod.Status.HostIP,
		Labels: pod.Labels, Owners: owners(pod), Type: r.kind, Image: r.image, ImageID: r.imageID,
		RestartCount: r.restart, StartedAt: utc(r.startedAt),
	}
}

// run returns the pod and the run as a tracker takes them.
func (l ledgerEntry) run() (*corev1.Pod, view) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Pod, UID: l.UID, Labels: l.Labels},
		Spec:       corev1.PodSpec{NodeName: l.Node},
		Status:     corev1.PodStatus{HostIP: l.HostIP},
	}
	for _, o := range l.Owners {
		pod.OwnerReferences = append(pod.OwnerReferences, metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: types.UID(o.UID)})
	}
	v := view{id: l.id(), kind: l.Type, restart: l.RestartCount, image: l.Image, imageID: l.ImageID}
	if l.StartedAt != nil {
		v.startedAt = *l.StartedAt
	}
	return pod, v
}

// openLedger reads the ledger in a spool, or begins one. A last line that was cut by a crash is
// dropped. It also returns when the ledger was last written: zero if it is new.
func openLedger(spool string) (l *ledger, written time.Time, err error) {
	l = &ledger{path: filepath.Join(spool, ledgerName), alive: make(map[runID]ledgerEntry)}
	f, err := os.Open(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, written, fmt.Errorf("open ledger: %w", err)
	default:
		info, serr := f.Stat()
		err = errors.Join(serr, l.read(f), f.Close())
		if err != nil {
			return nil, written, fmt.Errorf("read ledger %s: %w", l.path, err)
		}
		written = info.ModTime()
	}
	return l, written, l.rewrite()
}

func (l *ledger) read(f *os.File) error {
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil //nolint:nilerr // the end, or a line that was cut
		}
		var e ledgerEntry
		if json.Unmarshal(line, &e) != nil {
			continue // damaged: the run it named is forgotten, the others are not
		}
		if e.Done {
			delete(l.alive, e.id())
		} else {
			l.alive[e.id()] = e
		}
	}
}

// rewrite writes the ledger anew, without what is done.
func (l *ledger) rewrite() error {
	tmp := l.path + ".new"
	f, err := os.Create(tmp) //nolint:gosec // in the spool
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, e := range l.alive {
		err = errors.Join(err, enc.Encode(e))
	}
	if err = errors.Join(err, w.Flush(), f.Sync(), os.Rename(tmp, l.path)); err != nil {
		return errors.Join(fmt.Errorf("write ledger: %w", err), f.Close(), os.Remove(tmp))
	}
	if l.file != nil {
		_ = l.file.Close() // replaced
	}
	l.file, l.lines = f, len(l.alive)
	return nil
}

// add notes a run that was seen alive.
func (l *ledger) add(e ledgerEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.alive[e.id()]; ok {
		return nil
	}
	l.alive[e.id()] = e
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
	return l.append(ledgerEntry{Done: true, UID: id.podUID, Container: id.container, ContainerID: id.containerID})
}

// append writes a line. After a failure, on a full disk say, the whole ledger is written anew at the
// next change, so that nothing is missing from it. The first failure is returned, further ones are not.
func (l *ledger) append(e ledgerEntry) error {
	before := l.err
	if l.lines++; l.err != nil || l.lines > 2*len(l.alive)+compactAt {
		l.err = l.rewrite()
	} else {
		line, err := json.Marshal(e)
		if err == nil {
			_, err = l.file.Write(append(line, '\n'))
		}
		if l.err = err; err != nil {
			l.err = fmt.Errorf("write ledger: %w", err)
		}
	}
	if before != nil {
		return nil
	}
	return l.err
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

func owners(pod *corev1.Pod) []bundle.Owner {
	var out []bundle.Owner
	for _, o := range pod.OwnerReferences {
		out = append(out, bundle.Owner{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: string(o.UID)})
	}
	return out
}
