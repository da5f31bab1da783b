package perf

import (
	"cmp"
	"context"
	"errors"
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
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// clauses are those of the scenarios, by their scripts.
var clauses = map[string]string{
	"baseline": "PRF-001", "load": "PRF-002", "stress": "PRF-003", "spike": "PRF-004", "soak": "PRF-005", "breakpoint": "PRF-006",
}

// load is how a scenario is run; faults change it for their time.
type load struct {
	edit    func(script string) string
	most    int                         // requests; 0 for as many as its users can make
	halfway func(context.Context) error // called when half of the scenario's time is over
}

// TestUnderLoad proves the six scenarios against the ingress gateway: what k6 judges is
// judged anew from its samples. So are k6's own judgement and the comparison with an earlier
// run, on the same application.
func TestUnderLoad(t *testing.T) {
	t.Parallel() // else the others would not begin to build before the last of these has ended
	u := newUnderLoad(t)
	for _, sc := range loadtest.Scenarios {
		t.Run(sc.Script, func(t *testing.T) {
			var l load
			spec.Run(t, spec.Specification{
				ID: clauses[sc.Script], Risk: spec.Namespaced, Alone: true, Needs: []spec.Need{istio, gateway, u}, Timeout: sc.Lasts + 10*time.Minute,
				Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
					proveScenario(ctx, t, env, u, sc, l)
				},
				CounterProofs: u.faults(sc, &l),
			})
		})
	}
	t.Run("threshold", func(t *testing.T) { thresholdWithoutSamples(t, u) })
	t.Run("regression", func(t *testing.T) { regression(t, u) })
}

// options is a line more for a script, which changes what its first lines export.
func options(name, kills string, l *load, line string) spec.Sabotage {
	return spec.Swapped(name, kills, l, load{edit: func(script string) string { return script + line + "\n" }})
}

// faults are those of a scenario's proof.
func (u *underLoad) faults(sc loadtest.Scenario, l *load) []spec.Sabotage {
	unsettled := func(f spec.Sabotage) spec.Sabotage {
		f.Unsettles, f.Kills = "no samples", ""
		return f
	}
	lesser := func(f spec.Sabotage) spec.Sabotage {
		f.Unsettles, f.Kills = "less load than planned", ""
		return f
	}
	late := func() spec.Sabotage {
		return u.knob("the backend 600 ms later", `not kept: .*http_req_duration `, "backend", "latency", "600ms")
	}
	all := []spec.Sabotage{
		u.knob("a backend of another version", "", "backend", "", nil),
		options("thresholds removed", `thresholds that k6 was told of`, l, `options.thresholds = {};`),
		unsettled(options("a tag of a threshold misspelt", "", l, `options.thresholds['http_req_duration{name:raed}'] = ['p(95)<500'];`)),
	}
	switch sc.Script {
	case "baseline":
		bound := spec.Swapped("thirty requests at most", "", l, load{most: 30})
		bound.Unsettles = "stopped by its bound"
		return append(all,
			unsettled(spec.Swapped("nobody asks anything", "", l, load{edit: func(script string) string {
				return strings.Replace(script, "export default visit;", "export default function () {}", 1)
			}})),
			late(),
			u.knob("two errors in a hundred", `not kept: .*http_req_failed `, "frontend", "errorRate", 0.02),
			u.errorBody(),
			lesser(options("a third of its length", "", l, `options.scenarios.baseline.duration = time('100s');`)),
			bound,
			u.unconfined(),
		)
	case "load":
		return append(all, lesser(options("its users for a moment only", "", l, `options.scenarios.load.stages[1].target = 1;`)), late())
	case "spike":
		return append(all, u.knob("the frontend 3 s later", `not kept: .*http_req_duration `, "frontend", "latency", "3s"))
	case "soak":
		return append(all, u.laterHalf(l))
	case "breakpoint":
		return append(all,
			lesser(options("an end that breaks nothing", "", l, `options.scenarios.breakpoint.stages[0].target = 5;`)),
			lesser(options("an end of its first seconds", "", l, `options.thresholds.http_req_duration.push({ threshold: 'p(95)<0.001', abortOnFail: true, delayAbortEval: '1s' });`)),
			u.errorBody(),
			u.knob("the backend 600 ms later", `requests a second at which the platform broke`, "backend", "latency", "600ms"))
	}
	return all
}

