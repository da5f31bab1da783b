package mesh

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	worldHTTP    = 8080 // also the registered host's, so that the proxies look at the host of each request
	worldHTTPS   = 8443 // no service's
	egressSample = 40   // that one of two gateways gets none of them: 2 × 2^-40
)

// TestEgressGateway proves that the mesh lets out to registered hosts only, and
// only through the egress gateway. A pod outside of the mesh is the world; what
// it received, and from whom, is what counts.
func TestEgressGateway(t *testing.T) {
	e := &egress{stage: newStage(t, "egress", nil,
		caller{Spec: probe.Spec{Name: "app"}},
		caller{Spec: probe.Spec{Name: "stranger"}, outside: true},
		caller{Spec: probe.Spec{Name: "world", Upstream: &probe.Upstream{HTTP: worldHTTP, HTTPS: worldHTTPS, Names: []string{"world.example"}}}, outside: true},
	)}
	e.empty = true
	const reached = `/unregistered by \S+: expected status 502, saw answered 200`
	spec.Run(t, spec.Specification{
		ID:    "MSH-008",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{istio, e},
		Prove: e.prove,
		CounterProofs: []spec.Sabotage{
			e.fault("outboundTrafficPolicy ALLOW_ANY in the namespace", reached, func(ctx context.Context, s *environment.Scope) error {
				return s.Create(ctx, object(networkingV1, "Sidecar", e.ns, "default", map[string]any{
					"outboundTrafficPolicy": map[string]any{"mode": "ALLOW_ANY"},
				}))
			}),
			e.registers("the unregistered host registered", reached, "unregistered"),
			e.fault("a route around the egress gateway", "requests to the registered host came by another way than the egress gateway", func(ctx context.Context, s *environment.Scope) error {
				return e.routes(ctx, s, "world", func(rules []any) error { // the first is that from the mesh
					return unstructured.SetNestedSlice(rules[0].(map[string]any), []any{e.destination(e.name("registered"), "", worldHTTP)}, "route")
				})
			}),
			e.plaintext(),
			e.heldBack(),
			spec.Harmless(e.registers("a host more that nobody calls", "", "idle")),
			egressGateway.alone(),
		},
	})
}

// egress is a stage with a host of the world registered as the platform's users
// do it: a ServiceEntry, a Gateway of the egress gateways, and the route from the
// mesh to them and on from there.
type egress struct {
	*stage
	registered bool
}

// name is that of a host of the world; all lead to the same server.
func (e *egress) name(host string) string { return host + "." + e.outside + ".example" }

func (e *egress) Ensure(ctx context.Context, env *environment.Environment) error {
	if err := e.Stage.Ensure(ctx, env); err != nil || e.registered {
		return err
	}
	for _, o := range e.objects() {
		if err := e.Scope().Create(ctx, o); err != nil {
			return err
		}
	}
	e.registered = true
	return e.inForce(ctx, env)
}

func (e *egress) objects() []*unstructured.Unstructured {
	host, service := e.name("registered"), e.service()
	here, there := []any{"."}, []any{".", egressGateway.namespace}
	return []*unstructured.Unstructured{
		e.entry("world", host, map[string]any{
			"resolution": "STATIC", "endpoints": []any{map[string]any{"address": e.pods["world"].IP}}, "exportTo": there,
		}),
		object(networkingV1, "Gateway", e.ns, "egress", map[string]any{
			"selector": map[string]any{"istio": egressGateway.labels["istio"]},
			"servers":  []any{e.door()},
		}),
		object(networkingV1, "DestinationRule", e.ns, "egress", map[string]any{
			"host": service, "exportTo": here,
			"subsets": []any{map[string]any{"name": "world", "trafficPolicy": map[string]any{
				"tls": map[string]any{"mode": "ISTIO_MUTUAL", "sni": host},
			}}},
		}),
		object(networkingV1, "VirtualService", e.ns, "world", map[string]any{
			"hosts": []any{host}, "gateways": []any{"mesh", e.ns + "/egress"}, "exportTo": there,
			"http": []any{
				map[string]any{
					"match": []any{map[string]any{"gateways": []any{"mesh"}, "port": int64(worldHTTP)}},
					"route": []any{e.destination(service, "world", 443)},
				},
				map[string]any{
					"match": []any{map[string]any{"gateways": []any{e.ns + "/egress"}, "port": int64(443)}},
					"route": []any{e.destination(host, "", worldHTTP)},
				},
			},
		}),
	}
}

