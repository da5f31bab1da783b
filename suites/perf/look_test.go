package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	appNamespace = "docuthinker-prod" // where users of the platform's meet DocuThinker
	fewest       = 1000               // requests of theirs of which one in a thousand says something
)

// lookAtLevels proves PRF-008 where nothing may be injected: by what the platform's own
// Prometheus has of its users.
func lookAtLevels(ctx context.Context, t spec.T, _ *environment.Environment) {
	query, err := metrics.Given()
	if errors.Is(err, metrics.ErrNone) {
		t.Inconclusive("no metrics", "%v", err)
	}
	spec.Check(t, err)
	l := levelsKept(ctx, t, query.Value, appNamespace, fewest)
	t.Observe(fmt.Sprintf("of %.0f requests of users in 30 days %.5f were answered without an error, and %.3g of the error budget is left; in the last five minutes 99 %% of the answers came within %.3f s",
		l.requests, l.Availability, l.Remaining, l.P99), l.recorded)
}

// kept are the levels that users met, and how many requests these are made of.
type kept struct {
	recorded
	requests float64
}

// levelsKept asserts that the recorded levels keep to the objectives, and that they are
// what the requests give, counted anew.
func levelsKept(ctx context.Context, t spec.T, value func(context.Context, string) (float64, bool, error), ns string, least float64) kept {
	t.Helper()
	of := func(query string, labels string) float64 {
		got, _, err := value(ctx, fmt.Sprintf(query, fmt.Sprintf(`job="pods",app="frontend",namespace=%q%s`, ns, labels)))
		spec.Check(t, err)
		return got
	}
	l := kept{requests: of(`sum(increase(http_requests_total{%s}[30d]))`, "")}
	if l.requests < least {
		t.Inconclusive("no samples", "Prometheus has seen %.0f requests at the frontend of %s: want %.0f", l.requests, ns, least)
	}
	l.recorded = read(ctx, t, value, ns)
	require.GreaterOrEqual(t, l.Availability, 0.999, "sli:availability:ratio_rate30d")
	require.LessOrEqual(t, l.P99, 0.5, "sli:latency:p99_5m, in seconds")
	require.GreaterOrEqual(t, l.Remaining, 0.0, "slo:error_budget:remaining")
	failed := of(`sum(increase(http_requests_total{%s}[30d]))`, `,code=~"5.."`)
	// The rules are evaluated some seconds before or after.
	require.InDelta(t, 1-failed/l.requests, l.Availability, 0.0001, "sli:availability:ratio_rate30d, of which %.0f of %.0f requests failed", failed, l.requests)
	fast := of(`sum(increase(http_request_duration_seconds_bucket{%s}[5m]))`, `,le="0.5"`)
	all := of(`sum(increase(http_request_duration_seconds_count{%s}[5m]))`, "")
	if all > 0 {
		require.GreaterOrEqual(t, fast/all, 0.99, "answers within half a second, in five minutes, when sli:latency:p99_5m is %g s", l.P99)
	}
	return l
}
