package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// TestInventory proves that no policy is there for show: every template has
// compiled, every constraint is enforced, and matches objects that exist, in
// namespaces that Gatekeeper is not told to leave alone.
func TestInventory(t *testing.T) {
	passed := gatekeeperConfig("the application's namespace exempted by the Config", `is exempted by the Config`, "docuthinker-*", "webhook")
	elsewhere := spec.Harmless(gatekeeperConfig("another namespace exempted by the Config", "", "elsewhere-*", "*"))
	passed.Alone, elsewhere.Alone = true, true // the audit's faults change the Config, too, and take long
	spec.Run(t, spec.Specification{
		ID:    "POL-020",
		Risk:  spec.ReadOnly,
		Needs: []spec.Need{policies, docuthinker},
		Keys:  allConstraints("inventory"), // the audit's faults leave out no namespace of the application
		Prove: proveInventory,
		CounterProofs: []spec.Sabotage{
			idleConstraint("a selector that no namespace has", `matches nothing: no namespace`, map[string]any{
				"kinds":             []any{map[string]any{"apiGroups": []any{""}, "kinds": []any{"Pod"}}},
				"namespaceSelector": map[string]any{"matchLabels": map[string]any{environmentLabel: "prod"}},
			}),
			idleConstraint("a kind that there is not", `matches nothing: the cluster has no kind`, map[string]any{
				"kinds": []any{map[string]any{"apiGroups": []any{"apps"}, "kinds": []any{"Pod"}}},
			}),
			idleConstraint("a kind of which there is no object", `matches nothing: no object`, map[string]any{
				"kinds":             []any{map[string]any{"apiGroups": []any{"batch"}, "kinds": []any{"CronJob"}}},
				"namespaceSelector": map[string]any{"matchLabels": map[string]any{environmentLabel: "production"}},
			}),
			uncompiledTemplate(),
			passed,
			passedBy(appNamespace),
			conditioned(appNamespace),
			selective(),
			scaleless(),
			elsewhere,
			anotherConstraint(),
		},
	})
}

