package mesh

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	graphRate   = 10               // requests a second
	graphWindow = 10 * time.Second // of the rates that Kiali shows: five of Prometheus' looks at the proxies
	graphSlack  = 0.5              // by which a rate may be off: the window does not end with the traffic's second
)

// graphTimeout is for traffic to fill the window, and for Kiali to hear of a new
// namespace, which takes it 10 s.
var graphTimeout = wait.Timeout{Name: "graphShowsTraffic", D: 30 * time.Second}

// TestServiceGraph proves that Kiali draws what traffic really took: an edge for
// each, with its rate, and none beside.
func TestServiceGraph(t *testing.T) {
	s := visited.with(t, newStage(t, "graph", nil,
		caller{Spec: probe.Spec{Name: "user"}, outside: true},
		caller{Spec: probe.Spec{Name: "stranger"}}).traced())
	spec.Run(t, spec.Specification{
		ID:            "MSH-016",
		Risk:          spec.Namespaced,
		Needs:         []spec.Need{istio, gateway, tracing, kiali, s},
		Prove:         func(ctx context.Context, t spec.T, env *environment.Environment) { proveGraph(ctx, t, env, s) },
		CounterProofs: graphFaults(s),
	})
}

func proveGraph(ctx context.Context, t spec.T, env *environment.Environment, s *stage) {
	const gatewayNode = "istio-ingressgateway.istio-ingress"
	frontend, backend := "frontend."+s.ns, "backend."+s.ns
	users := []string{gatewayNode + " -> " + frontend, frontend + " -> " + backend}
	// The application's spans are traffic, too, of the application's own.
	spans := []string{frontend + " -> otel-collector.monitoring", backend + " -> otel-collector.monitoring"}

	if err := s.reached(ctx, env); err != nil {
		t.Broken(err)
	}
	traffic, err := s.pods["user"].Traffic(ctx, probe.Plan{Request: s.asUser(), Rate: graphRate, For: graphTimeout.D + graphWindow, KeepAlive: true})
	spec.Check(t, err)
	spec.Check(t, traffic.Await(ctx, int(graphRate*graphWindow.Seconds())))
	var edges map[string]float64
	waited := wait.Answers(ctx, graphTimeout, "the graph to show the traffic", func(ctx context.Context) (string, error) {
		now, err := edgesOf(ctx, env, s.ns)
		if err != nil {
			return err.Error(), nil // Kiali does not know the namespace yet
		}
		edges = now
		return strings.Join(slices.Concat(unlikely(edges, users), absent(edges, spans)), ", "), nil
	})
	if edges == nil {
		spec.Check(t, waited)
	}
	spec.Check(t, traffic.Stop(ctx))
	if lost := traffic.Outcomes().ErrorShare(); lost > 0.1 {
		t.Broken(fmt.Errorf("%.0f %% of the requests failed: what the graph should show is not known", 100*lost))
	}

	all := slices.Concat(users, spans)
	assert.Empty(t, absent(edges, all), "edges that traffic took and that the graph lacks")
	assert.Empty(t, unlikely(edges, users), "rates that are not those of the traffic, %d a second", graphRate)
	var more []string
	for e := range edges {
		if !slices.Contains(all, e) {
			more = append(more, e)
		}
	}
	assert.Empty(t, more, "edges that no traffic is known to have taken")
	t.Observe(fmt.Sprintf("%d requests of users, %d a second: Kiali's graph has %d edges at the application, %d of them the users' way, with their rates over %s, and the others the application's spans on their way to the collector",
		len(traffic.Outcomes().Sent), graphRate, len(edges), len(users), graphWindow), edges)
}

func absent(edges map[string]float64, want []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(e string) bool { return edges[e] > 0 })
}

// unlikely are the edges whose rate is not that of the traffic. The frontend asks
// the backend on its own account, too, once in 2 s, to know whether it is ready.
func unlikely(edges map[string]float64, want []string) (off []string) {
	for _, e := range want {
		if r := edges[e]; r < graphRate*(1-graphSlack) || r > graphRate*(1+graphSlack) {
			off = append(off, fmt.Sprintf("%s has %.1f a second", e, r))
		}
	}
	return off
}

