package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// declaredCalls are all that is allowed: by caller and port of a service, the
// methods. A caller or a port that is not here is allowed nothing.
var declaredCalls = map[string]map[string][]string{
	"gateway":    {"frontend:8080": {http.MethodGet, http.MethodPost, http.MethodPut}},
	"frontend":   {"backend:8080": {http.MethodGet, http.MethodPost, http.MethodPut}},
	"monitoring": {"frontend:9090": {http.MethodGet}, "backend:9090": {http.MethodGet}},
}

// callers are all that try, by their service account in the mesh: two of the
// application, one of the same namespace that has no part in it, one of
// monitoring, whoever comes by way of the gateway, and one outside the mesh, of
// whom nobody knows who it is.
var callers = []string{"frontend", "backend", "stranger", monitoring, byGateway, nobody}

const (
	monitoring = "monitoring" // the caller, and its namespace
	byGateway  = "gateway"
	nobody     = "outside"
	// unlisted is a server in the application's namespace that no policy speaks
	// of. It is shut by the namespace's default alone.
	unlisted = "worker"
)

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// TestAuthorization proves of all callers, ports of services and methods that
// what is declared gets to the service, and that everything else gets 403 from
// its sidecar, or is refused where there is no identity to tell of.
func TestAuthorization(t *testing.T) {
	s := newStage(t, "authz", map[string]any{"database": ownDatabase()}, // without one documents are not written anew, and PUT is let through for nobody
		caller{Spec: probe.Spec{Name: "frontend", ServiceAccount: "frontend", Labels: map[string]string{"app": "caller"}}},
		caller{Spec: probe.Spec{Name: "backend", ServiceAccount: "backend", Labels: map[string]string{"app": "caller"}}},
		caller{Spec: probe.Spec{Name: "stranger"}},
		caller{Spec: probe.Spec{Name: unlisted, Labels: map[string]string{"app": unlisted}, Upstream: &probe.Upstream{}}},
		caller{Spec: probe.Spec{Name: nobody}, outside: true},
	)
	spec.Run(t, spec.Specification{
		ID: "MSH-006", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, s.preparedBy((*stage).authorizationStage)},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveAuthorization(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			secureFault(s, "an ALLOW-all policy", denied("stranger", "DELETE", "backend:8080"),
				func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
					return scope.Create(ctx, object(securityV1, authorizationPolicy, s.ns, "allow-all", map[string]any{"rules": []any{map[string]any{}}}))
				}),
			// Its deletion would not be undone: the scope gives back only what others made.
			secureFault(s, "a default deny of nothing", denied("stranger", "GET", unlisted+":8080"),
				func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
					return s.change(ctx, scope, securityV1, authorizationPolicy, "default-deny", map[string]any{
						"selector": map[string]any{"matchLabels": map[string]any{"app": "nobody"}},
					}, "spec")
				}),
			ruleFault(s, "a method too many", denied("frontend", "DELETE", "backend:8080"), "backend", allowing("8080", nil, "GET", "POST", "PUT", "DELETE")),
			ruleFault(s, "a method too few", allowed("frontend", "POST", "backend:8080"), "backend", allowing("8080", nil, "GET", "PUT")),
			ruleFault(s, "a port too many", denied("frontend", "GET", "backend:9090"), "backend", allowing("", nil, "GET", "POST", "PUT")),
			ruleFault(s, "any caller with an identity", denied("stranger", "POST", "frontend:8080"), "frontend", allowing("8080", from("*"), "GET", "POST", "PUT")),
			ruleFault(s, "the wrong caller", denied("backend", "GET", "backend:8080"), "backend",
				func(ns string) map[string]any {
					return allowing("8080", from(principal(trustDomain, ns, "backend")), "GET", "POST", "PUT")(ns)
				}),
			ruleFault(s, "the wrong trust domain", allowed("frontend", "GET", "backend:8080"), "backend",
				func(ns string) map[string]any {
					return allowing("8080", from(principal("elsewhere.example", ns, "frontend")), "GET", "POST", "PUT")(ns)
				}),
			ruleFault(s, "another gateway", allowed(byGateway, "PUT", "frontend:8080"), "frontend",
				allowing("8080", from(principal(trustDomain, "istio-egress", "istio-egressgateway")), "GET", "POST", "PUT")),
			ruleFault(s, "metrics for another namespace", allowed(monitoring, "GET", "frontend:9090"), "metrics", allowing("9090", within("elsewhere"), "GET")),
			ruleFault(s, "metrics that can be written", denied(monitoring, "POST", "backend:9090"), "metrics", allowing("9090", within(monitoring), "GET", "POST")),
			s.slowWay(),
			spec.Harmless(ruleFault(s, "a method said twice", "", "backend", allowing("8080", nil, "POST", "GET", "GET", "PUT"))),
		},
	})
}

const authorizationPolicy = "AuthorizationPolicy"

// denied and allowed match what a proof says of a call that was to be so, and was
// not.
func denied(caller, method, port string) string { return unlike(caller, method, port, "403 of") }

