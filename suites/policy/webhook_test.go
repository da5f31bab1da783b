package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Gatekeeper's webhooks that look at objects, by their names.
const (
	validation = "validation.gatekeeper.sh"
	mutation   = "mutation.gatekeeper.sh"
)

// TestWebhookDown proves that the platform fails closed while the webhook is
// down, and that what slipped in past it is found by the next audit.
func TestWebhookDown(t *testing.T) {
	unaudited := auditConfig("the namespaces exempted from the audit", false, "policy-*")
	unaudited.Alone = true // as the proof is, and the other faults: then one more proof after the last tells that all are gone
	spec.Run(t, spec.Specification{
		ID:      "POL-021",
		Risk:    spec.Disruptive,
		Timeout: 3 * time.Minute,
		Needs:   []spec.Need{policies},
		Prove:   proveWebhookDown,
		CounterProofs: []spec.Sabotage{
			ignoring(),
			unaudited,
			webhookTimeoutChange(),
		},
	})
}

func proveWebhookDown(ctx context.Context, t spec.T, env *environment.Environment) {
	bad, err := read(env, "constraints", constraintFolders[0], "bad", "pod.yaml")
	if err != nil {
		t.Broken(err)
	}
	good, err := read(env, "constraints", constraintFolders[0], "good", "pod.yaml")
	if err != nil {
		t.Broken(err)
	}
	bad.SetName(bad.GetName() + "-" + utilrand.String(5)) // by which this one is found
	// The mutating webhook is called first and would answer for both, so the validating one is
	// asked in a namespace that it is told to leave out.
	namespaces := map[string]string{}
	for ask, labels := range map[string]map[string]string{
		mutation:   {environmentLabel: "production"},
		validation: {environmentLabel: "production", triedLabel: "validation"},
	} {
		if namespaces[ask], err = trialNamespace(ctx, env, labels); err != nil {
			t.Broken(err)
		}
	}
	if err := change(ctx, t.Scope(), mutatingKind, mutatingName, func(w map[string]any) error { return without(w, namespaces[validation]) }); err != nil {
		t.Broken(err)
	}
	if err := slipIn(ctx, t, env, namespaces[mutation], bad); err != nil {
		t.Broken(err)
	}
	down := t.Scope().Child("webhook down")
	if err := stop(ctx, env, down, "gatekeeper-controller-manager", webhookPods); err != nil {
		t.Broken(err)
	}
	if err := podsGone(ctx, env, webhookPods); err != nil {
		t.Broken(err)
	}
	answers := map[string]string{}
	var through []string
	for _, webhook := range []string{validation, mutation} {
		for what, o := range map[string]*unstructured.Unstructured{"violating": bad, "compliant": good} {
			o = unnamed(o)
			o.SetNamespace(namespaces[webhook])
			err := t.Scope().Create(ctx, o)
			answers[webhook+", a "+what+" pod"] = fmt.Sprint(err)
			if err == nil || !strings.Contains(err.Error(), "failed calling webhook") || !strings.Contains(err.Error(), webhook+`"`) {
				through = append(through, fmt.Sprintf("while %s is down, a %s pod was not refused by it: %v", webhook, what, err))
			}
		}
	}
	slices.Sort(through)
	assert.Empty(t, strings.Join(through, "; "))
	if err := down.Close(ctx); err != nil {
		t.Broken(err)
	}
	if err := rolledOut(ctx, env, "gatekeeper-controller-manager"); err != nil {
		t.Broken(err)
	}
	if err := inForce("pod.yaml", false)(ctx, env); err != nil { // ready is not yet reached
		t.Broken(err)
	}
	found, elapsed := proveFound(ctx, t, env, namespaces[mutation], bad.GetName())
	t.Observe(fmt.Sprintf("the webhooks' pods were killed: of %d pods, violating and compliant, %d were refused for it", len(answers), len(answers)-len(through)), answers)
	t.Observe(fmt.Sprintf("the pod that had slipped in past the webhook was found by the audit after %s", elapsed.Round(100*time.Millisecond)), found)
}

