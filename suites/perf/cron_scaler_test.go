package perf

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // where this machine has no time zones

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	officeZone = "America/New_York"
	officePods = 10
	// officeLeast is how many replicas there are without requests: minReplicaCount.
	officeLeast = 2
)

// instants are some at which business hours have begun, or not, by the wall clock of New
// York. In 2026 its clocks go forward on 8 March and back on 1 November.
var instants = []struct {
	at   string // UTC
	open bool
}{
	{"2026-03-06T12:59:59Z", false},
	{"2026-03-06T13:00:01Z", true}, // a Friday, 8:00 EST
	{"2026-03-06T22:59:59Z", true},
	{"2026-03-06T23:00:01Z", false}, // 18:00 EST
	{"2026-03-08T15:00:00Z", false}, // the Sunday of the change
	{"2026-03-09T11:59:59Z", false},
	{"2026-03-09T12:00:01Z", true}, // the Monday after it, 8:00 EDT
	{"2026-03-09T21:59:59Z", true},
	{"2026-03-09T22:00:01Z", false},
	{"2026-10-30T11:59:59Z", false},
	{"2026-10-30T12:00:01Z", true},
	{"2026-11-02T12:30:00Z", false},
	{"2026-11-02T13:00:01Z", true},
	{"2026-11-02T22:59:59Z", true},
	{"2026-11-02T23:00:01Z", false},
	{"2026-07-04T15:00:00Z", false}, // a Saturday
}

// TestCronScaler proves that the backend has ten replicas in business hours of New York.
// What KEDA does is seen on both sides of a boundary by a schedule around the present;
// that the platform's own schedule is meant for the right instants, daylight saving
// included, by the parser that KEDA uses.
func TestCronScaler(t *testing.T) {
	l := newLevels(t, "cron", map[string]any{"backend": light(officeLeast)})
	m := newMeter(t, l)
	var edit change
	var told turns
	spec.Run(t, spec.Specification{
		ID: "PRF-012", Risk: spec.Namespaced, Needs: []spec.Need{docuthinker, autoscaling, l, m}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveCronScaler(ctx, t, env, m, edit, told)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("hours of UTC", `business hours at .* in New York`, &edit, trigger(byHours, "timezone", "Etc/UTC")),
			spec.Swapped("nine replicas", `in business hours: .*\b9 are wanted`, &edit, trigger(byHours, "desiredReplicas", "9")),
			spec.Swapped("at most nine replicas", `in business hours: .*\b9 are wanted`, &edit, field("ScaledObject", int64(9), "spec", "maxReplicaCount")),
			// The minute has passed in UTC when it comes in New York.
			spec.Swapped("a begin in UTC", `before business hours: .*\b10 are wanted`, &told, turns{begin: trigger(byHours, "timezone", "Etc/UTC")}),
			spec.Swapped("an end in UTC", `until the end of business hours: .*\b2 are wanted`, &told, turns{end: trigger(byHours, "timezone", "Etc/UTC")}),
			spec.Harmless(spec.Swapped("KEDA asks each two seconds", "", &edit, field("ScaledObject", int64(2), "spec", "pollingInterval"))),
		},
	})
}

// turns are what faults do to the hours when these are told their begin, and their end.
type turns struct{ begin, end change }

// clocks is how much a cluster's clock may be ahead of ours.
const clocks = 2 * time.Second

// hoursTimeout is for KEDA to pass other hours on to the autoscaler.
var hoursTimeout = wait.Timeout{Name: "hoursTold", D: 15 * time.Second}

