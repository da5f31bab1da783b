package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// declaredPaths are all that is open, of the callers and targets below, sorted.
// Callers under no policy show that dns, outside and stranger are there to be reached.
// What ends in /udp is asked by UDP, of what answers it; of the application that is closed.
var declaredPaths = map[string][]string{
	"frontend":   {"backend:8080", "dns:53", "dns:53/udp"},
	"backend":    {"cache:6379", "database:5432", "dns:53", "dns:53/udp"},
	"database":   {"dns:53", "dns:53/udp"},
	"cache":      {"dns:53", "dns:53/udp"},
	"worker":     {"dns:53", "dns:53/udp"},
	"ingress":    {"dns:53", "dns:53/udp", "frontend:8080", "outside:5000", "stranger:8080", "stranger:8080/udp"},
	"monitoring": {"backend:9090", "dns:53", "dns:53/udp", "frontend:9090", "outside:5000", "stranger:8080", "stranger:8080/udp"},
	"stranger":   {"dns:53", "dns:53/udp", "outside:5000"},
}

// roles are the probe pods: the application's by its labels, callers by those of
// their namespaces.
var roles = []struct {
	name      string
	namespace map[string]string // labels of a namespace of its own; nil: the application's
	ports     []int32
}{
	{"frontend", nil, []int32{8080, 9090}},
	{"backend", nil, []int32{8080, 9090}},
	{"database", nil, []int32{5432}},
	{"cache", nil, []int32{6379}},
	{"worker", nil, []int32{8080}}, // has a policy of its own where there is a worker
	{"ingress", map[string]string{"docuthinker.dev/role": "ingress"}, nil},
	{"monitoring", map[string]string{"docuthinker.dev/role": "monitoring"}, nil},
	{"stranger", map[string]string{}, []int32{8080}},
}

// TestNetworkPolicies proves with real connections between real pods that only
// the declared paths are open. The policies are those of the application as they
// stand in its namespace; they are copied to one of the run's own, beside pods
// that have the application's labels and listen on its ports, so that database
// and cache, which join later, are tried too, and nobody is disturbed. That these
// pods stand for those of the application is shown by the labels that those have now.
func TestNetworkPolicies(t *testing.T) {
	spec.Run(t, spec.Specification{
		ID:    "POL-023",
		Risk:  spec.Namespaced,
		Needs: []spec.Need{docuthinker},
		Keys:  []string{"networkpolicy/" + appNamespace},
		Prove: proveNetwork,
		CounterProofs: []spec.Sabotage{
			networkFault("default deny selecting nothing", `stranger -> worker:8080 is open`, "default-deny", func(p *networkingv1.NetworkPolicy) {
				p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "nobody"}}
			}),
			networkFault("the backend open to everyone", `stranger -> backend:8080 is open`, "backend", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Ingress[0].From = nil
			}),
			networkFault("the frontend's policy selecting nothing", `ingress -> frontend:8080 is closed`, "frontend", func(p *networkingv1.NetworkPolicy) {
				p.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "frontent"}}
			}),
			networkFault("egress to anywhere", `frontend -> outside:5000 is open`, "dns", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{
					To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}},
				})
			}),
			networkFault("the backend's port open to everyone by UDP", `stranger -> backend:8080/udp is open`, "backend", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
					Ports: []networkingv1.NetworkPolicyPort{{Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(intstr.FromInt32(8080))}},
				})
			}),
			networkFault("UDP to anywhere", `frontend -> stranger:8080/udp is open`, "dns", func(p *networkingv1.NetworkPolicy) {
				udp := corev1.ProtocolUDP
				p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{
					To:    []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}},
					Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp}},
				})
			}),
			networkFault("egress to every namespace", `frontend -> stranger:8080 is open`, "dns", func(p *networkingv1.NetworkPolicy) {
				p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{
					To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}},
				})
			}),
			networkFault("a policy that passes over pods with a version", `pod frontend-[a-z0-9-]+ is under other policies than its role frontend`, "frontend", func(p *networkingv1.NetworkPolicy) {
				p.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "version", Operator: metav1.LabelSelectorOpDoesNotExist}}
			}),
			strayPod(),
			networkHarmless(),
		},
	})
}

