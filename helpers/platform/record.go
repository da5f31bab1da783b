package platform

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// recordNamespace holds a ConfigMap for each component that was installed. The
// record lives and dies with the cluster.
const recordNamespace = "proving-ground"

// record says what a component was installed from, and what it made.
type record struct {
	Hash    string      `json:"hash"`
	Images  string      `json:"images"` // fingerprint of the images' digests
	Objects []reference `json:"objects"`
}

func (r record) is(want record) bool { return r.Hash == want.Hash && r.Images == want.Images }

// reference names one object of a component.
type reference struct {
	Group     string     `json:"group,omitempty"`
	Version   string     `json:"version"`
	Kind      string     `json:"kind"`
	Namespace string     `json:"namespace,omitempty"`
	Name      string     `json:"name"`
	Observers *Observers `json:"observers,omitempty"`
}

func (r reference) kind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

func (r reference) same(o reference) bool {
	return r.Group == o.Group && r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name
}

func (s step) references(objects []*unstructured.Unstructured) []reference {
	var refs []reference
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		refs = append(refs, reference{
			Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName(), Observers: s.Observers,
		})
	}
	return refs
}

// recorded is empty when the component was never installed whole.
func (i *installation) recorded(ctx context.Context) (record, error) {
	var r record
	var m corev1.ConfigMap
	err := i.env.Client().Get(ctx, client.ObjectKey{Namespace: recordNamespace, Name: i.name}, &m)
	if apierrors.IsNotFound(err) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("record: %w", err)
	}
	if json.Unmarshal([]byte(m.Data["record"]), &r) != nil {
		return record{}, nil // not ours any more: install again
	}
	return r, nil
}

func (i *installation) write(ctx context.Context, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return apply(ctx, i.env, asUnstructured(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: recordNamespace, Name: i.name}, Data: map[string]string{"record": string(data)},
	}, corev1.SchemeGroupVersion.WithKind("ConfigMap")))
}
