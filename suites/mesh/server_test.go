package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	// metricsPort is the application's second port, where a pod tells what arrived
	// at it and takes faults, from within only.
	metricsPort  = "9090"
	trackLabel   = "docuthinker.dev/track" // stable or canary: what subsets select by
	numberHeader = "X-Request-Number"
)

// newFlowStage is a stage with one caller, which the policies let call the
// backend for it has the frontend's identity. It stands for the frontend, of
// which there is no pod.
func newFlowStage(t *testing.T, name string, values map[string]any) *stage {
	t.Helper()
	values = platform.Merged(map[string]any{"frontend": map[string]any{"replicas": 0}}, values)
	return newStage(t, name, values, caller{Spec: probe.Spec{Name: "caller", ServiceAccount: "frontend"}})
}

// toBackend is a request for the backend's /echo. Its timeout is far above what
// the mesh may make of one: the caller must see its end, on a busy machine too.
func (s *stage) toBackend() probe.Request {
	return probe.Request{URL: "http://backend." + s.ns + ".svc.cluster.local:8080/echo", Timeout: 20 * time.Second}
}

// numbered is toBackend under a number, by which servers count it.
func (s *stage) numbered(number string) probe.Request {
	r := s.toBackend()
	r.Headers = map[string]string{numberHeader: number}
	return r
}

// backends are the backend's pods.
func (s *stage) backends(ctx context.Context, env *environment.Environment) ([]corev1.Pod, error) {
	return s.podsOf(ctx, env, "backend")
}

// podsOf are a component's pods that are not on their way out, by name.
func (s *stage) podsOf(ctx context.Context, env *environment.Environment, component string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := env.Client().List(ctx, &pods, client.InNamespace(s.ns), client.MatchingLabels{"app": component})
	live := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	slices.SortFunc(live, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return live, err
}

// setFault gives one pod a plan of faults; what the plan leaves out is none.
func (s *stage) setFault(ctx context.Context, env *environment.Environment, pod string, plan map[string]any) error {
	body, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	_, err = env.Ask(ctx, s.ns, pod, metricsPort, http.MethodPut, "fault", bytes.NewReader(body))
	return err
}

// well is no fault at all.
var well = map[string]any{}

// makeIll is setFault until a scope ends at the latest.
func (s *stage) makeIll(ctx context.Context, t spec.T, env *environment.Environment, scope *environment.Scope, pod string, plan map[string]any) {
	t.Helper()
	err := scope.Defer("heal "+pod, func(ctx context.Context) error { return s.setFault(ctx, env, pod, well) })
	spec.Check(t, errors.Join(err, s.setFault(ctx, env, pod, plan)))
}

// arrivals are how often each numbered request came to a pod, as the pod itself
// counted, retries included.
func (s *stage) arrivals(ctx context.Context, env *environment.Environment, pod string) (map[string]int, error) {
	raw, err := env.Ask(ctx, s.ns, pod, metricsPort, http.MethodGet, "attempts", nil)
	if err != nil {
		return nil, err
	}
	var counts map[string]int
	if err := json.Unmarshal(raw, &counts); err != nil {
		return nil, fmt.Errorf("attempts of %s/%s: %w", s.ns, pod, err)
	}
	return counts, nil
}

// arrivalsOf are those of the requests numbered prefix-n, by n.
func (s *stage) arrivalsOf(ctx context.Context, env *environment.Environment, pod, prefix string) (map[int]int, error) {
	all, err := s.arrivals(ctx, env, pod)
	if err != nil {
		return nil, err
	}
	counts := map[int]int{}
	for number, n := range all {
		after, ours := strings.CutPrefix(number, prefix+"-")
		if !ours {
			continue
		}
		i, err := strconv.Atoi(after)
		if err != nil {
			return nil, fmt.Errorf("attempts of %s/%s: %q is no number of %s", s.ns, pod, number, prefix)
		}
		counts[i] = n
	}
	return counts, nil
}

// total is the sum of arrivals.
func total[K comparable](arrivals map[K]int) (n int) {
	for _, a := range arrivals {
		n += a
	}
	return n
}

// upstreamHost is a server as a proxy sees it.
type upstreamHost struct {
	near         bool // one of those that are called first: of the proxy's zone, where Istio prefers that
	ejected      bool // by outlier detection
	requests     int  // attempts sent to it since the proxy has this configuration of its cluster
	errors       int  // of them
	connectFails int
}

// hostsOf are the servers of one of a proxy's clusters, by address and port.
func hostsOf(ctx context.Context, env *environment.Environment, namespace, pod, cluster string) (map[string]upstreamHost, error) {
	raw, err := ask(ctx, env, namespace, pod, "clusters?format=json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Clusters []struct {
			Name  string
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string
						Port    int `json:"port_value"`
					} `json:"socket_address"`
				}
				Stats []struct {
					Name  string
					Value int `json:",string"`
				}
				Priority int
				Health   struct {
					Ejected bool `json:"failed_outlier_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		return nil, fmt.Errorf("clusters of %s/%s: %w", namespace, pod, err)
	}
	hosts := map[string]upstreamHost{}
	for _, c := range status.Clusters {
		if c.Name != cluster {
			continue
		}
		for _, h := range c.Hosts {
			seen := upstreamHost{near: h.Priority == 0, ejected: h.Health.Ejected}
			for _, s := range h.Stats {
				switch s.Name {
				case "rq_total":
					seen.requests = s.Value
				case "rq_error":
					seen.errors = s.Value
				case "cx_connect_fail":
					seen.connectFails = s.Value
				}
			}
			hosts[fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port)] = seen
		}
	}
	return hosts, nil
}

// stableHosts are the servers of the subset stable as the caller's proxy sees them.
func (s *stage) stableHosts(ctx context.Context, env *environment.Environment) (map[string]upstreamHost, error) {
	return hostsOf(ctx, env, s.ns, "caller", "outbound|8080|stable|backend."+s.ns+".svc.cluster.local")
}

// routeFault changes the rule by which requests go to the backend.
func routeFault(s *stage, name, kills string, change func(rule map[string]any)) spec.Sabotage {
	return stageFault(s, name, kills, func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		return s.routes(ctx, scope, "backend", func(rules []any) error {
			rule, ok := rules[len(rules)-1].(map[string]any) // those before it match something narrower
			if !ok || rule["match"] != nil || rule["retries"] == nil {
				return fmt.Errorf("the last rule of VirtualService backend is not the one for all requests, with retries: %v", rules[len(rules)-1])
			}
			change(rule)
			return nil
		})
	})
}
