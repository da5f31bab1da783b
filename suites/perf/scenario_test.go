package perf

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// scenario is one of the platform's six, in its own times.
type scenario struct {
	id     string
	script string
	lasts  time.Duration
	users  float64 // at its peak; 0 where requests are counted, and not users
	mean   float64 // share of its users that are there on the average of its time
	keeps  map[string][]string
	rate   float64 // requests a second up to which it looks for the one that breaks the platform; 0: nothing may break it
}

// What is promised of each scenario that does not say otherwise, and under stress.
var (
	promised = map[string][]string{
		"http_req_failed": {"rate<0.01"}, "checks": {"rate>0.99"}, "http_req_duration": {"p(95)<500", "p(99)<1000"},
	}
	underStress = map[string][]string{
		"http_req_failed": {"rate<0.05"}, "checks": {"rate>0.95"}, "http_req_duration": {"p(95)<2000", "p(99)<5000"},
	}
)

var scenarios = []scenario{
	{"PRF-001", "baseline", 5 * time.Minute, 10, 1, promised, 0},
	{"PRF-002", "load", 14 * time.Minute, 50, 0.857, promised, 0},
	{"PRF-003", "stress", 26 * time.Minute, 300, 0.596, underStress, 0},
	{"PRF-004", "spike", 90 * time.Second, 500, 0.833, underStress, 0},
	{"PRF-005", "soak", 2 * time.Hour, 50, 1, promised, 0},
	{"PRF-006", "breakpoint", 22 * time.Minute, 0, 0, promised, 500},
}

// load is how a scenario is run; faults change it for their time.
type load struct {
	edit   func(script string) string
	longer float64 // times as long; 0 as 1
}

// TestScenarios proves the six scenarios against the ingress gateway: what k6 judges
// is judged anew from its samples.
func TestScenarios(t *testing.T) {
	s := newStage(t, "load", nil)
	for _, sc := range scenarios {
		t.Run(sc.script, func(t *testing.T) {
			var l load
			spec.Run(t, spec.Specification{
				ID: sc.id, Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{istio, gateway, s}, Timeout: max(sc.lasts, 4*min(sc.lasts, long)) + 10*time.Minute,
				Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
					proveScenario(ctx, t, env, s, sc, l)
				},
				CounterProofs: s.faults(sc, &l),
			})
		})
	}
}

// options is a line more for a script, which changes what its first lines export.
func options(name, kills string, l *load, line string) spec.Sabotage {
	return spec.Swapped(name, kills, l, load{edit: func(script string) string { return script + line + "\n" }})
}

// faults are those of a scenario's proof.
func (s *stage) faults(sc scenario, l *load) []spec.Sabotage {
	unsettled := func(f spec.Sabotage) spec.Sabotage {
		f.Unsettles, f.Kills = "no samples", ""
		return f
	}
	lesser := func(f spec.Sabotage) spec.Sabotage {
		f.Unsettles, f.Kills = "less load than planned", ""
		return f
	}
	all := []spec.Sabotage{
		options("thresholds removed", `thresholds that k6 was told of`, l, `options.thresholds = {};`),
		unsettled(options("a tag of a threshold misspelt", "", l, `options.thresholds['http_req_duration{name:raed}'] = ['p(95)<500'];`)),
	}
	if sc.rate > 0 {
		all = append(all, lesser(options("an end that breaks nothing", "", l, `options.scenarios.breakpoint.stages[0].target = 5;`)))
		all = append(all, s.errorBody())
		all = append(all, s.knob("the backend 600 ms later", `requests a second at which the platform broke`, "backend", "latency", "600ms"))
	}
	switch sc.script {
	case "load":
		all = append(all,
			lesser(options("its users for a moment only", "", l, `options.scenarios.load.stages[1].target = 1;`)),
			s.knob("the backend 600 ms later", `not kept: .*http_req_duration `, "backend", "latency", "600ms"))
	case "spike":
		all = append(all, s.knob("the frontend 3 s later", `not kept: .*http_req_duration `, "frontend", "latency", "3s"))
	}
	if sc.script != "baseline" {
		return all
	}
	return append(all,
		unsettled(spec.Swapped("nobody asks anything", "", l, load{edit: func(script string) string {
			return strings.Replace(script, "export default visit;", "export default function () {}", 1)
		}})),
		s.knob("the backend 600 ms later", `not kept: .*http_req_duration `, "backend", "latency", "600ms"),
		longer(s.knob("two errors in a hundred", `not kept: .*http_req_failed `, "frontend", "errorRate", 0.02), l),
		s.errorBody(),
		lesser(options("a third of its length", "", l, `options.scenarios.baseline.duration = time('100s');`)),
		s.knob("a backend of another version", "", "backend", "", nil),
	)
}

