package perf

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // where this machine has no time zones

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
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
	var edit change
	spec.Run(t, spec.Specification{
		ID: "PRF-012", Risk: spec.Namespaced, Needs: []spec.Need{docuthinker, autoscaling, l}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveCronScaler(ctx, t, env, l, edit)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("hours of UTC", `business hours at .* in New York`, &edit, trigger(byHours, "timezone", "Etc/UTC")),
			spec.Swapped("nine replicas", `in business hours: .*\b9 are wanted`, &edit, trigger(byHours, "desiredReplicas", "9")),
			spec.Swapped("at most nine replicas", `in business hours: .*\b9 are wanted`, &edit, field("ScaledObject", int64(9), "spec", "maxReplicaCount")),
			spec.Harmless(spec.Swapped("KEDA asks each two seconds", "", &edit, field("ScaledObject", int64(2), "spec", "pollingInterval"))),
		},
	})
}

func proveCronScaler(ctx context.Context, t spec.T, env *environment.Environment, l *levels, edit change) {
	objects, err := autoscalersOf(ctx, env, "backend", l.ns, nil)
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

	// The other trigger of the same scaler: nobody asks anything, but Prometheus must
	// answer, for while a metric is in error the autoscaler takes no replica away.
	m, err := l.monitored(ctx, env, t.Scope(), watching{})
	spec.Check(t, err)

	// A schedule around the present: it begins at the next whole minute that is far
	// enough off for KEDA to be seen before it, and ends three minutes later:
	// a scaler that wants another number is waited for that long, and is to be seen in the hours.
	begin := time.Now().In(newYork(t)).Truncate(time.Minute).Add(time.Minute)
	if time.Until(begin) < looks(env)+settled(env)+15*time.Second { // for the first look, and two in which they stay
		begin = begin.Add(time.Minute)
	}
	end := begin.Add(3 * time.Minute)
	backend := deploymentOf(l.ns, "backend")
	spec.Check(t, scaling(ctx, env, t.Scope(), "backend", l.ns,
		trigger(byRequests, "serverAddress", m.address()), trigger(byHours, "start", minuteOf(begin)), trigger(byHours, "end", minuteOf(end)), edit))
	scalesTo(ctx, t, env, backend, officeLeast, "the backend's replicas before business hours")
	if time.Now().After(begin) {
		t.Inconclusive("too late", "KEDA was seen before business hours only after these had begun, at %s", begin)
	}
	in := scalesFrom(ctx, t, env, begin, backend, officePods, "the backend's replicas in business hours")
	if time.Now().After(end) {
		t.Inconclusive("too late", "the replicas were seen to stay only after business hours had ended, at %s", end)
	}
	after := scalesFrom(ctx, t, env, end, backend, officeLeast, "the backend's replicas after business hours")
	t.Observe(fmt.Sprintf("hours from %s to %s in New York: 2 replicas before, 10 within %s of their begin, 2 again %s after their end; %d instants of the platform's own schedule, both changes of the clocks among them, are as they should be",
		begin.Format("15:04"), end.Format("15:04 MST"), in.Round(time.Second), after.Round(time.Second), len(instants)), nil)
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
