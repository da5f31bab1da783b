package wait

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	refused error // of the last list or watch; nil once one succeeded
}

// view is one waiter's look through a watch. changed gets a value at each
// change since the last one was taken.
type view struct {
	target  Target
	from    *watch
	changed chan struct{}
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
// waits until that has its first list.
func (w *Waiter) watch(ctx context.Context, t Target) (*view, error) {
	resource, err := w.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	v := &view{target: t, changed: make(chan struct{}, 1)}
	v.from = w.join(watchKey{resource, t.Namespace}, v)
	v.leave = sync.OnceFunc(func() { w.part(v) })
	if !cache.WaitForCacheSync(ctx.Done(), v.from.informer.HasSynced) {
		v.leave()
		v.from.mu.Lock()
		defer v.from.mu.Unlock()
		if v.from.refused != nil {
			return nil, v.from.refused
		}
		return nil, context.Cause(ctx)
	}
	return v, nil
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

func (w *Waiter) join(key watchKey, v *view) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.watches[key]
	if from == nil {
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
	return from
}

func (w *Waiter) start(key watchKey) *watch {
	ctx, stop := context.WithCancel(context.Background())
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(w.dynamic, 0, key.namespace, nil)
	from := &watch{key: key, informer: factory.ForResource(key.resource).Informer(), stop: stop, views: map[*view]bool{}}
	wake := func() {
		from.mu.Lock()
		defer from.mu.Unlock()
		from.refused = nil
		for v := range from.views {
			v.wake()
		}
	}
	// Both fail only on an informer that has been started already.
	_, _ = from.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() }, UpdateFunc: func(any, any) { wake() }, DeleteFunc: func(any) { wake() },
	})
	_ = from.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
		from.mu.Lock()
		defer from.mu.Unlock()
		from.refused = err
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
