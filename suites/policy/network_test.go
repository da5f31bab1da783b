package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// declaredPaths are all that is open, of the callers and targets below, sorted.
// Callers under no policy show that dns and outside are there to be reached.
var declaredPaths = map[string][]string{
	"frontend":   {"backend:8080", "dns:53"},
	"backend":    {"cache:6379", "database:5432", "dns:53"},
	"database":   {"dns:53"},
	"cache":      {"dns:53"},
	"worker":     {"dns:53"},
	"ingress":    {"dns:53", "frontend:8080", "outside:5000"},
	"monitoring": {"backend:9090", "dns:53", "frontend:9090", "outside:5000"},
	"stranger":   {"dns:53", "outside:5000"},
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
	{"worker", nil, []int32{8080}}, // has no policy of its own
	{"ingress", map[string]string{"docuthinker.dev/role": "ingress"}, nil},
	{"monitoring", map[string]string{"docuthinker.dev/role": "monitoring"}, nil},
	{"stranger", map[string]string{}, nil},
}

// firewallTimeout is what the nodes' firewalls may take to follow new pods and
// policies. They tell nobody when they have.
var firewallTimeout = wait.Timeout{Name: "firewallFollows", D: 8 * time.Second}

// TestNetworkPolicies proves with real connections between real pods that only
// the declared paths are open. The policies are those of the application as they
// stand in its namespace; they are copied to one of the run's own, beside pods
// that have the application's labels and listen on its ports, so that database
// and cache, which join later, are tried too, and nobody is disturbed.
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
			networkHarmless(),
		},
	})
}

func proveNetwork(ctx context.Context, t spec.T, env *environment.Environment) {
	pods, count, err := stage(ctx, env, t.Scope())
	if err != nil {
		t.Broken(err)
	}
	if count == 0 {
		t.Inconclusive("no targets", "%s has no NetworkPolicy", appNamespace)
	}
	targets, err := addresses(ctx, env, pods)
	if err != nil {
		t.Broken(err)
	}
	var seen map[string][]string
	err = wait.Answers(ctx, firewallTimeout, "the declared paths, and no others, to be open", func(ctx context.Context) (string, error) {
		got, err := openPaths(ctx, pods, targets)
		if err != nil {
			return "", err
		}
		if seen = got; !reflect.DeepEqual(seen, declaredPaths) {
			return fmt.Sprintf("open are %v", seen), nil
		}
		return "", nil
	})
	if seen == nil {
		t.Broken(err)
	}
	if err == nil { // once more: what was closed by being late is open by now
		if seen, err = openPaths(ctx, pods, targets); err != nil {
			t.Broken(err)
		}
	}
	tried := 0
	for _, from := range slices.Sorted(maps.Keys(declaredPaths)) {
		for _, to := range slices.Sorted(maps.Keys(targets)) {
			tried++
			is, want := slices.Contains(seen[from], to), slices.Contains(declaredPaths[from], to)
			assert.Equal(t, want, is, "%s -> %s is %s", from, to, map[bool]string{true: "open", false: "closed"}[is])
		}
	}
	t.Observe(fmt.Sprintf("%d policies of %s: of %d ways tried between %d pods, the declared ones were open and no other",
		count, appNamespace, tried, len(pods)), seen)
}

// stage makes the namespaces, the policies and the pods, and says how many
// policies there are.
func stage(ctx context.Context, env *environment.Environment, s *environment.Scope) (map[string]*probe.Pod, int, error) {
	var live networkingv1.NetworkPolicyList
	if err := env.Client().List(ctx, &live, client.InNamespace(appNamespace)); err != nil {
		return nil, 0, err
	}
	app, err := makeNamespace(ctx, env, s, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, p := range live.Items {
		own := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: app, Name: p.Name}, Spec: p.Spec}
		if err := s.Create(ctx, own); err != nil {
			return nil, 0, err
		}
	}
	var specs []probe.Spec
	for _, r := range roles {
		ns := app
		if r.namespace != nil {
			if ns, err = makeNamespace(ctx, env, s, r.namespace); err != nil {
				return nil, 0, err
			}
		}
		specs = append(specs, probe.Spec{Namespace: ns, Name: r.name, Labels: map[string]string{"app": r.name}, Ports: r.ports})
	}
	started, err := probe.Start(ctx, env, s, specs...)
	if err != nil {
		return nil, 0, err
	}
	pods := map[string]*probe.Pod{}
	for _, p := range started {
		pods[p.Name] = p
	}
	return pods, len(live.Items), nil
}

// addresses are the targets by their names: each port of the application's pods,
// the cluster's DNS, and a server outside of the cluster on this machine.
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
	outside, err := env.RegistryAddress(ctx)
	if err != nil {
		return nil, err
	}
	targets["outside:5000"] = outside
	return targets, nil
}

// openPaths dials every target from every pod.
func openPaths(ctx context.Context, pods map[string]*probe.Pod, targets map[string]string) (map[string][]string, error) {
	names := slices.Sorted(maps.Keys(targets))
	var hosts []string
	for _, n := range names {
		hosts = append(hosts, targets[n])
	}
	callers := slices.Sorted(maps.Keys(pods))
	open := make([][]string, len(callers))
	group, ctx := errgroup.WithContext(ctx)
	for i, from := range callers {
		group.Go(func() error {
			outcomes, err := pods[from].Dial(ctx, hosts...)
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
		return nil, err
	}
	seen := map[string][]string{}
	for i, from := range callers {
		seen[from] = open[i]
	}
	return seen, nil
}

// networkFault changes a live policy of the application.
func networkFault(name, kills, policy string, change func(*networkingv1.NetworkPolicy)) spec.Sabotage {
	named := func() *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: appNamespace, Name: policy}}
	}
	var before networkingv1.NetworkPolicySpec
	differs := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			p := named()
			err := env.Client().Get(ctx, client.ObjectKeyFromObject(p), p)
			if apierrors.IsNotFound(err) || err == nil && reflect.DeepEqual(p.Spec, before) == want {
				return fmt.Errorf("policy %s: changed is %t, want %t", policy, !want, want)
			}
			return err
		}
	}
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			p := named()
			return s.Update(ctx, p, func() error {
				p.Spec.DeepCopyInto(&before)
				change(p)
				return nil
			})
		},
		Applied: differs(true), Restored: differs(false),
	}
}

// networkHarmless says in another way what is said already.
func networkHarmless() spec.Sabotage {
	s := networkFault("a port said twice", "", "frontend", func(p *networkingv1.NetworkPolicy) {
		p.Spec.Ingress[0].Ports = append(p.Spec.Ingress[0].Ports, p.Spec.Ingress[0].Ports[0])
	})
	s.Harmless = true
	return s
}
