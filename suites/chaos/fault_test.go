package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// How users can be worse off during a fault: their requests fail, or take too long.
const (
	failing = `users during the fault(: [^\n]*expected at most [0-9.]+ % of requests to fail| bore more than their budget)`
	slow    = `users during the fault: [^\n]*expected 95 % of requests to take at most`
)

// usual are the faults that every experiment's proof is tried by.
func (s *stage) usual(p *plan) []spec.Sabotage {
	return []spec.Sabotage{
		unsettled("a selector that matches nothing", `no targets`, p, plan{label: "app=nobody"}),
		unsettled("not run, though its ChaosResult says Pass", `the fault did not happen: [a-z-]+$`, p, plan{idle: true}),
		unsettled("a user of one request", `no samples`, p, plan{requests: 1}),
		spec.Swapped("a rule is left behind", `what is left of the fault`, p, plan{later: (*trial).leave}),
		s.note(),
	}
}

// unsettled is a fault of what a proof goes by that takes the evidence away.
func unsettled[V any](name, reason string, at *V, value V) spec.Sabotage {
	f := spec.Swapped(name, "", at, value)
	f.Unsettles = reason
	return f
}

// backend changes the Deployment that experiments are aimed at.
func (s *stage) backend(name, kills string, change func(*appsv1.Deployment)) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: s.rolledOut, Restored: s.rolledOut,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "backend"}}
			return scope.Update(ctx, d, func() error { change(d); return nil })
		},
	}
}

// onePod leaves nobody to take the users of a pod that is lost.
func (s *stage) onePod() spec.Sabotage {
	return s.backend("one replica", failing, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](1) })
}

// noRetries has the mesh give each request one try.
func (s *stage) noRetries() spec.Sabotage {
	return spec.Sabotage{
		Name: "no retries", Kills: failing, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			routes := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}}
			routes.SetNamespace(s.ns)
			routes.SetName("backend")
			return scope.Update(ctx, routes, func() error {
				http, _, err := unstructured.NestedSlice(routes.Object, "spec", "http")
				for _, route := range http {
					route.(map[string]any)["retries"] = map[string]any{"attempts": int64(0)}
				}
				return errors.Join(err, unstructured.SetNestedSlice(routes.Object, http, "spec", "http"))
			})
		},
	}
}

func (s *stage) note() spec.Sabotage {
	return spec.Harmless(s.backend("a note at the Deployment", "", func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, "docuthinker.dev/reviewed-by", "nobody")
	}))
}

// unheard stops nothing.
func unheard(context.Context, *trial, *unstructured.Unstructured) error { return nil }

// killHelpers stops an engine's experiment when its helpers are not there any more to
// revert anything.
func killHelpers(ctx context.Context, x *trial, e *unstructured.Unstructured) error {
	var pods corev1.PodList
	if err := x.env.Client().List(ctx, &pods, client.InNamespace("litmus"), client.MatchingLabels{"chaosUID": string(e.GetUID())}); err != nil {
		return err
	}
	killed := errors.New("the engine has no helper to be killed")
	for _, p := range pods.Items {
		if strings.Contains(p.Name, "-helper-") {
			_, killed = x.stage.look(ctx, x.env, p.Spec.NodeName, `kill -9 $(grep -ls "pod${1//-/[-_]}" /proc/[0-9]*/cgroup | cut -d / -f 3)`, string(p.UID))
		}
	}
	return errors.Join(killed, stop(ctx, x, e))
}

// leave has a fault leave a rule behind in the network of one pod, as a helper does
// that was killed.
func (x *trial) leave() error {
	pods, err := x.backends()
	if err != nil {
		return err
	}
	const rule = "PREROUTING -p tcp --dport 9 -j ACCEPT"
	const inPod = `pid=$(grep -ls "pod${1//-/[-_]}" /proc/[0-9]*/cgroup | head -n 1 | cut -d / -f 3); nsenter -t $pid -n iptables -t nat $2 ` + rule
	for _, p := range pods {
		if p.DeletionTimestamp != nil {
			continue
		}
		if err := x.t.Scope().Defer("rule in "+p.Name, func(ctx context.Context) error {
			_, err := x.stage.look(ctx, x.env, p.Spec.NodeName, inPod, string(p.UID), "-D")
			return err
		}); err != nil {
			return err
		}
		_, err := x.stage.look(x.ctx, x.env, p.Spec.NodeName, inPod, string(p.UID), "-A")
		return err
	}
	return fmt.Errorf("no pod of %s stays", x.stage.ns)
}
