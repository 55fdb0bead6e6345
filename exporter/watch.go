package exporter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// scopeRetry is how often a cluster that cannot be watched yet is tried again.
const scopeRetry = 5 * time.Second

// rescope is how often a program that may not see all namespaces looks for new ones.
const rescope = time.Minute

// watch feeds the tracker from informers until ctx ends. While nothing may be watched, or the API
// server cannot be reached, it says so and tries again.
func (e *Exporter) watch(ctx context.Context) {
	w := &watching{e: e, namespaces: make(map[string]context.CancelFunc)}
	for ctx.Err() == nil {
		wait := w.extend(ctx)
		select {
		case <-ctx.Done():
		case <-e.exportsChanged:
		case <-time.After(wait):
		}
	}
	w.all.Wait()
}

// watching is what is watched. It grows, and only namespaces that are gone leave it: what no export takes any more costs
// little.
type watching struct {
	e          *Exporter
	all        sync.WaitGroup
	namespaces map[string]context.CancelFunc // metav1.NamespaceAll stands for all
	told       string                        // why not more is watched
}

// extend begins to watch what the exports want and is not watched yet, and returns when to look again.
func (w *watching) extend(ctx context.Context) time.Duration {
	e, x := w.e, w.e.exports.Load()
	named := e.named(x)
	missing := func(ns string) bool { return w.namespaces[ns] == nil }
	if !missing(metav1.NamespaceAll) || len(named) > 0 && !slices.ContainsFunc(named, missing) {
		w.settle(x)
		return e.rescope
	}
	settled := e.scoped.Load() == x && !e.barred.Load() // then it is only that namespaces and rights come and go
	namespaces, existing, err := e.scope(ctx, x)
	switch {
	case ctx.Err() != nil, settled && err != nil:
		return e.rescope
	case err != nil:
		w.refused(err)
		if len(w.namespaces) > 0 { // of what is watched every pod has been seen
			e.barred.Store(true)
			e.scoped.Store(x)
		}
		return scopeRetry
	}
	w.leave(existing)
	namespaces = slices.DeleteFunc(slices.Clone(namespaces), func(ns string) bool { return !missing(ns) })
	for _, ns := range namespaces {
		inside, leave := context.WithCancel(ctx)
		w.namespaces[ns] = leave
		e.syncing.begin()
		w.all.Go(func() { e.watchNamespace(inside, ns) })
	}
	if len(namespaces) > 0 {
		e.log.Info("watching", "namespaces", describe(namespaces))
	}
	w.settle(x)
	return e.rescope
}

// leave ends the watches of namespaces that are gone: one for each change that is tried out, say. existing are those
// that are not; none if that is not known.
func (w *watching) leave(existing []string) {
	for ns, leave := range w.namespaces {
		if len(existing) > 0 && !slices.Contains(existing, ns) {
			leave()
			delete(w.namespaces, ns)
			w.e.tracker.left(ns)
		}
	}
}

// left notes that a namespace is gone, and all of its pods, whether anybody was told or not: the right to see them may
// have gone first.
func (t *tracker) left(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ps := range t.pods {
		if ps.pod.namespace == namespace && !ps.gone {
			t.lose(ps)
		}
	}
}

// settle notes that all is watched that the exports want.
func (w *watching) settle(x *exports) {
	w.told = ""
	w.e.barred.Store(false)
	w.e.scoped.Store(x)
}

// refused tells once why what the exports want cannot be watched.
func (w *watching) refused(err error) {
	if err.Error() == w.told {
		return
	}
	w.told = err.Error()
	if errors.As(err, new(*AccessError)) {
		w.e.access.tell("", err, err)
		return
	}
	w.e.log.Warn("cannot find out what may be watched, will go on trying", "err", err)
}

func describe(namespaces []string) any {
	if len(namespaces) == 1 && namespaces[0] == metav1.NamespaceAll {
		return "all"
	}
	return namespaces
}

// named returns the namespaces that the options name, else those that the exports do; none if there may be
// runs that are taken in any.
func (e *Exporter) named(x *exports) []string {
	if len(e.opts.Namespaces) > 0 {
		return e.opts.Namespaces
	}
	return x.namespaces(e.opts.Only)
}

// scope finds out which namespaces to watch: those that are named, or all, or each that the identity may
// see. metav1.NamespaceAll stands for all. existing are all that there are, if they had to be listed and may be.
func (e *Exporter) scope(ctx context.Context, x *exports) (may, existing []string, err error) {
	named := e.named(x)
	for _, ns := range named {
		if err := e.watchable(ctx, ns); err != nil {
			return nil, nil, err
		}
	}
	if len(named) > 0 {
		return named, nil, nil
	}
	err = e.watchable(ctx, metav1.NamespaceAll)
	if err == nil {
		return []string{metav1.NamespaceAll}, nil, nil
	}
	var missing *AccessError
	if !errors.As(err, &missing) {
		return nil, nil, err
	}
	candidates := []string{e.opts.DefaultNamespace}
	if list, lerr := e.kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); lerr == nil {
		for _, ns := range list.Items {
			existing = append(existing, ns.Name)
		}
		candidates = existing
	}
	for _, ns := range candidates {
		if ns == "" {
			continue
		}
		switch err := e.watchable(ctx, ns); {
		case err == nil:
			may = append(may, ns)
		case !errors.As(err, new(*AccessError)):
			return nil, nil, err // no answer is no refusal
		}
	}
	if len(may) == 0 {
		return nil, nil, missing
	}
	return may, existing, nil
}