func proveInventory(ctx context.Context, t spec.T, env *environment.Environment) {
	templates, err := list(ctx, env, templateKind)
	if err != nil {
		t.Broken(err)
	}
	if len(templates) == 0 {
		t.Inconclusive("no targets", "there is no constraint template")
	}
	counted, err := takeCensus(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	matched := map[string]string{}
	for _, template := range templates {
		if lack := uncompiled(&template); lack != "" {
			assert.Fail(t, "template "+template.GetName()+" did not compile: "+lack)
			continue
		}
		kind, _, _ := unstructured.NestedString(template.Object, "spec", "crd", "spec", "names", "kind")
		constraints, err := list(ctx, env, constraintVersion.WithKind(kind))
		if err != nil {
			t.Broken(err)
		}
		assert.NotEmpty(t, constraints, "template %s has no constraint", template.GetName())
		for _, c := range constraints {
			own, err := ofARun(ctx, env, &c)
			if err != nil {
				t.Broken(err)
			}
			if own {
				continue
			}
			action, _, _ := unstructured.NestedString(c.Object, "spec", "enforcementAction")
			assert.Equal(t, "deny", action, "constraint %s", c.GetName())
			count, why, err := counted.matches(ctx, &c)
			if err != nil {
				t.Broken(err)
			}
			assert.Positive(t, count, "constraint %s matches nothing: %s", c.GetName(), why)
			matched[c.GetName()] = fmt.Sprintf("%d objects", count)
		}
	}
	why, governed, err := exempted(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	if governed == 0 {
		t.Inconclusive("no targets", "no namespace has the label %s", environmentLabel)
	}
	assert.Empty(t, strings.Join(why, "; "))
	t.Observe(fmt.Sprintf("%d namespaces of the application, none exempted; %d templates compiled; %d constraints enforced, each matching objects that exist", governed, len(templates), len(matched)), matched)
}

// ofARun says that a proof made the constraint, for nothing but a namespace of
// its own: it is not the platform's.
func ofARun(ctx context.Context, env *environment.Environment, constraint *unstructured.Unstructured) (bool, error) {
	names, has, _ := unstructured.NestedStringSlice(constraint.Object, "spec", "match", "namespaces")
	if !has || constraint.GetLabels()[environment.RunLabel] == "" {
		return false, nil
	}
	for _, name := range names {
		var ns corev1.Namespace
		err := env.Client().Get(ctx, client.ObjectKey{Name: name}, &ns)
		if client.IgnoreNotFound(err) != nil {
			return false, err
		}
		if err == nil && ns.Labels[environment.RunLabel] == "" {
			return false, nil
		}
	}
	return true, nil
}

func list(ctx context.Context, env *environment.Environment, kind schema.GroupVersionKind) ([]unstructured.Unstructured, error) {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := env.Client().List(ctx, l)
	return l.Items, err
}

// uncompiled says what the pods report about a template; nothing when it is
// well.
func uncompiled(template *unstructured.Unstructured) string {
	byPod, _, _ := unstructured.NestedSlice(template.Object, "status", "byPod")
	if len(byPod) == 0 {
		return "no pod has reported it"
	}
	for _, entry := range byPod {
		if errs, _, _ := unstructured.NestedSlice(entry.(map[string]any), "errors"); len(errs) > 0 {
			return fmt.Sprint(errs)
		}
	}
	if created, _, _ := unstructured.NestedBool(template.Object, "status", "created"); !created {
		return "its constraint kind was not created"
	}
	return ""
}

// census is what one proof found in the cluster: constraints ask for the same again and again.
type census struct {
	env        *environment.Environment
	namespaces []corev1.Namespace
	objects    map[kindIn]int
}

// kindIn is where objects of a kind are counted.
type kindIn struct {
	kind      schema.GroupKind
	namespace string
}

func takeCensus(ctx context.Context, env *environment.Environment) (*census, error) {
	var all corev1.NamespaceList
	err := env.Client().List(ctx, &all)
	return &census{env: env, namespaces: all.Items, objects: map[kindIn]int{}}, err
}

// matches counts the live objects of a constraint's kinds in the namespaces
// that its match selects, by the fields of it that this platform uses: a match
// with any other field is an error, for it would be judged wrongly.
func (n *census) matches(ctx context.Context, constraint *unstructured.Unstructured) (count int, why string, err error) {
	match, _, err := unstructured.NestedMap(constraint.Object, "spec", "match")
	if err != nil {
		return 0, "", err
	}
	for key := range match {
		if key != "kinds" && key != "namespaceSelector" && key != "namespaces" {
			return 0, "", fmt.Errorf("constraint %s: this proof knows no match by %s; teach it", constraint.GetName(), key)
		}
	}
	namespaces, err := n.selected(match)
	if err != nil || len(namespaces) == 0 {
		return 0, "no namespace is selected", err
	}
	why = "it names no kinds"
	kinds, _, _ := unstructured.NestedSlice(match, "kinds")
	for _, k := range kinds {
		groups, _, _ := unstructured.NestedStringSlice(k.(map[string]any), "apiGroups")
		names, _, _ := unstructured.NestedStringSlice(k.(map[string]any), "kinds")
		for _, group := range groups {
			for _, name := range names {
				found, err := n.countIn(ctx, schema.GroupKind{Group: group, Kind: name}, namespaces)
				if meta.IsNoMatchError(err) {
					why = fmt.Sprintf("the cluster has no kind %s in the group %q", name, group)
					continue
				}
				if err != nil {
					return 0, "", err
				}
				if found == 0 {
					why = fmt.Sprintf("no object of kind %s in %d selected namespaces", name, len(namespaces))
				}
				count += found
			}
		}
	}
	return count, why, nil
}

func (n *census) selected(match map[string]any) (map[string]bool, error) {
	selector := labels.Everything()
	if raw, ok, _ := unstructured.NestedMap(match, "namespaceSelector"); ok {
		var ls metav1.LabelSelector
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &ls); err != nil {
			return nil, err
		}
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(&ls); err != nil {
			return nil, err
		}
	}
	named, hasNames, _ := unstructured.NestedStringSlice(match, "namespaces")
	wanted := map[string]bool{}
	for _, name := range named {
		wanted[name] = true
	}
	out := map[string]bool{}
	for _, ns := range n.namespaces {
		if selector.Matches(labels.Set(ns.Labels)) && (!hasNames || wanted[ns.Name]) && ns.Labels[environment.RunLabel] == "" { // a run's own prove nothing
			out[ns.Name] = true
		}
	}
	return out, nil
}

func (n *census) countIn(ctx context.Context, kind schema.GroupKind, namespaces map[string]bool) (count int, err error) {
	mapping, err := n.env.Client().RESTMapper().RESTMapping(kind)
	if err != nil {
		return 0, err
	}
	l := &metav1.PartialObjectMetadataList{}
	l.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(kind.Kind + "List"))
	for ns := range namespaces {
		found, known := n.objects[kindIn{kind, ns}]
		if !known {
			if err := n.env.Client().List(ctx, l, client.InNamespace(ns)); err != nil {
				return 0, err
			}
			found = len(l.Items)
			n.objects[kindIn{kind, ns}] = found
		}
		count += found
	}
	return count, nil
}