// longer is a fault under which the scenario lasts four times as long: of few requests, two
// in a hundred may be none.
func longer(f spec.Sabotage, l *load) spec.Sabotage {
	apply := f.Apply
	f.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		meant := *l
		l.longer = 4
		if err := scope.Defer("the scenario's length", func(context.Context) error { *l = meant; return nil }); err != nil {
			return err
		}
		return apply(ctx, env, scope)
	}
	return f
}

func proveScenario(ctx context.Context, t spec.T, env *environment.Environment, s *stage, sc scenario, l load) {
	scale := s.pace(env.Profile, sc) / cmp.Or(l.longer, 1)
	lasts := time.Duration(float64(sc.lasts) / scale)
	variables := map[string]string{"TIME_SCALE": strconv.FormatFloat(scale, 'f', -1, 64)}
	ceiling := ""
	spec.Check(t, known(env.Profile))
	if most := env.Profile.Load.UsersMost[sc.script]; most > 0 && float64(most) < sc.users {
		variables["USERS_MOST"], ceiling = strconv.Itoa(most), fmt.Sprintf("; %d users in the place of %.0f, for the profile %s allows no more", most, sc.users, env.Profile.Name)
		sc.users = float64(most)
	}
	if scale > 1 { // a minute's first second would be the whole of it
		spec.Check(t, s.warmUp(ctx, env, t.Scope()))
	}
	watched, err := s.watchUsage(ctx, env)
	spec.Check(t, err)
	defer watched.stop()
	out, err := s.run(ctx, env, t.Scope(), k6{
		script: sc.script, limit: lasts + time.Minute, edit: l.edit,
		env: variables,
	})
	spec.Check(t, err)
	from, to := out.samples.Span()
	took, err := watched.end(from, to)
	spec.Check(t, err)
	planned := sc.rate
	sc.rate = cmp.Or(min(sc.rate, env.Profile.Load.RateLeast), sc.rate)
	figures := judge(t, sc, out, took)
	if planned == 0 && to.Sub(from) < lasts*8/10 { // one that breaks the platform ends there
		t.Inconclusive("less load than planned", "its samples are of %s, and it lasts %s", to.Sub(from).Round(100*time.Millisecond), lasts)
	}
	requests, err := out.samples.Of("http_reqs")
	spec.Check(t, err)
	// Of a ramp from one to its end, that many; k6 leaves some out where the machine is at its own end.
	if whole := planned / 2 * lasts.Seconds(); out.exit == k6Kept && float64(len(requests)) < 0.8*whole {
		t.Inconclusive("less load than planned", "nothing broke by %d requests, up to %.0f a second: all of the scenario are %.0f", len(requests), out.samples.MostRate("http_reqs"), whole)
	}
	users, err := out.samples.Of("vus")
	spec.Check(t, err)
	if sc.users > 0 {
		if len(users) == 0 {
			t.Inconclusive("no samples", "k6 told of no users")
		}
		if most := slices.Max(loadtest.Values(users)); most < sc.users*0.95 {
			t.Inconclusive("less load than planned", "at most %.0f users were there, %.0f were to be", most, sc.users)
		}
		// With a ceiling the ramps are steeper, and so there are more on the average. k6 tells of users once a second.
		if mean := loadtest.Mean(begun(loadtest.Values(users))); len(users) >= 10 && mean < 0.85*sc.mean*sc.users {
			t.Inconclusive("less load than planned", "%.1f users were there on the average, %.1f were to be", mean, sc.mean*sc.users)
		}
	}
	s.wasMeasured(sc)
	t.Observe(fmt.Sprintf("%s, %s in %s (%s): %d requests, up to %.0f a second; %s; k6 judges the same; %s%s",
		sc.script, sc.lasts, to.Sub(from).Round(100*time.Millisecond), faster(scale), len(requests), out.samples.MostRate("http_reqs"), strings.Join(figures, ", "), took.scarcest, ceiling),
		journal.Plots{Plots: []journal.Plot{out.samples.Plot(sc.script + ": users of the ingress gateway"), took.plot}, Data: figures})
}

