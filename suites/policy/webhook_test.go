package policy

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// TestWebhookDown proves that the platform fails closed while the webhook is
// down, and that what slipped in past it is found by the next audit.
func TestWebhookDown(t *testing.T) {
	spec.Run(t, spec.Specification{
		ID:      "POL-021",
		Risk:    spec.Disruptive,
		Timeout: 3 * time.Minute,
		Needs:   []spec.Need{policies},
		Prove:   proveWebhookDown,
		CounterProofs: []spec.Sabotage{
			failurePolicy("failurePolicy Ignore", "Ignore"),
			noAudit(`found by the audit`),
			webhookTimeoutChange(),
		},
	})
}

func proveWebhookDown(ctx context.Context, t spec.T, env *environment.Environment) {
	bad, err := read(env, "constraints", constraintFolders[0], "bad", "pod.yaml")
	if err != nil {
		t.Broken(err)
	}
	ns, err := makeNamespace(ctx, env, t.Scope(), map[string]string{environmentLabel: "production"})
	if err != nil {
		t.Broken(err)
	}
	// Past the webhook: its own configuration leaves the namespace out for a while.
	if err := slipIn(ctx, t, env, ns, bad); err != nil {
		t.Broken(err)
	}
	down := t.Scope().Child("webhook down")
	if err := stop(ctx, env, down, "gatekeeper-controller-manager", webhookPods); err != nil {
		t.Broken(err)
	}
	if err := podsGone(ctx, env, webhookPods); err != nil {
		t.Broken(err)
	}
	good, err := read(env, "constraints", constraintFolders[0], "good", "pod.yaml")
	if err != nil {
		t.Broken(err)
	}
	answers := map[string]string{}
	for what, o := range map[string]*unstructured.Unstructured{"violating": bad, "compliant": good} {
		o = o.DeepCopy()
		o.SetNamespace(ns)
		o.SetName("while-down-" + what)
		err := env.Client().Create(ctx, o)
		answers[what] = "admitted"
		if err != nil {
			answers[what] = err.Error()
		}
		assert.ErrorContains(t, err, "failed calling webhook", "while the webhook is down, a %s pod", what)
	}
	if err := down.Close(ctx); err != nil {
		t.Broken(err)
	}
	if err := rolledOut(ctx, env, "gatekeeper-controller-manager"); err != nil {
		t.Broken(err)
	}
	if err := inForce("pod.yaml", false)(ctx, env); err != nil {
		t.Broken(err)
	}
	found, elapsed := proveFound(ctx, t, env, ns, bad.GetName())
	t.Observe("the webhook's pods were killed: violating and compliant pods were refused alike, for failurePolicy is Fail", answers)
	t.Observe(fmt.Sprintf("the pod that had slipped in past the webhook was found by the audit after %s", elapsed.Round(100*time.Millisecond)), found)
}

// slipIn makes a violating pod in a namespace that the webhook is told to leave
// out meanwhile.
func slipIn(ctx context.Context, t spec.T, env *environment.Environment, ns string, bad *unstructured.Unstructured) error {
	blind := t.Scope().Child("webhook blind")
	fault := webhookChange("", func(w map[string]any) error {
		expressions, _, err := unstructured.NestedSlice(w, "namespaceSelector", "matchExpressions")
		if err != nil {
			return err
		}
		return unstructured.SetNestedSlice(w, append(expressions, map[string]any{
			"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": []any{ns},
		}), "namespaceSelector", "matchExpressions")
	})
	if err := fault.Apply(ctx, env, blind); err != nil {
		return err
	}
	err := wait.Answers(ctx, webhookTimeout, "the API server to leave the namespace out", func(ctx context.Context) (string, error) {
		v, err := submit(ctx, env.Client(), bad, ns, false)
		if err == nil && v.Admitted {
			return "", nil
		}
		return v.String(), err
	})
	if err != nil {
		return err
	}
	return blind.Close(ctx)
}

func proveFound(ctx context.Context, t spec.T, env *environment.Environment, ns, pod string) ([]string, time.Duration) {
	interval, err := auditInterval(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	p, err := loadConstraint(env, constraintFolders[0])
	if err != nil {
		t.Broken(err)
	}
	want := ns + "/" + pod
	found, elapsed, err := audited(ctx, env, p.constraint, []string{want}, interval)
	if err != nil {
		t.Broken(err)
	}
	assert.True(t, slices.Contains(found, want), "%s is not found by the audit within %d intervals of %s, only %v", want, auditsAllowed, interval, found)
	return found, elapsed
}

// failurePolicy changes what the API server does while the webhook is down.
func failurePolicy(name, value string) spec.Sabotage {
	s := webhookChange(name, func(w map[string]any) error {
		w["failurePolicy"] = value
		return nil
	})
	s.Kills = `while the webhook is down, a violating pod`
	return s
}

// webhookTimeoutChange is harmless: one second more to answer.
func webhookTimeoutChange() spec.Sabotage {
	s := webhookChange("one second more for the webhook to answer", func(w map[string]any) error {
		seconds, _, err := unstructured.NestedInt64(w, "timeoutSeconds")
		w["timeoutSeconds"] = seconds + 1
		return err
	})
	s.Harmless = true
	return s
}
