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
	httpRate  = 250 // requests a second that users make, for which 3 replicas are due
	httpTimes = 20  // and 50 would be, did each count so often: more than there may be

	// Of whole numbers of requests for which a replica is wanted, 100 alone makes ten of both
	// rates: less makes eleven or more of the one, more makes nine or fewer of the other. Neither is within the
	// 10 % that the autoscaler leaves, for one is come to from three and the other from twenty.
	mostOfTen, leastOfTen, ten = 1000, 901, 10
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
			spec.Swapped("a replica for each 99 requests a second", `at 1000 requests a second: .*\b11 are wanted`, &edit, trigger(byRequests, "threshold", "99")),
			spec.Swapped("a replica for each 101 requests a second", `at 901 requests a second: .*\b9 are wanted`, &edit, trigger(byRequests, "threshold", "101")),
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
		Rate:    httpRate, For: 399 * time.Second, KeepAlive: true, // a plan has 100000 requests at most; the slowest fault wants 320 s
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

	// What a replica is wanted for is told from its neighbours at rates that are exact.
	exactly := func(rate int) change {
		return retrigger(byRequests, "query", func(was string) string { return fmt.Sprintf("%d + 0 * %s", rate, was) })
	}
	scalesAt := func(rate int, n int64, edits ...change) time.Duration {
		scope := t.Scope().Child(fmt.Sprintf("scaler at %d requests a second", rate))
		spec.Check(t, scaling(ctx, env, scope, "backend", l.ns, append([]change{at, closed, edit}, edits...)...))
		took := scalesTo(ctx, t, env, backend, n, fmt.Sprintf("the backend's replicas at %d requests a second", rate))
		spec.Check(t, scope.Close(ctx))
		return took
	}
	up10 := scalesAt(mostOfTen, ten, exactly(mostOfTen))
	// What the machine has not, each request makes up for by counting twenty times.
	most := scalesAt(httpTimes*httpRate, 20, retrigger(byRequests, "query", func(was string) string { return fmt.Sprintf("%d * %s", httpTimes, was) }))
	down10 := scalesAt(leastOfTen, ten, exactly(leastOfTen))
	last := t.Scope().Child("scaler")
	spec.Check(t, scaling(ctx, env, last, "backend", l.ns, at, closed, edit))
	spec.Check(t, traffic.Stop(ctx))
	down := scalesTo(ctx, t, env, backend, 2, "the backend's replicas when the requests are over")
	t.Observe(fmt.Sprintf("2 replicas without requests after %s; %.0f requests a second: 3 after %s; of a query that says %d: %d after %s; each request counted %d times: 20 after %s; of a query that says %d: %d after %s; 2 again %s after the last request",
		idle.Round(time.Second), rate, up.Round(time.Second), mostOfTen, ten, up10.Round(time.Second), httpTimes, most.Round(time.Second), leastOfTen, ten, down10.Round(time.Second), down.Round(time.Second)), nil)
}
