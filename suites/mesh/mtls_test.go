package mesh

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestStrictMTLS proves for every port of every service that a call in plaintext
// from outside the mesh is refused, and that one inside it arrives with the
// caller's identity. The caller inside is allowed everywhere, so that what is
// refused is refused for the lack of mTLS: MSH-006 proves who is allowed what.
func TestStrictMTLS(t *testing.T) {
	s := secured.with(t, newStage(t, "mtls", everything(),
		caller{Spec: probe.Spec{Name: "inside"}},
		caller{Spec: probe.Spec{Name: "outside"}, outside: true},
	).admitting("default"))
	spec.Run(t, spec.Specification{
		ID: "MSH-001", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, s},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveStrict(ctx, t, env, s) },
		CounterProofs: []spec.Sabotage{
			secureFault(s, "namespace PERMISSIVE", `/outside: GET http://frontend\S+:8080/\S+: expected to be refused, saw answered`,
				func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
					return s.change(ctx, scope, securityV1, "PeerAuthentication", "default", "PERMISSIVE", "spec", "mtls", "mode")
				}),
			exception(s, "DISABLE on one port", `/outside: GET http://backend\S+:9090/\S+: expected to be refused, saw answered`, "backend", map[string]any{
				"mtls": map[string]any{"mode": "STRICT"}, "portLevelMtls": map[string]any{"9090": map[string]any{"mode": "DISABLE"}},
			}),
			exception(s, "a workload-level exception", `/outside: GET http://worker\S+:9090/\S+: expected to be refused, saw answered`, "worker", map[string]any{
				"mtls": map[string]any{"mode": "PERMISSIVE"},
			}),
			secureFault(s, "injection off for one pod", `/outside: GET http://[0-9.]+:8080/\S+: expected to be refused, saw answered`,
				func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
					return s.more(ctx, env, scope, "backend", "backend-bare", withoutSidecar)
				}),
			secureFault(s, "a port of one pod that passes its sidecar by", `/outside: GET http://[0-9.]+:9090/\S+: expected to be refused, saw answered`,
				func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
					return s.more(ctx, env, scope, "backend", "backend-passed-by", func(p *corev1.Pod) {
						p.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = "9090"
					})
				}),
			secureFault(s, "a port of one pod that refuses when a second and a half is over, past its sidecar", `^plaintext from outside to [0-9.]+:8080: \d+ calls that were refused or denied took [1-4]\.\d+s`,
				func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
					return s.more(ctx, env, scope, "backend", "backend-late", func(p *corev1.Pod) {
						p.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"] = "8080"
						setEnv(&p.Spec.Containers[0], corev1.EnvVar{Name: "FAULT_LATENCY", Value: "1500ms"}, corev1.EnvVar{Name: "FAULT_RESET_RATE", Value: "1"})
					})
				}),
			secureFault(s, "callers that send plaintext", `/inside: GET http://backend\S+: expected status 200, saw`,
				func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
					return s.change(ctx, scope, networkingV1, "DestinationRule", "backend", map[string]any{
						"tls": map[string]any{"mode": "DISABLE"},
					}, "spec", "trafficPolicy")
				}),
			s.anonymous(),
			s.withoutPort(),
			spec.Harmless(exception(s, "STRICT said twice", "", "backend", map[string]any{
				"mtls": map[string]any{"mode": "STRICT"}, "portLevelMtls": map[string]any{"8080": map[string]any{"mode": "STRICT"}},
			})),
		},
	})
}

// exception is a PeerAuthentication for one component of the application, which
// goes before that of the namespace.
func exception(s *stage, name, kills, component string, rest map[string]any) spec.Sabotage {
	return secureFault(s, name, kills, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		rest := maps.Clone(rest)
		rest["selector"] = map[string]any{"matchLabels": map[string]any{"app.kubernetes.io/component": component}}
		return scope.Create(ctx, object(securityV1, "PeerAuthentication", s.ns, "exception", rest))
	})
}

// anonymous has the backend's proxy hand on what the caller says of itself, which is
// nothing. (SANITIZE is the enumeration's nought, and Istio's merge takes no field that is.)
func (s *stage) anonymous() spec.Sabotage {
	return s.inboundFault("the backend is not told who calls", `/inside: GET http://backend\S+: expected the server to see \S+ as its peer`, "backend",
		map[string]any{"forward_client_cert_details": "FORWARD_ONLY"})
}

