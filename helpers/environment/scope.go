package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

const (
	maxName    = 63
	nameSuffix = 5
)

// errClosed is returned by a scope that was closed.
var errClosed = errors.New("scope is closed")

// Scope does things to a cluster and undoes them on Close, the last first. What
// it does to objects stands in the ledger of the process before it is done, so
// that the reaper of a later run can undo it when this process is killed; what
// was given to Defer is undone by this process only. It is safe for concurrent
// use.
type Scope struct {
	// WaitGone makes Close wait until deleted objects are really gone, namespaces
	// with all that is in them; children made afterwards take it over. Set it
	// before first use.
	WaitGone bool

	// Whole makes Close delete the namespaces that the scope made with all that is in them,
	// and not undo each thing that it did there: for those where nothing has a finalizer
	// that wants what goes at the same time. Children do not take it over.
	Whole bool

	env  *Environment
	name string

	closing sync.Mutex // one Close at a time

	mu     sync.Mutex // guards what follows
	undo   []undo
	closed bool
	busy   int           // operations under way; Close undoes nothing before they ended
	idle   chan struct{} // closed when busy falls to nought after closed was set
}

// undo is one thing to take back: a ledger entry, a child or a function.
type undo struct {
	entry int
	child *Scope
	name  string
	fn    func(context.Context) error
}

// Scope begins a scope; name stands in errors and in the ledger. Register its
// Close before using it.
func (e *Environment) Scope(name string) *Scope { return &Scope{env: e, name: name} }

// Child begins a scope that is closed with s at the latest, in its turn.
func (s *Scope) Child(name string) *Scope {
	child := &Scope{env: s.env, name: s.name + "/" + name, WaitGone: s.WaitGone}
	s.mu.Lock()
	defer s.mu.Unlock()
	child.closed = s.closed
	s.undo = append(s.undo, undo{child: child})
	return child
}

// Defer has fn called by Close, in its turn and on Close's context. It is not in
// the ledger: a killed process leaves it undone. After Close it is an error, and
// the caller has to undo for itself.
func (s *Scope) Defer(name string, fn func(context.Context) error) error {
	return s.do("defer "+name, func() error {
		s.push(undo{name: name, fn: fn})
		return nil
	})
}

// Create makes an object, marked with the run; Close deletes it. An object that
// is there already is an error, and left alone. GenerateName is resolved here.
func (s *Scope) Create(ctx context.Context, obj client.Object) error {
	rememberSecret(obj)
	return s.do("create", func() error {
		if obj.GetName() == "" && obj.GetGenerateName() != "" {
			obj.SetName(generateName(obj.GetGenerateName()))
		}
		return s.create(obj, func() error { return s.env.client.Create(ctx, obj, client.FieldOwner(fieldOwner)) })
	})
}

// create writes the intent, makes the object and notes what came of it.
func (s *Scope) create(obj client.Object, put func() error) error {
	e, l, err := s.entry(opCreate, obj)
	if err != nil {
		return err
	}
	e.Mark = utilrand.String(16)
	stamp(obj, s.env.RunID, e.Mark)
	seq, err := s.intend(l, e)
	if err != nil {
		return err
	}
	if err := put(); err != nil {
		if refused(err) {
			return errors.Join(fmt.Errorf("%s: %w", e, err), l.undone(seq, ""))
		}
		return fmt.Errorf("%s: %w", e, err) // it may have come to be: Close looks for the mark
	}
	return l.done(seq, obj.GetUID())
}

// Apply puts an object by server-side apply, taking over the fields of others.
// One that this process made is changed; one that was not there is created, and
// deleted by Close; a foreign one is restored by Close. Somebody else creating it
// in the same instant is not seen.
func (s *Scope) Apply(ctx context.Context, obj client.Object) error {
	rememberSecret(obj)
	return s.do("apply", func() error {
		live, err := s.live(ctx, obj)
		switch {
		case apierrors.IsNotFound(err):
			return s.create(obj, func() error { return s.apply(ctx, obj) })
		case err != nil:
			return fmt.Errorf("apply: %w", err)
		}
		e, l, err := s.entry(opUpdate, live)
		if err != nil {
			return err
		}
		if own, ok := l.made(s.env.Cluster, *e.GVK, e.Namespace, e.Name, live.GetUID()); ok {
			stamp(obj, s.env.RunID, own.Mark) // else apply would take the marks away
			return s.apply(ctx, obj)
		}
		return s.change(l, e, live, func() error { return s.apply(ctx, obj) })
	})
}