// watchable returns why a namespace cannot be watched. A missing right to read logs is told, and no
// reason: the runs that end meanwhile must be known, and their logs may still be there when it is granted.
func (e *Exporter) watchable(ctx context.Context, namespace string) error {
	err := e.access.check(ctx, namespace)
	var missing *AccessError
	if !errors.As(err, &missing) || missing.lacks("list", "watch") {
		return err
	}
	e.access.forbidden(ctx, namespace, err)
	return nil
}

func (e *Exporter) watchNamespace(ctx context.Context, namespace string) {
	factory := informers.NewSharedInformerFactoryWithOptions(e.kube, 0,
		informers.WithNamespace(namespace), informers.WithTransform(slim))
	pods := factory.Core().V1().Pods().Informer()
	outage := &watchOutage{e: e, namespace: namespace}
	if err := pods.SetWatchErrorHandlerWithContext(outage.handle); err != nil {
		e.log.Warn("cannot observe watch errors", "err", err)
	}
	handle := func(obj any, deleted bool) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if pod, ok := obj.(*podInfo); ok {
			e.see(pod, deleted)
		}
	}
	handled, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { outage.over(); handle(obj, false) },
		UpdateFunc: func(old, obj any) {
			outage.over()
			if replaced(old, obj) { // between two lists: nobody tells of the deletion
				handle(old, true)
			}
			handle(obj, false)
		},
		DeleteFunc: func(obj any) { handle(obj, true) },
	})
	if err != nil {
		e.log.Warn("cannot watch pods", "namespace", namespace, "err", err)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		pods.RunWithContext(ctx)
	}()
	if cache.WaitForCacheSync(ctx.Done(), handled.HasSynced) {
		e.tracker.vanished(namespace)
	}
	e.syncing.end()
	<-ctx.Done()
	select {
	case <-ended:
	case <-time.After(time.Second): // the reflector may sleep up to its back-off before it looks at ctx
	}
}

// replaced says whether another pod has taken a pod's name. An informer files pods by name, so what it has not
// seen deleted it takes for a change of one object (client-go, tools/cache ResourceEventHandler).
func replaced(old, obj any) bool {
	a, aok := old.(*podInfo)
	b, bok := obj.(*podInfo)
	return aok && bok && a.uid != b.uid
}

// see takes what is known of a pod, from whomever.
func (e *Exporter) see(pod *podInfo, deleted bool) {
	if deleted || e.selects(pod) || e.tracker.knows(pod.key()) {
		e.tracker.observe(pod, deleted)
	}
}

// ObservePod takes a pod as somebody else has seen it, such as a source of events, beside the exporter's own
// watch; what is older than what is known changes nothing. Of a pod that was deleted the name, the
// namespace and the UID are enough, and of a static pod's mirror its annotation. One that is not known is looked at, as
// Look does: the event may be late, and nobody would tell a second time that the pod is gone.
func (e *Exporter) ObservePod(ctx context.Context, pod *corev1.Pod, deleted bool) error {
	seen := infoOf(pod)
	switch {
	case !e.recalled.Load(): // the ledger is being read; the watch, which begins after that, shows the pod
		return nil
	case !deleted && !e.tracker.knows(seen.key()):
		if !e.selects(seen) {
			return nil
		}
		return e.Look(ctx, pod.Namespace, pod.Name, false)
	}
	e.see(seen, deleted)
	return nil
}

// selects says whether the pod is wanted. The selection is made here and not by the API server: an
// object that leaves a server-side selector looks deleted.
func (e *Exporter) selects(pod *podInfo) bool {
	if len(e.opts.Namespaces) > 0 && !slices.Contains(e.opts.Namespaces, pod.namespace) || len(e.opts.Pods) > 0 && !slices.Contains(e.opts.Pods, pod.name) {
		return false
	}
	return e.opts.Selector == nil || e.opts.Selector.Matches(labels.Set(pod.labelMap()))
}

// watchOutage tells once when a watch breaks for good reasons and once when it works again.
// The reflector itself goes on trying, with its own backoff.
type watchOutage struct {
	e         *Exporter
	namespace string
	mu        sync.Mutex
	broken    bool
}

func (w *watchOutage) handle(ctx context.Context, _ *cache.Reflector, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || ctx.Err() != nil {
		return // the reflector lists again; nothing is wrong
	}
	w.mu.Lock()
	first := !w.broken
	w.broken = true
	w.mu.Unlock()
	switch {
	case !first:
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		w.e.access.tell(w.namespace, err, w.e.access.check(ctx, w.namespace))
	default:
		w.e.log.Warn("cannot watch pods, will go on trying", "namespace", w.namespace, "err", err)
	}
}

func (w *watchOutage) over() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		w.broken = false
		w.e.log.Info("watching pods again", "namespace", w.namespace)
	}
}
