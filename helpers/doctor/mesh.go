package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	istioNetworking = "networking.istio.io"
	istioSecurity   = "security.istio.io"
	istioRoot       = "istio-system"
)

// full is a host as the mesh knows it: short names are of the namespace.
func (p *patient) full(host string) string {
	if strings.Contains(host, ".") {
		return host
	}
	return host + "." + p.namespace + ".svc.cluster.local"
}

// traffic is what leads nowhere: routes to no service or subset, subsets of no pod,
// services without a ready pod, and plaintext to who wants mTLS.
func (p *patient) traffic(ctx context.Context) (found []Finding, err error) {
	var services corev1.ServiceList
	var slicesOf discoveryv1.EndpointSliceList
	var pods corev1.PodList
	routes, err1 := p.list(ctx, istioNetworking, "v1", "VirtualService", p.namespace)
	rules, err2 := p.list(ctx, istioNetworking, "v1", "DestinationRule", p.namespace)
	entries, err3 := p.list(ctx, istioNetworking, "v1", "ServiceEntry", p.namespace)
	if err := errors.Join(err1, err2, err3, p.client.List(ctx, &services), p.client.List(ctx, &slicesOf, client.InNamespace(p.namespace)),
		p.client.List(ctx, &pods, client.InNamespace(p.namespace))); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, s := range services.Items {
		known[s.Name+"."+s.Namespace+".svc.cluster.local"] = true
		known[s.Name+"."+s.Namespace] = true
	}
	for _, e := range entries {
		hosts, _, _ := unstructured.NestedStringSlice(e.Object, "spec", "hosts")
		for _, h := range hosts {
			known[h] = true
		}
	}
	subsets := map[string][]string{} // by host
	for _, r := range rules {
		of, wrong := p.rule(r, pods.Items)
		host, _, _ := unstructured.NestedString(r.Object, "spec", "host")
		subsets[p.full(host)] = append(subsets[p.full(host)], of...)
		found = append(found, wrong...)
	}
	for _, v := range routes {
		for _, to := range destinations(v) {
			host, subset := p.full(to[0]), to[1]
			look := p.kubectl("get virtualservice %s -o yaml", v.GetName())
			switch {
			case !known[host]:
				found = append(found, Finding{Object: p.object("VirtualService", v.GetName()), Cause: "it sends to " + to[0] + ", and there is no such service", Next: look})
			case subset != "" && !slices.Contains(subsets[host], subset):
				found = append(found, Finding{Object: p.object("VirtualService", v.GetName()), Cause: fmt.Sprintf("it sends to subset %s of %s, and no DestinationRule has that", subset, to[0]), Next: look})
			}
		}
	}
	found = append(found, p.deserted(services.Items, slicesOf.Items)...)
	plain, err := p.plaintext(ctx, rules)
	return append(found, plain...), err
}

// rule are the subsets of a destination rule, and those that no pod belongs to.
func (p *patient) rule(r unstructured.Unstructured, pods []corev1.Pod) (names []string, found []Finding) {
	all, _, _ := unstructured.NestedSlice(r.Object, "spec", "subsets")
	for _, one := range all {
		subset, _ := one.(map[string]any)
		name, _, _ := unstructured.NestedString(subset, "name")
		want, _, _ := unstructured.NestedStringMap(subset, "labels")
		names = append(names, name)
		if !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return labels.SelectorFromSet(want).Matches(labels.Set(pod.Labels)) }) {
			found = append(found, Finding{
				Object: p.object("DestinationRule", r.GetName()), Cause: fmt.Sprintf("no pod has the labels of its subset %s: %s", name, labels.Set(want)),
				Next: p.kubectl("get pods -l %s", labels.Set(want)),
			})
		}
	}
	return names, found
}

// destinations are host and subset of all that a virtual service sends to.
func destinations(v unstructured.Unstructured) (all [][2]string) {
	for _, protocol := range []string{"http", "tls", "tcp"} {
		rules, _, _ := unstructured.NestedSlice(v.Object, "spec", protocol)
		for _, rule := range rules {
			fields, _ := rule.(map[string]any)
			routes, _, _ := unstructured.NestedSlice(fields, "route")
			for _, route := range routes {
				r, _ := route.(map[string]any)
				host, _, _ := unstructured.NestedString(r, "destination", "host")
				subset, _, _ := unstructured.NestedString(r, "destination", "subset")
				if weight, has, _ := unstructured.NestedInt64(r, "weight"); host != "" && (!has || weight > 0 || len(routes) == 1) {
					all = append(all, [2]string{host, subset})
				}
			}
		}
	}
	return all
}

// deserted are services that select pods of which none is ready.
func (p *patient) deserted(services []corev1.Service, endpoints []discoveryv1.EndpointSlice) (found []Finding) {
	for _, s := range services {
		if s.Namespace != p.namespace || len(s.Spec.Selector) == 0 {
			continue
		}
		ready := slices.ContainsFunc(endpoints, func(e discoveryv1.EndpointSlice) bool {
			return e.Labels[discoveryv1.LabelServiceName] == s.Name &&
				slices.ContainsFunc(e.Endpoints, func(one discoveryv1.Endpoint) bool { return one.Conditions.Ready == nil || *one.Conditions.Ready })
		})
		if !ready {
			found = append(found, Finding{
				Object: p.object("Service", s.Name), Cause: "no pod that it selects is ready: " + labels.Set(s.Spec.Selector).String(),
				Next: p.kubectl("get pods -l %s", labels.Set(s.Spec.Selector)),
			})
		}
	}
	return found
}

// plaintext are rules by which clients do not encrypt, where servers want them to.
func (p *patient) plaintext(ctx context.Context, rules []unstructured.Unstructured) (found []Finding, err error) {
	strict := ""
	for _, namespace := range []string{istioRoot, p.namespace} { // the nearer one counts
		all, err := p.list(ctx, istioSecurity, "v1", "PeerAuthentication", namespace)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if _, some, _ := unstructured.NestedMap(a.Object, "spec", "selector"); some {
				continue
			}
			if mode, _, _ := unstructured.NestedString(a.Object, "spec", "mtls", "mode"); mode == "STRICT" {
				strict = namespace + "/" + a.GetName()
			} else if mode != "" && mode != "UNSET" {
				strict = ""
			}
		}
	}
	for _, r := range rules {
		mode, _, _ := unstructured.NestedString(r.Object, "spec", "trafficPolicy", "tls", "mode")
		host, _, _ := unstructured.NestedString(r.Object, "spec", "host")
		if strict != "" && (mode == "DISABLE" || mode == "SIMPLE") && strings.HasSuffix(p.full(host), ".svc.cluster.local") {
			found = append(found, Finding{
				Object: p.object("DestinationRule", r.GetName()), Cause: fmt.Sprintf("clients of %s use TLS mode %s, and PeerAuthentication %s takes mTLS only", host, mode, strict),
				Next: p.kubectl("get destinationrule %s -o yaml", r.GetName()),
			})
		}
	}
	return found, nil
}
