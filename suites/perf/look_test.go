package perf

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/metrics"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/autoscale"
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

// asks is a query of one value.
type asks func(ctx context.Context, query string) (value float64, has bool, err error)

// of gives the value of a query whose %s is what picks the frontend's series in a namespace.
func (a asks) of(ctx context.Context, t spec.T, ns, query string) (value float64, has bool) {
	t.Helper()
	value, has, err := a(ctx, strings.ReplaceAll(query, "%s", fmt.Sprintf(`job="pods",app="frontend",namespace=%q`, ns)))
	spec.Check(t, err)
	return value, has
}

// levelsKept asserts that the recorded levels keep to the objectives, and that they are
// what the requests give, counted anew.
func levelsKept(ctx context.Context, t spec.T, value asks, ns string, least float64) kept {
	t.Helper()
	var l kept
	if l.requests, _ = value.of(ctx, t, ns, `sum(increase(http_requests_total{%s}[30d]))`); l.requests < least {
		t.Inconclusive("no samples", "Prometheus has seen %.0f requests at the frontend of %s: want %.0f", l.requests, ns, least)
	}
	if now, _ := value.of(ctx, t, ns, `sum(increase(http_requests_total{%s}[5m]))`); now == 0 {
		t.Inconclusive("no samples", "nobody asked the frontend of %s anything in five minutes", ns)
	}
	l.recorded = read(ctx, t, value, ns)
	require.GreaterOrEqual(t, l.Availability, 0.999, "sli:availability:ratio_rate30d")
	require.LessOrEqual(t, l.P99, 0.5, "sli:latency:p99_5m, in seconds")
	require.GreaterOrEqual(t, l.Remaining, 0.0, "slo:error_budget:remaining")
	recounted(ctx, t, value, ns, l)
	return l
}

// recounted asserts that levels are what the requests give, by other ways than the rules'.
func recounted(ctx context.Context, t spec.T, value asks, ns string, l kept) {
	t.Helper()
	failed, _ := value.of(ctx, t, ns, `sum(increase(http_requests_total{%s,code=~"5.."}[30d])) / sum(increase(http_requests_total{%s}[30d]))`)
	// The rules are evaluated some seconds before or after, between which one may fail.
	require.InDelta(t, 1-failed, l.Availability, max(1e-4, 2/l.requests), "sli:availability:ratio_rate30d, counted anew")
	within, has := value.of(ctx, t, ns, `sum(increase(http_request_duration_seconds_bucket{%s,le="0.5"}[5m])) / sum(increase(http_request_duration_seconds_count{%s}[5m]))`)
	require.True(t, has, "answers in five minutes")
	atTheEdge := math.Abs(within-0.99) < 0.002
	require.True(t, (l.P99 <= 0.5) == (within >= 0.99) || atTheEdge, "sli:latency:p99_5m is %g s, and %g of the answers came within half a second", l.P99, within)
}

// lookAtHPA proves PRF-013 where no load may be made: by what the autoscaler of the platform's
// own frontend has measured of its users, and what it made of that. At an hour at which they want
// no more replicas than there are at least, nothing is to be seen of it.
func lookAtHPA(ctx context.Context, t spec.T, env *environment.Environment) {
	scaledAsStated(ctx, t, env, "frontend")
	var all autoscalingv2.HorizontalPodAutoscalerList
	spec.Check(t, env.Client().List(ctx, &all, client.InNamespace(appNamespace)))
	by := slices.DeleteFunc(all.Items, func(h autoscalingv2.HorizontalPodAutoscaler) bool { return h.Spec.ScaleTargetRef.Name != "frontend" })
	require.Len(t, by, 1, "autoscalers of frontend: two would contend")
	hpa := measuresBoth(ctx, t, env, by[0])
	for name, aim := range map[corev1.ResourceName]int32{corev1.ResourceCPU: frontendCPU, corev1.ResourceMemory: frontendMemory} {
		require.Equal(t, aim, autoscale.Aim(by[0], name), "per cent of %s that the frontend's autoscaler aims at", name)
	}
	var h autoscalingv2.HorizontalPodAutoscaler
	spec.Check(t, env.Client().Get(ctx, client.ObjectKeyFromObject(&by[0]), &h))
	if h.Status.DesiredReplicas <= frontendLeast && !autoscale.Loaded(h) {
		t.Inconclusive("no samples", "users ask for no more than the %d replicas that the frontend has at least, at %s: look again when they ask for more", frontendLeast, utilization(h.Status))
	}
	_, err := wait.On(env.Config).Until(ctx, follow(env), hpa, saysMore)
	spec.InTime(t, err, fmt.Sprintf("the frontend has more than %d replicas under its users' load, at %s", frontendLeast, utilization(h.Status)))
	spec.Check(t, env.Client().Get(ctx, client.ObjectKeyFromObject(&h), &h))
	require.LessOrEqual(t, h.Status.DesiredReplicas, int32(frontendMost), "replicas of the frontend")
	t.Observe(fmt.Sprintf("its users have the frontend want %d replicas of %d to %d, at %s (of %d %% and %d %%)",
		h.Status.DesiredReplicas, frontendLeast, frontendMost, utilization(h.Status), frontendCPU, frontendMemory), h.Status)
}
