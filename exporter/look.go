package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Look asks the API server for a pod of which somebody else has said that it has changed or was deleted, and no
// more than its name. Of those that had the name before, a deletion ends all but the one that has it now. No pod
// of that name is no error; a look that failed can be repeated.
func (e *Exporter) Look(ctx context.Context, namespace, name string, deleted bool) error {
	if !e.recalled.Load() {
		return errors.New("the exporter is only starting")
	}
	var gone []types.UID
	if deleted {
		gone = e.tracker.named(namespace, name) // before the look: a pod that comes after it is not gone
	}
	pod, err := e.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		seen := infoOf(pod)
		e.see(seen, false)
		gone = slices.DeleteFunc(gone, func(uid types.UID) bool { return uid == seen.uid })
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("look at pod %s/%s: %w", namespace, name, err)
	}
	for _, uid := range gone {
		e.see(&podInfo{namespace: namespace, name: name, uid: uid}, true)
	}
	return nil
}

// named returns the pods of a name that are known. They are searched: only deletions ask for it, and a list by
// names would take memory for every pod.
func (t *tracker) named(namespace, name string) (uids []types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for pod := range t.pods {
		if pod.name == name && pod.namespace == namespace {
			uids = append(uids, pod.uid)
		}
	}
	return uids
}
