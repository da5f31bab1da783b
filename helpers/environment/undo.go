package environment

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// undoer takes ledger entries back. What it does may be repeated: a process
// killed in the middle leaves the entry open.
type undoer struct {
	client   client.WithWatch
	ledger   *ledger
	waitGone bool
}

func (u undoer) undo(ctx context.Context, seq int) error {
	e, ok := u.ledger.get(seq)
	if !ok {
		return nil
	}
	var uid types.UID
	var err error
	switch e.Op {
	case opCreate:
		err = u.uncreate(ctx, e)
	case opUpdate:
		uid, err = u.restore(ctx, e)
	case opDelete:
		uid, err = u.recreate(ctx, e)
	default:
		err = fmt.Errorf("%s cannot be undone", e.Op)
	}
	if err != nil && !meta.IsNoMatchError(err) { // without its kind, no object is left
		return err
	}
	return u.ledger.undone(seq, uid)
}

// uncreate deletes what we made: known by its UID where the API told us, or by the
// mark, which is in no other object, and which a backup brings back with another
// UID.
func (u undoer) uncreate(ctx context.Context, e entry) error {
	live, err := get(ctx, u.client, *e.GVK, e.Namespace, e.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	marked := live.GetAnnotations()[entryAnnotation] == e.Mark && e.Mark != ""
	known := e.UID != "" && live.GetUID() == u.ledger.current(e.UID)
	if !marked && !known {
		return nil
	}
	if live.GetDeletionTimestamp() == nil {
		err = u.client.Delete(ctx, live, preconditions(live.GetUID()), client.PropagationPolicy(metav1.DeletePropagationBackground))
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another took its name
			return nil
		}
		if err != nil {
			return err
		}
	}
	if u.waitGone {
		return u.gone(ctx, live)
	}
	return nil
}

// restore writes the snapshot over an object that we changed. An object that
// took the name of the one we changed is left alone.
func (u undoer) restore(ctx context.Context, e entry) (types.UID, error) {
	for {
		live, err := get(ctx, u.client, *e.GVK, e.Namespace, e.Name)
		if err == nil && live.GetDeletionTimestamp() != nil {
			if err := u.gone(ctx, live); err != nil {
				return "", err
			}
			continue
		}
		if apierrors.IsNotFound(err) {
			return u.recreate(ctx, e)
		}
		if err != nil {
			return "", err
		}
		if live.GetUID() != u.ledger.current(e.UID) || (!e.confirmed && !touched(live)) {
			return "", nil
		}
		want := restored(e.Snapshot, live)
		if equality.Semantic.DeepEqual(content(want), content(live)) {
			return "", nil
		}
		err = u.client.Update(ctx, want, client.FieldOwner(fieldOwner))
		if apierrors.IsNotFound(err) || (apierrors.IsConflict(err) && ctx.Err() == nil) {
			continue
		}
		return "", err
	}
}

// recreate makes an object of a snapshot when none of its name is there, and
// gives the UID of the new one. A controller makes its own objects again.
func (u undoer) recreate(ctx context.Context, e entry) (types.UID, error) {
	snapshot := &unstructured.Unstructured{Object: e.Snapshot}
	if metav1.GetControllerOf(snapshot) != nil {
		return "", nil
	}
	for {
		live, err := get(ctx, u.client, *e.GVK, e.Namespace, e.Name)
		switch {
		case err == nil && live.GetDeletionTimestamp() != nil:
			if err := u.gone(ctx, live); err != nil {
				return "", err
			}
			continue
		case err == nil:
			if equality.Semantic.DeepEqual(content(live), content(snapshot)) {
				return live.GetUID(), nil // ours of an earlier try, or never deleted
			}
			return "", nil
		case !apierrors.IsNotFound(err):
			return "", err
		}
		fresh := &unstructured.Unstructured{Object: content(snapshot)}
		fresh.SetGroupVersionKind(*e.GVK)
		err = u.client.Create(ctx, fresh, client.FieldOwner(fieldOwner))
		switch {
		case err == nil:
			return fresh.GetUID(), nil
		case apierrors.IsAlreadyExists(err) && ctx.Err() == nil:
			continue
		case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return "", nil // its namespace is gone, and it would have gone with it
		}
		return "", err
	}
}

// gone waits, by a watch, until this very object is no more.
func (u undoer) gone(ctx context.Context, obj *unstructured.Unstructured) error {
	for {
		done, err := u.watchGone(ctx, obj)
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s %s is still there, finalizers %v: %w",
				obj.GetKind(), client.ObjectKeyFromObject(obj), obj.GetFinalizers(), errors.Join(ctx.Err(), err))
		}
		select { // a watch that broke is begun again, not at once
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (u undoer) watchGone(ctx context.Context, obj *unstructured.Unstructured) (bool, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(obj.GroupVersionKind().GroupVersion().WithKind(obj.GetKind() + "List"))
	w, err := u.client.Watch(ctx, list, client.InNamespace(obj.GetNamespace()),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", obj.GetName())})
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for { // the watch is there before the look, so no deletion falls between
		live, err := get(ctx, u.client, obj.GroupVersionKind(), obj.GetNamespace(), obj.GetName())
		if apierrors.IsNotFound(err) || (err == nil && live.GetUID() != obj.GetUID()) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case _, ok := <-w.ResultChan():
			if !ok {
				return false, nil
			}
		}
	}
}

// touched says whether our hand is in the object's managed fields; where those
// are not kept, it is taken to be.
func touched(live *unstructured.Unstructured) bool {
	for _, f := range live.GetManagedFields() {
		if strings.HasPrefix(f.Manager, fieldOwner) {
			return true
		}
	}
	return len(live.GetManagedFields()) == 0
}

// restored is the snapshot in the place of live, with live's status.
func restored(snapshot map[string]any, live *unstructured.Unstructured) *unstructured.Unstructured {
	want := &unstructured.Unstructured{Object: content(&unstructured.Unstructured{Object: snapshot})}
	want.SetGroupVersionKind(live.GroupVersionKind())
	want.SetResourceVersion(live.GetResourceVersion())
	want.SetUID(live.GetUID())
	if status, ok := live.Object["status"]; ok {
		want.Object["status"] = status
	}
	return want
}

// content is a copy without what the server keeps for itself.
func content(u *unstructured.Unstructured) map[string]any {
	c := u.DeepCopy().Object
	delete(c, "status")
	for _, field := range []string{
		"resourceVersion", "uid", "managedFields", "generation", "creationTimestamp",
		"deletionTimestamp", "deletionGracePeriodSeconds", "selfLink",
	} {
		unstructured.RemoveNestedField(c, "metadata", field)
	}
	return c
}

func preconditions(uid types.UID) client.Preconditions {
	if uid == "" {
		return client.Preconditions{}
	}
	return client.Preconditions{UID: &uid}
}
