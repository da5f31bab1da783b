package mesh

import (
	"context"
	"fmt"
	"math"
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
			r.fault("interval half as long again", `the shortest of \d+ intervals took 1[2-7]\S*s, and is to be 10s`, (interval * 3 / 2).String(), "spec", "analysis", "interval"),
			r.noLoad(wantOfMetrics),
			r.harmless(),
		},
	})
}

func (r *rollout) provePromotion(ctx context.Context, t spec.T, env *environment.Environment) {
	w := r.begin(ctx, t, env, nil)
	steps := []int64{0}
	var first time.Time
	var looks []time.Time // Flagger's, at which it gave the new version more, or a check failed
	held := 0             // ticks in which a check failed: on a busy machine one may, and Flagger looks again at the next
	require.EqualValues(t, 0, w.share(0), "the canary's share at the start, at the frontend's proxy")
	for !w.at.atRest() {
		before := w.at
		w.move()
		switch {
		case w.at.FailedChecks > before.FailedChecks:
			held++
			looks = append(looks, time.Now())
			halt, _ := w.lastHalt()
			t.Logf("a check failed: %s", halt)
		case w.at.Weight > before.Weight:
			looks = append(looks, time.Now())
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
	// A busy machine makes some of them longer, and another interval all of them.
	shortest := shortestOf(looks)
	require.LessOrEqual(t, shortest, time.Duration(float64(interval)*slack), "the shortest of %d intervals took %s, and is to be %s", len(looks)-1, shortest, interval)
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

// shortestOf is the shortest time from one of several moments to the next.
func shortestOf(moments []time.Time) time.Duration {
	shortest := time.Duration(math.MaxInt64)
	for i := 1; i < len(moments); i++ {
		shortest = min(shortest, moments[i].Sub(moments[i-1]).Round(time.Millisecond))
	}
	return shortest
}
