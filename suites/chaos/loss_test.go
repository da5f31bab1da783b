package chaos

import (
	"context"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestPodDelete proves that users do not notice when half of the backend's pods are
// deleted, twice: with what Litmus looks at in between, a round takes 26 s.
func TestPodDelete(t *testing.T) {
	survives(t, "CHS-001", newStage(t, "delete", nil), always(podDelete), func(s *stage, p *plan) []spec.Sabotage {
		return []spec.Sabotage{
			s.onePod(),
			s.slowStart(p),
			misread(p, "pod-delete", lasts, "30"),
			misread(p, "pod-delete", "PODS_AFFECTED_PERC", "25"),
			unsettled("one round alone", `the fault did not happen`, p, plan{variables: map[string]string{lasts: "10"}}),
			unsettled("a quarter of the pods each time", `the fault did not happen`, p, plan{variables: map[string]string{"PODS_AFFECTED_PERC": "25"}}),
		}
	})
}

// slowStart has new pods begin to serve later than users may be without them. A round then
// takes up to 42 s, and Litmus goes on for long enough to have a second one; liveness
// would end such a pod.
func (s *stage) slowStart(p *plan) spec.Sabotage {
	f := s.backend("replicas that take their time to start", `users found it as before [0-9.]+ s after the fault's end`, func(d *appsv1.Deployment) {
		c := &d.Spec.Template.Spec.Containers[0]
		c.LivenessProbe = nil
		c.Env = append(c.Env, corev1.EnvVar{Name: "START_DELAY", Value: "18s"})
		d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromString("100%"))
	})
	rollOut, longer := f.Apply, spec.Swapped("", "", p, plan{variables: map[string]string{lasts: "60"}})
	f.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		return errors.Join(longer.Apply(ctx, env, scope), rollOut(ctx, env, scope))
	}
	return f
}

// TestContainerKill proves that users do not notice when containers are killed.
func TestContainerKill(t *testing.T) {
	survives(t, "CHS-006", newStage(t, "kill", nil), always(containerKill), func(s *stage, p *plan) []spec.Sabotage {
		return []spec.Sabotage{
			s.onePod(), s.noRetries(),
			unsettled("users who come late", `users came late`, p, plan{behind: time.Minute}),
			spec.Swapped("all are lost when users are well again", `users after the fault: [^\n]*expected at most 0.00 % of requests to fail`, p, plan{later: (*trial).relapse}),
			spec.Swapped("the database loses a document", `documents that users were told are kept, and that are not: \[[0-9]+\]`, p, plan{later: (*trial).forget}),
		}
	})
}

var (
	podDelete = experiment{
		name: "pod-delete", env: map[string]string{lasts: "36", "CHAOS_INTERVAL": "10"}, happened: podsDeleted, // two rounds, also where one takes 35 s
	}
	containerKill = experiment{name: "container-kill", prepare: unhurt, happened: containersKilled}
)

// survives tries an experiment that half of the pods bear. more are its own faults.
func survives(t *testing.T, id string, s *stage, of func(context.Context, *environment.Environment, *stage) (experiment, error), more func(*stage, *plan) []spec.Sabotage) {
	var p plan
	faults := append(s.usual(&p), unsettled("aimed at another Deployment", `the fault did not happen`, &p, plan{label: "app=frontend"}))
	spec.Run(t, spec.Specification{
		ID: id, Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 5 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			e, err := of(ctx, env, s)
			spec.Check(t, err)
			proveSurvival(ctx, t, env, id, s, e, p)
		},
		CounterProofs: append(faults, more(s, &p)...),
	})
}

// always is one experiment on every kernel.
func always(e experiment) func(context.Context, *environment.Environment, *stage) (experiment, error) {
	return func(context.Context, *environment.Environment, *stage) (experiment, error) { return e, nil }
}

// proveSurvival tries the experiment of its own file, by its hypothesis.
func proveSurvival(ctx context.Context, t spec.T, env *environment.Environment, id string, s *stage, e experiment, p plan) {
	all, err := hypotheses(env.Root)
	spec.Check(t, err)
	p.hypothesis = all[e.name]
	if p.impatient {
		p.hypothesis.During.P95.Duration = time.Millisecond
	}
	o, err := engine(env.Root, e.name)
	spec.Check(t, err)
	spec.Check(t, vary(o, p.file))
	sayFigures(t, o)
	a := s.endure(ctx, t, env, e, o, p)
	accounts.keep(id, a)
	a.hold(t)
	t.Observe(a.String(), a)
}
