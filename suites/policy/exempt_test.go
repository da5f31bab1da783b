package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// ignored is the label by which Gatekeeper is told to leave a namespace alone:
// https://open-policy-agent.github.io/gatekeeper/website/docs/exempt-namespaces.
const ignored = "admission.gatekeeper.sh/ignore"

// configKind is that of Gatekeeper's Config.
var configKind = schema.GroupVersionKind{Group: "config.gatekeeper.sh", Version: "v1alpha1", Kind: "Config"}

// exempted are the namespaces of an application that its policies are told to leave alone,
// each with by what; a constraint that matches there counts for nothing. governed says how
// many there are that should be looked at.
func exempted(ctx context.Context, env *environment.Environment) (why []string, governed int, err error) {
	var all corev1.NamespaceList
	if err := env.Client().List(ctx, &all, client.HasLabels{environmentLabel}); err != nil {
		return nil, 0, err
	}
	hook := &admissionv1.ValidatingWebhookConfiguration{}
	err = env.Client().Get(ctx, client.ObjectKey{Name: webhookName}, hook)
	if client.IgnoreNotFound(err) != nil {
		return nil, 0, err
	}
	if err != nil {
		why = append(why, "every namespace is exempted, for there is no webhook "+webhookName)
	}
	for _, w := range hook.Webhooks {
		if strings.HasSuffix(w.Name, validation) {
			why = append(why, passes(w)...)
		}
	}
	patterns, err := leftOut(ctx, env)
	if err != nil {
		return nil, 0, err
	}
	for _, ns := range all.Items {
		if ns.Labels[environment.RunLabel] != "" { // a run's own prove nothing
			continue
		}
		governed++
		if _, is := ns.Labels[ignored]; is {
			why = append(why, fmt.Sprintf("namespace %s is exempted by its label %s", ns.Name, ignored))
		}
		for _, p := range patterns {
			if p.matches(ns.Name) {
				why = append(why, fmt.Sprintf("namespace %s is exempted by the Config's %q", ns.Name, p))
			}
		}
		for _, w := range hook.Webhooks {
			if !strings.HasSuffix(w.Name, validation) {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
			if err != nil {
				return nil, 0, err
			}
			if w.NamespaceSelector != nil && !selector.Matches(labels.Set(ns.Labels)) {
				why = append(why, fmt.Sprintf("namespace %s is exempted by the webhook's selector %s", ns.Name, selector))
			}
		}
	}
	return why, governed, nil
}

// passes says what a webhook is never asked about, whatever the namespace.
func passes(w admissionv1.ValidatingWebhook) (why []string) {
	for _, c := range w.MatchConditions {
		why = append(why, fmt.Sprintf("objects are exempted by the webhook's condition %s: %s", c.Name, c.Expression))
	}
	if s := w.ObjectSelector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0 {
		why = append(why, "objects are exempted by the webhook's object selector "+metav1.FormatLabelSelector(s))
	}
	if !slices.ContainsFunc(w.Rules, func(r admissionv1.RuleWithOperations) bool {
		has := func(all []string, every ...string) bool {
			return !slices.ContainsFunc(every, func(one string) bool { return !slices.Contains(all, one) })
		}
		return has(r.APIGroups, "*") && has(r.APIVersions, "*") && (r.Scope == nil || *r.Scope == admissionv1.AllScopes) &&
			has(r.Resources, "*", "pods/ephemeralcontainers", "deployments/scale", "statefulsets/scale") &&
			slices.Contains(r.Operations, admissionv1.Create) && slices.Contains(r.Operations, admissionv1.Update)
	}) {
		why = append(why, fmt.Sprintf("kinds are exempted by the webhook's rules: %v", w.Rules))
	}
	return why
}

// pattern is a namespace, or all that begin or end so: kube-*, *-system.
type pattern string

func (p pattern) matches(name string) bool {
	text := strings.Trim(string(p), "*")
	switch begins, ends := strings.HasSuffix(string(p), "*"), strings.HasPrefix(string(p), "*"); {
	case begins && ends:
		return strings.Contains(name, text)
	case begins:
		return strings.HasPrefix(name, text)
	case ends:
		return strings.HasSuffix(name, text)
	}
	return name == text
}

// leftOut are the namespaces that Gatekeeper's Config has the webhook or the audit leave
// out. There need not be a Config.
func leftOut(ctx context.Context, env *environment.Environment) (patterns []pattern, err error) {
	config := object(configKind, gatekeeperNamespace, "config")
	if err := env.Client().Get(ctx, client.ObjectKeyFromObject(config), config); apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	match, _, err := unstructured.NestedSlice(config.Object, "spec", "match")
	if err != nil {
		return nil, err
	}
	for _, m := range match {
		entry, _ := m.(map[string]any)
		processes, _, _ := unstructured.NestedStringSlice(entry, "processes")
		if !slices.ContainsFunc(processes, func(p string) bool { return p == "*" || p == "webhook" || p == "audit" }) {
			continue
		}
		names, _, _ := unstructured.NestedStringSlice(entry, "excludedNamespaces")
		for _, n := range names {
			patterns = append(patterns, pattern(n))
		}
	}
	return patterns, nil
}

// conditioned has the webhook not be asked about a namespace, by a condition.
func conditioned(ns string) spec.Sabotage {
	return matchCondition("the webhook with a condition", `are exempted by the webhook's condition`,
		fmt.Sprintf("!has(request.namespace) || request.namespace != %q", ns), denies(changedName))
}

// selective has objects exempt themselves by a label.
func selective() spec.Sabotage {
	s := webhookChange("objects that may exempt themselves", func(w map[string]any) error {
		w["objectSelector"] = map[string]any{"matchExpressions": []any{map[string]any{"key": "unchecked", "operator": "DoesNotExist"}}}
		return nil
	})
	s.Kills = `are exempted by the webhook's object selector`
	return s
}

// scaleless has the webhook not be asked about what kubectl scale sends.
func scaleless() spec.Sabotage {
	s := webhookChange("a webhook that is not asked about Scales", func(w map[string]any) error {
		rule := w["rules"].([]any)[0].(map[string]any)
		resources, _, err := unstructured.NestedStringSlice(rule, "resources")
		if err != nil {
			return err
		}
		return unstructured.SetNestedStringSlice(rule, slices.DeleteFunc(resources, func(r string) bool { return strings.HasSuffix(r, "/scale") }), "resources")
	})
	s.Kills = `are exempted by the webhook's rules`
	return s
}

// passedBy has the webhook's own selector leave a namespace out.
func passedBy(ns string) spec.Sabotage {
	s := webhookChange("the webhook told to pass the application by", func(w map[string]any) error { return without(w, ns) })
	s.Kills = `is exempted by the webhook's selector`
	return s
}
