package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// The ports of a broken server.
const (
	resetting = 8080
	closed    = 8081 // nobody listens there, so connections are refused
)

// brokenServer is a pod of the backend without a sidecar that resets every
// connection: what happens to it happens to the caller's proxy itself, where a
// proxy of the server's would make a status of it. It is a Need after the stage.
type brokenServer struct {
	*stage
	name, ip string
}

// Name is what the journal calls it.
func (b *brokenServer) Name() string { return "broken server of " + b.stage.Name() }

var brokenTimeout = wait.Timeout{Name: "brokenServerReady", D: 60 * time.Second}

// Ensure makes the pod of the backend's own template. The Service does not select
// it; it takes part only while join says so.
func (b *brokenServer) Ensure(ctx context.Context, env *environment.Environment) error {
	if b.ip != "" {
		return nil
	}
	var backend appsv1.Deployment
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: b.ns, Name: "backend"}, &backend); err != nil {
		return err
	}
	beside, err := b.nodeOfBackend(ctx, env)
	if err != nil {
		return err
	}
	template := backend.Spec.Template.DeepCopy()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: "broken", Labels: maps.Clone(template.Labels)}, Spec: template.Spec}
	p.Labels["app"] = p.Name
	p.Labels["sidecar.istio.io/inject"] = "false"
	p.Spec.TopologySpreadConstraints = nil
	p.Spec.NodeName = beside // a proxy prefers a zone where hosts may be ejected, so both must be in one
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	app := &p.Spec.Containers[0]
	app.Env = append(app.Env, corev1.EnvVar{Name: "FAULT_RESET_RATE", Value: "1"})
	if err := b.Scope().Create(ctx, p); err != nil {
		return err
	}
	_, err = wait.On(env.Config).Until(ctx, brokenTimeout, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: p.Namespace, Name: p.Name,
	}, wait.PodReady())
	if err != nil {
		return err
	}
	if err := env.Client().Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
		return err
	}
	b.name, b.ip = p.Name, p.Status.PodIP
	return nil
}

func (b *brokenServer) nodeOfBackend(ctx context.Context, env *environment.Environment) (string, error) {
	pods, err := b.backends(ctx, env)
	if err != nil || len(pods) == 0 {
		return "", errors.Join(err, errors.New("the backend has no pod"))
	}
	return pods[0].Spec.NodeName, nil
}

var joinTimeout = wait.Timeout{Name: "proxyHasEndpoint", D: 15 * time.Second}

// join makes a port of the pod an endpoint of the backend, and waits until the
// caller's proxy has it; the host is its name there.
func (b *brokenServer) join(ctx context.Context, env *environment.Environment, scope *environment.Scope, port int32) (host string, err error) {
	host = net.JoinHostPort(b.ip, strconv.Itoa(int(port)))
	err = scope.Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: fmt.Sprintf("backend-%s-%d", b.name, port), Labels: map[string]string{
			discoveryv1.LabelServiceName: "backend", discoveryv1.LabelManagedBy: "proving-ground",
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http-web"), Port: ptr.To(port), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{b.ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: b.ns, Name: b.name}, // by whose labels it is of a subset
		}},
	})
	if err == nil {
		err = b.awaitHost(ctx, env, host, true)
	}
	return host, err
}

// leave undoes join by its scope, and waits until the caller's proxy has heard.
func (b *brokenServer) leave(ctx context.Context, env *environment.Environment, scope *environment.Scope, host string) error {
	if err := scope.Close(ctx); err != nil {
		return err
	}
	return b.awaitHost(ctx, env, host, false)
}

func (b *brokenServer) awaitHost(ctx context.Context, env *environment.Environment, host string, want bool) error {
	return wait.Answers(ctx, joinTimeout, fmt.Sprintf("the caller's proxy to have %s: %t", host, want), func(ctx context.Context) (string, error) {
		hosts, err := b.stableHosts(ctx, env)
		if _, has := hosts[host]; err == nil && has != want {
			return fmt.Sprintf("it has %+v", hosts), nil
		}
		return "", err
	})
}
