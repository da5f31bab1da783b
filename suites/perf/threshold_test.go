package perf

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// misspelt is a threshold of a part that no request belongs to.
const misspelt = "http_req_duration{name:raed}"

// weigh says what comes of judgements; faults put another in its place for their time.
type weigh func(all []loadtest.Judgement) string

// bySamples is how all scenarios are judged: what has no samples is no pass.
func bySamples(all []loadtest.Judgement) string {
	reason, _ := firstUnsettled(all)
	switch {
	case reason != "":
		return "inconclusive"
	case slices.ContainsFunc(all, func(j loadtest.Judgement) bool { return !j.Kept }):
		return "refuted"
	}
	return "proved"
}

// thresholdWithoutSamples proves that a threshold of which k6 has measured nothing is
// no pass, though k6 itself calls it kept.
func thresholdWithoutSamples(t *testing.T, u *underLoad) {
	verdict := weigh(bySamples)
	line := fmt.Sprintf("options.thresholds['%s'] = ['p(95)<500'];\n", misspelt)
	l := load{edit: func(script string) string { return script + line }}
	spec.Run(t, spec.Specification{
		ID: "PRF-007", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, u}, Timeout: 4 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			out, err := u.run(ctx, env, t.Scope(), k6{
				script: "baseline", limit: time.Minute, most: loadtest.Scenario{Users: 2}.MostRequests(3 * time.Second), edit: l.edit,
				env: map[string]string{"TIME_SCALE": "100", "USERS_MOST": "2"}, // three seconds
			})
			spec.Check(t, err)
			all, err := out.samples.Judge(out.judged)
			spec.Check(t, err)
			at := slices.IndexFunc(all, func(j loadtest.Judgement) bool { return j.Metric == misspelt })
			require.GreaterOrEqual(t, at, 0, "k6 was told of a threshold of %s", misspelt)
			if !all[at].Said {
				t.Inconclusive("k6 judges otherwise", "k6 calls %s not kept: its own judgement is no false pass any more", all[at].Name())
			}
			require.True(t, all[at].None, "no sample of %s", all[at].Name())
			measured := slices.ContainsFunc(all, func(j loadtest.Judgement) bool { return !j.None })
			require.True(t, measured, "thresholds with samples in the same run")
			require.Equal(t, "inconclusive", verdict(all), "the verdict on %s, which has no samples and which k6 calls kept", all[at].Name())
			t.Observe(fmt.Sprintf("%s: k6 ends with %d and calls it kept, of no sample; %d other thresholds have samples; the verdict is inconclusive", all[at].Name(), out.exit, len(all)-1), nil)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("k6's own judgement taken", `the verdict on`, &verdict, weigh(func(all []loadtest.Judgement) string {
				if slices.ContainsFunc(all, func(j loadtest.Judgement) bool { return !j.Said }) {
					return "refuted"
				}
				return "proved"
			})),
			spec.Swapped("nothing measured taken for nought", `the verdict on`, &verdict, weigh(func(all []loadtest.Judgement) string {
				if slices.ContainsFunc(all, func(j loadtest.Judgement) bool { return !j.None && !j.Kept }) {
					return "refuted"
				}
				return "proved"
			})),
			spec.Swapped("the threshold left out", `k6 was told of a threshold`, &l, load{edit: func(script string) string { return script + "// no more\n" }}),
			spec.Harmless(spec.Swapped("one threshold more", "", &l, load{edit: func(script string) string {
				return script + line + "options.thresholds['http_req_duration{name:add}'] = ['p(95)<10000'];\n"
			}})),
		},
	})
}
