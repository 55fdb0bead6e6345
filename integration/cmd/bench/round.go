package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// patience is how long clients may go on after the last container has ended.
const patience = 3 * time.Minute

// round is one workload in a namespace of its own, with some clients looking at it.
type round struct {
	*workload
	b         *bench
	namespace string
	clients   []client

	mu      sync.Mutex
	pods    map[string]*corev1.Pod // as last seen
	gone    map[string]bool
	files   map[string]*os.File // the log files on the node, which stay readable after their removal
	failed  error
	written map[string]int       // lines, by pod
	exit    map[string]time.Time // the stamp of the last line, by pod; unset for pods that restart
}

// row is what one client made of one workload.
type row struct {
	workload *workload
	client   string
	written  int
	kept     int
	twice    int
	gaps     int
	result
}

// round runs a workload with some clients, and adds a row for each.
func (b *bench) round(ctx context.Context, w workload, names []string) error {
	r := &round{
		workload: &w, b: b, namespace: fmt.Sprintf("bench-%s-%x", w.name, time.Now().UnixNano()&0xffffff),
		pods: make(map[string]*corev1.Pod), gone: make(map[string]bool), files: make(map[string]*os.File),
		written: make(map[string]int), exit: make(map[string]time.Time),
	}
	if err := b.makeNamespace(ctx, r.namespace); err != nil {
		return err
	}
	defer b.dropNamespace(r.namespace)
	defer r.close()
	for _, name := range names {
		dir, err := b.folder(r.namespace, name)
		if err != nil {
			return err
		}
		c := newClient(name, b, r.namespace, dir)
		r.clients = append(r.clients, c)
		if err := c.begin(); err != nil {
			return err
		}
	}
	events, err := b.kube.CoreV1().Pods(r.namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	defer events.Stop()
	go r.watch(events)
	if err := pause(ctx, 2*time.Second); err != nil { // until the clients watch too
		return err
	}
	for i := range w.pods {
		if _, err := b.kube.CoreV1().Pods(r.namespace).Create(ctx, w.pod(i), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create pod: %w", err)
		}
	}
	if err := w.act(ctx, r); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.count(ctx)
}

func (r *round) close() {
	for _, c := range r.clients {
		c.end()
	}
	for _, f := range r.files {
		_ = f.Close()
	}
}

// watch keeps what is known of the pods, and tells the clients.
func (r *round) watch(events watch.Interface) {
	for e := range events.ResultChan() {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		r.mu.Lock()
		r.pods[pod.Name] = pod
		r.gone[pod.Name] = e.Type == watch.Deleted
		for _, c := range r.clients {
			r.failed = errors.Join(r.failed, c.seen(pod))
		}
		if r.lines == 0 && r.restarts == 0 && pod.Status.Phase == corev1.PodRunning && r.files[pod.Name] == nil {
			f, err := os.Open(logFile(pod))
			if err != nil {
				r.failed = errors.Join(r.failed, err)
			} else {
				r.files[pod.Name] = f
			}
		}
		r.mu.Unlock()
	}
}

// logFile is where the kubelet of this machine keeps the log of a pod's first run.
func logFile(pod *corev1.Pod) string {
	return filepath.Join("/var/log/pods", fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID), "app", "0.log")
}

// await waits until all pods are as they should be.
func (r *round) await(ctx context.Context, limit time.Duration, what string, ok func(pod *corev1.Pod, gone bool) bool) error {
	in, err := until(ctx, limit, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		n := 0
		for name, pod := range r.pods {
			if ok(pod, r.gone[name]) {
				n++
			}
		}
		return r.failed != nil || n >= r.workload.pods
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && !in {
		err = fmt.Errorf("wait for %s: not within %s", what, limit)
	}
	return errors.Join(err, r.failed)
}

// awaitRunning waits until some time after the last pod began to run.
func (r *round) awaitRunning(ctx context.Context, after time.Duration) error {
	err := r.await(ctx, 4*time.Minute, "running pods", func(pod *corev1.Pod, _ bool) bool { return pod.Status.Phase == corev1.PodRunning })
	if err == nil {
		err = pause(ctx, after)
	}
	return err
}

// delete deletes all pods together.
func (r *round) delete(ctx context.Context, after time.Duration, grace int64) error {
	err := r.awaitRunning(ctx, after)
	if err == nil {
		err = r.b.kube.CoreV1().Pods(r.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &grace}, metav1.ListOptions{})
	}
	if err == nil {
		err = r.await(ctx, 3*time.Minute, "the deletions", func(_ *corev1.Pod, gone bool) bool { return gone })
	}
	return err
}

// deleteEach deletes one pod after the other, each when the one before is gone.
func (r *round) deleteEach(ctx context.Context, after time.Duration) error {
	err := r.awaitRunning(ctx, after)
	for i := 0; i < r.workload.pods && err == nil; i++ {
		name := r.pod(i).Name
		if err = r.b.kube.CoreV1().Pods(r.namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete pod: %w", err)
		}
		var in bool
		in, err = until(ctx, time.Minute, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.gone[name] || r.failed != nil
		})
		if err == nil && !in {
			err = fmt.Errorf("wait for the deletion of %s: not within a minute", name)
		}
	}
	return err
}