// slipIn makes a violating pod in a namespace that the webhook leaves out
// meanwhile, and waits until it looks there again.
func slipIn(ctx context.Context, t spec.T, env *environment.Environment, ns string, bad *unstructured.Unstructured) error {
	blind := t.Scope().Child("webhook blind")
	if err := change(ctx, blind, webhookKind, webhookName, func(w map[string]any) error { return without(w, ns) }); err != nil {
		return err
	}
	for _, step := range []struct {
		object   *unstructured.Unstructured
		dryRun   bool
		admitted bool
		then     func(context.Context) error
	}{
		{bad, false, true, blind.Close},
		{renamed(bad, "-again"), true, false, func(context.Context) error { return nil }},
	} {
		err := wait.Answers(ctx, webhookTimeout, "the API server to take up the namespaces of the webhook", func(ctx context.Context) (string, error) {
			o := step.object.DeepCopy()
			o.SetNamespace(ns)
			v, err := submit(ctx, env.Client(), t.Scope(), o, step.dryRun)
			if err != nil || v.Admitted == step.admitted {
				return "", err
			}
			return v.String(), nil
		})
		if err != nil {
			return err
		}
		if err := step.then(ctx); err != nil {
			return err
		}
	}
	return nil
}

func renamed(o *unstructured.Unstructured, ending string) *unstructured.Unstructured {
	o = o.DeepCopy()
	o.SetName(o.GetName() + ending)
	return o
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
	want, start := ns+"/"+pod, time.Now()
	found, by, err := audited(ctx, env, p.constraint, []string{want}, auditLimit(interval))
	if err != nil {
		t.Broken(err)
	}
	if assert.NotEmpty(t, by, "no audit that began with the webhook back has counted within %s; the interval is %s", auditLimit(interval).D, interval) {
		assert.True(t, slices.Contains(found, want), "%s is not found by the audit that began at %s, the first with the webhook back, only %v", want, by, found)
	}
	return found, time.Since(start)
}

// ignoring has the API server admit what neither webhook can be asked about. That
// it is in force is shown of the validating one by its name, and of the mutating
// one by a namespace that the same change leaves out: no default is set there.
func ignoring() spec.Sabotage {
	var ns string
	s := webhookChange("failurePolicy Ignore", ignore)
	s.Kills = `while ` + mutation + ` is down, a violating pod(?s:.*)while ` + validation + ` is down, a violating pod`
	validating, denied := s.Apply, s.Applied
	s.Apply = func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
		var err error
		if ns, err = trialNamespace(ctx, env, map[string]string{defaultsLabel: "enabled", triedLabel: "left-out"}); err != nil {
			return err
		}
		mutating := change(ctx, s, mutatingKind, mutatingName, func(w map[string]any) error { return errors.Join(ignore(w), without(w, ns)) })
		return errors.Join(mutating, validating(ctx, env, s))
	}
	s.Applied = func(ctx context.Context, env *environment.Environment) error {
		return errors.Join(denied(ctx, env), defaulted(ctx, env, ns, false))
	}
	restored := s.Restored
	s.Restored = func(ctx context.Context, env *environment.Environment) error {
		ns, err := trialNamespace(ctx, env, map[string]string{defaultsLabel: "enabled"})
		if err != nil {
			return err
		}
		return errors.Join(restored(ctx, env), defaulted(ctx, env, ns, true))
	}
	return s
}

// defaulted asks the API server until a default is set in a namespace, or is not.
func defaulted(ctx context.Context, env *environment.Environment, ns string, want bool) error {
	pod, err := read(env, "mutations", "05-run-as-non-root", "unset.yaml")
	if err != nil {
		return err
	}
	pod.SetNamespace(ns)
	return wait.Answers(ctx, webhookTimeout, "the API server to take up the mutating webhook's configuration", func(ctx context.Context) (string, error) {
		o := pod.DeepCopy()
		if err := env.Client().Create(ctx, o, client.DryRunAll); err != nil {
			return "", err
		}
		if _, set := at(o.Object, "spec.securityContext.runAsNonRoot"); set != want {
			return fmt.Sprintf("the default is set: %t", set), nil
		}
		return "", nil
	})
}

func ignore(w map[string]any) error {
	w["failurePolicy"] = "Ignore"
	return nil
}

// without tells a webhook to leave a namespace out.
func without(w map[string]any, ns string) error {
	expressions, _, err := unstructured.NestedSlice(w, "namespaceSelector", "matchExpressions")
	if err != nil {
		return err
	}
	return unstructured.SetNestedSlice(w, append(expressions, map[string]any{
		"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": []any{ns},
	}), "namespaceSelector", "matchExpressions")
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
