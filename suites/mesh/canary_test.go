package mesh

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const wantOfMetrics = `for want of metrics`

// proofLimit is above the ticks of a rollout and those that a busy machine loses.
const proofLimit = 4 * time.Minute

// TestCanaryPromotion proves that a healthy version gets its users step by step.
func TestCanaryPromotion(t *testing.T) {
	r := newRollout(t, "canary")
	spec.Run(t, spec.Specification{
		ID:      "MSH-010",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove:   r.provePromotion,
		CounterProofs: []spec.Sabotage{
			r.fault("analysis skipped", `promoted without all steps`, true, "spec", "skipAnalysis"),
			r.fault("step weight 50", `rises in steps of 10`, int64(maxWeight), "spec", "analysis", "stepWeight"),
			r.fault("weight at most 20", `promoted without all steps`, int64(20), "spec", "analysis", "maxWeight"),
			spec.Swapped("a chart that says half a minute", `the chart's Canary looks each, and at metrics of`, &r.declared, []string{"30s", declaredInterval, declaredInterval}),
			r.fault("interval half as long again", `from 10 % to the end takes Flagger`, (interval * 3 / 2).String(), "spec", "analysis", "interval"),
			r.noLoad(wantOfMetrics),
			r.harmless(),
		},
	})
}

func (r *rollout) provePromotion(ctx context.Context, t spec.T, env *environment.Environment) {
	w := r.begin(ctx, t, env, nil)
	steps := []int64{0}
	var first time.Time
	held := 0 // ticks in which a check failed: on a busy machine one may, and Flagger looks again at the next
	require.EqualValues(t, 0, w.share(0), "the canary's share at the start, at the frontend's proxy")
	for !w.at.atRest() {
		before := w.at
		w.move()
		switch {
		case w.at.FailedChecks > before.FailedChecks:
			held++
			halt, _ := w.lastHalt()
			t.Logf("a check failed: %s", halt)
		case w.at.Weight > before.Weight:
			if first.IsZero() {
				first = time.Now()
			}
			require.Equal(t, steps[len(steps)-1]+stepWeight, w.share(w.at.Weight), "the canary's share at the frontend's proxy rises in steps of %d per cent", stepWeight)
			steps = append(steps, w.at.Weight)
		case w.at.Phase == "Promoting" || w.at.Phase == "Succeeded":
			require.Equal(t, []int64{0, 10, 20, 30, 40, 50}, steps, "promoted without all steps")
		}
	}
	halt, _ := w.lastHalt()
	require.Equal(t, "Succeeded", w.at.Phase, "how the rollout of a healthy version ended; Flagger's last complaint: %s", halt)
	pace := moved(t, first, 7+held, "from 10 % to the end")
	require.EqualValues(t, 0, w.share(0), "the canary's share at the end, at the frontend's proxy")
	promoted, err := r.primary(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	require.Equal(t, w.version, promoted, "the primary's version")
	spec.Check(w.t, r.answeredBy(ctx, w.version))
	users := w.finish()
	spec.Check(w.t, users.Check(minUsers, probe.ErrorsAtMost(1-minSuccess/100.)))
	t.Observe(fmt.Sprintf("version %s: shares of the frontend's proxy %v %%, then all users have it; %s; %d requests of users meanwhile, %d failed (%s)",
		w.version, steps, pace, len(users.Sent), len(users.Failed()), timeScale),
		map[string]any{"steps": steps, "requests": len(users.Sent), "failed": len(users.Failed())})
}