func proveScenario(ctx context.Context, t spec.T, env *environment.Environment, u *underLoad, sc loadtest.Scenario, l load) {
	pace := u.pace(env.Profile, sc)
	lasts := time.Duration(float64(sc.Lasts) / pace)
	variables := map[string]string{"TIME_SCALE": strconv.FormatFloat(pace, 'f', -1, 64)}
	ceiling := ""
	spec.Check(t, known(env.Profile))
	if most := env.Profile.Load.UsersMost[sc.Script]; most > 0 && float64(most) < sc.Users {
		variables["USERS_MOST"], ceiling = strconv.Itoa(most), fmt.Sprintf("; %d users in the place of %.0f, for the profile %s allows no more", most, sc.Users, env.Profile.Name)
		sc.Users = float64(most)
	}
	u.confined(ctx, t)
	if pace > 1 { // a minute's first second would be the whole of it
		spec.Check(t, u.ask(ctx, 20, 3*time.Second))
	}
	watched, err := u.watchUsage(ctx, env)
	spec.Check(t, err)
	defer watched.stop()
	ended := u.halfway(ctx, lasts/2, l.halfway)
	out, err := u.run(ctx, env, t.Scope(), k6{
		script: sc.Script, limit: lasts + time.Minute, most: cmp.Or(l.most, sc.MostRequests(lasts)), edit: l.edit,
		env: variables,
	})
	if errors.Is(err, errBounded) {
		t.Inconclusive("stopped by its bound", "%v", err)
	}
	spec.Check(t, err)
	spec.Check(t, <-ended)
	from, to := out.samples.Span()
	took, err := watched.end(from, to)
	spec.Check(t, err)
	planned := sc.Rate
	if planned > 0 && out.exit == k6Crossed && to.Sub(from) < loadtest.AbortLeast*8/10 {
		t.Inconclusive("less load than planned", "it ended after %s: of so little a stall is the end", to.Sub(from).Round(100*time.Millisecond))
	}
	sc.Rate = cmp.Or(min(sc.Rate, env.Profile.Load.RateLeast), sc.Rate)
	figures := judge(t, sc, out, took)
	if planned == 0 && to.Sub(from) < lasts*8/10 { // one that breaks the platform ends there
		t.Inconclusive("less load than planned", "its samples are of %s, and it lasts %s", to.Sub(from).Round(100*time.Millisecond), lasts)
	}
	if sc.Steady {
		figures = append(figures, sameThroughout(t, out, took))
	}
	requests, err := out.samples.Of("http_reqs")
	spec.Check(t, err)
	// Of a ramp from one to its end, that many; k6 leaves some out where the machine is at its own end.
	if whole := planned / 2 * lasts.Seconds(); out.exit == k6Kept && float64(len(requests)) < 0.8*whole {
		t.Inconclusive("less load than planned", "nothing broke by %d requests, up to %.0f a second: all of the scenario are %.0f", len(requests), out.samples.MostRate("http_reqs"), whole)
	}
	if sc.Users > 0 {
		usersAsPlanned(t, sc, out)
	}
	u.wasMeasured(sc)
	plot := out.samples.Plot(sc.Script + ": users of the ingress gateway")
	plot.Stages = sc.Marks(pace)
	t.Observe(fmt.Sprintf("%s, %s in %s (%s): %d requests, up to %.0f a second; %s; k6 judges the same; %s%s",
		sc.Script, sc.Lasts, to.Sub(from).Round(100*time.Millisecond), faster(pace, env.Profile), len(requests), out.samples.MostRate("http_reqs"), strings.Join(figures, ", "), took.scarcest, ceiling),
		journal.Plots{Plots: []journal.Plot{plot, took.plot}, Data: figures})
}

