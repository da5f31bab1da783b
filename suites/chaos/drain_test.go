package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// TestNodeDrain proves that users do not notice when the node is drained that all of
// the backend's pods stand on.
func TestNodeDrain(t *testing.T) {
	s := newStage(t, "drain", platform.Merged(patient, map[string]any{"backend": map[string]any{"replicas": 3}}))
	s.adjust = together
	var p plan
	spec.Run(t, spec.Specification{
		ID: "CHS-005", Risk: spec.Disruptive, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			e := nodeDrain
			e.prepare = gather
			proveSurvival(ctx, t, env, "CHS-005", s, e, p)
		},
		CounterProofs: append(s.usual(&p),
			s.onePod(),
			s.backend("readiness probe removed, and a start that takes its time", failing, func(d *appsv1.Deployment) {
				c := &d.Spec.Template.Spec.Containers[0]
				c.ReadinessProbe, c.LivenessProbe = nil, nil // so a pod that takes nobody's requests yet lets the next one be evicted
				c.Env = append(c.Env, corev1.EnvVar{Name: "START_DELAY", Value: "20s"})
			}),
			s.held(),
			spec.Sabotage{
				Name: "a PodDisruptionBudget that lets all go at once", Kills: failing, Applied: spec.AtOnce, Restored: spec.AtOnce,
				Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
					b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "backend"}}
					return scope.Update(ctx, b, func() error {
						b.Spec.MaxUnavailable = ptr.To(intstr.FromString("100%"))
						return nil
					})
				},
			},
		),
	})
}

// held has a pod of somebody else's on the node that may not be evicted. It has no
// controller, or it would be moved before users come.
func (s *stage) held() spec.Sabotage {
	return spec.Sabotage{
		Name: "a PodDisruptionBudget of another pod lets none go", Kills: `pods that stayed on node \S+, which was drained: \[\S+/held\]`, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			node, err := s.withoutDatabase(ctx, env)
			if err != nil {
				return err
			}
			labels := map[string]string{"app": "held"}
			if err := scope.Create(ctx, &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: s.outside, Name: "held"},
				Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}},
			}); err != nil {
				return err
			}
			_, err = probe.Start(ctx, env, scope, probe.Spec{Namespace: s.outside, Name: "held", Labels: labels, Node: node})
			return err
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			_, err := wait.On(env.Config).Until(ctx, heldTimeout, wait.Target{Kind: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), Namespace: s.outside, Name: "held"},
				wait.Field("status.currentHealthy", "1"))
			return err
		},
	}
}

var heldTimeout = wait.Timeout{Name: "budgetHeld", D: 30 * time.Second}

// patient pods take requests for longer before they end: when a whole node is drained,
// endpoints change all the time, and istiod gathers changes for up to ten seconds
// (PILOT_DEBOUNCE_MAX) before it tells the proxies.
var patient = map[string]any{"drainDelay": "9s"}

// nodeDrain drains a node for as long as its pods need to leave it one by one, and
// that time once more.
var nodeDrain = experiment{
	name: "node-drain", env: map[string]string{"TOTAL_CHAOS_DURATION": "60"},
	prepare: aimAtNode, begin: followNode, happened: nodeDrained,
}

// aimAtNode has the node drained that the database is not on: its volume is that
// node's.
func aimAtNode(x *trial) error {
	node, err := x.stage.withoutDatabase(x.ctx, x.env)
	if err != nil {
		return err
	}
	x.variables["TARGET_NODE"] = node
	if err := x.clear(node); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := x.env.Client().List(x.ctx, &pods, client.MatchingFields{"spec.nodeName": node}); err != nil {
		return err
	}
	leave := map[string]int{}
	for _, p := range pods.Items {
		if owner := metav1.GetControllerOf(&p); owner == nil || owner.Kind != "DaemonSet" {
			leave[p.Namespace]++
		}
	}
	x.t.Logf("node %s is drained: pods that are to leave it, by namespace: %v", node, leave)
	return nil
}

func (s *stage) withoutDatabase(ctx context.Context, env *environment.Environment) (string, error) {
	database, err := s.ofDatabase(ctx, env)
	if err != nil {
		return "", err
	}
	var nodes corev1.NodeList
	if err := env.Client().List(ctx, &nodes); err != nil {
		return "", err
	}
	for _, n := range nodes.Items {
		if _, is := n.Labels[controlPlane]; !is && n.Name != database {
			return n.Name, nil
		}
	}
	return "", fmt.Errorf("no worker but %s, where the database is", database)
}

