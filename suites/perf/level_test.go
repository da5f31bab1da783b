package perf

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/suites/perf/slo"
)

// TestServiceLevels proves the rules by which the platform is watched, and whom they tell, by
// one instance of the application: both proofs are alone, and each has monitors of its own.
func TestServiceLevels(t *testing.T) {
	t.Parallel() // else the others would not begin to build before the last of these has ended
	l := newLevels(t, "levels", nil)
	t.Run("levels", func(t *testing.T) { computed(t, l) })
	t.Run("burn", func(t *testing.T) { burn(t, l) })
}

// computed proves that the platform's rules compute what a known traffic must give: users
// count their answers themselves.
func computed(t *testing.T, l *levels) {
	var w watching
	rewritten := func(name, kills, record, old, with string) spec.Sabotage {
		return spec.Swapped(name, kills, &w, watching{rules: func(r *slo.Rules) {
			rule := r.Recording(record)
			rule.Expr = strings.ReplaceAll(rule.Expr, old, with)
		}})
	}
	spec.Run(t, spec.Specification{
		ID: "PRF-008", Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{docuthinker, l}, Timeout: 4 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveLevels(ctx, t, env, l, w) },
		Look:  lookAtLevels,
		CounterProofs: []spec.Sabotage{
			rewritten("availability over the wrong job", `sli:availability:ratio_rate30d has a value`, "sli:availability:ratio_rate30d", `job="pods"`, `job="prometheus"`),
			rewritten("errors of the backend's in the place of users'", `sli:availability:ratio_rate30d(, counted anew| when \d+ of)`, "sli:availability:ratio_rate30d", `app="frontend", code`, `app="backend", code`),
			rewritten("milliseconds called seconds", `sli:latency:p99_5m(, in seconds| is)`, "sli:latency:p99_5m", "histogram_quantile", "1000 * histogram_quantile"),
			rewritten("a budget of another objective", `slo:error_budget:remaining when \d+ of`, "slo:error_budget:remaining", "0.999", "0.99"),
			rewritten("a tenth of all answers called errors", `sli:availability:ratio_rate30d: .* is not greater`, "sli:availability:ratio_rate30d", "1 - (", "0.9 - ("),
			rewritten("a budget that is overdrawn", `slo:error_budget:remaining: .* is not greater`, "slo:error_budget:remaining", "1 - (1 -", "-1 - (1 -"),
			spec.Harmless(spec.Swapped("an alert that nobody needs left out", "", &w, watching{rules: func(r *slo.Rules) {
				r.Groups[1].Rules = r.Groups[1].Rules[:len(r.Groups[1].Rules)-1]
			}})),
		},
	})
}

// What the frontend's users meet in the second part of the traffic, and the bounds of
// the histogram's bucket in which its answers must be then.
const (
	errorShare               = 0.02
	answersAfter             = 300 * time.Millisecond
	fromSeconds, upToSeconds = 0.25, 0.5
)

func proveLevels(ctx context.Context, t spec.T, env *environment.Environment, l *levels, w watching) {
	m := l.counted(ctx, t, env, w)
	spec.Check(t, m.scraped(ctx, time.Now()))

	all, errs := l.answered(ctx, t, 50, 10*time.Second)
	if errs > 0 {
		t.Inconclusive("the traffic is not known", "%d of %d requests of users failed without a fault", errs, all)
	}
	spec.Check(t, m.scraped(ctx, time.Now()))
	good := levelsKept(ctx, t, m.value, m.ns, 0.9*float64(all)).recorded
	require.InDelta(t, 1, good.Availability, 1e-9, "sli:availability:ratio_rate30d when no request of %d failed", all)
	require.InDelta(t, 1, good.Remaining, 1e-6, "slo:error_budget:remaining when no request of %d failed", all)

	spec.Check(t, l.fault(ctx, env, t.Scope(), map[string]any{"errorRate": errorShare, "latency": answersAfter.String()}))
	more, errs := l.answered(ctx, t, 50, 10*time.Second)
	if errs == 0 {
		t.Inconclusive("the fault did not happen", "none of %d requests failed, at an error rate of %g", more, errorShare)
	}
	all += more
	share := float64(errs) / float64(all)
	bad := m.recorded(ctx, t)
	recounted(ctx, t, m.value, m.ns, kept{bad, float64(all)})
	// Within half a request.
	require.InDelta(t, 1-share, bad.Availability, 0.5/float64(all), "sli:availability:ratio_rate30d when %d of %d requests failed", errs, all)
	require.True(t, bad.P99 > fromSeconds && bad.P99 <= upToSeconds, "sli:latency:p99_5m is %g s when all are answered after %s: want above %g, up to %g", bad.P99, answersAfter, fromSeconds, upToSeconds)
	require.InDelta(t, 1-share/0.001, bad.Remaining, 0.5/float64(all)/0.001, "slo:error_budget:remaining when %d of %d requests failed", errs, all)
	t.Observe(fmt.Sprintf("%d requests, %d of them failed: availability %.5f, budget left %.2f, p99 %.3f s; before that all was well: availability %g, p99 %.3f s (times %g times shorter)",
		all, errs, bad.Availability, bad.Remaining, bad.P99, good.Availability, good.P99, shorter(env.Profile)), map[string]any{"requests": all, "errors": errs, "well": good, "ill": bad})
}

// recorded are the three levels as the rules have them.
type recorded struct {
	Availability float64 `json:"availability"`
	P99          float64 `json:"p99Seconds"`
	Remaining    float64 `json:"budgetRemaining"`
}

// recorded are the levels once Prometheus knows all traffic so far. Traffic that it
// knows nothing of says nothing of the rules.
func (m *monitors) recorded(ctx context.Context, t spec.T) (r recorded) {
	t.Helper()
	spec.Check(t, m.scraped(ctx, time.Now()))
	if seen, has, err := m.value(ctx, `sum(increase(http_requests_total{job="pods",app="frontend"}[1h]))`); err != nil || !has || seen == 0 {
		spec.Check(t, err)
		t.Inconclusive("no samples", "Prometheus has seen no request at the frontend")
	}
	return read(ctx, t, m.value, m.ns)
}

// read are the levels of a namespace as Prometheus has them.
func read(ctx context.Context, t spec.T, value asks, ns string) (r recorded) {
	t.Helper()
	for _, of := range []struct {
		record string
		to     *float64
	}{
		{"sli:availability:ratio_rate30d", &r.Availability}, {"sli:latency:p99_5m", &r.P99}, {"slo:error_budget:remaining", &r.Remaining},
	} {
		query := fmt.Sprintf("%s{namespace=%q}", of.record, ns)
		if of.to == &r.P99 { // it has no value once nobody has asked anything for the length of its window, which is five seconds on kind
			query = fmt.Sprintf("last_over_time((%[1]s == %[1]s)[20s:1s])", query)
		}
		got, has, err := value(ctx, query)
		spec.Check(t, err)
		require.True(t, has, "%s has a value", of.record)
		*of.to = got
	}
	return r
}
