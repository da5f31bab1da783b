package wait

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

type watchKey struct {
	resource  schema.GroupVersionResource
	namespace string
}

// watch is one informer and all who look at it.
type watch struct {
	key      watchKey
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
	expiry   *time.Timer

	mu      sync.Mutex
	views   map[*view]bool
	refused error         // of the last list or watch; nil once one succeeded
	denied  chan struct{} // closed when we may not look, which time does not mend
}

// view is one waiter's look through a watch. changed gets a value at each
// change since the last one was taken.
type view struct {
	target  Target
	from    *watch
	changed chan struct{}
	each    func(o *unstructured.Unstructured, gone bool) // told of every change, in order; may be nil
	leave   func()
}

// noView never changes: for targets without pods.
var noView = &view{leave: func() {}}

func (v *view) objects() []*unstructured.Unstructured {
	if v.from == nil {
		return nil
	}
	var out []*unstructured.Unstructured
	for _, item := range v.from.informer.GetStore().List() {
		if o, ok := item.(*unstructured.Unstructured); ok && v.target.selects(o) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

func (v *view) wake() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// watch opens a view of a target on the informer of its kind and namespace, and
// waits until that has its first list; with fresh, until it is as new as the
// API's own answer.
func (w *Waiter) watch(ctx context.Context, t Target, fresh bool, each func(*unstructured.Unstructured, bool)) (*view, error) {
	if w.broken != nil {
		return nil, w.broken
	}
	resource, err := w.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	v := &view{target: t, changed: make(chan struct{}, 1), each: each}
	from, ran := w.join(watchKey{resource, t.Namespace}, v)
	v.from = from
	v.leave = sync.OnceFunc(func() { w.part(v) })
	select {
	case <-from.informer.HasSyncedChecker().Done():
	case <-from.denied:
	case <-ctx.Done():
	}
	if from.informer.HasSynced() { // also one that was refused before: others look at it
		if !ran || !fresh {
			return v, nil
		}
		if err := w.catchUp(ctx, v); err != nil {
			v.leave()
			return nil, err
		}
		return v, nil
	}
	if ctx.Err() == nil {
		w.end(from) // the next one may be allowed to
	}
	v.leave()
	from.mu.Lock()
	refused := from.refused
	from.mu.Unlock()
	switch {
	case refused != nil:
		return nil, refused
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	// Let in since: an API server that has just begun refuses everyone for a moment.
	return w.watch(ctx, t, fresh, each)
}

// catchUp waits until an informer that ran already knows what the API knows
// now: else a wait after a change could be met by the state before it.
func (w *Waiter) catchUp(ctx context.Context, v *view) error {
	options := metav1.ListOptions{}
	if v.target.Name != "" {
		options.FieldSelector = fields.OneTermEqualSelector("metadata.name", v.target.Name).String()
	}
	if v.target.Selector != nil {
		options.LabelSelector = v.target.Selector.String()
	}
	list, err := w.dynamic.Resource(v.from.key.resource).Namespace(v.target.Namespace).List(ctx, options)
	if err != nil {
		return err
	}
	for !v.knows(list) {
		select {
		case <-v.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// knows says that each listed object has been seen, and none that went before.
func (v *view) knows(list *unstructured.UnstructuredList) bool {
	have, there := map[string]string{}, map[string]bool{}
	for _, o := range v.objects() {
		have[o.GetNamespace()+"/"+o.GetName()] = o.GetResourceVersion()
	}
	seen := v.from.informer.GetStore().LastStoreSyncResourceVersion()
	for _, o := range list.Items {
		name := o.GetNamespace() + "/" + o.GetName()
		there[name] = true
		version, ok := have[name]
		if !ok { // not yet, or not any more
			version = seen
		}
		if older(version, o.GetResourceVersion()) {
			return false
		}
	}
	for name, version := range have {
		if !there[name] && older(version, list.GetResourceVersion()) {
			return false
		}
	}
	return true
}

// older compares resource versions; false for what is none.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

func (w *Waiter) resource(kind schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	mapping, err := w.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		if r, ok := w.mapper.(meta.ResettableRESTMapper); ok { // the kind may be new
			r.Reset()
			mapping, err = w.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		}
	}
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("the cluster has no kind %s: %w", kind, err)
	}
	return mapping.Resource, nil
}

func (w *Waiter) join(key watchKey, v *view) (from *watch, ran bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, ran = w.watches[key], w.watches[key] != nil
	if !ran {
		from = w.start(key)
		w.watches[key] = from
	}
	from.mu.Lock()
	defer from.mu.Unlock()
	if from.expiry != nil {
		from.expiry.Stop()
		from.expiry = nil
	}
	from.views[v] = true
	return from, ran
}

// end ends a watch, even if somebody looks at it still.
func (w *Waiter) end(from *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[from.key] == from {
		delete(w.watches, from.key)
	}
	from.stop()
}

func (w *Waiter) start(key watchKey) *watch {
	ctx, stop := context.WithCancel(context.Background())
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(w.dynamic, 0, key.namespace, nil)
	from := &watch{key: key, informer: factory.ForResource(key.resource).Informer(), stop: stop, views: map[*view]bool{}, denied: make(chan struct{})}
	deny := sync.OnceFunc(func() { close(from.denied) })
	wake := func(changed any, gone bool) {
		if unknown, ok := changed.(cache.DeletedFinalStateUnknown); ok {
			changed = unknown.Obj
		}
		o, _ := changed.(*unstructured.Unstructured)
		from.mu.Lock()
		defer from.mu.Unlock()
		from.refused = nil
		for v := range from.views {
			if v.each != nil && o != nil && v.target.selects(o) {
				v.each(o, gone)
			}
			v.wake()
		}
	}
	// Both fail only on an informer that has been started already.
	_, _ = from.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { wake(o, false) },
		UpdateFunc: func(_, o any) { wake(o, false) },
		DeleteFunc: func(o any) { wake(o, true) },
	})
	_ = from.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
		from.mu.Lock()
		defer from.mu.Unlock()
		from.refused = err
		// Of one that had its list the watch is taken up again: an API server that begins
		// refuses everyone for a moment.
		if !from.informer.HasSynced() && (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)) {
			deny()
		}
	})
	go from.informer.RunWithContext(ctx)
	return from
}

// part leaves a watch, which ends when nobody came back for a while.
func (w *Waiter) part(v *view) {
	from := v.from
	from.mu.Lock()
	defer from.mu.Unlock()
	delete(from.views, v)
	if len(from.views) > 0 {
		return
	}
	from.expiry = time.AfterFunc(w.linger, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		from.mu.Lock()
		defer from.mu.Unlock()
		if len(from.views) == 0 && w.watches[from.key] == from {
			delete(w.watches, from.key)
			from.stop()
		}
	})
}
