// Package wait waits for a cluster to get somewhere, by watching it: an
// informer wakes the waiter at the change itself, so a wait costs one list and
// one watch, shared by all waiters of the process, however long it takes.
// Nothing here sleeps or asks the API again and again.
package wait

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// Timeout is how long something may take, with a name, so that messages say
// which one was over.
type Timeout struct {
	Name string
	D    time.Duration
}

// Target is what is watched: one object by name, or those that a selector
// matches, or all of a kind in a namespace. An empty namespace means the whole
// cluster, or a kind without namespaces.
type Target struct {
	Kind      schema.GroupVersionKind
	Namespace string
	Name      string
	Selector  labels.Selector
}

func (t Target) String() string {
	s := t.Kind.Kind
	if t.Namespace != "" {
		s += " " + t.Namespace + "/"
	} else {
		s += " "
	}
	switch {
	case t.Name != "":
		return s + t.Name
	case t.Selector != nil:
		return s + "{" + t.Selector.String() + "}"
	}
	return s + "*"
}

func (t Target) selects(o *unstructured.Unstructured) bool {
	return (t.Name == "" || o.GetName() == t.Name) &&
		(t.Namespace == "" || o.GetNamespace() == t.Namespace) &&
		(t.Selector == nil || t.Selector.Matches(labels.Set(o.GetLabels())))
}

// Condition is what every object of a target must come to.
type Condition struct {
	What string // completes "waiting for Deployment ns/name to …"
	// Missing is empty when the object meets the condition, and else says what is
	// still missing. It must not change the object, which others see too.
	Missing func(o *unstructured.Unstructured) string
}

// Waiter watches one cluster. It is safe for concurrent use.
type Waiter struct {
	dynamic dynamic.Interface
	logs    kubernetes.Interface // for the events and logs of what failed
	mapper  meta.RESTMapper
	linger  time.Duration // how long an informer that nobody uses stays
	broken  error         // why it reaches no cluster

	mu      sync.Mutex
	watches map[watchKey]*watch
}

// linger spares a new list when waits on the same things follow each other.
const linger = 30 * time.Second

var waiters = struct {
	sync.Mutex
	by map[*rest.Config]*Waiter
}{by: map[*rest.Config]*Waiter{}}

// On returns this process's waiter for a cluster: the same one each time for
// the same config. A config that is none is the error of each of its waits.
func On(config *rest.Config) *Waiter {
	waiters.Lock()
	defer waiters.Unlock()
	if w := waiters.by[config]; w != nil {
		return w
	}
	w, err := reaching(config)
	if err != nil {
		return &Waiter{broken: fmt.Errorf("wait: %w", err)}
	}
	waiters.by[config] = w
	return w
}

func reaching(config *rest.Config) (*Waiter, error) {
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return newWaiter(dyn, typed, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))), nil
}

func newWaiter(dyn dynamic.Interface, typed kubernetes.Interface, mapper meta.RESTMapper) *Waiter {
	return &Waiter{dynamic: dyn, logs: typed, mapper: mapper, linger: linger, watches: map[watchKey]*watch{}}
}

// Until waits until there is at least one object of the target and each meets
// the condition, and returns them. It ends early, with an error, when a pod of
// theirs fails in a way that time does not mend.
func (w *Waiter) Until(ctx context.Context, limit Timeout, t Target, c Condition) ([]*unstructured.Unstructured, error) {
	return w.wait(ctx, limit, t, c, func(objects []*unstructured.Unstructured) string {
		if len(objects) == 0 {
			return "there is none"
		}
		return missing(objects, c)
	})
}

// Converges waits until there are exactly n objects of the target and each
// meets the condition.
func (w *Waiter) Converges(ctx context.Context, limit Timeout, n int, t Target, c Condition) ([]*unstructured.Unstructured, error) {
	return w.wait(ctx, limit, t, c, func(objects []*unstructured.Unstructured) string {
		if len(objects) != n {
			return fmt.Sprintf("there are %d, want %d", len(objects), n)
		}
		return missing(objects, c)
	})
}

// Gone waits until there is no object of the target.
func (w *Waiter) Gone(ctx context.Context, limit Timeout, t Target) error {
	_, err := w.wait(ctx, limit, t, Condition{What: "be gone"}, func(objects []*unstructured.Unstructured) string {
		if len(objects) > 0 {
			return fmt.Sprintf("there are still %d", len(objects))
		}
		return ""
	})
	return err
}

