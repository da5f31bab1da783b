package perf

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	atOncePort = 8443
	atOnce     = "at-once.example"
	k6Policy   = "k6"
)

// firewallTimeout is for the nodes' firewalls to take up a policy.
var firewallTimeout = wait.Timeout{Name: "firewallFollows", D: 15 * time.Second}

// k6Label is that of k6's pods, and of one that stands for them.
var k6Label = map[string]string{"app": "k6"}

// underLoad is a stage that is put under load, and who stands outside of the mesh as long as
// it does. k6's pods get to the gateway, and to nobody else.
type underLoad struct {
	*stage
	users  *probe.Pod // ask at the gateway, beside k6
	answer *probe.Pod // answers a new connection at once
	asK6   *probe.Pod // is under the policy of k6's pods, which end too soon to be asked
}

func newUnderLoad(t testing.TB) *underLoad {
	u := &underLoad{stage: newStage(t, "load", nil)}
	u.Stage = spec.NewStage(t, u.Name(), u.build)
	return u
}

func (u *underLoad) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	if err := u.stage.build(ctx, env, scope); err != nil {
		return err
	}
	policy, err := u.policy(ctx, env)
	if err != nil {
		return err
	}
	if err := scope.Create(ctx, policy); err != nil {
		return err
	}
	pods, err := probe.Start(ctx, env, scope,
		probe.Spec{Namespace: u.outside, Name: "users"},
		probe.Spec{Namespace: u.outside, Name: "at-once", Upstream: &probe.Upstream{HTTPS: atOncePort, Names: []string{atOnce}}},
		probe.Spec{Namespace: u.outside, Name: "as-k6", Labels: k6Label})
	if err != nil {
		return err
	}
	u.users, u.answer, u.asK6 = pods[0], pods[1], pods[2]
	return nil
}

// policy lets k6's pods out to the gateway and to the cluster's DNS, whatever a script says.
func (u *underLoad) policy(ctx context.Context, env *environment.Environment) (*networkingv1.NetworkPolicy, error) {
	service := &corev1.Service{}
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: "istio-ingress", Name: "istio-ingressgateway"}, service); err != nil {
		return nil, err
	}
	peer := func(namespace string, labels map[string]string) []networkingv1.NetworkPolicyPeer {
		return []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: labels},
		}}
	}
	port := func(protocol corev1.Protocol, number intstr.IntOrString) networkingv1.NetworkPolicyPort {
		return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
	}
	gateway := networkingv1.NetworkPolicyEgressRule{To: peer(service.Namespace, service.Spec.Selector)}
	for _, p := range service.Spec.Ports {
		if net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(p.Port))) == u.gateway {
			gateway.Ports = append(gateway.Ports, port(corev1.ProtocolTCP, p.TargetPort)) // policies see what a Service has led to
		}
	}
	if len(gateway.Ports) == 0 {
		return nil, fmt.Errorf("the Service of the ingress gateway has no port for %s", u.gateway)
	}
	dns := intstr.FromInt32(53)
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: u.outside, Name: k6Policy},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: k6Label}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{gateway, {
				To:    peer(metav1.NamespaceSystem, map[string]string{"k8s-app": "kube-dns"}),
				Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolUDP, dns), port(corev1.ProtocolTCP, dns)},
			}},
		},
	}, nil
}

// astray waits until k6's pods get to somebody beside the gateway, or do not. last is what
// was seen last where that does not come.
func (u *underLoad) astray(ctx context.Context, want bool) (last string, err error) {
	target := net.JoinHostPort(u.answer.IP, strconv.Itoa(atOncePort))
	err = wait.Answers(ctx, firewallTimeout, fmt.Sprintf("k6's pods to get beside the gateway: %t", want), func(ctx context.Context) (string, error) {
		came, err := u.asK6.Dial(ctx, u.gateway, target)
		if err != nil {
			return "", err
		}
		if last = ""; !came[0].Open() || came[1].Open() != want {
			last = fmt.Sprintf("the gateway is %s (%s), %s is %s (%s)", came[0].Result, came[0].Detail, target, came[1].Result, came[1].Detail)
		}
		return last, nil
	})
	return last, err
}

// confined: no load goes out before it is known that it can go to the gateway alone. Where
// nothing enforces a network policy, that is not so.
func (u *underLoad) confined(ctx context.Context, t spec.T) {
	t.Helper()
	last, err := u.astray(ctx, false)
	if err != nil && last != "" {
		t.Inconclusive("load is not confined", "%s", last)
	}
	spec.Check(t, err)
}

// unconfined takes k6's pods out of their policy.
func (u *underLoad) unconfined() spec.Sabotage {
	is := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, _ *environment.Environment) error {
			_, err := u.astray(ctx, want)
			return err
		}
	}
	return spec.Sabotage{
		Name: "k6's pods may ask anybody", Unsettles: "load is not confined", Applied: is(true), Restored: is(false),
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: u.outside, Name: k6Policy}}
			return scope.Update(ctx, p, func() error {
				p.Spec.PodSelector.MatchLabels = map[string]string{"app": "k7"}
				return nil
			})
		},
	}
}

// ask has users ask for some pages that nobody counts, at a rate: what stood still answers its
// first requests late, which full times hide and short ones do not.
func (u *underLoad) ask(ctx context.Context, rate float64, d time.Duration) error {
	asked, err := u.users.Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "https://" + u.host() + "/api/documents?limit=1", Connect: u.gateway, Insecure: true},
		Rate:    rate, For: d,
	})
	if err != nil {
		return err
	}
	return asked.Wait(ctx)
}

// halfway calls what is to be done once half of a scenario's time is over, for which a
// user asks now and then. What comes of it is sent; nil where there is nothing to do.
func (u *underLoad) halfway(ctx context.Context, half time.Duration, do func(context.Context) error) <-chan error {
	done := make(chan error, 1)
	go func() {
		if do == nil {
			done <- nil
			return
		}
		err := u.ask(ctx, 1, half)
		if err == nil {
			err = do(ctx)
		}
		done <- err
	}()
	return done
}