// usersLooks is how often k6 must have told of its users, which it does once a second.
const usersLooks = 10

// usersAsPlanned: a load of fewer users, or of all of them for a moment, proves less.
func usersAsPlanned(t spec.T, sc loadtest.Scenario, out *ran) {
	users, err := out.samples.Of("vus")
	spec.Check(t, err)
	if len(users) < usersLooks {
		t.Inconclusive("no samples", "k6 told %d times of its users, want %d", len(users), usersLooks)
	}
	if most := slices.Max(loadtest.Values(users)); most < sc.Users*0.95 {
		t.Inconclusive("less load than planned", "at most %.0f users were there, %.0f were to be", most, sc.Users)
	}
	// With a ceiling the ramps are steeper, and so there are more on the average.
	if mean := loadtest.Mean(begun(loadtest.Values(users))); mean < 0.85*sc.Mean*sc.Users {
		t.Inconclusive("less load than planned", "%.1f users were there on the average, %.1f were to be", mean, sc.Mean*sc.Users)
	}
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
func (s *stage) pace(p *environment.Profile, sc loadtest.Scenario) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.measured[sc.Script] && sc.Lasts > long {
		return sc.Pace(max(p.TimeScale, brief))
	}
	return sc.Pace(p.TimeScale)
}

// wasMeasured: what comes of the scenario from now on is of faults, or after them.
func (s *stage) wasMeasured(sc loadtest.Scenario) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured[sc.Script] = true
}

// faster is the factor of a scenario in words, and the profile's where that is another.
func faster(pace float64, p *environment.Profile) string {
	switch pace {
	case 1:
		return "the platform's own times"
	case p.TimeScale:
		return fmt.Sprintf("%g times faster than the platform's own times", pace)
	}
	return fmt.Sprintf("%g times faster than the platform's own times; the factor of profile %s is %g", pace, p.Name, p.TimeScale)
}

// known refuses a ceiling of what is no scenario: it would be none.
func known(p *environment.Profile) error {
	var names []string
	for _, sc := range loadtest.Scenarios {
		names = append(names, sc.Script)
	}
	for name := range p.Load.UsersMost {
		if !slices.Contains(names, name) {
			return fmt.Errorf("profile %s: load.usersMost has %q, which is no scenario: %s", p.Name, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// route changes how the gateway's requests come to the application.
func (s *stage) route(ctx context.Context, scope *environment.Scope, change func(http []any) []any) error {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("networking.istio.io/v1")
	o.SetKind("VirtualService")
	o.SetNamespace(s.ns)
	o.SetName("frontend")
	return scope.Update(ctx, o, func() error {
		routes, _, err := unstructured.NestedSlice(o.Object, "spec", "http")
		if err != nil {
			return err
		}
		return unstructured.SetNestedSlice(o.Object, change(routes), "spec", "http")
	})
}

// errorBody has the gateway answer 200 with an error's body, which only a look at the
// answers tells from the application's own.
func (s *stage) errorBody() spec.Sabotage {
	return spec.Sabotage{
		Name: "200 with an error's body", Kills: `checks rate`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return s.route(ctx, scope, func([]any) []any {
				return []any{map[string]any{"directResponse": map[string]any{
					"status": int64(http.StatusOK), "body": map[string]any{"string": `{"error":"the database is away"}`},
				}}}
			})
		},
	}
}

// laterHalf has the gateway wait before each request of the scenario's second half: what it
// promises is kept, and its latency grows.
func (s *stage) laterHalf(l *load) spec.Sabotage {
	return spec.Sabotage{
		Name: "200 ms later from its half on", Kills: `latency grew while it lasted`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
			l.halfway = func(ctx context.Context) error {
				return s.route(ctx, scope, func(routes []any) []any {
					for _, r := range routes {
						r.(map[string]any)["fault"] = map[string]any{"delay": map[string]any{"percentage": map[string]any{"value": int64(100)}, "fixedDelay": "200ms"}}
					}
					return routes
				})
			}
			return scope.Defer("what is done halfway", func(context.Context) error { l.halfway = nil; return nil })
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