// Holds makes sure that the objects of the target meet the condition for the
// whole of d, each change that the API tells of included; the first one that
// does not is an error, and so is a target without objects. At its end the API is asked
// once: of a watch that died nothing comes either, and that is an error of another kind.
func (w *Waiter) Holds(ctx context.Context, d time.Duration, t Target, c Condition) error {
	seen := &history{condition: c, names: map[string]bool{}}
	view, err := w.watch(ctx, t, true, seen.add)
	if err != nil {
		return fmt.Errorf("holding that %s does %s: %w", t, c.What, err)
	}
	defer view.leave()
	over := time.NewTimer(d)
	defer over.Stop()
	start := time.Now()
	seen.begin(view)
	for ended := false; ; {
		objects := view.objects()
		lack := seen.lacked()
		if len(objects) == 0 {
			lack = "there is none"
		}
		switch {
		case lack != "":
			return w.failed(t, c, Timeout{"hold", d}, start, objects, "it held for "+time.Since(start).Round(time.Millisecond).String()+", then: "+lack, nil)
		case ended:
			// Of what the last look brought, handlers may not have been told yet.
			if lack = missing(objects, c); lack != "" {
				return w.failed(t, c, Timeout{"hold", d}, start, objects, "it held for "+time.Since(start).Round(time.Millisecond).String()+", then: "+lack, nil)
			}
			return nil
		}
		select {
		case <-view.changed:
		case <-over.C:
			asked, cancel := context.WithTimeoutCause(ctx, lastLook.D, errors.New(lastLook.Name+": no answer in "+lastLook.D.String()))
			err := w.catchUp(asked, view)
			cancel()
			if err != nil {
				return fmt.Errorf("holding that %s does %s: whether it did cannot be told: %w", t, c.What, err)
			}
			ended = true
		case <-ctx.Done():
			return w.failed(t, c, Timeout{"hold", d}, start, objects, "", context.Cause(ctx))
		}
	}
}

// lastLook is for the API to say what there is when the time of Holds is over.
var lastLook = Timeout{Name: "lastLook", D: 15 * time.Second}

// history judges each change of a target: a waiter that looked at the last
// state only would miss what was bad for a moment.
type history struct {
	condition Condition

	mu    sync.Mutex
	since string // resource version from which on changes count; empty before begin
	names map[string]bool
	lack  string // the first one
}

// begin starts with what is there; changes that led to it are of no interest.
func (h *history) begin(v *view) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since = v.from.informer.GetStore().LastStoreSyncResourceVersion()
	objects := v.objects()
	for _, o := range objects {
		h.names[o.GetNamespace()+"/"+o.GetName()] = true
	}
	if h.lack = missing(objects, h.condition); len(objects) == 0 {
		h.lack = "there is none"
	}
}

func (h *history) add(o *unstructured.Unstructured, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since == "" || !older(h.since, o.GetResourceVersion()) || h.lack != "" {
		return
	}
	name := o.GetNamespace() + "/" + o.GetName()
	if !gone {
		h.names[name] = true
		h.lack = missing([]*unstructured.Unstructured{o}, h.condition)
		return
	}
	if delete(h.names, name); len(h.names) == 0 {
		h.lack = "there is none"
	}
}

func (h *history) lacked() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lack
}

func (w *Waiter) wait(ctx context.Context, limit Timeout, t Target, c Condition, lacking func([]*unstructured.Unstructured) string) ([]*unstructured.Unstructured, error) {
	if w.broken != nil { // no *Error, which would be that something did not come in time
		return nil, w.broken
	}
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit.D, errOver)
	defer cancel()
	view, err := w.watch(ctx, t, true, nil)
	if err != nil {
		return nil, w.failed(t, c, limit, start, nil, "it could not be watched", err)
	}
	defer view.leave()
	pods, err := w.podsOf(ctx, t, c)
	if err != nil {
		return nil, w.failed(t, c, limit, start, nil, "its pods could not be watched", err)
	}
	defer pods.leave()
	before := crashes(pods.objects())
	for {
		objects := view.objects()
		lack := lacking(objects)
		if lack == "" {
			return objects, nil
		}
		hopeless := w.terminal(ctx, t, objects, pods, before)
		if hopeless != nil && pods.from != nil { // unless what mends it is there, and not seen yet
			if err := w.catchUp(ctx, pods); err != nil {
				return objects, w.failed(t, c, limit, start, objects, lack, err)
			}
			hopeless = w.terminal(ctx, t, view.objects(), pods, before)
		}
		if hopeless != nil {
			return objects, w.failed(t, c, limit, start, objects, lack, hopeless)
		}
		select {
		case <-view.changed:
		case <-pods.changed:
		case <-ctx.Done():
			return objects, w.failed(t, c, limit, start, objects, lack, context.Cause(ctx))
		}
	}
}

// missing joins what the first few objects lack.
func missing(objects []*unstructured.Unstructured, c Condition) string {
	const most = 3
	text, more := "", 0
	for _, o := range objects {
		lack := c.Missing(o)
		switch {
		case lack == "":
		case more >= most:
			more++
		default:
			if text != "" {
				text += "; "
			}
			text += o.GetName() + ": " + lack
			more++
		}
	}
	if more > most {
		text += fmt.Sprintf("; and %d more", more-most)
	}
	return text
}
