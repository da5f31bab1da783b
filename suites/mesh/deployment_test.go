package mesh

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// replicated is a Deployment of the platform's own, of which there is more than
// one pod so that one may be lost.
type replicated struct {
	namespace, name string
	labels          labels.Set // of its pods
	replicas        int
	limit           wait.Timeout // of a rollout
}

var (
	ingressGateway = replicated{"istio-ingress", "istio-ingressgateway", labels.Set{"istio": "ingressgateway"}, 3, rolloutTimeout}
	egressGateway  = replicated{"istio-egress", "istio-egressgateway", labels.Set{"istio": "egressgateway"}, 2, rolloutTimeout}
	controlPlane   = replicated{"istio-system", "istiod", labels.Set{"istio": "pilot"}, 3, rolloutTimeout}
	collectors     = replicated{"monitoring", "otel-collector", labels.Set{"app": "otel-collector"}, 3, wait.Timeout{Name: "collectorsReady", D: 60 * time.Second}}
)

// key names it among what specifications share.
func (r replicated) key() string { return "deployment/" + r.namespace + "/" + r.name }

// ready are its pods that are ready and not on their way out.
func (r replicated) ready(ctx context.Context, env *environment.Environment) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := env.Client().List(ctx, &pods, client.InNamespace(r.namespace), client.MatchingLabels(r.labels))
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	}), err
}

// stands asserts that all replicas are ready, on more than one node, and gives
// them.
func (r replicated) stands(ctx context.Context, t spec.T, env *environment.Environment) []corev1.Pod {
	t.Helper()
	pods, err := r.ready(ctx, env)
	if err != nil {
		t.Broken(err)
	}
	nodes := map[string][]string{}
	for _, p := range pods {
		nodes[p.Spec.NodeName] = append(nodes[p.Spec.NodeName], p.Name)
	}
	require.Len(t, each(pods, named), r.replicas, "%s: %d of %d replicas are ready", r.name, len(pods), r.replicas)
	require.Greater(t, len(nodes), 1, "%s: all replicas are on one node: %v", r.name, nodes)
	t.Observe(fmt.Sprintf("%s: %d replicas are ready, on %d nodes", r.name, len(pods), len(nodes)), nodes)
	return pods
}

// named is a pod's name, and address its IP.
func named(p corev1.Pod) string   { return p.Name }
func address(p corev1.Pod) string { return p.Status.PodIP }

func each(pods []corev1.Pod, of func(corev1.Pod) string) []string {
	var all []string
	for _, p := range pods {
		all = append(all, of(p))
	}
	return all
}

var (
	endTimeout     = wait.Timeout{Name: "podEnds", D: 45 * time.Second} // its grace period and a half
	rolloutTimeout = wait.Timeout{Name: "meshRollout", D: 90 * time.Second}
)

// lose deletes a pod as the API does for anyone, with its grace period, and
// waits until it is no more.
func (r replicated) lose(ctx context.Context, env *environment.Environment, s *environment.Scope, pod string) error {
	if err := s.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: pod}}); err != nil {
		return err
	}
	return wait.On(env.Config).Gone(ctx, endTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: r.namespace, Name: pod})
}

// settles waits until the Deployment is rolled out, with that many pods and none
// on its way out.
func (r replicated) settles(ctx context.Context, env *environment.Environment, replicas int) error {
	if err := rolledOut(ctx, env, r.limit, "Deployment", r.namespace, r.name); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Converges(ctx, r.limit, replicas, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: r.namespace, Selector: r.labels.AsSelector(),
	}, wait.PodReady())
	return err
}

// changed is a fault in the Deployment, which leaves that many replicas. It
// disturbs all who go by it.
func (r replicated) changed(name, kills string, replicas int, change func(*appsv1.Deployment) error) spec.Sabotage {
	settled := func(n int) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error { return r.settles(ctx, env, n) }
	}
	return spec.Sabotage{
		Name: name, Kills: kills, Alone: true,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: r.name}}
			return s.Update(ctx, d, func() error { return change(d) })
		},
		Applied: settled(replicas), Restored: settled(r.replicas),
	}
}

// alone is the fault that there is one replica.
func (r replicated) alone() spec.Sabotage {
	return r.changed(r.name+" with one replica", fmt.Sprintf("1 of %d replicas are ready", r.replicas), 1, toOne)
}

// toOne is the change to one replica.
func toOne(d *appsv1.Deployment) error {
	d.Spec.Replicas = ptr.To[int32](1)
	return nil
}
