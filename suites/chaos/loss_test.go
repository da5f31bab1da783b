//go:build chaos

package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestPodDelete proves that users do not notice when half of the backend's pods are
// deleted again and again.
func TestPodDelete(t *testing.T) {
	survives(t, "CHS-001", "delete", nil, experiment{
		name: "pod-delete", env: map[string]string{"TOTAL_CHAOS_DURATION": "20", "CHAOS_INTERVAL": "10"}, happened: podsDeleted,
	})
}

// TestContainerKill proves that users do not notice when containers are killed.
func TestContainerKill(t *testing.T) {
	survives(t, "CHS-006", "kill", nil, experiment{name: "container-kill", happened: containersKilled})
}

// survives tries an experiment that half of the pods bear, and values of the
// application with it.
func survives(t *testing.T, id, name string, values map[string]any, e experiment) {
	s := newStage(t, name, values)
	var p plan
	spec.Run(t, spec.Specification{
		ID: id, Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 5 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			all, err := hypotheses(env.Root)
			spec.Check(t, err)
			with := p
			with.hypothesis = all[e.name]
			a := s.endure(ctx, t, env, e, with)
			t.Observe(a.String(), a)
		},
		CounterProofs: []spec.Sabotage{
			unsettled("a selector that matches nothing", `no targets`, &p, plan{label: "app=nobody"}),
			unsettled("the experiment is not run", `the fault did not happen`, &p, plan{idle: true}),
			unsettled("aimed at another Deployment", `the fault did not happen`, &p, plan{label: "app=frontend"}),
			unsettled("no users", `no samples`, &p, plan{silent: true}),
			s.onePod(),
			spec.Swapped("a rule is left behind", `what is left of the fault`, &p, plan{leaves: true}),
			s.note(),
		},
	})
}