func (r *round) awaitEnded(ctx context.Context, limit time.Duration) error {
	return r.await(ctx, limit, "the end of the pods", func(pod *corev1.Pod, _ bool) bool {
		return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	})
}

// awaitRestarts waits until the last run that counts has ended in every pod.
func (r *round) awaitRestarts(ctx context.Context, limit time.Duration) error {
	return r.await(ctx, limit, "the restarts", func(pod *corev1.Pod, _ bool) bool {
		s := pod.Status.ContainerStatuses
		return len(s) > 0 && (int(s[0].RestartCount) > r.restarts || int(s[0].RestartCount) == r.restarts && s[0].State.Running == nil)
	})
}

// settle waits until the clients have what they will ever have, and ends them.
func (r *round) settle(ctx context.Context) error {
	r.b.say("  the containers have ended, waiting for the clients")
	if err := r.truth(ctx); err != nil {
		return err
	}
	_, err := until(ctx, patience, func() bool {
		settled := true
		for _, c := range r.clients {
			settled = c.settled(r) && settled
		}
		return settled
	})
	for _, c := range r.clients {
		c.end()
	}
	return err
}

// truth finds out what the containers wrote: what was ordered, or what is in the log files.
func (r *round) truth(ctx context.Context) error {
	if err := pause(ctx, 3*time.Second); err != nil { // a container that was deleted by force ends a little later
		return err
	}
	for name, pod := range r.pods {
		switch {
		case r.restarts > 0:
			r.written[name] = r.restarts + 1
			continue
		case r.lines > 0:
			r.written[name] = r.lines
			last, err := lastStamp(logFile(pod))
			if err != nil {
				return err
			}
			r.exit[name] = last
			continue
		}
		t := newTally()
		if err := t.read(r.files[name]); err != nil {
			return fmt.Errorf("read log file: %w", err)
		}
		h := t.pods[name]
		if h == nil || h.distinct != len(h.have)-1 {
			return fmt.Errorf("read log file of %s: it is not the numbered lines", name)
		}
		r.written[name], r.exit[name] = h.distinct, h.last
	}
	return nil
}

// lastStamp is the stamp of the last line in a container's log files. The newest one is empty if the
// kubelet has rotated it right after that line.
func lastStamp(name string) (time.Time, error) {
	at, err := lastStampIn(name)
	if err != nil || !at.IsZero() {
		return at, err
	}
	rotated, err := filepath.Glob(name + ".*")
	if err != nil {
		return time.Time{}, err
	}
	rotated = slices.DeleteFunc(rotated, func(name string) bool { return strings.HasSuffix(name, ".gz") })
	if len(rotated) > 0 {
		at, err = lastStampIn(slices.Max(rotated)) // their names end with the time of the rotation
	}
	if err == nil && at.IsZero() {
		err = fmt.Errorf("read %s: no lines at its end", name)
	}
	return at, err
}

// lastStampIn is the stamp of one file's last line, zero if it has none.
func lastStampIn(name string) (time.Time, error) {
	f, err := os.Open(name) //nolint:gosec // the node's log file
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	t := newTally()
	if err := t.read(io.NewSectionReader(f, max(0, info.Size()-4096), 4096)); err != nil {
		return time.Time{}, err
	}
	for h := range maps.Values(t.pods) {
		return h.last, nil
	}
	return time.Time{}, nil
}

// count makes a row for each client.
func (r *round) count(ctx context.Context) error {
	for _, c := range r.clients {
		res, err := c.result(ctx, r)
		if err != nil {
			return err
		}
		row := row{workload: r.workload, client: c.name(), result: res}
		for _, n := range r.written {
			row.written += n
		}
		row.kept, row.twice, row.gaps = res.tally.count(r.written)
		slices.Sort(row.latency)
		slices.Sort(row.ours)
		r.b.rows = append(r.b.rows, row)
		r.b.say("  %-24s %8d of %d lines, %d twice, %d gaps, %d cut; %s; %.2f s CPU, %s", row.client, row.kept, row.written, row.twice, row.gaps,
			res.tally.cut, words(res.ends), res.cpu.Seconds(), row.latencyWords())
		for _, wrong := range res.wrong {
			r.b.say("  FALSE VERDICT: %s", wrong)
			r.b.wrong = append(r.b.wrong, row.client+", "+r.name+": "+wrong)
		}
	}
	return nil
}

func (b *bench) makeNamespace(ctx context.Context, name string) error {
	if _, err := b.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	ok, err := until(ctx, 30*time.Second, func() bool {
		_, err := b.kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	if err == nil && !ok {
		err = errors.New("make namespace: it has no service account")
	}
	return err
}

// dropNamespace removes a namespace and waits until its pods are gone, so that they do not disturb the
// next round.
func (b *bench) dropNamespace(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now := int64(0)
	_ = b.kube.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	_ = b.kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	// The kubelet removes some folders only in its next clean-up; those do not disturb anybody.
	_, _ = until(ctx, 8*time.Second, func() bool {
		dirs, err := filepath.Glob("/var/log/pods/" + name + "_*")
		return err == nil && len(dirs) == 0
	})
}
