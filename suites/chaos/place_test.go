package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

var rolloutTimeout = wait.Timeout{Name: "backendRolledOut", D: 90 * time.Second}

// outOfMesh has the backend's pods run without a sidecar, which the proxy of
// pod-http-latency would get the encrypted bytes of. Who calls them still has one,
// with its retries and its ejection.
func outOfMesh(ctx context.Context, env *environment.Environment, s *stage) error {
	return s.edit(ctx, env, func(d *appsv1.Deployment) {
		metav1.SetMetaDataLabel(&d.Spec.Template.ObjectMeta, "sidecar.istio.io/inject", "false")
	})
}

// together has the backend's pods stand on the node that is drained, as long as it
// takes them.
func together(ctx context.Context, env *environment.Environment, s *stage) error {
	node, err := s.withoutDatabase(ctx, env)
	if err != nil {
		return err
	}
	return s.edit(ctx, env, func(d *appsv1.Deployment) {
		// Without any, the scheduler has one of its own, which weighs as much as the
		// preference below.
		d.Spec.Template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 100, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: d.Spec.Selector,
		}}
		d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 100,
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
				}},
			}},
		}}
	})
}

// unhurt has pods that were killed once replaced: of a container that keeps ending, the
// kubelet puts off the start by twice as long each time.
func unhurt(x *trial) error {
	pods, err := x.backends()
	if err != nil || !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return restartsOf(&p) > 0 }) {
		return err
	}
	return x.stage.restart(x.ctx, x.env)
}

func (s *stage) restart(ctx context.Context, env *environment.Environment) error {
	return s.edit(ctx, env, func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, "kubectl.kubernetes.io/restartedAt", time.Now().Format(time.RFC3339))
	})
}

// gather brings the pods back to the node that is drained, which they left the last
// time.
func gather(x *trial) error {
	if err := aimAtNode(x); err != nil {
		return err
	}
	node := x.variables["TARGET_NODE"]
	elsewhere, err := x.elsewhere(node)
	if err != nil || elsewhere == 0 {
		return err
	}
	if err := x.stage.restart(x.ctx, x.env); err != nil {
		return err
	}
	if elsewhere, err = x.elsewhere(node); err == nil && elsewhere > 0 {
		err = fmt.Errorf("%d pods of %s stand elsewhere than on node %s, which they prefer", elsewhere, x.stage.ns, node)
	}
	return err
}

// elsewhere counts the targets that stand on another node and stay.
func (x *trial) elsewhere(node string) (n int, err error) {
	pods, err := x.backends()
	for _, p := range pods {
		if p.DeletionTimestamp == nil && p.Spec.NodeName != node {
			n++
		}
	}
	return n, err
}

// backends are the pods that may be hit.
func (x *trial) backends() ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := x.env.Client().List(x.ctx, &pods, client.InNamespace(x.stage.ns), targets)
	return pods.Items, err
}

// edit changes the backend's Deployment for as long as the stage stands, and waits for
// its pods.
func (s *stage) edit(ctx context.Context, env *environment.Environment, change func(*appsv1.Deployment)) error {
	d := &appsv1.Deployment{}
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: s.ns, Name: "backend"}, d); err != nil {
		return err
	}
	before := client.MergeFrom(d.DeepCopy())
	change(d)
	if err := env.Client().Patch(ctx, d, before); err != nil {
		return err
	}
	return s.rolledOut(ctx, env)
}

func (s *stage) rolledOut(ctx context.Context, env *environment.Environment) error {
	w := wait.On(env.Config)
	out, err := w.Until(ctx, rolloutTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespace: s.ns, Name: "backend"}, wait.RolledOut())
	if err != nil {
		return err
	}
	n, _, err := unstructured.NestedInt64(out[0].Object, "spec", "replicas")
	if err != nil {
		return err
	}
	return whole(ctx, w, s.ns, int(n))
}

// whole waits until there are so many targets, all of them ready: none that a rollout
// has still to end.
func whole(ctx context.Context, w *wait.Waiter, namespace string, n int) error {
	_, err := w.Converges(ctx, steadyTimeout, n, wait.Target{
		Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: namespace, Selector: labels.SelectorFromSet(labels.Set(targets)),
	}, wait.PodReady())
	return err
}
