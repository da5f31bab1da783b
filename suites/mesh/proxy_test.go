package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	sidecar   = "istio-proxy" // the container's name
	adminPort = "15000"       // of Envoy, on the pod's loopback
)

// ask gets a path of a proxy's admin interface: what the proxy has, not what it
// was meant to have.
func ask(ctx context.Context, env *environment.Environment, namespace, pod, path string) ([]byte, error) {
	return env.Ask(ctx, namespace, pod, adminPort, http.MethodGet, path, nil)
}

// proxied are the pods of a namespace that have a sidecar and are not on their
// way out, by name.
func proxied(ctx context.Context, env *environment.Environment, namespace string) ([]string, error) {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && hasSidecar(&p) {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

func hasSidecar(p *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == sidecar })
}

var pushTimeout = wait.Timeout{Name: "proxiesHaveConfiguration", D: 30 * time.Second}

// settled waits until every proxy of a namespace has all configuration that was
// applied before the call. istiod tells nobody; so one more host is registered,
// and once its route is there, all before it is too: routes are sent last.
func settled(ctx context.Context, env *environment.Environment, namespace string) error {
	s := env.Scope("marker of " + namespace)
	host := fmt.Sprintf("marker-%d.invalid", time.Now().UnixNano())
	err := s.Create(ctx, object(networkingV1, "ServiceEntry", namespace, strings.ReplaceAll(host, ".", "-"), map[string]any{
		"hosts": []any{host}, "exportTo": []any{"."}, "location": "MESH_EXTERNAL", "resolution": "NONE",
		"ports": []any{map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"}},
	}))
	if err == nil {
		have := map[string]bool{}
		err = wait.Answers(ctx, pushTimeout, "the proxies of "+namespace+" to have the latest configuration", func(ctx context.Context) (string, error) {
			return lackingRoute(ctx, env, namespace, markerRoutes, host, have)
		})
	}
	if closed := s.Close(context.WithoutCancel(ctx)); err == nil {
		err = closed
	}
	return err
}

// markerRoutes are the routes that a sidecar has a marker's in: those of its port.
const markerRoutes = "80"

// lackingRoute says which proxies of a namespace have no route of a host. Those of have are
// not asked again, for each question costs a way through the API server and a kubelet, and
// the proxy its routes as JSON: of them all, unless they are named.
func lackingRoute(ctx context.Context, env *environment.Environment, namespace, routes, host string, have map[string]bool) (string, error) {
	pods, err := proxied(ctx, env, namespace)
	if err != nil || len(pods) == 0 {
		return "there are no proxies", err
	}
	pods = slices.DeleteFunc(pods, func(pod string) bool { return have[pod] })
	lacks := make([]string, len(pods))
	group, ctx := errgroup.WithContext(ctx)
	for i, pod := range pods {
		group.Go(func() error {
			dump, err := ask(ctx, env, namespace, pod, routeDump(routes))
			if err != nil {
				lacks[i] = err.Error() // a pod may have ended meanwhile
			} else if !strings.Contains(string(dump), host) {
				lacks[i] = pod + " lacks it"
			}
			return nil
		})
	}
	err = group.Wait()
	for i, pod := range pods {
		have[pod] = lacks[i] == ""
	}
	return strings.Join(slices.DeleteFunc(lacks, func(l string) bool { return l == "" }), "; "), err
}

// routeDump is the path of a proxy's route configurations, of one when it is named.
func routeDump(name string) string {
	return "config_dump?resource=dynamic_route_configs&name_regex=" + name
}

// routesOf are a proxy's virtual hosts for a host, by the names of the route
// configurations that hold them; of one of these when it is named.
func routesOf(ctx context.Context, env *environment.Environment, namespace, pod, name, host string) (map[string]string, error) {
	raw, err := ask(ctx, env, namespace, pod, routeDump(name))
	if err != nil {
		return nil, err
	}
	var dump struct {
		Configs []struct {
			RouteConfig struct {
				Name         string
				VirtualHosts []json.RawMessage `json:"virtual_hosts"`
			} `json:"route_config"`
		}
	}
	if err := json.Unmarshal(raw, &dump); err != nil {
		return nil, fmt.Errorf("routes of %s/%s: %w", namespace, pod, err)
	}
	hosts := map[string]string{}
	for _, c := range dump.Configs {
		for _, v := range c.RouteConfig.VirtualHosts {
			var known struct{ Domains []string }
			if err := json.Unmarshal(v, &known); err != nil {
				return nil, fmt.Errorf("routes %s of %s/%s: %w", c.RouteConfig.Name, namespace, pod, err)
			}
			if slices.Contains(known.Domains, host) {
				hosts[c.RouteConfig.Name] = string(v)
			}
		}
	}
	return hosts, nil
}
