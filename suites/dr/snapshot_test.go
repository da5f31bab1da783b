package dr

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
)

// snapshot is what a restore is to bring back.
type snapshot struct {
	rows    map[int64]string
	tables  map[string]string // what statement tables says of each
	objects map[string]string // by kind and name: the digest of its contents where these are compared, else nothing
}

// remade are kinds that controllers make anew, under names of their own or not at
// all: those of Jobs that are done.
var remade = []string{"v1/Pod ", "apps/v1/ReplicaSet ", "batch/v1/Job "}

// compared are kinds whose contents a restore gives back as they were, and the fields that
// these are. Of others a cluster gives some anew: addresses, names of volumes.
var compared = []struct {
	kind   schema.GroupVersionKind
	fields []string
}{
	{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, []string{"data", "type"}},
	{schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, []string{"data", "binaryData"}},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, []string{"spec"}},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "StatefulSet"}, []string{"spec"}},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}, []string{"rules"}},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"}, []string{"roleRef", "subjects"}},
}

// snapshotOf is what is in a namespace, whose rows are read by a pod of ours.
func snapshotOf(ctx context.Context, env *environment.Environment, from *probe.Pod, namespace string) (snapshot, error) {
	out := snapshot{objects: map[string]string{}}
	var err error
	if out.rows, err = rows(ctx, from, namespace); err != nil {
		return out, err
	}
	if out.tables, err = tablesOf(ctx, env, namespace); err != nil {
		return out, err
	}
	all, err := inventory(ctx, env, namespace)
	if err != nil {
		return out, err
	}
	for _, o := range all {
		if !slices.ContainsFunc(remade, func(kind string) bool { return strings.HasPrefix(o, kind) }) {
			out.objects[strings.Replace(o, " "+namespace+"/", " ", 1)] = ""
		}
	}
	for _, c := range compared {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(c.kind)
		if err := env.Client().List(ctx, list, client.InNamespace(namespace)); err != nil {
			return out, err
		}
		for _, o := range list.Items {
			if o.GetName() == "kube-root-ca.crt" { // each cluster's own
				continue
			}
			contents := map[string][]byte{}
			for _, field := range c.fields {
				if contents[field], err = json.Marshal(o.Object[field]); err != nil {
					return out, err
				}
			}
			version, kind := c.kind.ToAPIVersionAndKind()
			out.objects[fmt.Sprintf("%s/%s %s", version, kind, o.GetName())] = sum(contents)
		}
	}
	return out, nil
}

// without are the objects that are not in another snapshot, or not the same.
func (s snapshot) without(other snapshot) (lacking []string) {
	for _, o := range slices.Sorted(maps.Keys(s.objects)) {
		switch got, is := other.objects[o]; {
		case !is:
			lacking = append(lacking, o)
		case got != s.objects[o]:
			lacking = append(lacking, o+", with other contents")
		}
	}
	return lacking
}