func allowed(caller, method, port string) string { return unlike(caller, method, port, "an answer of") }

func unlike(caller, method, port, expected string) string {
	return fmt.Sprintf(`^%s %s %s: expected %s`, caller, method, port, expected)
}

// allowing is a rule: the methods at a port ("" for all) by callers (nil for
// those that are declared for the backend).
func allowing(port string, callers []any, methods ...any) func(namespace string) map[string]any {
	return func(namespace string) map[string]any {
		operation := map[string]any{"methods": methods}
		if port != "" {
			operation["ports"] = []any{port}
		}
		by := callers
		if by == nil {
			by = from(principal(trustDomain, namespace, "frontend"))
		}
		return map[string]any{"from": by, "to": []any{map[string]any{"operation": operation}}}
	}
}

// within is the part of a rule that lets all of a namespace in.
func within(namespace string) []any {
	return []any{map[string]any{"source": map[string]any{"namespaces": []any{namespace}}}}
}

// ruleFault puts another rule in the place of all those of a policy.
func ruleFault(s *stage, name, kills, policy string, rule func(namespace string) map[string]any) spec.Sabotage {
	return secureFault(s, name, kills, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		return s.change(ctx, scope, securityV1, authorizationPolicy, policy, []any{rule(s.ns)}, "spec", "rules")
	})
}

// slowWay has who is in the mesh wait for a second and a half on the way to the unlisted
// server, whatever becomes of the call there.
func (s *stage) slowWay() spec.Sabotage {
	f := secureFault(s, "denials that take a second and a half", `^at `+unlisted+`:8080: \d+ calls that were refused or denied took [1-9]\.\d+s`,
		func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			host := fmt.Sprintf("%s.%s.svc.%s", unlisted, s.ns, trustDomain)
			return scope.Create(ctx, object(networkingV1, "VirtualService", s.ns, "slow-way", map[string]any{
				"hosts": []any{host},
				"http": []any{map[string]any{
					"fault": map[string]any{"delay": map[string]any{"fixedDelay": "1.5s", "percentage": map[string]any{"value": int64(100)}}},
					"route": []any{map[string]any{"destination": map[string]any{"host": host, "port": map[string]any{"number": int64(8080)}}}},
				}},
			}))
		})
	here := f.Applied
	f.Applied = func(ctx context.Context, env *environment.Environment) error {
		return errors.Join(here(ctx, env), settled(ctx, env, monitoring)) // which calls, too
	}
	return f
}

// authorizationStage adds a Service of the unlisted server, a caller in the
// namespace of monitoring, and a name at the gateway for each port of a service.
func (s *stage) authorizationStage(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	err := scope.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: unlisted},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": unlisted}, Ports: []corev1.ServicePort{{Name: "http-web", Port: 8080}},
		},
	})
	if err != nil {
		return err
	}
	if err := scope.Create(ctx, object(networkingV1, "DestinationRule", s.ns, unlisted, map[string]any{
		"host":          fmt.Sprintf("%s.%s.svc.%s", unlisted, s.ns, trustDomain),
		"trafficPolicy": map[string]any{"connectionPool": oneRequestEach()},
	})); err != nil {
		return err
	}
	if err := s.newConnections(ctx, scope, "frontend", "backend"); err != nil {
		return err
	}
	started, err := probe.Start(ctx, env, scope, probe.Spec{Namespace: monitoring, Name: s.ns, Labels: map[string]string{"app": "caller"}, Mesh: true})
	if err != nil {
		return err
	}
	s.pods[monitoring] = started[0]
	if err := settled(ctx, env, monitoring); err != nil {
		return err
	}
	ports, err := s.ports(ctx, env)
	if err != nil {
		return err
	}
	for _, to := range ports {
		if err := s.openAtGateway(ctx, scope, to); err != nil {
			return err
		}
	}
	have := map[string]map[string]bool{} // gateways, by port
	return wait.Answers(ctx, pushTimeout, "the ingress gateways to route to "+s.ns, func(ctx context.Context) (missing string, err error) {
		for _, to := range ports {
			if have[to] == nil {
				have[to] = map[string]bool{}
			}
			if missing, err = lackingRoute(ctx, env, "istio-ingress", "", s.hostFor(to), have[to]); missing != "" || err != nil {
				return missing, err
			}
		}
		return "", nil
	})
}

// hostFor is the name at the gateway for a port of a service, host:port.
func (s *stage) hostFor(to string) string {
	service, port, _ := strings.Cut(short(s, to), ":")
	return fmt.Sprintf("%s-%s-%s", service, port, s.host()) // one label, as the gateway's certificate has it
}

// short is host:port without the stage's namespace.
func short(s *stage, to string) string { return strings.Replace(to, "."+s.ns, "", 1) }