// edgesOf are the edges of Kiali's graph that begin or end in a namespace, as
// "workload.namespace -> workload.namespace", and their requests a second.
func edgesOf(ctx context.Context, env *environment.Environment, namespace string) (map[string]float64, error) {
	var answer struct {
		Elements struct {
			Nodes []struct {
				Data struct{ ID, NodeType, Namespace, Workload, Service, App string }
			}
			Edges []struct {
				Data struct {
					Source, Target string
					Traffic        struct {
						Protocol string
						Rates    map[string]string
					}
				}
			}
		}
	}
	err := graph.ask(ctx, env, "api/namespaces/graph", map[string][]string{
		"namespaces": {namespace + ",istio-ingress"}, "duration": {graphWindow.String()}, "graphType": {"workload"}, "injectServiceNodes": {"false"}, "appenders": {""},
	}, &answer)
	if err != nil {
		return nil, err
	}
	names, here := map[string]string{}, map[string]bool{}
	for _, n := range answer.Elements.Nodes {
		name := n.Data.Workload
		if n.Data.NodeType != "workload" {
			name = n.Data.NodeType + " " + n.Data.Service + n.Data.App
		}
		names[n.Data.ID] = name + "." + n.Data.Namespace
		here[n.Data.ID] = n.Data.Namespace == namespace
	}
	edges := map[string]float64{}
	for _, e := range answer.Elements.Edges {
		if !here[e.Data.Source] && !here[e.Data.Target] {
			continue
		}
		rate, err := strconv.ParseFloat(e.Data.Traffic.Rates[e.Data.Traffic.Protocol], 64)
		if err != nil {
			return nil, fmt.Errorf("kiali: rates %v: %w", slices.Sorted(maps.Keys(e.Data.Traffic.Rates)), err)
		}
		edges[names[e.Data.Source]+" -> "+names[e.Data.Target]] += rate
	}
	return edges, nil
}

func graphFaults(s *stage) []spec.Sabotage {
	return []spec.Sabotage{
		s.twoBackends(),
		s.otherTraffic(),
		s.passedBy(`edges that traffic took and that the graph lacks`),
	}
}

// otherTraffic is that of one who has no business there. It is refused, and took
// the edge all the same.
func (s *stage) otherTraffic() spec.Sabotage {
	var traffic *probe.Record
	return spec.Sabotage{
		Name: "somebody else calls the backend", Kills: `edges that no traffic is known to have taken`,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) (err error) {
			lasting := context.WithoutCancel(ctx)
			traffic, err = s.pods["stranger"].Traffic(lasting, probe.Plan{
				Request: probe.Request{URL: "http://backend:8080/echo"}, Rate: 2, For: 2 * time.Minute, KeepAlive: true,
			})
			if err != nil {
				return err
			}
			return scope.Defer("traffic of a stranger", traffic.Stop)
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			_, err := traffic.AwaitOne(ctx, 0, "a call that is refused", func(o probe.Sent) bool { return o.Status == 403 })
			return err
		},
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return wait.Answers(ctx, graphTimeout, "the stranger's edge to be gone", func(ctx context.Context) (string, error) {
				edges, err := edgesOf(ctx, env, s.ns)
				for e := range edges {
					if strings.HasPrefix(e, "stranger.") {
						return e + " is there", err
					}
				}
				return "", err
			})
		},
	}
}

// passedBy has the frontend's calls leave its pod without its sidecar, and the
// backend take them: the traffic flows, and the mesh does not see where from.
func (s *stage) passedBy(kills string) spec.Sabotage {
	f := s.deploymentFault("calls that pass the frontend's sidecar by", kills, "frontend", func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, "traffic.sidecar.istio.io/excludeOutboundPorts", "8080")
	})
	leave := f.Apply
	f.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		err := s.change(ctx, scope, securityV1, "PeerAuthentication", "default", "PERMISSIVE", "spec", "mtls", "mode")
		if err != nil {
			return err
		}
		err = scope.Create(ctx, object(securityV1, "AuthorizationPolicy", s.ns, "all", map[string]any{
			"action": "ALLOW", "rules": []any{map[string]any{}},
		}))
		if err != nil {
			return err
		}
		return leave(ctx, env, scope)
	}
	return f
}

// twoBackends is harmless: they are one workload.
func (s *stage) twoBackends() spec.Sabotage {
	return spec.Harmless(s.deploymentFault("two backends", "", "backend", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](2) }))
}