// nodeLog is when a node took no more pods, and when it did again; and what became of
// those that were on it.
type nodeLog struct {
	pods *podLog

	mu             sync.Mutex
	name           string
	cordoned, back time.Time
	err            error
}

// followNode logs the node that is drained.
func followNode(x *trial) error {
	x.node = &nodeLog{name: x.variables["TARGET_NODE"]}
	var err error
	if x.node.pods, err = followPods(x.ctx, x.env, "node "+x.node.name, client.MatchingFields{"spec.nodeName": x.node.name}); err != nil {
		return err
	}
	events, err := x.env.Client().Watch(x.ctx, &corev1.NodeList{}, client.MatchingFields{"metadata.name": x.node.name})
	if err != nil {
		return err
	}
	go follow(x.ctx, events, x.node.take, func(err error) {
		x.node.mu.Lock()
		defer x.node.mu.Unlock()
		x.node.err = fmt.Errorf("node %s: %w", x.node.name, err)
	})
	// A drain that fails leaves its node as it is: what stands before this change is given
	// back also after a kill, with the node as it was.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: x.node.name}}
	return x.t.Scope().Update(x.ctx, node, func() error {
		metav1.SetMetaDataAnnotation(&node.ObjectMeta, "docuthinker.dev/drained-by", environment.RunID())
		return nil
	})
}

func (l *nodeLog) take(_ apiwatch.EventType, n *corev1.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case n.Spec.Unschedulable && l.cordoned.IsZero():
		l.cordoned = time.Now()
	case !n.Spec.Unschedulable && !l.cordoned.IsZero() && l.back.IsZero():
		l.back = time.Now()
	}
}

// stayed says that a node was not emptied: whoever runs the platform could not take it
// away. Users met the drain all the same.
type stayed struct {
	node string
	pods []string
}

func (s *stayed) Error() string {
	return fmt.Sprintf("pods that stayed on node %s, which was drained: %v; see what keeps each from its eviction, such as a PodDisruptionBudget", s.node, s.pods)
}

// emptied returns a stayed when pods that were on the node were there still at a moment.
// A drain leaves those of DaemonSets and of the kubelet's own files where they are.
func (l *nodeLog) emptied(by time.Time) error {
	lives, err := l.pods.soFar()
	if err != nil {
		return err
	}
	s := &stayed{node: l.name}
	for _, one := range lives {
		owner := metav1.GetControllerOf(&one.pod)
		_, mirror := one.pod.Annotations[corev1.MirrorPodAnnotationKey]
		if !one.first || mirror || owner != nil && owner.Kind == "DaemonSet" {
			continue
		}
		if one.gone.IsZero() || one.gone.After(by) {
			s.pods = append(s.pods, one.pod.Namespace+"/"+one.pod.Name)
		}
	}
	if len(s.pods) > 0 {
		slices.Sort(s.pods)
		return s
	}
	return nil
}

// nodeDrained says that the node took no pods, and that all of the application's left
// it, and then all others.
func nodeDrained(x *trial) (seen string, from, to time.Time, err error) {
	x.node.mu.Lock()
	defer x.node.mu.Unlock()
	if x.node.err != nil {
		return "", from, to, x.node.err
	}
	lives, err := x.pods.soFar()
	if err != nil {
		return "", from, to, err
	}
	if x.node.cordoned.IsZero() {
		return "", from, to, fmt.Errorf("%w: node %s was never cordoned", errNotHappened, x.node.name)
	}
	from, to = x.node.cordoned, x.node.back
	if to.IsZero() {
		to = time.Now()
	}
	there, left := 0, 0
	var last time.Time
	for _, l := range lives {
		if !l.first || l.pod.Spec.NodeName != x.node.name {
			continue
		}
		there++
		if !l.gone.IsZero() {
			left++
		}
		if l.gone.After(last) {
			last = l.gone
		}
	}
	if there == 0 || left < there {
		return "", from, to, fmt.Errorf("%w: %d of the %d pods that stood on node %s left it", errNotHappened, left, there, x.node.name)
	}
	if err := x.node.emptied(to); err != nil {
		return "", from, to, err
	}
	return fmt.Sprintf("node %s was cordoned, all others left it, and all %d pods that stood on it, of %d, were gone %.1f s later", x.node.name, there, x.n, last.Sub(from).Seconds()), from, to, nil
}
