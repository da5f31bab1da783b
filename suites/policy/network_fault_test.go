package policy

import (
	"context"
	"fmt"
	"reflect"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// networkFault changes a live policy of the application.
func networkFault(name, kills, policy string, change func(*networkingv1.NetworkPolicy)) spec.Sabotage {
	named := func() *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: appNamespace, Name: policy}}
	}
	var before networkingv1.NetworkPolicySpec
	differs := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			p := named()
			err := env.Client().Get(ctx, client.ObjectKeyFromObject(p), p)
			if apierrors.IsNotFound(err) || err == nil && reflect.DeepEqual(p.Spec, before) == want {
				return fmt.Errorf("policy %s: changed is %t, want %t", policy, !want, want)
			}
			return err
		}
	}
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			p := named()
			return s.Update(ctx, p, func() error {
				p.Spec.DeepCopyInto(&before)
				change(p)
				return nil
			})
		},
		Applied: differs(true), Restored: differs(false),
	}
}

// networkHarmless says in another way what is said already.
func networkHarmless() spec.Sabotage {
	s := networkFault("a port said twice", "", "frontend", func(p *networkingv1.NetworkPolicy) {
		p.Spec.Ingress[0].Ports = append(p.Spec.Ingress[0].Ports, p.Spec.Ingress[0].Ports[0])
	})
	s.Harmless = true
	return s
}

// strayPod adds a pod to the application that no workload of it has. It is never scheduled.
func strayPod() spec.Sabotage {
	const name = "policy-stray"
	return spec.Sabotage{
		Name: "a pod of no workload", Kills: `pod policy-stray is of no workload that has a role`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			pod, err := read(env, "constraints", constraintFolders[6], "good", "pod.yaml")
			if err != nil {
				return err
			}
			pod.SetNamespace(appNamespace)
			pod.SetName(name)
			return s.Create(ctx, pod)
		},
	}
}