func (e *egress) service() string {
	return egressGateway.name + "." + egressGateway.namespace + ".svc.cluster.local"
}

// door is the one by which the egress gateway lets the mesh in: who leaves it is known there.
func (e *egress) door() map[string]any {
	return map[string]any{
		"port": map[string]any{"number": int64(443), "name": "https", "protocol": "HTTPS"}, "hosts": []any{e.name("registered")},
		"tls": map[string]any{"mode": "ISTIO_MUTUAL"},
	}
}

// entry registers a host; more goes over what every entry has.
func (e *egress) entry(name, host string, more map[string]any) *unstructured.Unstructured {
	return object(networkingV1, "ServiceEntry", e.ns, name, platform.Merged(map[string]any{
		"hosts": []any{host}, "location": "MESH_EXTERNAL", "resolution": "NONE", "exportTo": []any{"."},
		"ports": []any{map[string]any{"number": int64(worldHTTP), "name": "http", "protocol": "HTTP"}},
	}, more))
}

func (e *egress) destination(host, subset string, port int) map[string]any {
	d := map[string]any{"host": host, "port": map[string]any{"number": int64(port)}}
	if subset != "" {
		d["subset"] = subset
	}
	return map[string]any{"destination": d}
}

// inForce waits until the stage's proxies have all configuration, and the egress
// gateways the registered host.
func (e *egress) inForce(ctx context.Context, env *environment.Environment) error {
	return e.inForceBy(ctx, env, "https.443.*")
}

// inForceBy wants it among the gateways' routes whose whole name an expression matches.
func (e *egress) inForceBy(ctx context.Context, env *environment.Environment, routes string) error {
	if err := settled(ctx, env, e.ns); err != nil {
		return err
	}
	pods, err := egressGateway.ready(ctx, env)
	if err != nil {
		return err
	}
	return wait.Answers(ctx, pushTimeout, fmt.Sprintf("the egress gateways to have %s among %s", e.name("registered"), routes), func(ctx context.Context) (string, error) {
		for _, p := range pods {
			routes, err := routesOf(ctx, env, egressGateway.namespace, p.Name, routes, e.name("registered"))
			if err != nil || len(routes) == 0 {
				return p.Name + " lacks it", err
			}
		}
		return "", nil
	})
}

