package platform

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// reports are the kinds in which each of Gatekeeper's pods says how far it is with an object of a
// group, with the labels by which that is found: the object's name and, where it tells, its kind
// (apis/status/v1beta1 in its sources).
var reports = map[string]struct{ kind, named, ofKind string }{
	"templates.gatekeeper.sh":   {"ConstraintTemplatePodStatus", "constrainttemplate-name", ""},
	"constraints.gatekeeper.sh": {"ConstraintPodStatus", "constraint-name", "constraint-kind"},
	"mutations.gatekeeper.sh":   {"MutatorPodStatus", "mutator-name", "mutator-kind"},
	"expansion.gatekeeper.sh":   {"ExpansionTemplatePodStatus", "expansiontemplate-name", ""},
}

var reportVersion = schema.GroupVersion{Group: "status.gatekeeper.sh", Version: "v1beta1"}

const reportLabels = "internal.gatekeeper.sh/"

// Reported is Observed by what the observers themselves have written: status.byPod of an object is
// gathered from that by a pod of Gatekeeper's audit, which may be away. An object of a group that
// its pods do not report on so is an error.
func (o Observers) Reported(ctx context.Context, env *environment.Environment, objects ...client.Object) error {
	refs, err := references(env, objects)
	if err != nil {
		return err
	}
	return o.each(ctx, env, refs, func(ctx context.Context, pods []*unstructured.Unstructured, r reference) error {
		is := &unstructured.Unstructured{}
		is.SetGroupVersionKind(r.kind())
		if err := env.Client().Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: r.Name}, is); err != nil {
			return err
		}
		for _, pod := range pods {
			if err := o.reportedBy(ctx, env, pod.GetName(), is); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o Observers) reportedBy(ctx context.Context, env *environment.Environment, pod string, is *unstructured.Unstructured) error {
	kind := is.GroupVersionKind()
	report, known := reports[kind.Group]
	if !known {
		return fmt.Errorf("%s %s: its pods do not report on the group %q by objects of their own", kind.Kind, is.GetName(), kind.Group)
	}
	found := labels.Set{reportLabels + "pod": pod, reportLabels + report.named: is.GetName()}
	if report.ofKind != "" {
		found[reportLabels+report.ofKind] = kind.Kind
	}
	_, err := wait.On(env.Config).Until(ctx, observedTimeout, wait.Target{
		Kind: reportVersion.WithKind(report.kind), Namespace: o.Namespace, Selector: labels.SelectorFromSet(found),
	}, wait.Condition{
		What: "be of the object as it is",
		Missing: func(r *unstructured.Unstructured) string {
			status, _, _ := unstructured.NestedMap(r.Object, "status")
			if lack := lacking(status, is); lack != "" {
				return pod + " " + lack
			}
			return ""
		},
	})
	return err
}