// withoutPort takes a port from a service of the mesh's. What the proof reads from the
// cluster is one port fewer then, of which all holds: so it is told which there must be.
func (s *stage) withoutPort() spec.Sabotage {
	f := secureFault(s, "a service without one of its ports", "", func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		worker := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "worker"}}
		return scope.Update(ctx, worker, func() error {
			worker.Spec.Ports = slices.DeleteFunc(worker.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == 9090 })
			return nil
		})
	})
	f.Unsettles = `^a port is missing$`
	return f
}

// meshPorts are those of the application's services that are in the mesh.
var meshPorts = []string{"frontend:8080", "frontend:9090", "backend:8080", "backend:9090", "worker:8080", "worker:9090"}

func proveStrict(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	services, err := s.ports(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	pods, err := s.behind(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	if len(services) == 0 || len(pods) == 0 {
		t.Inconclusive("no targets", "%s has %d ports of services and %d pods behind them", s.ns, len(services), len(pods))
	}
	for _, want := range meshPorts {
		if !slices.ContainsFunc(services, func(to string) bool { return short(s, to) == want }) {
			t.Inconclusive("a port is missing", "no port of a service of %s is %s: there are %v", s.ns, want, services)
		}
	}
	reachable(ctx, t, env, s, pods)

	targets := slices.Concat(services, slices.Concat(slices.Collect(maps.Values(pods))...))
	slices.Sort(targets)
	var plain, encrypted []probe.Checked
	for range negativeRounds {
		for _, to := range targets {
			plain = append(plain, probe.Expecting(probe.Request{URL: "http://" + to + "/echo", Timeout: negativeTimeout}, probe.Refused()))
		}
	}
	caller := identity(s.ns, "default")
	for _, to := range services {
		encrypted = append(encrypted, probe.Expecting(probe.Request{URL: "http://" + to + "/echo"}, probe.Status(http.StatusOK), probe.Peer(caller)))
	}
	outside, err := s.pods["outside"].CallsInSequence(ctx, plain)
	checkEach(t, err)
	inside, err := s.pods["inside"].Calls(ctx, encrypted)
	checkEach(t, err)

	seen, refused, accepted := map[string]string{}, negatives{}, 0
	for i, a := range outside {
		to := targets[i%len(targets)]
		seen["plaintext from outside to "+to] = a.String() // the last one
		if probe.Refused().Unmet(a) == "" {
			refused.add(a, "plaintext from outside to "+short(s, to))
		}
	}
	for i, a := range inside {
		seen["inside to "+services[i]] = a.String()
		if probe.Peer(caller).Unmet(a) == "" {
			accepted++
		}
	}
	t.Observe(fmt.Sprintf("%d of %d calls in plaintext from outside were refused, %d for each of %d addresses (%d ports of services in the mesh, the others their pods' own; PostgreSQL and Redis are outside of it); servers of %d of %d ports saw %s call inside the mesh",
		len(refused.all), len(plain), negativeRounds, len(targets), len(services), accepted, len(services), caller), seen)
	refused.quick(t)
}

// reachable makes sure that the pods can be reached from outside the mesh where
// mTLS is not asked for: by the port of their proxies' health. Otherwise a
// refusal would say nothing.
func reachable(ctx context.Context, t spec.T, env *environment.Environment, s *stage, pods map[string][]string) {
	meshed, err := proxied(ctx, env, s.ns)
	if err != nil {
		t.Broken(err)
	}
	var calls []probe.Checked
	for pod, addresses := range pods {
		if ip, _, err := net.SplitHostPort(addresses[0]); err == nil && slices.Contains(meshed, pod) {
			calls = append(calls, probe.Expecting(probe.Request{URL: "http://" + net.JoinHostPort(ip, "15021") + "/healthz/ready"}, probe.Status(http.StatusOK)))
		}
	}
	if _, err := s.pods["outside"].Calls(ctx, calls); err != nil {
		t.Inconclusive("no way to the pods", "their proxies' health cannot be asked for from outside the mesh, so a refusal says nothing: %v", err)
	}
}
