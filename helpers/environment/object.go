package environment

import (
	"context"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/proving-ground/proving-ground/helpers/redact"
)

func get(ctx context.Context, c client.Client, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, u)
	return u, err
}

func stamp(obj client.Object, run, mark string) {
	set := func(m map[string]string, key, value string) map[string]string {
		m = maps.Clone(m) // the caller may share it between objects
		if m == nil {
			m = map[string]string{}
		}
		m[key] = value
		return m
	}
	obj.SetLabels(set(obj.GetLabels(), RunLabel, run))
	obj.SetAnnotations(set(obj.GetAnnotations(), entryAnnotation, mark))
}

func generateName(prefix string) string {
	if room := maxName - nameSuffix; len(prefix) > room {
		prefix = prefix[:room-1] + "-"
	}
	return prefix + utilrand.String(nameSuffix)
}

func toUnstructured(obj client.Object, scheme *runtime.Scheme) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(obj, scheme)
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(content)}
	u.SetGroupVersionKind(gvk)
	return u, nil
}

// fromUnstructured overwrites obj; u stays apart from it.
func fromUnstructured(u *unstructured.Unstructured, obj client.Object) error {
	if to, ok := obj.(*unstructured.Unstructured); ok {
		u.DeepCopyInto(to)
		return nil
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.DeepCopy().Object, obj)
}

// refused says that the API (or this side of it) certainly did nothing. An
// object that is there already may be ours, by an answer that was lost.
func refused(err error) bool {
	if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || apierrors.IsAlreadyExists(err) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != 408
}

// rememberSecret has the values of a Secret that a run makes blanked in all that
// it writes down.
func rememberSecret(obj client.Object) {
	var secret corev1.Secret
	switch o := obj.(type) {
	case *corev1.Secret:
		secret = *o
	case *unstructured.Unstructured:
		if o.GetKind() != "Secret" || runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &secret) != nil {
			return
		}
	default:
		return
	}
	values := slices.Collect(maps.Values(secret.StringData))
	for _, value := range secret.Data {
		values = append(values, string(value))
	}
	redact.Remember(values...)
}
