package dr

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
// these are, without what a cluster gives anew.
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
	{schema.GroupVersionKind{Version: "v1", Kind: "Service"}, []string{"spec"}},
	{schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}, []string{"automountServiceAccountToken", "imagePullSecrets", "secrets"}},
	{schema.GroupVersionKind{Version: "v1", Kind: "PersistentVolumeClaim"}, []string{"spec"}},
}

// leaveOutGiven leaves out of an object what a cluster gives it, another one at each
// restore: by k8s.io/api/core/v1 the addresses and the nodes' ports of a Service, and the
// volume of a claim. A subject in the object's own namespace loses that name, for Velero
// gives it the one that it restores into.
func leaveOutGiven(o *unstructured.Unstructured) {
	each := func(do func(map[string]any), path ...string) {
		found, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
		list, _ := found.([]any)
		for _, one := range list {
			if fields, is := one.(map[string]any); is {
				do(fields)
			}
		}
	}
	switch o.GetKind() {
	case "Service":
		if ip, _, _ := unstructured.NestedString(o.Object, "spec", "clusterIP"); ip != corev1.ClusterIPNone {
			unstructured.RemoveNestedField(o.Object, "spec", "clusterIP")
			unstructured.RemoveNestedField(o.Object, "spec", "clusterIPs")
		}
		unstructured.RemoveNestedField(o.Object, "spec", "healthCheckNodePort")
		each(func(port map[string]any) { delete(port, "nodePort") }, "spec", "ports")
	case "PersistentVolumeClaim":
		unstructured.RemoveNestedField(o.Object, "spec", "volumeName")
	case "RoleBinding":
		each(func(subject map[string]any) {
			if subject["namespace"] == o.GetNamespace() {
				delete(subject, "namespace")
			}
		}, "subjects")
	}
}

// snapshotOf is what is in a namespace, whose rows are read by a pod of ours.
func snapshotOf(ctx context.Context, env *environment.Environment, from *probe.Pod, namespace string) (s snapshot, err error) {
	if s.rows, err = rows(ctx, from, namespace); err != nil {
		return s, err
	}
	return s, s.complete(ctx, env, namespace)
}

// complete adds to the rows of a snapshot all else.
func (s *snapshot) complete(ctx context.Context, env *environment.Environment, namespace string) (err error) {
	if s.tables, err = tablesOf(ctx, env, namespace); err != nil {
		return err
	}
	all, err := inventory(ctx, env, namespace)
	if err != nil {
		return err
	}
	s.objects = map[string]string{}
	for _, o := range all {
		if !slices.ContainsFunc(remade, func(kind string) bool { return strings.HasPrefix(o, kind) }) {
			s.objects[strings.Replace(o, " "+namespace+"/", " ", 1)] = ""
		}
	}
	for _, c := range compared {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(c.kind)
		if err := env.Client().List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, o := range list.Items {
			if o.GetName() == "kube-root-ca.crt" { // each cluster's own
				continue
			}
			leaveOutGiven(&o)
			contents := map[string][]byte{}
			for _, field := range c.fields {
				if contents[field], err = json.Marshal(o.Object[field]); err != nil {
					return err
				}
			}
			version, kind := c.kind.ToAPIVersionAndKind()
			s.objects[fmt.Sprintf("%s/%s %s", version, kind, o.GetName())] = sum(contents)
		}
	}
	return nil
}

// against says how what was restored differs from what a snapshot is of; nothing when it
// is whole. It is the one judgement of all that is restored.
func (s snapshot) against(restored snapshot) string {
	parts := []string{difference(s.rows, restored.rows), changes(s.tables, restored.tables), changes(s.objects, restored.objects)}
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "; ")
}

// changes says what became of things by their names, in the order of these.
func changes(was, is map[string]string) string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(was)), maps.Keys(is))
	slices.Sort(names)
	var all []string
	for _, name := range slices.Compact(names) {
		before, had := was[name]
		after, has := is[name]
		switch {
		case !has:
			all = append(all, name+" is lost")
		case !had:
			all = append(all, name+" was not there")
		case before != after:
			all = append(all, name+" is changed")
		}
	}
	return strings.Join(all, "; ")
}
