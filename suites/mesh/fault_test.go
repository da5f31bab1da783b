package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// stageFault is a fault in the stage's namespace that is in force, or gone, once
// every proxy of the stage has the mesh's latest configuration.
func stageFault(s *stage, name, kills string, apply func(context.Context, *environment.Environment, *environment.Scope) error) spec.Sabotage {
	have := func(ctx context.Context, env *environment.Environment) error { return settled(ctx, env, s.ns) }
	return spec.Sabotage{Name: name, Kills: kills, Apply: apply, Applied: have, Restored: have}
}

// deploymentFault changes a Deployment of the application's. It is in force, or
// gone, once that is rolled out and the stage's proxies have heard.
func (s *stage) deploymentFault(name, kills, component string, change func(*appsv1.Deployment)) spec.Sabotage {
	settles := func(ctx context.Context, env *environment.Environment) error {
		if err := rolledOut(ctx, env, seenRollout, "Deployment", s.ns, component); err != nil {
			return err
		}
		return settled(ctx, env, s.ns)
	}
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: component}}
			return scope.Update(ctx, d, func() error {
				change(d)
				return nil
			})
		},
		Applied: settles, Restored: settles,
	}
}

// routes edits the rules of a VirtualService of the stage.
func (s *stage) routes(ctx context.Context, scope *environment.Scope, name string, change func(rules []any) error) error {
	o := object(networkingV1, "VirtualService", s.ns, name, nil)
	return scope.Update(ctx, o, func() error {
		rules, _, err := unstructured.NestedSlice(o.Object, "spec", "http")
		if err != nil || len(rules) == 0 {
			return errors.Join(err, fmt.Errorf("VirtualService %s has no spec.http", name))
		}
		if err := change(rules); err != nil {
			return err
		}
		return unstructured.SetNestedSlice(o.Object, rules, "spec", "http")
	})
}

// abort has the gateways answer that share of the requests for the frontend
// themselves.
func (s *stage) abort(ctx context.Context, scope *environment.Scope, status, percent int64) error {
	return s.routes(ctx, scope, "frontend", func(rules []any) error {
		if len(rules) != 1 {
			return fmt.Errorf("VirtualService frontend has %d rules, want one", len(rules))
		}
		rules[0].(map[string]any)["fault"] = map[string]any{
			"abort": map[string]any{"httpStatus": status, "percentage": map[string]any{"value": percent}},
		}
		return nil
	})
}

// rolledOut waits until a Deployment or DaemonSet is rolled out.
func rolledOut(ctx context.Context, env *environment.Environment, limit wait.Timeout, kind, namespace, name string) error {
	_, err := wait.On(env.Config).Until(ctx, limit, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind(kind), Namespace: namespace, Name: name}, wait.RolledOut())
	return err
}

var seenRollout = wait.Timeout{Name: "stageRolledOut", D: 60 * time.Second}

// envFault sets variables of a component.
func (s *stage) envFault(name, kills, component string, vars ...corev1.EnvVar) spec.Sabotage {
	return s.deploymentFault(name, kills, component, func(d *appsv1.Deployment) {
		setEnv(&d.Spec.Template.Spec.Containers[0], vars...)
	})
}

// setEnv gives a container variables, in the place of those of the same names.
func setEnv(c *corev1.Container, vars ...corev1.EnvVar) {
	c.Env = append(slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool {
		return slices.ContainsFunc(vars, func(v corev1.EnvVar) bool { return v.Name == e.Name })
	}), vars...)
}
