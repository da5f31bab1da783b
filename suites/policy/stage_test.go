package policy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// stage are pods that last, and the policies that the last proof left: the next one changes what
// differs, for each change has every node make its firewall anew.
type stage struct {
	app     string // namespace
	pods    map[string]*probe.Pod
	targets map[string]string // name -> host:port
	// sentinels stand on a node each. No policy but one of the stage's own concerns them, which each
	// proof makes, or takes away, after all others: once they are shut, or open again, their
	// node's firewall has followed all policies.
	sentinels []string // host:port
}

var (
	stageOnce sync.Mutex
	staged    *stage
)

func theStage(ctx context.Context, env *environment.Environment) (*stage, error) {
	stageOnce.Lock()
	defer stageOnce.Unlock()
	if staged != nil {
		return staged, nil
	}
	app, err := makeNamespace(ctx, env, env.Lasting(), nil)
	if err != nil {
		return nil, err
	}
	var specs []probe.Spec
	for _, r := range roles {
		ns := app
		if r.namespace != nil {
			if ns, err = makeNamespace(ctx, env, env.Lasting(), r.namespace); err != nil {
				return nil, err
			}
		}
		specs = append(specs, probe.Spec{Namespace: ns, Name: r.name, Labels: map[string]string{"app": r.name}, Ports: r.ports})
	}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return nil, err
	}
	for _, n := range nodes.Items {
		specs = append(specs, probe.Spec{
			Namespace: app, Name: sentinel + "-" + n.Name, Labels: map[string]string{"app": sentinel}, Ports: []int32{8080}, Node: n.Name,
		})
	}
	started, err := probe.Start(ctx, env, env.Lasting(), specs...)
	if err != nil {
		return nil, err
	}
	st := &stage{app: app, pods: map[string]*probe.Pod{}}
	for _, p := range started {
		if p.Labels["app"] == sentinel {
			st.sentinels = append(st.sentinels, net.JoinHostPort(p.IP, "8080"))
			continue
		}
		st.pods[p.Name] = p
	}
	if st.targets, err = addresses(ctx, env, st.pods); err != nil {
		return nil, err
	}
	staged = st
	return staged, nil
}

const sentinel = "sentinel"

// firewallTimeout is what the nodes' firewalls may take to follow new pods and
// policies. They tell nobody when they have.
var firewallTimeout = wait.Timeout{Name: "firewallFollows", D: 20 * time.Second}

// follow brings the stage's policies to what others are now and waits until every node's firewall
// has followed: first that all of the proof before is in force, then that the sentinels have turned.
func (st *stage) follow(ctx context.Context, env *environment.Environment, policies []networkingv1.NetworkPolicy) error {
	var there networkingv1.NetworkPolicyList
	if err := env.Client().List(ctx, &there, client.InNamespace(st.app)); err != nil {
		return err
	}
	stand := map[string]networkingv1.NetworkPolicySpec{}
	for _, p := range there.Items {
		stand[p.Name] = p.Spec
	}
	_, shut := stand[sentinel]
	delete(stand, sentinel)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the traffic
	sentinels, err := st.watch(ctx)
	if err != nil {
		return err
	}
	if err := sentinels.become(ctx, !shut, "as the proof before left them"); err != nil {
		return err
	}
	if err := st.replace(ctx, env.Lasting(), policies, stand); err != nil {
		return err
	}
	own := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: st.app, Name: sentinel},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": sentinel}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	turn := env.Lasting().Create
	if shut {
		turn = env.Lasting().Delete
	}
	if err := turn(ctx, own); err != nil {
		return err
	}
	return sentinels.become(ctx, shut, "for the policies are in force")
}

// replace makes of the policies that stand on the stage those that are given.
func (st *stage) replace(ctx context.Context, s *environment.Scope, policies []networkingv1.NetworkPolicy, stand map[string]networkingv1.NetworkPolicySpec) error {
	named := func(name string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: st.app, Name: name}}
	}
	for _, p := range policies {
		own := named(p.Name)
		p.Spec.DeepCopyInto(&own.Spec)
		// What selects every pod is not to select the sentinels.
		if len(own.Spec.PodSelector.MatchLabels)+len(own.Spec.PodSelector.MatchExpressions) == 0 {
			own.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{
				{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{sentinel}},
			}
		}
		stands, is := stand[p.Name]
		delete(stand, p.Name)
		if is && equality.Semantic.DeepEqual(stands, own.Spec) {
			continue
		}
		if is {
			if err := s.Delete(ctx, named(p.Name)); err != nil {
				return err
			}
		}
		if err := s.Create(ctx, own); err != nil {
			return err
		}
	}
	for name := range stand {
		if err := s.Delete(ctx, named(name)); err != nil {
			return err
		}
	}
	return nil
}

// What the stranger sends to each sentinel while they are watched: one command each, in place of one
// for each look. A packet that was lost is sent again after a second, and is no closed way.
const (
	watchRate = 10 // requests a second
	// silentSentinel are the requests without any answer that say that a sentinel is shut, where its
	// firewall refuses none.
	silentSentinel = watchRate
	watchTimeout   = 2500 * time.Millisecond
)

// lookout is the traffic to the sentinels, by their addresses.
type lookout map[string]*probe.Record

// watch begins the traffic; it ends with ctx.
func (st *stage) watch(ctx context.Context) (lookout, error) {
	records := make([]*probe.Record, len(st.sentinels))
	var group errgroup.Group
	for i, s := range st.sentinels {
		group.Go(func() (err error) {
			records[i], err = st.pods["stranger"].Traffic(ctx, probe.Plan{
				Request: probe.Request{URL: "http://" + s + "/", Timeout: watchTimeout}, Rate: watchRate, For: 3 * firewallTimeout.D,
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	w := lookout{}
	for i, s := range st.sentinels {
		w[s] = records[i]
	}
	return w, nil
}

// become waits until each sentinel is open, or shut, by a request that had not come to its end before.
func (w lookout) become(ctx context.Context, open bool, why string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, firewallTimeout.D, fmt.Errorf("its %s (%s) were over", firewallTimeout.D, firewallTimeout.Name))
	defer cancel()
	what := map[bool]string{true: "open", false: "shut"}[open] + ", " + why
	before := map[string]int{}
	for address, record := range w {
		before[address] = record.Last()
	}
	for address, record := range w {
		last, silent := "nothing", 0
		_, err := record.AwaitOne(ctx, before[address], fmt.Sprintf("the sentinel %s to be %s", address, what), func(s probe.Sent) bool {
			last = s.String()
			if s.Result != "timeout" {
				silent = 0
				return open && s.OK() || !open && s.Result == "refused"
			}
			silent++ // in a row, or a pod that the machine has no time for looks like a firewall
			return !open && silent >= silentSentinel
		})
		if err != nil {
			return fmt.Errorf("%w; last: %s; look at the firewall of its node", err, last)
		}
	}
	return nil
}