// idleConstraint adds a constraint whose match reaches nothing.
func idleConstraint(name, kills string, match map[string]any) spec.Sabotage {
	c := &unstructured.Unstructured{}
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			*c = *object(constraintVersion.WithKind("K8sRequiredLabels"), "", "policy-fault-"+utilrand.String(5))
			c.Object["spec"] = map[string]any{"enforcementAction": "deny", "match": match, "parameters": map[string]any{"labels": []any{"app"}}}
			return s.Create(ctx, c)
		},
		Applied:  func(ctx context.Context, env *environment.Environment) error { return byWebhook.Reported(ctx, env, c) },
		Restored: spec.AtOnce,
	}
}

// anotherConstraint is harmless: it matches what the application has.
func anotherConstraint() spec.Sabotage {
	var c *unstructured.Unstructured
	return spec.Sabotage{
		Name: "one more constraint that matches", Harmless: true,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) (err error) {
			c, err = requiredLabels(ctx, s, "docuthinker-prod", "fault")
			return err
		},
		Applied: func(ctx context.Context, env *environment.Environment) error { return byWebhook.Reported(ctx, env, c) },
	}
}

// uncompiledTemplate adds a template with a mistake in its Rego. The webhook
// would refuse it, so it comes while that is away, as after a restore.
func uncompiledTemplate() spec.Sabotage {
	const name = "k8sbroken"
	return spec.Sabotage{
		Name: "a template that does not compile", Alone: true, Kills: `template k8sbroken did not compile`,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			if err := s.Delete(ctx, object(webhookKind, "", webhookName)); err != nil {
				return err
			}
			if err := inForce("pod.yaml", true)(ctx, env); err != nil {
				return err
			}
			template := object(templateKind, "", name)
			template.Object["spec"] = map[string]any{
				"crd": map[string]any{"spec": map[string]any{"names": map[string]any{"kind": "K8sBroken"}}},
				"targets": []any{map[string]any{
					"target": "admission.k8s.gatekeeper.sh", "rego": "package k8sbroken\nviolation[{\"msg\": msg}] { undefined_function(msg) }",
				}},
			}
			return s.Create(ctx, template)
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			_, err := wait.On(env.Config).Until(ctx, webhookTimeout, wait.Target{Kind: templateKind, Name: name}, wait.Condition{
				What: "be reported as broken",
				Missing: func(o *unstructured.Unstructured) string {
					byPod, _, _ := unstructured.NestedSlice(o.Object, "status", "byPod")
					for _, entry := range byPod {
						if errs, _, _ := unstructured.NestedSlice(entry.(map[string]any), "errors"); len(errs) > 0 {
							return ""
						}
					}
					return "no pod reports an error"
				},
			})
			return err
		},
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return errors.Join(wait.On(env.Config).Gone(ctx, webhookTimeout, wait.Target{Kind: templateKind, Name: name}), inForce("pod.yaml", false)(ctx, env))
		},
	}
}
