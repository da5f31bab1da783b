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
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/autoscale"
)

const (
	backendLeast = 2
	httpRate     = 250 // requests a second that users make, for which 3 replicas are due
	httpTimes    = 20  // and 50 would be, did each count so often: more than there may be

	// Of whole numbers of requests for which a replica is wanted, 100 alone makes ten of both
	// rates: less makes eleven or more of the one, more makes nine or fewer of the other. Neither is within the
	// 10 % that the autoscaler leaves, for one is come to from two and the other from twenty.
	mostOfTen, leastOfTen, ten = 1000, 901, 10
)

// countedTimeout is for the window of the scaler's query, a minute at most, to have all
// requests that users make, or none of those of a proof before.
var countedTimeout = wait.Timeout{Name: "loadIsCounted", D: 75 * time.Second}

// TestHTTPScaler proves that the backend has a replica for each 100 requests a second
// that it answers, from 2 to 20.
func TestHTTPScaler(t *testing.T) {
	l := newLevels(t, "http", map[string]any{"backend": light(backendLeast)})
	m := newMeter(t, l)
	var edit change
	rate := float64(httpRate)
	less := spec.Swapped("users who ask less than planned", "", &rate, 0.8*httpRate)
	less.Unsettles = "less load than planned"
	spec.Run(t, spec.Specification{
		ID: "PRF-011", Risk: spec.Namespaced, Needs: []spec.Need{docuthinker, autoscaling, l, m}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveHTTPScaler(ctx, t, env, m, rate, edit)
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
			less,
			altered("the platform's own backend has 19 replicas at most", "backend", func(o *unstructured.Unstructured) error {
				return unstructured.SetNestedField(o.Object, int64(19), "spec", "maxReplicaCount")
			}),
			spec.Harmless(spec.Swapped("KEDA asks each two seconds", "", &edit, field("ScaledObject", int64(2), "spec", "pollingInterval"))),
		},
	})
}

// meter is a Prometheus that stands as long as the application whose requests it counts:
// what a scaler asks it is of seconds.
type meter struct {
	*spec.Stage
	*monitors
}

func newMeter(t *testing.T, l *levels) *meter {
	t.Helper()
	m := &meter{}
	m.Stage = spec.NewStage(t, "Prometheus of "+l.Name(), func(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
		m.monitors, err = l.monitored(ctx, env, scope, watching{})
		return err
	})
	return m
}

// counts waits until what the scaler asks has an answer within bounds, and gives it.
func (m *meter) counts(ctx context.Context, query string, low, high float64) (rate float64, err error) {
	err = wait.Answers(ctx, countedTimeout, fmt.Sprintf("Prometheus to count %.0f to %.0f requests a second", low, high), func(ctx context.Context) (string, error) {
		now, has, err := m.value(ctx, query)
		if err != nil {
			return err.Error(), nil // on a busy machine a question may fail
		}
		if rate = now; !has {
			rate = 0
		}
		if rate < low || rate > high {
			return fmt.Sprintf("it counts %.0f", rate), nil
		}
		return "", nil
	})
	return rate, err
}

// load has users ask the backend until it is stopped, once they are answered at the rate at
// which 250 are to be: a machine that bears less is none on which a scaler could be seen to
// follow. It gives the rate that is counted by the scaler's query.
func (m *meter) load(ctx context.Context, t spec.T, query string, rate float64) (traffic *probe.Record, seen float64) {
	t.Helper()
	traffic, err := m.pods["users"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "http://backend." + m.ns + ":8080/api/documents?limit=1", Timeout: time.Second},
		Rate:    rate, For: 399 * time.Second, KeepAlive: true, // a plan has 100000 requests at most; what is asked while they last takes 360 s at most on kind
	})
	spec.Check(t, err)
	spec.Check(t, traffic.Await(ctx, int(10*rate))) // sooner, the shortest window has not enough of them
	seen, err = m.counts(ctx, query, 0.9*httpRate, 1.1*httpRate)
	if err != nil {
		_ = traffic.Stop(ctx)
		t.Inconclusive("less load than planned", "%d requests a second were to be answered: %v", httpRate, err)
	}
	return traffic, seen
}

func proveHTTPScaler(ctx context.Context, t spec.T, env *environment.Environment, m *meter, rate float64, edit change) {
	scaledAsStated(ctx, t, env, "backend") // before it is tried on a copy
	spec.Check(t, rested(ctx, env, "backend", m.ns, backendLeast))

	// Business hours bring replicas of their own: here they are half a day off, at any time.
	off := time.Now().In(newYork(t)).Add(12 * time.Hour)
	closed := func(o *unstructured.Unstructured) {
		trigger(byHours, "start", minuteOf(off))(o)
		trigger(byHours, "end", minuteOf(off.Add(time.Minute)))(o)
	}
	var declared, requests string // the query, and as a fault has it
	objects, err := autoscalersOf(ctx, env, "backend", m.ns, nil)
	spec.Check(t, err)
	spec.Check(t, autoscale.Compress(objects[0], env.Profile.TimeScale))
	retrigger(byRequests, "query", func(was string) string { declared = was; return was })(objects[0])
	_, err = m.counts(ctx, declared, 0, 1)
	spec.Check(t, err)
	spec.Check(t, scaling(ctx, env, t.Scope(), "backend", m.ns, trigger(byRequests, "serverAddress", m.address()), closed, edit,
		retrigger(byRequests, "query", func(was string) string { requests = was; return was })))
	replicas := func(n int64, when string) time.Duration {
		return scalesTo(ctx, t, env, deploymentOf(m.ns, "backend"), n, "the backend's replicas "+when)
	}
	goesBy := func(query string, n int64, when string) time.Duration {
		spec.Check(t, rescaled(ctx, t.Scope(), "backend", m.ns, trigger(byRequests, "query", query)))
		return replicas(n, when)
	}
	at := func(rate int) string { return fmt.Sprintf("at %d requests a second", rate) }

	idle := replicas(backendLeast, "without requests")
	traffic, seen := m.load(ctx, t, declared, rate)
	defer func() { _ = traffic.Stop(ctx) }()
	up := replicas(3, at(httpRate))
	// What the machine has not, each request makes up for by counting twenty times.
	most := goesBy(fmt.Sprintf("%d * %s", httpTimes, requests), 20, at(httpTimes*httpRate))
	spec.Check(t, traffic.Stop(ctx))
	// What a replica is wanted for is told from its neighbours at rates that are exact.
	exactly := func(rate int) string { return fmt.Sprintf("vector(%d)", rate) }
	down10 := goesBy(exactly(leastOfTen), ten, at(leastOfTen))
	down := goesBy(requests, backendLeast, "when the requests are over")
	up10 := goesBy(exactly(mostOfTen), ten, at(mostOfTen))
	t.Observe(fmt.Sprintf("2 replicas wanted without requests after %s; %.0f requests a second: 3 after %s; each of them counted %d times: 20 after %s; of a query that says %d: %d after %s; of the requests, which are over: 2 after %s; of a query that says %d: %d after %s",
		idle.Round(time.Second), seen, up.Round(time.Second), httpTimes, most.Round(time.Second), leastOfTen, ten, down10.Round(time.Second), down.Round(time.Second), mostOfTen, ten, up10.Round(time.Second)), nil)
}