func (e *egress) prove(ctx context.Context, t spec.T, env *environment.Environment) {
	gateways := map[string]string{} // by address
	for _, p := range egressGateway.stands(ctx, t, env) {
		gateways[address(p)] = named(p)
	}
	app, stranger, world := e.pods["app"], e.pods["stranger"], e.pods["world"]
	run := strconv.FormatInt(time.Now().UnixNano(), 36) // the world remembers earlier proofs, too
	to := func(host, path string, port int) probe.Request {
		scheme := "http"
		if port == worldHTTPS {
			scheme = "https"
		}
		// What the name resolves to: the mesh does not ask.
		return probe.Request{URL: scheme + "://" + host + "/" + run + "/" + path, Connect: net.JoinHostPort(world.IP, strconv.Itoa(port)), Insecure: scheme == "https"}
	}
	ways := []struct {
		path, host string
		port       int
		expect     probe.Expectation
	}{
		{"unregistered", e.name("unregistered"), worldHTTP, probe.Status(http.StatusBadGateway)},
		{"address", net.JoinHostPort(world.IP, strconv.Itoa(worldHTTP)), worldHTTP, probe.Status(http.StatusBadGateway)},
		{"tls", e.name("unregistered"), worldHTTPS, probe.Refused()},
		{"registered-tls", e.name("registered"), worldHTTPS, probe.Refused()}, // registered is its port 8080 alone
	}
	var open, shut []probe.Checked
	for _, w := range ways {
		open = append(open, probe.Expecting(to(w.host, "control", w.port), probe.Status(http.StatusOK)))
	}
	for range negativeRounds {
		for _, w := range ways {
			r := to(w.host, w.path, w.port)
			r.Timeout = negativeTimeout
			shut = append(shut, probe.Expecting(r, w.expect))
		}
	}
	if _, err := stranger.Calls(ctx, open); err != nil {
		t.Inconclusive("no targets", "the world is not there for a caller outside of the mesh either: %v", err)
	}
	traffic, err := app.Traffic(ctx, probe.Plan{Request: to(e.name("registered"), "registered", worldHTTP), Rate: 100, For: 10 * time.Second, Count: egressSample})
	spec.Check(t, err)
	spec.Check(t, traffic.Wait(ctx))
	spec.Check(t, traffic.Outcomes().Check(egressSample, probe.LostNone()))
	answers, err := app.CallsInSequence(ctx, shut)
	if len(answers) == 0 {
		spec.Check(t, err)
	}
	seen, hops, numbers, failed := received(ctx, world, run)
	if failed != nil {
		t.Broken(failed)
	}
	var denied negatives
	for i, a := range answers {
		if w := ways[i%len(ways)]; w.expect.Unmet(a) == "" {
			denied.add(a, "to "+w.path)
		}
	}
	denied.quick(t)
	through := 0
	for _, w := range ways {
		through += len(seen[w.path])
		assert.Empty(t, seen[w.path], "the world received what was for %s", w.path)
	}
	spec.Check(t, err)
	require.Equal(t, []int{egressSample, egressSample}, []int{len(seen["registered"]), numbers}, "the world received other requests to the registered host than were sent: how many, and with how many numbers")
	by := map[string]int{}
	around := 0
	for _, address := range seen["registered"] {
		if _, is := gateways[address]; !is {
			around++
		}
		by[cmp.Or(gateways[address], address)]++
	}
	assert.Zero(t, around, "requests to the registered host came by another way than the egress gateway: %v", by)
	for _, gateway := range gateways {
		assert.NotZero(t, by[gateway], "egress gateway %s took no part: %v", gateway, by)
	}
	// What the gateway itself says of who called it, beside the address that it called from.
	known := fmt.Sprint([]probe.Hop{{Peer: identity(e.ns, "default"), By: identity(egressGateway.namespace, egressGateway.name)}})
	assert.Equal(t, map[string]int{known: egressSample}, hops, "the way of requests to the registered host, as the server outside was told of it")
	t.Observe(fmt.Sprintf("of %d requests to a registered host the server outside received %d, %d of them from other addresses than the egress gateways', which told it of %s",
		egressSample, len(seen["registered"]), around, slices.Collect(maps.Keys(hops))), by)
	var said []string
	for i, w := range ways {
		said = append(said, fmt.Sprintf("%s: %s", w.path, answers[i]))
	}
	t.Observe(fmt.Sprintf("%d other ways out, each open to a caller outside of the mesh, were tried %d times from inside: the server received %d requests", len(ways), negativeRounds, through), said)
}

// received is where the world's requests of a run came from, by the path's end, and of those
// to the registered host their hops and how many numbers they have.
func received(ctx context.Context, world *probe.Pod, run string) (from map[string][]string, hops map[string]int, numbers int, err error) {
	all, err := world.Requests(ctx)
	if err != nil {
		return nil, nil, 0, err
	}
	from, hops = map[string][]string{}, map[string]int{}
	distinct := map[string]bool{}
	for _, r := range all {
		path, of := strings.CutPrefix(r.Path, "/"+run+"/")
		if !of {
			continue
		}
		address, _, err := net.SplitHostPort(r.Remote)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("remote address of request %d: %w", r.N, err)
		}
		from[path] = append(from[path], address)
		if path == "registered" {
			distinct[r.Headers.Get("X-Request-Number")] = true
			hops[fmt.Sprint(probe.Hops(r.Headers))]++
		}
	}
	return from, hops, len(distinct), nil
}