func (s *stage) openAtGateway(ctx context.Context, scope *environment.Scope, to string) error {
	service, number, _ := strings.Cut(short(s, to), ":")
	var port int64
	if _, err := fmt.Sscan(number, &port); err != nil {
		return fmt.Errorf("port of %s: %w", to, err)
	}
	return scope.Create(ctx, object(networkingV1, "VirtualService", s.ns, service+"-"+number, map[string]any{
		"hosts": []any{s.hostFor(to)}, "gateways": []any{"istio-ingress/docuthinker"},
		"http": []any{map[string]any{"route": []any{map[string]any{"destination": map[string]any{
			"host": fmt.Sprintf("%s.%s.svc.%s", service, s.ns, trustDomain), "port": map[string]any{"number": port},
		}}}}},
	}))
}

// cell is one call of the table.
type cell struct{ caller, method, port string }

func (c cell) String() string { return c.caller + " " + c.method + " " + c.port }

// expectation is what is declared of a call.
func (c cell) expectation() probe.Expectation {
	if c.caller == nobody {
		return probe.Refused()
	}
	if slices.Contains(declaredCalls[c.caller][c.port], c.method) {
		return probe.Expectation{What: "an answer of the service", Unmet: func(a probe.Answer) string {
			if a.Headers.Get(byService) == "" || a.Status == http.StatusForbidden {
				return a.String()
			}
			return ""
		}}
	}
	return probe.Expectation{What: "403 of its sidecar", Unmet: func(a probe.Answer) string {
		if a.Headers.Get(byService) != "" || a.Status != http.StatusForbidden {
			return a.String()
		}
		return ""
	}}
}

// byService is a header of every answer of the application, whatever its status:
// one to a method that it does not know as well.
const byService = "X-App-Version"

// request makes the call by way of the gateway, or straight.
func (c cell) request(s *stage, to string) probe.Request {
	r := probe.Request{Method: c.method, URL: "http://" + to + "/echo", Timeout: 10 * time.Second}
	switch c.caller {
	case byGateway:
		r.URL, r.Connect = "https://"+s.hostFor(to)+"/echo", "istio-ingressgateway.istio-ingress:443"
		r.Insecure = true // whose certificate it is, is the business of MSH-007
	}
	return r
}

func proveAuthorization(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	ports, err := s.ports(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	known := map[string]bool{}
	for _, to := range ports {
		known[short(s, to)] = true
	}
	for _, declared := range declaredCalls {
		for port := range declared {
			if !known[port] {
				t.Inconclusive("no targets", "%s is declared, and no port of a service of %s: there are %v", port, s.ns, slices.Sorted(maps.Keys(known)))
			}
		}
	}
	answers := make([]map[cell]probe.Answer, len(callers))
	group, calling := errgroup.WithContext(ctx)
	for i, by := range callers {
		group.Go(func() (err error) {
			answers[i], err = s.tryAll(calling, by, ports)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Broken(err)
	}
	tried, passed, seen := 0, 0, map[string]map[string]string{}
	var unanswered []string
	var shut negatives
	asDeclared := true
	for i, by := range callers {
		seen[by] = map[string]string{}
		for c, a := range answers[i] {
			tried++
			if a.Headers.Get(byService) != "" {
				passed++
			}
			seen[by][c.method+" "+c.port] = fmt.Sprintf("%s %d", a.Result, a.Status)
			want := c.expectation()
			unmet := want.Unmet(a)
			switch {
			case unmet == "":
				if a.Headers.Get(byService) == "" { // it did not get there
					shut.add(a, "by "+by, "at "+c.port)
				}
			case silent(a):
				unanswered = append(unanswered, fmt.Sprintf("%s: %s", c, unmet))
			default:
				t.Errorf("%s: expected %s, saw %s", c, want.What, unmet)
				asDeclared = false
			}
		}
	}
	t.Observe(fmt.Sprintf("%d calls by %d callers, %d methods at %d ports of services: %d reached the service; connections are not kept, so that each is judged by the policies of the moment",
		tried, len(callers), len(methods), len(ports), passed), seen)
	shut.quick(t)
	if asDeclared && len(unanswered) > 0 {
		t.Inconclusive("no answer", "%d calls were neither let through nor denied: %s", len(unanswered), strings.Join(unanswered, "; "))
	}
}

// silent says that nobody judged a call: nothing came back in time, or a proxy on
// the way found no server.
func silent(a probe.Answer) bool {
	return a.Result == "timeout" || a.Status == http.StatusServiceUnavailable && a.Headers.Get(byService) == ""
}

// tryAll makes all calls of one caller.
func (s *stage) tryAll(ctx context.Context, by string, ports []string) (map[cell]probe.Answer, error) {
	var cells []cell
	var calls []probe.Checked
	for _, to := range ports {
		for _, m := range methods {
			c := cell{by, m, short(s, to)}
			cells = append(cells, c)
			calls = append(calls, probe.Expecting(c.request(s, to), c.expectation()))
		}
	}
	from := by
	if by == byGateway {
		from = nobody
	}
	made, err := s.pods[from].CallsInSequence(ctx, calls)
	if unmet := new(probe.Unmet); err != nil && !errors.As(err, &unmet) {
		return nil, err
	}
	answers := map[cell]probe.Answer{}
	for i, a := range made {
		if a.Result == "error" { // it could not be made
			return nil, err
		}
		answers[cells[i]] = a
	}
	return answers, nil
}
