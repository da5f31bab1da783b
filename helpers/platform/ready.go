package platform

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	workloadTimeout = wait.Timeout{Name: "workloadRolledOut", D: 5 * time.Minute}
	issuedTimeout   = wait.Timeout{Name: "certificateIssued", D: 2 * time.Minute}
	scalesTimeout   = wait.Timeout{Name: "scalerReady", D: 2 * time.Minute}
	servedTimeout   = wait.Timeout{Name: "kindServed", D: time.Minute}
	observedTimeout = wait.Timeout{Name: "observedByEveryPod", D: 90 * time.Second}
)

// conditions say when an object of a kind is ready; other kinds are as soon as
// they are there.
var conditions = map[schema.GroupKind]struct {
	limit     wait.Timeout
	condition wait.Condition
}{
	{Group: "apps", Kind: "Deployment"}:                               {workloadTimeout, wait.RolledOut()},
	{Group: "apps", Kind: "StatefulSet"}:                              {workloadTimeout, wait.RolledOut()},
	{Group: "apps", Kind: "DaemonSet"}:                                {workloadTimeout, wait.RolledOut()},
	{Group: "batch", Kind: "Job"}:                                     {workloadTimeout, wait.HasCondition("Complete", "True")},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: {servedTimeout, wait.HasCondition("Established", "True")},
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             {workloadTimeout, wait.HasCondition("Available", "True")},
	{Group: "cert-manager.io", Kind: "Certificate"}:                   {issuedTimeout, wait.HasCondition("Ready", "True")},
	{Group: "cert-manager.io", Kind: "Issuer"}:                        {issuedTimeout, wait.HasCondition("Ready", "True")},
	{Group: "cert-manager.io", Kind: "ClusterIssuer"}:                 {issuedTimeout, wait.HasCondition("Ready", "True")},
	{Group: "keda.sh", Kind: "ScaledObject"}:                          {scalesTimeout, wait.HasCondition("Ready", "True")},
}

// ready waits for objects, all at once.
func (i *installation) ready(ctx context.Context, refs []reference) error {
	group, ctx := errgroup.WithContext(ctx)
	observed := map[Observers][]reference{}
	for _, r := range refs {
		if r.Observers != nil {
			observed[*r.Observers] = append(observed[*r.Observers], r)
		}
		c, ok := conditions[r.kind().GroupKind()]
		if !ok {
			continue // it was looked for, or made, a moment ago
		}
		group.Go(func() error {
			_, err := wait.On(i.env.Config).Until(ctx, c.limit, wait.Target{Kind: r.kind(), Namespace: r.Namespace, Name: r.Name}, c.condition)
			return err
		})
	}
	for o, refs := range observed {
		group.Go(func() error { return o.wait(ctx, i.env, refs) })
	}
	return group.Wait()
}

// Observed waits until every pod of the observers has reported, in the status
// of each object, that it has seen the object's current generation without an
// error. Only then is the object in force.
func (o Observers) Observed(ctx context.Context, env *environment.Environment, objects ...client.Object) error {
	refs, err := references(env, objects)
	if err != nil {
		return err
	}
	return o.wait(ctx, env, refs)
}

func references(env *environment.Environment, objects []client.Object) (refs []reference, err error) {
	for _, obj := range objects {
		gvk, err := env.Client().GroupVersionKindFor(obj)
		if err != nil {
			return nil, err
		}
		refs = append(refs, reference{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()})
	}
	return refs, nil
}

// pods are the observers, once all of them are ready.
func (o Observers) pods(ctx context.Context, env *environment.Environment) ([]*unstructured.Unstructured, error) {
	selector, err := labels.Parse(o.Selector)
	if err != nil {
		return nil, fmt.Errorf("observers %q: %w", o.Selector, err)
	}
	return wait.On(env.Config).Until(ctx, workloadTimeout, wait.Target{
		Kind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, Namespace: o.Namespace, Selector: selector,
	}, wait.PodReady())
}

func (o Observers) wait(ctx context.Context, env *environment.Environment, refs []reference) error {
	return o.each(ctx, env, refs, func(ctx context.Context, pods []*unstructured.Unstructured, r reference) error {
		_, err := wait.On(env.Config).Until(ctx, observedTimeout, wait.Target{Kind: r.kind(), Namespace: r.Namespace, Name: r.Name}, observedBy(pods))
		return err
	})
}

// each asks the observers about all objects at once.
func (o Observers) each(
	ctx context.Context, env *environment.Environment, refs []reference, ask func(ctx context.Context, pods []*unstructured.Unstructured, r reference) error,
) error {
	pods, err := o.pods(ctx, env)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range refs {
		group.Go(func() error { return ask(ctx, pods, r) })
	}
	return group.Wait()
}

// observedBy reads Gatekeeper's status.byPod.
func observedBy(pods []*unstructured.Unstructured) wait.Condition {
	return wait.Condition{
		What: "be observed by every pod",
		Missing: func(o *unstructured.Unstructured) string {
			byPod, _, _ := unstructured.NestedSlice(o.Object, "status", "byPod")
			for _, pod := range pods {
				at := slices.IndexFunc(byPod, func(entry any) bool {
					m, ok := entry.(map[string]any)
					return ok && m["id"] == pod.GetName()
				})
				if at < 0 {
					return pod.GetName() + " has not reported"
				}
				if lack := lacking(byPod[at].(map[string]any), o); lack != "" {
					return pod.GetName() + " " + lack
				}
			}
			return ""
		},
	}
}

// lacking is of one pod's report: id, observedGeneration, errors, for constraints enforced, and the
// UID of the object that was seen, without which a namesake deleted just before would count.
func lacking(entry map[string]any, o *unstructured.Unstructured) string {
	if g, ok := entry["observedGeneration"].(int64); !ok || g != o.GetGeneration() {
		return fmt.Sprintf("has seen generation %v, the object is at %d", entry["observedGeneration"], o.GetGeneration())
	}
	for key, value := range entry {
		if strings.HasSuffix(key, "UID") && value != string(o.GetUID()) {
			return "has seen another object of this name"
		}
	}
	if errs, ok := entry["errors"].([]any); ok && len(errs) > 0 {
		return fmt.Sprintf("reports errors: %v", errs)
	}
	// Gatekeeper leaves out enforced when it is false.
	if (entry["constraintUID"] != nil || entry["mutatorUID"] != nil) && entry["enforced"] != true {
		return "does not enforce it"
	}
	return ""
}

// restart has workloads take new images that came under the same names.
func (i *installation) restart(ctx context.Context, refs []reference, images string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]any{"proving-ground.dev/images": images},
	}}}})
	if err != nil {
		return err
	}
	for _, r := range refs {
		if r.Group != "apps" || r.Kind == "ReplicaSet" {
			continue
		}
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(r.kind())
		o.SetNamespace(r.Namespace)
		o.SetName(r.Name)
		if err := i.env.Client().Patch(ctx, o, client.RawPatch(types.StrategicMergePatchType, patch)); err != nil {
			return fmt.Errorf("restart %s %s: %w", r.Kind, r.Name, err)
		}
	}
	return nil
}