func (s *Scope) apply(ctx context.Context, obj client.Object) error {
	u, err := toUnstructured(obj, s.env.client.Scheme())
	if err != nil {
		return err
	}
	for _, field := range []string{"resourceVersion", "uid", "managedFields", "creationTimestamp", "generation"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(u.Object, "status")
	if err := s.env.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return err
	}
	return fromUnstructured(u, obj)
}

// Update reads an object, has mutate change it and writes it back, once more
// when somebody else wrote in between: mutate may be called several times, each
// time on what is live then. Close restores what stood before.
func (s *Scope) Update(ctx context.Context, obj client.Object, mutate func() error) error {
	return s.do("update", func() error {
		for {
			live, err := s.live(ctx, obj)
			if err != nil {
				return fmt.Errorf("update: %w", err)
			}
			if err := fromUnstructured(live, obj); err != nil {
				return fmt.Errorf("update: %w", err)
			}
			if err := mutate(); err != nil {
				return err
			}
			rememberSecret(obj)
			e, l, err := s.entry(opUpdate, live)
			if err != nil {
				return err
			}
			err = s.change(l, e, live, func() error { return s.env.client.Update(ctx, obj, client.FieldOwner(fieldOwner)) })
			if !apierrors.IsConflict(err) || ctx.Err() != nil {
				return err
			}
		}
	})
}

// change writes the snapshot of live as the intent, does it and notes it.
func (s *Scope) change(l *ledger, e entry, live *unstructured.Unstructured, do func() error) error {
	e.UID, e.Snapshot = live.GetUID(), live.Object
	seq, err := s.intend(l, e)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		if refused(err) {
			return errors.Join(fmt.Errorf("%s: %w", e, err), l.undone(seq, ""))
		}
		return fmt.Errorf("%s: %w", e, err)
	}
	return l.done(seq, "")
}

// Delete deletes an object, dependents in the background. Close creates it
// again, unless this process made it or a controller does. What cannot be
// brought back with its contents (a foreign namespace, CRD, volume or claim) is
// refused. It does not wait until the object is gone.
func (s *Scope) Delete(ctx context.Context, obj client.Object) error {
	return s.do("delete", func() error {
		live, err := s.live(ctx, obj)
		if err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		e, l, err := s.entry(opDelete, live)
		if err != nil {
			return err
		}
		remove := func() error {
			uid := live.GetUID()
			return s.env.client.Delete(ctx, live, preconditions(uid), client.PropagationPolicy(metav1.DeletePropagationBackground))
		}
		if _, ok := l.made(s.env.Cluster, *e.GVK, e.Namespace, e.Name, live.GetUID()); ok {
			if err := remove(); err != nil { // the creation's own entry finds it gone
				return fmt.Errorf("%s: %w", e, err)
			}
			return nil
		}
		switch e.GVK.GroupKind().String() {
		case "Namespace", "PersistentVolume", "PersistentVolumeClaim", "CustomResourceDefinition.apiextensions.k8s.io":
			return fmt.Errorf("%s: refused: its contents could not be brought back", e)
		}
		return s.change(l, e, live, remove)
	})
}

// Namespace makes a namespace with a name of its own, prefix and a random end,
// with the given labels and that of the run.
func (s *Scope) Namespace(ctx context.Context, prefix string, labels map[string]string) (string, error) {
	for attempt := 0; ; attempt++ {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-", Labels: maps.Clone(labels)}}
		err := s.Create(ctx, ns)
		if err == nil {
			return ns.Name, nil
		}
		if !apierrors.IsAlreadyExists(err) || attempt == 2 {
			return "", err
		}
	}
}

