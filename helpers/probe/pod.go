// Package probe has callers in pods, which say what came of a call: what a
// suite needs to show that a way is open, or closed, from where the platform's
// own pods stand. It holds no verdicts.
package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// Image is the one that probe pods run: cmd/probe of the sample application.
const Image = "docker.io/docuthinker/probe:1.0.0"

var podTimeout = wait.Timeout{Name: "probePodReady", D: 90 * time.Second}

// Spec says where a probe pod stands, by what labels policies know it, and what
// it serves.
type Spec struct {
	Namespace      string
	Name           string
	Labels         map[string]string
	ServiceAccount string    // whose identity the mesh gives it; empty: default
	Mesh           bool      // in the mesh, or outside it even in a namespace that injects
	Ports          []int32   // on which it answers with its name, TCP and UDP
	Upstream       *Upstream // what it serves in place of Ports
	Node           string    // on which it stands; empty for the scheduler's choice
}

// Pod is a probe that runs.
type Pod struct {
	Spec
	IP  string
	env *environment.Environment
}

// Start makes probe pods through a scope and waits until all are ready: a pod is
// when it listens, and one in the mesh when its sidecar is as well. They comply
// with the platform's policies.
func Start(ctx context.Context, env *environment.Environment, s *environment.Scope, specs ...Spec) ([]*Pod, error) {
	for _, p := range specs {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("probe %s: %w", p.Name, err)
		}
	}
	for _, p := range specs {
		if err := s.Create(ctx, p.pod()); err != nil {
			return nil, fmt.Errorf("probe %s: %w", p.Name, err)
		}
	}
	w := wait.On(env.Config)
	var pods []*Pod
	for _, p := range specs {
		found, err := w.Until(ctx, podTimeout, wait.Target{
			Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: p.Namespace, Name: p.Name,
		}, wait.PodReady())
		if err != nil {
			return nil, fmt.Errorf("probe %s: %w", p.Name, err)
		}
		if has := hasSidecar(found[0]); has != p.Mesh {
			return nil, fmt.Errorf("probe %s: has a sidecar: %t, want %t; look at istiod and its webhook", p.Name, has, p.Mesh)
		}
		ip, _, _ := unstructured.NestedString(found[0].Object, "status", "podIP")
		pods = append(pods, &Pod{Spec: p, IP: ip, env: env})
	}
	return pods, nil
}

// hasSidecar looks for Istio's, which is an init container that stays.
func hasSidecar(pod *unstructured.Unstructured) bool {
	for _, field := range []string{"initContainers", "containers"} {
		containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", field)
		for _, c := range containers {
			if m, ok := c.(map[string]any); ok && m["name"] == "istio-proxy" {
				return true
			}
		}
	}
	return false
}

func (p Spec) check() error {
	if p.Upstream == nil {
		return nil
	}
	if len(p.Ports) > 0 {
		return errors.New("serves Ports or an Upstream, not both")
	}
	return p.Upstream.check()
}

// serves gives the command of the pod and the port by which it is ready.
func (p Spec) serves() (args []string, port int32) {
	switch {
	case p.Upstream != nil:
		return p.Upstream.args(), p.Upstream.http()
	case len(p.Ports) == 0: // a caller that nobody calls
		return []string{"serve", strconv.Itoa(callerPort)}, callerPort
	}
	args = []string{"serve"}
	for _, port := range p.Ports {
		args = append(args, strconv.Itoa(int(port)))
	}
	return args, p.Ports[0]
}

func (p Spec) pod() *corev1.Pod {
	args, port := p.serves()
	labels := maps.Clone(p.Labels) // the caller may share it between pods
	if labels == nil {
		labels = map[string]string{}
	}
	labels[injectLabel] = strconv.FormatBool(p.Mesh)
	ready := &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}, // from the node, which policies let through
	}}
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: p.Node, ServiceAccountName: p.ServiceAccount, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			TerminationGracePeriodSeconds: new(int64),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: container, Image: Image, ImagePullPolicy: corev1.PullAlways, Args: args, ReadinessProbe: ready,
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("8Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				},
				SecurityContext: &corev1.SecurityContext{
					ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

const (
	container   = "probe"
	callerPort  = 1024
	injectLabel = "sidecar.istio.io/inject"
)
