package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// accounts are those of the first proof of each clause, on the platform as it is.
var accounts ledger

type ledger struct {
	mu      sync.Mutex
	of      map[string]account
	engines map[string]types.UID // of every trial, by their names
	nodes   print                // as they were before the first fault
}

func (l *ledger) keep(id string, a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]account{}
	}
	if _, kept := l.of[id]; !kept {
		l.of[id] = *a
	}
}

// found keeps how the nodes were first found.
func (l *ledger) found(p print) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes == nil {
		l.nodes = p.nodes()
	}
}

// made notes an engine of this run's.
func (l *ledger) made(o *unstructured.Unstructured) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engines == nil {
		l.engines = map[string]types.UID{}
	}
	l.engines[o.GetName()] = o.GetUID()
}

// trials are the engines so far.
func (l *ledger) trials() map[string]types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.engines)
}

// one is any engine so far.
func (l *ledger) one() (string, types.UID) {
	for name, uid := range l.trials() {
		return name, uid
	}
	return "", ""
}

// TestEveryFault proves that each fault was measured against a hypothesis before,
// during and after it, seen to happen, recovered from, and that nothing of all of
// them is left on the nodes.
func TestEveryFault(t *testing.T) {
	s := newStage(t, "every", nil)
	type change struct {
		of string // the clause whose account it is
		by func(*account)
	}
	var edit change
	altered := func(name, kills, id string, by func(*account)) spec.Sabotage {
		return spec.Swapped(name, kills, &edit, change{of: id, by: by})
	}
	faults := []string{"CHS-001", "CHS-002", "CHS-003", "CHS-004", "CHS-005", "CHS-006"}
	spec.Run(t, spec.Specification{
		ID: "CHS-008", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 2 * time.Minute,
		After: append(slices.Clone(faults), "CHS-007", "CHS-009"),
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			all, err := hypotheses(env.Root)
			spec.Check(t, err)
			seen := map[string]account{}
			for _, id := range faults {
				accounts.mu.Lock()
				a, is := accounts.of[id]
				accounts.mu.Unlock()
				if !is {
					t.Inconclusive("a fault without an account", "%s was not tried in this run, or its fault did not happen", id)
				}
				if id == edit.of {
					a.Users = maps.Clone(a.Users)
					edit.by(&a)
				}
				seen[id] = a
				complete(t, id, a, all[a.Experiment])
			}
			now, err := fingerprint(ctx, env, s)
			spec.Check(t, err)
			trials := accounts.trials() // what other runs have there, or left, is none of this one's
			pods, err := podsOf(ctx, env, slices.Collect(maps.Values(trials))...)
			spec.Check(t, err)
			require.Empty(t, pods, "what is left of Litmus' experiments")
			for kind, engine := range map[string][]string{"ChaosEngine": {"metadata", "name"}, "ChaosResult": {"spec", "engine"}} {
				left := listOfLitmus(kind)
				spec.Check(t, env.Client().List(ctx, left, client.InNamespace("litmus")))
				var own []string
				for _, o := range left.Items {
					name, _, err := unstructured.NestedString(o.Object, engine...)
					spec.Check(t, err)
					if _, is := trials[name]; is {
						own = append(own, o.GetName())
					}
				}
				require.Empty(t, own, "what is left of the experiments' kind %s", kind)
			}
			require.Empty(t, accounts.nodes.difference(now.nodes()), "the nodes before the first fault and after the last")
			t.Observe(fmt.Sprintf("%d faults, each seen to happen and held against its hypothesis before, during and after it; nodes and Litmus are as before the first of them", len(seen)), seen)
		},
		CounterProofs: []spec.Sabotage{
			altered("nobody asked during the fault", `CHS-001, samples during`, "CHS-001", func(a *account) { a.Users["during"] = window{} }),
			altered("nobody asked before it", `CHS-002, samples before`, "CHS-002", func(a *account) { delete(a.Users, "before") }),
			altered("nobody saw it happen", `what was seen of the fault of CHS-003`, "CHS-003", func(a *account) { a.Seen = "" }),
			altered("over before it began", `CHS-004, from its begin to its end`, "CHS-004", func(a *account) { a.To = a.From }),
			altered("users did not bear it", `what was not as promised under CHS-005`, "CHS-005", func(a *account) { a.Unmet = []string{"users during the fault: all failed"} }),
			altered("stopped before its end", `CHS-006 was stopped before its end`, "CHS-006", func(a *account) { a.Aborted = &abort{} }),
			altered("users found it as before too late", `recovery of CHS-006`, "CHS-006", func(a *account) { a.Recovery = 61 }),
			altered("aimed at nobody", `targets of CHS-005`, "CHS-005", func(a *account) { a.Targets = nil }),
			altered("a rule was left by it", `what is left of the fault of CHS-004`, "CHS-004", func(a *account) { a.Left = []string{"has pods: iptables"} }),
			podLeft(),
			resultLeft("a result is left of a trial", `what is left of the experiments' kind ChaosResult`, func() string {
				name, _ := accounts.one()
				return name
			}),
			spec.Harmless(resultLeft("a result is left of somebody else's", "", func() string { return "somebody-elses" })),
			s.changedNode("a taint is left on a node", `the nodes before the first fault and after the last`, func(n *corev1.Node) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "docuthinker.dev/chaos", Effect: corev1.TaintEffectPreferNoSchedule})
			}),
			spec.Harmless(s.changedNode("a note at a node", "", func(n *corev1.Node) { n.Annotations["docuthinker.dev/reviewed-by"] = "nobody" })),
		},
	})
}

