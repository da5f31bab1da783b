package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// rewriting has the API server itself change objects that are admitted, by a
// MutatingAdmissionPolicy: those that constraints and a CEL condition match, by a JSON patch in CEL.
// It does faults that Gatekeeper's own mutations cannot.
func rewriting(ctx context.Context, s *environment.Scope, name string, constraints map[string]any, condition, patch string) error {
	policy := object(admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"), "", name)
	policy.Object["spec"] = map[string]any{
		"failurePolicy": "Ignore", "reinvocationPolicy": "Never",
		"matchConstraints": constraints,
		"matchConditions":  []any{map[string]any{"name": "fault", "expression": condition}},
		"mutations":        []any{map[string]any{"patchType": "JSONPatch", "jsonPatch": map[string]any{"expression": patch}}},
	}
	binding := object(admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"), "", name)
	binding.Object["spec"] = map[string]any{"policyName": name}
	return errors.Join(s.Create(ctx, policy), s.Create(ctx, binding))
}

// growing adds to a label each time that it is seen, of the pod that a mutation's folder has
// as unset.
func growing(folder, label string) spec.Sabotage {
	const first, more = "first", "-more" // what is there, and what is added
	adds := unsetBecomes(folder, set(first, "metadata", "labels", label), "metadata.labels."+label, first+more)
	return spec.Sabotage{
		Name: "a mutation that adds to what it finds", Kills: `a second admission changed unset: \{"metadata":\{"labels":\{"` + label + `":`,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return rewriting(ctx, s, "policy-growing-"+label, unsetOf(folder), fmt.Sprintf("%q in object.metadata.labels", label),
				fmt.Sprintf(`[JSONPatch{op: "replace", path: "/metadata/labels/%[1]s", value: object.metadata.labels[%[1]q] + %[2]q}]`, label, more))
		},
		Applied: adds(true), Restored: adds(false),
	}
}

// unsetBecomes waits until the API server makes a value of the pod that a mutation's folder has
// as unset, in a namespace with all defaults, at a path; or no longer makes it, where it is not
// wanted. edit, when it is not nil, changes the pod before it is submitted.
func unsetBecomes(folder string, edit func(*unstructured.Unstructured) error, path string, value any) func(want bool) func(context.Context, *environment.Environment) error {
	return func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			unset, err := read(env, "mutations", folder, "unset.yaml")
			if err != nil {
				return err
			}
			ns, err := trialNamespace(ctx, env, map[string]string{defaultsLabel: "enabled", environmentLabel: "production"})
			if err != nil {
				return err
			}
			unset.SetNamespace(ns)
			if edit != nil {
				if err := edit(unset); err != nil {
					return err
				}
			}
			return wait.Answers(ctx, webhookTimeout, fmt.Sprintf("the API server to make %s %v: %t", path, value, want), func(ctx context.Context) (string, error) {
				pod := unnamed(unset)
				if err := env.Client().Create(ctx, pod, client.DryRunAll); err != nil {
					return "", err
				}
				if got, _ := at(pod.Object, path); (got == value) != want {
					return fmt.Sprintf("it makes it %v", got), nil
				}
				return "", nil
			})
		}
	}
}

// unsetOf matches that pod.
func unsetOf(folder string) map[string]any {
	return map[string]any{
		"objectSelector": map[string]any{"matchLabels": map[string]any{"app": folder[len("00-"):] + "-unset"}},
		"resourceRules": []any{map[string]any{
			"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE"}, "resources": []any{"pods"},
		}},
	}
}

// lingering gives that pod a second more to end in each time that it is seen: what grows is in
// its spec, and nothing that a mutation of Gatekeeper's sets.
func lingering(folder string) spec.Sabotage {
	adds := unsetBecomes(folder, nil, "spec.terminationGracePeriodSeconds", int64(corev1.DefaultTerminationGracePeriodSeconds+1))
	return spec.Sabotage{
		Name: "a mutation that adds to the spec that it finds", Kills: `a second admission changed unset: \{"spec":\{"terminationGracePeriodSeconds":32\}\}`,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return rewriting(ctx, s, "policy-lingering", unsetOf(folder), "has(object.spec.terminationGracePeriodSeconds)",
				`[JSONPatch{op: "replace", path: "/spec/terminationGracePeriodSeconds", value: object.spec.terminationGracePeriodSeconds + 1}]`)
		},
		Applied: adds(true), Restored: adds(false),
	}
}

// countedLate takes what an audit counts out of a constraint's status again, as long as the
// audit began within the time that one has: so only a later one counts.
func countedLate() spec.Sabotage {
	counts := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			s := env.Scope("what a constraint counts")
			c, err := requiredLabels(ctx, s, "policy-elsewhere", before)
			if err != nil {
				return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
			}
			count := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status": {"auditTimestamp": %q, "violations": [{"namespace": "policy-elsewhere", "name": "tried"}]}}`,
				c.GetCreationTimestamp().UTC().Format(time.RFC3339)))
			err = wait.Answers(ctx, webhookTimeout, fmt.Sprintf("the API server to keep what is counted at once: %t", want), func(ctx context.Context) (string, error) {
				counted := c.DeepCopy()
				err := env.Client().Status().Patch(ctx, counted, count, client.DryRunAll)
				if apierrors.IsServiceUnavailable(err) { // it has not read the kind's schema yet, and does so on demand
					return err.Error(), nil
				}
				if err != nil {
					return "", err
				}
				if left := violations(counted); (len(left) > 0) != want {
					return fmt.Sprintf("it keeps %v", left), nil
				}
				return "", nil
			})
			return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}
	return spec.Sabotage{
		Name: "what violates counted by a later audit", Kills: `found by the audit that began at`,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			interval, err := auditInterval(ctx, env)
			if err != nil {
				return err
			}
			return rewriting(ctx, s, "policy-counted-late", map[string]any{
				"resourceRules": []any{map[string]any{
					"apiGroups": []any{constraintVersion.Group}, "apiVersions": []any{constraintVersion.Version},
					"operations": []any{"UPDATE"}, "resources": []any{"k8srequiredlabels/status"},
				}},
			}, fmt.Sprintf(`object.metadata.name.startsWith("policy-%s-") && has(object.status) && has(object.status.violations) && has(object.status.auditTimestamp) && `+
				`timestamp(object.status.auditTimestamp) - timestamp(object.metadata.creationTimestamp) <= duration(%q)`, before, auditLimit(interval).D),
				`[JSONPatch{op: "remove", path: "/status/violations"}]`)
		},
		Applied: counts(false), Restored: counts(true),
	}
}