// begun are the numbers of users from the first of them on: k6 makes them before.
func begun(users []float64) []float64 {
	return users[max(0, slices.IndexFunc(users, func(n float64) bool { return n > 0 })):]
}

// A scenario that is longer than this runs brief times faster than its own times under
// faults and after them, where the profile's times are longer: full length is for what is
// measured. All executions of the six would take half a day.
const (
	long  = 10 * time.Minute
	brief = 6
)

// pace is the factor by which a scenario's times are shorter.
func (s *stage) pace(p *environment.Profile, sc scenario) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.measured[sc.id] && sc.lasts > long {
		return max(p.TimeScale, brief)
	}
	return p.TimeScale
}

// wasMeasured: what comes of the scenario from now on is of faults, or after them.
func (s *stage) wasMeasured(sc scenario) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured[sc.id] = true
}

// faster is a time scale in words.
func faster(scale float64) string {
	if scale == 1 {
		return "the platform's own times"
	}
	return fmt.Sprintf("%g times faster than the platform's own times", scale)
}

// warmUp asks for some pages that nobody counts: what stood still answers its first
// requests late, which full times hide and short ones do not.
func (s *stage) warmUp(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	pods, err := probe.Start(ctx, env, scope, probe.Spec{Namespace: s.outside, Name: "warm-up"})
	if err != nil {
		return err
	}
	asked, err := pods[0].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "https://" + s.host() + "/api/documents?limit=1", Connect: s.gateway, Insecure: true},
		Rate:    20, For: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	return asked.Wait(ctx)
}

// known refuses a ceiling of what is no scenario: it would be none.
func known(p *environment.Profile) error {
	var names []string
	for _, sc := range scenarios {
		names = append(names, sc.script)
	}
	for name := range p.Load.UsersMost {
		if !slices.Contains(names, name) {
			return fmt.Errorf("profile %s: load.usersMost has %q, which is no scenario: %s", p.Name, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// errorBody has the gateway answer 200 with an error's body, which only a look at the
// answers tells from the application's own.
func (s *stage) errorBody() spec.Sabotage {
	return spec.Sabotage{
		Name: "200 with an error's body", Kills: `checks rate`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			o := &unstructured.Unstructured{}
			o.SetAPIVersion("networking.istio.io/v1")
			o.SetKind("VirtualService")
			o.SetNamespace(s.ns)
			o.SetName("frontend")
			return scope.Update(ctx, o, func() error {
				return unstructured.SetNestedSlice(o.Object, []any{map[string]any{"directResponse": map[string]any{
					"status": int64(http.StatusOK), "body": map[string]any{"string": `{"error":"the database is away"}`},
				}}}, "spec", "http")
			})
		},
	}
}

// knob turns one of the application's, by the chart's values.
func (s *stage) knob(name, kills, service, knob string, value any) spec.Sabotage {
	over := map[string]any{service: map[string]any{"version": "1.0.1"}}
	if knob != "" {
		over = map[string]any{service: map[string]any{"fault": map[string]any{knob: value}}}
	}
	f := s.turned(name, kills, func(*environment.Environment) (map[string]any, error) { return over, nil })
	f.Harmless = kills == ""
	return f
}

// turned gives the application other values, which may be known only when the time has come.
func (s *stage) turned(name, kills string, over func(*environment.Environment) (map[string]any, error)) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			values, err := over(env)
			if err != nil {
				return err
			}
			if err := scope.Defer(name, func(ctx context.Context) error { return s.deploy(ctx, env, nil) }); err != nil {
				return err
			}
			return s.deploy(ctx, env, values)
		},
	}
}
