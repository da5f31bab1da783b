package policy

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestDryRun proves that --dry-run=server tells of every good and bad object
// what a real apply then does.
func TestDryRun(t *testing.T) {
	spec.Run(t, spec.Specification{
		ID:    "POL-022",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{policies},
		Keys:  allConstraints(),
		Prove: proveDryRun,
		CounterProofs: []spec.Sabotage{
			matchCondition("a webhook that does not look at dry runs", `dry run of bad/`, "!request.dryRun", inForce("pod.yaml", true)),
			// Then only a dry run shows what is wrong; that is in force when a dry run is still denied, by the changed webhook.
			matchCondition("a webhook that looks at dry runs alone", `real request of bad/`, "request.dryRun", denies(changedName)),
			harmlessCondition(),
		},
	})
}

func proveDryRun(ctx context.Context, t spec.T, env *environment.Environment) {
	// In a namespace of its own: workloads keep their names, by which others ask at the same time.
	ns, err := trialNamespace(ctx, env, map[string]string{environmentLabel: "production", triedLabel: "dry-run"})
	if err != nil {
		t.Broken(err)
	}
	count, start := 0, time.Now()
	for _, folder := range constraintFolders {
		p, err := loadConstraint(env, folder)
		if err != nil {
			t.Broken(err)
		}
		// Every violating object, every compliant pod, and one compliant workload of
		// each kind: a hundred workloads would make hundreds of pods.
		cases := slices.DeleteFunc(p.cases, func(c constraintCase) bool {
			return !c.Bad && c.object.GetKind() != "Pod" && folder != constraintFolders[0]
		})
		dry, err := try(ctx, env, t.Scope(), ns, cases, func(constraintCase) bool { return true })
		if err != nil {
			t.Broken(err)
		}
		real, err := try(ctx, env, t.Scope(), ns, cases, func(constraintCase) bool { return false })
		if err != nil {
			t.Broken(err)
		}
		same := true
		for i := range min(len(dry), len(real)) {
			same = assert.Equal(t, dry[i].Want.String(), dry[i].Got.String(), "%s: dry run of %s", folder, dry[i].File) && same
			same = assert.Equal(t, real[i].Want.String(), real[i].Got.String(), "%s: real request of %s", folder, real[i].File) && same
		}
		if !same {
			t.FailNow() // what should have been denied is there now: no more of it
		}
		count += len(cases)
	}
	t.Observe(fmt.Sprintf("%d objects: the dry run said of each what the real request then did, in the same words (%s)",
		count, time.Since(start).Round(100*time.Millisecond)), nil)
}

func matchCondition(name, kills, expression string, applied func(context.Context, *environment.Environment) error) spec.Sabotage {
	s := webhookChange(name, func(w map[string]any) error {
		w["matchConditions"] = []any{map[string]any{"name": "fault", "expression": expression}}
		return nil
	})
	s.Kills, s.Applied = kills, applied
	return s
}

func harmlessCondition() spec.Sabotage {
	s := matchCondition("a condition that always holds", "", "true", denies(changedName))
	s.Harmless = true
	return s
}