func proveNetwork(ctx context.Context, t spec.T, env *environment.Environment) {
	var live networkingv1.NetworkPolicyList
	if err := env.Client().List(ctx, &live, client.InNamespace(appNamespace)); err != nil {
		t.Broken(err)
	}
	if len(live.Items) == 0 {
		t.Inconclusive("no targets", "%s has no NetworkPolicy", appNamespace)
	}
	proveSelected(ctx, t, env, live.Items)
	st, err := theStage(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	if err := st.follow(ctx, env, live.Items); err != nil {
		t.Broken(err)
	}
	seen, came, err := openPaths(ctx, st.pods, st.targets)
	if err != nil {
		t.Broken(err)
	}
	declared, err := pathsOf(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	tried, asDeclared := 0, 0
	for _, from := range slices.Sorted(maps.Keys(declared)) {
		for _, to := range slices.Sorted(maps.Keys(st.targets)) {
			tried++
			is, want := slices.Contains(seen[from], to), slices.Contains(declared[from], to)
			if is == want {
				asDeclared++
			}
			assert.Equal(t, want, is, "%s -> %s is %s: %s", from, to, map[bool]string{true: "open", false: "closed"}[is], came[from+" -> "+to])
		}
	}
	t.Observe(fmt.Sprintf("%d policies of %s: of %d ways tried between %d pods, %d were open or closed as declared",
		len(live.Items), appNamespace, tried, len(st.pods), asDeclared), seen)
}

// pathsOf are the declared paths of the application as it stands: its worker has some where
// there is one.
func pathsOf(ctx context.Context, env *environment.Environment) (map[string][]string, error) {
	paths := maps.Clone(declaredPaths)
	worker := object(deploymentKind, appNamespace, "worker")
	switch err := env.Client().Get(ctx, client.ObjectKeyFromObject(worker), worker); {
	case err == nil:
		paths["worker"] = []string{"cache:6379", "database:5432", "dns:53", "dns:53/udp"}
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return paths, nil
}

// addresses are the targets by their names: each port of the application's pods,
// the cluster's DNS, and a server outside of the cluster on this machine; some by UDP, too.
func addresses(ctx context.Context, env *environment.Environment, pods map[string]*probe.Pod) (map[string]string, error) {
	targets := map[string]string{}
	for name, p := range pods {
		for _, port := range p.Ports {
			number := strconv.Itoa(int(port))
			targets[name+":"+number] = net.JoinHostPort(p.IP, number)
		}
	}
	var dns corev1.PodList
	if err := env.Client().List(ctx, &dns, client.InNamespace(metav1.NamespaceSystem), client.MatchingLabels{"k8s-app": "kube-dns"}); err != nil {
		return nil, err
	}
	if len(dns.Items) == 0 || dns.Items[0].Status.PodIP == "" {
		return nil, errors.New("the cluster's DNS has no pod with an address")
	}
	targets["dns:53"] = net.JoinHostPort(dns.Items[0].Status.PodIP, "53")
	for _, name := range []string{"dns:53", "backend:8080", "stranger:8080"} {
		targets[name+"/udp"] = probe.UDP + targets[name]
	}
	outside, err := outsideAddress(ctx, env)
	if err != nil {
		return nil, err
	}
	targets["outside:5000"] = outside
	return targets, nil
}

// outsideAddress is a server that is no pod's and there for sure: the registry beside a
// cluster of ours, the API server's own address of one that was given.
func outsideAddress(ctx context.Context, env *environment.Environment) (string, error) {
	if env.Made() {
		return env.RegistryAddress(ctx)
	}
	var found discoveryv1.EndpointSliceList
	if err := env.Client().List(ctx, &found, client.InNamespace(metav1.NamespaceDefault), client.MatchingLabels{discoveryv1.LabelServiceName: "kubernetes"}); err != nil {
		return "", err
	}
	for _, s := range found.Items {
		for _, e := range s.Endpoints {
			for _, p := range s.Ports {
				if len(e.Addresses) > 0 && p.Port != nil {
					return net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))), nil
				}
			}
		}
	}
	return "", errors.New("the service default/kubernetes has no endpoint")
}

// openPaths dials every target from every pod. came is what came of each dial.
func openPaths(ctx context.Context, pods map[string]*probe.Pod, targets map[string]string) (seen map[string][]string, came map[string]string, err error) {
	names := slices.Sorted(maps.Keys(targets))
	var hosts []string
	for _, n := range names {
		hosts = append(hosts, targets[n])
	}
	callers := slices.Sorted(maps.Keys(pods))
	open, all := make([][]string, len(callers)), make([][]probe.Outcome, len(callers))
	group, ctx := errgroup.WithContext(ctx)
	for i, from := range callers {
		group.Go(func() error {
			outcomes, err := pods[from].Dial(ctx, hosts...)
			all[i] = outcomes
			for j, o := range outcomes {
				if o.Result == "error" { // neither open nor closed: it could not be asked
					return fmt.Errorf("%s -> %s: %s", from, names[j], o.Detail)
				}
				if own, _, _ := net.SplitHostPort(names[j]); o.Open() && own != from { // to itself is no way
					open[i] = append(open[i], names[j])
				}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	seen, came = map[string][]string{}, map[string]string{}
	for i, from := range callers {
		seen[from] = open[i]
		for j, o := range all[i] {
			came[from+" -> "+names[j]] = fmt.Sprintf("%s after %.0f ms %s", o.Result, o.Millis, o.Detail)
		}
	}
	return seen, came, nil
}