func proveCronScaler(ctx context.Context, t spec.T, env *environment.Environment, m *meter, edit change, told turns) {
	objects, err := autoscalersOf(ctx, env, "backend", m.ns, nil)
	spec.Check(t, err)
	if edit != nil {
		edit(objects[0])
	}
	hours, err := scheduleOf(objects[0])
	spec.Check(t, err)
	for _, i := range instants {
		at, err := time.Parse(time.RFC3339, i.at)
		spec.Check(t, err)
		require.Equal(t, i.open, hours.open(at), "business hours at %s, which is %s in New York", i.at, at.In(newYork(t)).Format("Mon 15:04:05 MST"))
	}

	// Of the other trigger of the same scaler nobody asks anything, but Prometheus must
	// answer, for while a metric is in error the autoscaler takes no replica away. Hours are
	// far off at first, and so is their end until all was seen in them: nothing can be late.
	spec.Check(t, rested(ctx, env, "backend", m.ns, officeLeast))
	now := time.Now().In(newYork(t))
	spec.Check(t, scaling(ctx, env, t.Scope(), "backend", m.ns, trigger(byRequests, "serverAddress", m.address()),
		trigger(byHours, "start", minuteOf(now.Add(8*time.Hour))), trigger(byHours, "end", minuteOf(now.Add(16*time.Hour))), edit))
	backend := deploymentOf(m.ns, "backend")
	begin := turnsAt(ctx, t, env, backend, "start", told.begin, officeLeast, "the backend's replicas before business hours")
	in := scalesFrom(ctx, t, env, begin, backend, officePods, "the backend's replicas in business hours")
	end := turnsAt(ctx, t, env, backend, "end", told.end, officePods, "the backend's replicas until the end of business hours")
	after := scalesFrom(ctx, t, env, end, backend, officeLeast, "the backend's replicas after business hours")
	t.Observe(fmt.Sprintf("hours from %s to %s in New York: 2 replicas until their begin, 10 wanted %s after it and until their end, 2 again %s after that; %d instants of the platform's own schedule, both changes of the clocks among them, are as they should be",
		begin.Format("15:04"), end.Format("15:04 MST"), in.Round(time.Second), after.Round(time.Second), len(instants)), nil)
}

// turnsAt moves the start or the end of business hours to the next whole minute before which
// it would show if they had turned already: in two looks of the controller, and where fewer
// replicas are then wanted, once these have been enough for long enough. It makes sure that
// so many are wanted until then, and gives that minute.
func turnsAt(ctx context.Context, t spec.T, env *environment.Environment, of wait.Target, which string, fault change, n int64, how string) time.Time {
	t.Helper()
	shows := settled(env)
	if which == "end" {
		shows += time.Duration(float64(steady) / env.Profile.TimeScale)
	}
	metrics := func(o *unstructured.Unstructured) []any { // KEDA names that of hours by them
		all, _, _ := unstructured.NestedSlice(o.Object, "spec", "metrics")
		return all
	}
	hpa, before := hpaOf(of.Namespace, of.Name), &unstructured.Unstructured{}
	before.SetGroupVersionKind(hpaKind)
	spec.Check(t, env.Client().Get(ctx, client.ObjectKey{Namespace: hpa.Namespace, Name: hpa.Name}, before))
	at := time.Now().In(newYork(t)).Add(hoursTimeout.D + shows + clocks).Truncate(time.Minute).Add(time.Minute)
	spec.Check(t, rescaled(ctx, t.Scope(), of.Name, of.Namespace, trigger(byHours, which, minuteOf(at)), fault))
	_, err := wait.On(env.Config).Until(ctx, hoursTimeout, hpa, wait.Condition{What: "go by other hours", Missing: func(o *unstructured.Unstructured) string {
		if reflect.DeepEqual(metrics(before), metrics(o)) {
			return "it goes by those before"
		}
		return ""
	}})
	left := time.Until(at) - clocks
	if err != nil || left < shows {
		t.Inconclusive("too late", "what the autoscaler makes of hours whose %s is at %s shows in %s, and there are %s: %v", which, at.Format("15:04"), shows, left.Round(time.Second), err)
	}
	spec.InTime(t, wait.On(env.Config).Holds(ctx, left, of, wantReplicas(n, n)), how)
	return at
}

// minuteOf is a cron expression of one minute of each day.
func minuteOf(at time.Time) string { return fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()) }

func newYork(t spec.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(officeZone)
	spec.Check(t, err)
	return zone
}

// schedule is a trigger's of cron, as KEDA reads it.
type schedule struct {
	begin, end cron.Schedule
	zone       *time.Location
}

func scheduleOf(o *unstructured.Unstructured) (s schedule, err error) {
	triggers, _, _ := unstructured.NestedSlice(o.Object, "spec", "triggers")
	at := slices.IndexFunc(triggers, func(one any) bool { return one.(map[string]any)["type"] == byHours })
	if at < 0 {
		return s, fmt.Errorf("ScaledObject %s has no trigger %s", o.GetName(), byHours)
	}
	by := triggers[at].(map[string]any)["metadata"].(map[string]any)
	if s.zone, err = time.LoadLocation(by["timezone"].(string)); err != nil {
		return s, err
	}
	if s.begin, err = cron.ParseStandard(by["start"].(string)); err != nil {
		return s, err
	}
	s.end, err = cron.ParseStandard(by["end"].(string))
	return s, err
}

// open says whether hours have begun: their next end comes before their next begin, which
// is how KEDA's scaler decides.
func (s schedule) open(at time.Time) bool {
	at = at.In(s.zone)
	return s.end.Next(at).Before(s.begin.Next(at))
}