// Close undoes everything, the last first, and goes on after errors: all of them
// are returned, and what they concern is left for another Close, or the reaper.
// Give it a context that outlives the test's own. Closing twice is no error.
func (s *Scope) Close(ctx context.Context) error {
	s.closing.Lock()
	defer s.closing.Unlock()
	todo, err := s.begin(ctx)
	if err != nil {
		return err
	}
	todo, gone, l := s.parted(todo)
	var left []undo
	var errs []error
	for _, u := range slices.Backward(todo) {
		if err := s.take(ctx, u); err != nil {
			left, errs = append(left, u), append(errs, err)
		}
	}
	slices.Reverse(left)
	stands, err := swept(l, gone)
	left, errs = append(left, stands...), append(errs, err)
	s.mu.Lock()
	s.undo = left
	s.mu.Unlock()
	return errors.Join(errs...)
}

// begin lets no operation in any more, waits for those under way and gives what
// is to be undone.
func (s *Scope) begin(ctx context.Context) ([]undo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.busy > 0 {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle := s.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if s.busy > 0 {
			return nil, fmt.Errorf("scope %s: %d operations under way, nothing was undone: %w", s.name, s.busy, ctx.Err())
		}
	}
	todo := s.undo
	s.undo = nil
	return todo, nil
}

func (s *Scope) take(ctx context.Context, u undo) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("scope %s: undo %s: panic: %v", s.name, u.name, r)
		}
	}()
	switch {
	case u.child != nil:
		return u.child.Close(ctx) // names itself
	case u.fn != nil:
		err = u.fn(ctx)
	default:
		var l *ledger
		if l, err = openLedger(s.env.cache, s.env.RunID); err == nil {
			err = undoer{client: s.env.client, ledger: l, waitGone: s.WaitGone}.undo(ctx, u.entry)
		}
	}
	if err != nil {
		return fmt.Errorf("scope %s: undo %s: %w", s.name, u.name, err)
	}
	return nil
}

func (s *Scope) do(what string, fn func() error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("scope %s: %s: %w", s.name, what, errClosed)
	}
	s.busy++
	s.mu.Unlock()
	defer s.ended()
	if err := fn(); err != nil {
		return fmt.Errorf("scope %s: %w", s.name, err)
	}
	return nil
}

func (s *Scope) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if s.busy == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

func (s *Scope) push(u undo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, u)
}

func (s *Scope) entry(what op, obj client.Object) (entry, *ledger, error) {
	gvk, err := apiutil.GVKForObject(obj, s.env.client.Scheme())
	if err != nil {
		return entry{}, nil, fmt.Errorf("%s: %w", what, err)
	}
	e := entry{
		Op: what, GVK: &gvk, Namespace: obj.GetNamespace(), Name: obj.GetName(), Scope: s.name,
		Cluster: s.env.Cluster, ClusterUID: s.env.ClusterUID, Kubeconfig: s.env.Kubeconfig, Context: s.env.Context, Provider: s.env.Profile.Provider,
	}
	l, err := openLedger(s.env.cache, s.env.RunID)
	if err != nil {
		return entry{}, nil, fmt.Errorf("%s: not done, for it could not be written down: %w", e, err)
	}
	return e, l, nil
}

// intend writes the entry and has Close undo it. A given cluster outlives this
// machine, so there the line has to reach the disk.
func (s *Scope) intend(l *ledger, e entry) (int, error) {
	seq, err := l.intend(e, e.Provider == ProviderGiven)
	if err != nil {
		return 0, fmt.Errorf("%s: not done, for it could not be written down: %w", e, err)
	}
	s.push(undo{entry: seq, name: e.String()})
	return seq, nil
}

func (s *Scope) live(ctx context.Context, obj client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(obj, s.env.client.Scheme())
	if err != nil {
		return nil, err
	}
	return get(ctx, s.env.client, gvk, obj.GetNamespace(), obj.GetName())
}