// fault is one in the stage's own namespace.
func (e *egress) fault(name, kills string, apply func(context.Context, *environment.Scope) error) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return apply(ctx, s)
		},
		Applied: e.inForce, Restored: e.inForce,
	}
}

func (e *egress) registers(name, kills, host string) spec.Sabotage {
	return e.fault(name, kills, func(ctx context.Context, s *environment.Scope) error {
		return s.Create(ctx, e.entry("more", e.name(host), nil))
	})
}

// plaintext has the mesh come to the egress gateway by another door, at which nobody is asked
// who it is. The one by mTLS stays, for a gateway takes its time to open one.
func (e *egress) plaintext() spec.Sabotage {
	f := e.fault("plaintext as far as the egress gateway", `(?s)^the way of requests to the registered host, as the server outside was told of it: .*actual\s*: map\[string\]int\{"\[\]":\d+\}`, func(ctx context.Context, s *environment.Scope) error {
		open := map[string]any{"port": map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"}, "hosts": []any{e.name("registered")}}
		if err := e.change(ctx, s, networkingV1, "Gateway", "egress", []any{e.door(), open}, "spec", "servers"); err != nil {
			return err
		}
		subset := map[string]any{"name": "world", "trafficPolicy": map[string]any{"tls": map[string]any{"mode": "DISABLE"}}}
		if err := e.change(ctx, s, networkingV1, "DestinationRule", "egress", []any{subset}, "spec", "subsets"); err != nil {
			return err
		}
		return e.routes(ctx, s, "world", func(rules []any) error {
			rules[0].(map[string]any)["route"] = []any{e.destination(e.service(), "world", 80)}
			rules[1].(map[string]any)["match"] = []any{map[string]any{"gateways": []any{e.ns + "/egress"}}} // whatever the door
			return nil
		})
	})
	f.Applied = func(ctx context.Context, env *environment.Environment) error { return e.inForceBy(ctx, env, "http.80") }
	return f
}

// heldBack has the sidecar say no to a host that it does not know when a second and a half is over.
func (e *egress) heldBack() spec.Sabotage {
	const routes, unknown, hosts = "8080", "block_all", "*" // Istio's names: of the port's routes, and of what none of them is for
	f := e.fault("denials that take a second and a half", `^to unregistered: \d+ calls that were refused or denied took [1-4]\.\d+s`, func(ctx context.Context, s *environment.Scope) error {
		return s.Create(ctx, object("networking.istio.io/v1alpha3", "EnvoyFilter", e.ns, "held-back", map[string]any{
			"configPatches": []any{map[string]any{
				"applyTo": "VIRTUAL_HOST",
				"match": map[string]any{"context": "SIDECAR_OUTBOUND", "routeConfiguration": map[string]any{
					"name": routes, "vhost": map[string]any{"name": unknown},
				}},
				"patch": map[string]any{"operation": "MERGE", "value": map[string]any{"typed_per_filter_config": map[string]any{
					"envoy.filters.http.fault": map[string]any{
						"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
						"delay": map[string]any{"fixed_delay": "1.5s", "percentage": map[string]any{"numerator": int64(100)}},
					},
				}}},
			}},
		}))
	})
	f.Applied = func(ctx context.Context, env *environment.Environment) error {
		return wait.Answers(ctx, pushTimeout, "the caller's proxy to hold back what it knows no route of", func(ctx context.Context) (string, error) {
			known, err := routesOf(ctx, env, e.ns, "app", routes, hosts)
			if err == nil && !strings.Contains(known[routes], "fixed_delay") {
				return fmt.Sprintf("it has %v", known), nil
			}
			return "", err
		})
	}
	return f
}
