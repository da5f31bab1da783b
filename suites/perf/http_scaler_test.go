package perf

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	httpRate  = 250  // requests a second that users make, for which 3 replicas are due
	httpTimes = "20" // and 50 would be, did each count so often: more than there may be
)

// TestHTTPScaler proves that the backend has a replica for each 100 requests a second
// that it answers, from 2 to 20.
func TestHTTPScaler(t *testing.T) {
	l := newLevels(t, "http", map[string]any{"backend": light(2)})
	var edit change
	spec.Run(t, spec.Specification{
		ID: "PRF-011", Risk: spec.Namespaced, Needs: []spec.Need{docuthinker, autoscaling, l}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveHTTPScaler(ctx, t, env, l, edit)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("a replica for each 1000 requests a second", `at 250 requests a second: .*\b2 are wanted`, &edit, trigger(byRequests, "threshold", "1000")),
			spec.Swapped("one replica is enough", `without requests: .*\b1 are wanted`, &edit, field("ScaledObject", int64(1), "spec", "minReplicaCount")),
			spec.Swapped("19 replicas at most", `at 5000 requests a second: .*\b19 are wanted`, &edit, field("ScaledObject", int64(19), "spec", "maxReplicaCount")),
			spec.Swapped("the requests of another namespace", `at 250 requests a second: .*\b2 are wanted`, &edit, retrigger(byRequests, "query", func(was string) string {
				return strings.Replace(was, `namespace="`, `namespace="not-`, 1)
			})),
			spec.Swapped("business hours all day", `without requests: .*\b10 are wanted`, &edit, func(o *unstructured.Unstructured) {
				trigger(byHours, "start", "0 0 1 1 *")(o)
				trigger(byHours, "end", "* * * * *")(o) // each end comes before the next begin
			}),
			altered("the platform's own backend has 19 replicas at most", "backend", func(o *unstructured.Unstructured) error {
				return unstructured.SetNestedField(o.Object, int64(19), "spec", "maxReplicaCount")
			}),
			spec.Harmless(spec.Swapped("KEDA asks each two seconds", "", &edit, field("ScaledObject", int64(2), "spec", "pollingInterval"))),
		},
	})
}

func proveHTTPScaler(ctx context.Context, t spec.T, env *environment.Environment, l *levels, edit change) {
	scaledAsStated(ctx, t, env, "backend") // before it is tried on a copy
	m, err := l.monitored(ctx, env, t.Scope(), watching{})
	spec.Check(t, err)
	at := trigger(byRequests, "serverAddress", m.address())
	backend := deploymentOf(l.ns, "backend")

	// Business hours bring replicas of their own: here they are half a day off, at any time.
	off := time.Now().In(newYork(t)).Add(12 * time.Hour)
	closed := func(o *unstructured.Unstructured) {
		trigger(byHours, "start", minuteOf(off))(o)
		trigger(byHours, "end", minuteOf(off.Add(time.Minute)))(o)
	}

	first := t.Scope().Child("scaler")
	spec.Check(t, scaling(ctx, env, first, "backend", l.ns, at, closed, edit))
	idle := scalesTo(ctx, t, env, backend, 2, "the backend's replicas without requests")
	traffic, err := l.pods["users"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "http://backend." + l.ns + ":8080/api/documents?limit=1", Timeout: time.Second},
		Rate:    httpRate, For: 390 * time.Second, KeepAlive: true,
	})
	spec.Check(t, err)
	defer func() { _ = traffic.Stop(ctx) }()
	up := scalesTo(ctx, t, env, backend, 3, fmt.Sprintf("the backend's replicas at %d requests a second", httpRate))
	rate, has, err := m.value(ctx, `sum(rate(http_requests_total{app="backend"}[15s]))`)
	spec.Check(t, err)
	if !has || rate < 0.9*httpRate || rate > 1.1*httpRate {
		t.Inconclusive("less load than planned", "the backend answers %.0f requests a second, %d were to be", rate, httpRate)
	}
	spec.Check(t, first.Close(ctx))

	// What the machine has not, each request makes up for by counting twenty times.
	times := retrigger(byRequests, "query", func(was string) string { return httpTimes + " * " + was })
	many := t.Scope().Child("scaler of many")
	spec.Check(t, scaling(ctx, env, many, "backend", l.ns, at, closed, times, edit))
	most := scalesTo(ctx, t, env, backend, 20, "the backend's replicas at 5000 requests a second")
	spec.Check(t, traffic.Stop(ctx))
	down := scalesTo(ctx, t, env, backend, 2, "the backend's replicas when the requests are over")
	t.Observe(fmt.Sprintf("2 replicas without requests after %s; %.0f requests a second: 3 after %s; each counted %s times: 20 after %s; 2 again %s after the last request",
		idle.Round(time.Second), rate, up.Round(time.Second), httpTimes, most.Round(time.Second), down.Round(time.Second)), nil)
}
