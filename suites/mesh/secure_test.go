package mesh

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// trustDomain is that of mesh.yaml of component istio.
const trustDomain = "cluster.local"

// identity is the name by which the mesh knows a service account.
func identity(namespace, serviceAccount string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, namespace, serviceAccount)
}

// admission is the policy by which a service account of the stage is let in everywhere.
func (s *stage) admission(serviceAccount string) *unstructured.Unstructured {
	return object(securityV1, authorizationPolicy, s.ns, "caller-"+serviceAccount, map[string]any{
		"action": "ALLOW",
		"rules":  []any{map[string]any{"from": from(principal(trustDomain, s.ns, serviceAccount))}},
	})
}

// newConnections has the proxies make a connection for each request to services
// of the stage, so that what is changed meets the next request: a connection
// that is open goes on by the rules under which it was made. On a busy machine
// each may take its time, and a pod is called though its probes fail meanwhile:
// neither is what is judged here.
func (s *stage) newConnections(ctx context.Context, scope *environment.Scope, services ...string) error {
	for _, name := range services {
		rule := object(networkingV1, "DestinationRule", s.ns, name, nil)
		err := scope.Update(ctx, rule, func() error {
			return unstructured.SetNestedField(rule.Object, oneRequestEach(), "spec", "trafficPolicy", "connectionPool")
		})
		if err != nil {
			return err
		}
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}}
		if err := scope.Update(ctx, service, func() error {
			service.Spec.PublishNotReadyAddresses = true
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func oneRequestEach() map[string]any {
	return map[string]any{
		"tcp": map[string]any{"connectTimeout": "10s"}, "http": map[string]any{"maxRequestsPerConnection": int64(1)},
	}
}

func principal(domain, namespace, serviceAccount string) string {
	return fmt.Sprintf("%s/ns/%s/sa/%s", domain, namespace, serviceAccount)
}

// from is the part of an AuthorizationPolicy's rule that names callers.
func from(principals ...any) []any {
	return []any{map[string]any{"source": map[string]any{"principals": principals}}}
}

// secureFault is a stageFault after which the frontend, which was not ready while
// it could not reach the backend, is to be so again.
func secureFault(s *stage, name, kills string, apply func(context.Context, *environment.Environment, *environment.Scope) error) spec.Sabotage {
	f := stageFault(s, name, kills, apply)
	have := f.Restored
	f.Restored = func(ctx context.Context, env *environment.Environment) error {
		if err := have(ctx, env); err != nil { // first, for readiness comes of it
			return err
		}
		if err := rolledOut(ctx, env, readyAgainTimeout, "Deployment", s.ns, "frontend"); err != nil {
			return err
		}
		return have(ctx, env)
	}
	return f
}

var readyAgainTimeout = wait.Timeout{Name: "frontendReadyAgain", D: 60 * time.Second}

// more starts one more pod like those of a Deployment of the stage, behind the
// same Service, and waits until it is ready.
func (s *stage) more(ctx context.Context, env *environment.Environment, scope *environment.Scope, deployment, name string, differ func(*corev1.Pod)) error {
	var d appsv1.Deployment
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: deployment}, &d); err != nil {
		return err
	}
	template := d.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name, Labels: template.Labels, Annotations: template.Annotations},
		Spec:       template.Spec,
	}
	brief := int64(3) // of the application's drainDelay, one second is used
	pod.Spec.TerminationGracePeriodSeconds = &brief
	differ(pod)
	if err := scope.Create(ctx, pod); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, morePodTimeout, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: s.ns, Name: name,
	}, wait.PodReady())
	return err
}

var morePodTimeout = wait.Timeout{Name: "onePodMoreReady", D: 45 * time.Second}

// withoutSidecar is what more does to a pod to keep the mesh out of it.
func withoutSidecar(p *corev1.Pod) { p.Labels["sidecar.istio.io/inject"] = "false" }

// behind are the addresses host:port of the pods behind the stage's services in the
// mesh, by pod, read from the cluster.
func (s *stage) behind(ctx context.Context, env *environment.Environment) (map[string][]string, error) {
	var all discoveryv1.EndpointSliceList
	if err := env.Client().List(ctx, &all, client.InNamespace(s.ns)); err != nil {
		return nil, err
	}
	found := map[string]map[string]bool{}
	for _, slice := range all.Items {
		if slices.Contains(outsideServices, slice.Labels[discoveryv1.LabelServiceName]) {
			continue
		}
		for _, e := range slice.Endpoints {
			leaving := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || leaving {
				continue
			}
			if found[e.TargetRef.Name] == nil {
				found[e.TargetRef.Name] = map[string]bool{}
			}
			for _, p := range slice.Ports {
				found[e.TargetRef.Name][net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))] = true
			}
		}
	}
	sorted := map[string][]string{}
	for pod, addresses := range found {
		sorted[pod] = slices.Sorted(maps.Keys(addresses))
	}
	return sorted, nil
}