// resultLeft leaves a ChaosResult of an engine in Litmus' namespace.
func resultLeft(name, kills string, engine func() string) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			o := ofLitmus("ChaosResult", "litmus", "left-"+utilrand.String(6))
			if err := unstructured.SetNestedStringMap(o.Object, map[string]string{"engine": engine(), "experiment": podDelete.name}, "spec"); err != nil {
				return err
			}
			return scope.Create(ctx, o)
		},
	}
}

// podLeft leaves a pod of a trial's in Litmus' namespace, which never starts.
func podLeft() spec.Sabotage {
	return spec.Sabotage{
		Name: "a pod is left of a trial", Kills: `what is left of Litmus' experiments`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			_, uid := accounts.one()
			return scope.Create(ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "litmus", Name: "left-" + utilrand.String(6), Labels: map[string]string{"chaosUID": string(uid)}},
				Spec:       corev1.PodSpec{SchedulerName: "never", Containers: []corev1.Container{{Name: "helper", Image: "registry.k8s.io/pause:3.10"}}},
			})
		},
	}
}

// changedNode changes one that no trial drains.
func (s *stage) changedNode(name, kills string, change func(*corev1.Node)) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: spec.AtOnce, Restored: spec.AtOnce, Alone: true,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			node, err := s.aside(ctx, env)
			if err != nil {
				return err
			}
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
			return scope.Update(ctx, n, func() error { change(n); return nil })
		},
	}
}

// complete asserts that an account has all that a fault is to be told of.
func complete(t spec.T, id string, a account, h hypothesis) {
	require.NotEmpty(t, a.Targets, "targets of %s", id)
	require.NotEmpty(t, a.Seen, "what was seen of the fault of %s", id)
	require.Empty(t, a.Unmet, "what was not as promised under %s", id)
	require.Nil(t, a.Aborted, "%s was stopped before its end", id)
	require.True(t, a.To.After(a.From), "%s, from its begin to its end: %s to %s", id, a.From, a.To)
	for name, least := range map[string]int{"before": h.Before.Samples, "during": h.During.Samples, "after": h.After.Samples} {
		require.Greater(t, least, 0, "the hypothesis of %s for users %s", a.Experiment, name)
		require.GreaterOrEqual(t, a.Users[name].Samples, least, "%s, samples %s the fault", id, name)
	}
	require.LessOrEqual(t, a.Recovery, h.Recovery.Seconds(), "recovery of %s, in seconds", id)
	require.Empty(t, a.Left, "what is left of the fault of %s", id)
}
