package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	evictedTimeout = wait.Timeout{Name: "podEvicted", D: 60 * time.Second}
	awayTimeout    = wait.Timeout{Name: "podAway", D: 90 * time.Second}
)

// clear has all leave a node that is not on the users' way, one after the other, before
// users come. A drain moves all of it at once, to nodes that are to have processors for
// that: on this machine the nodes share two, and users would notice these, not the
// drain. Gateways, frontends and backends stay, and are drained.
func (x *trial) clear(node string) error {
	leave, err := x.others(node)
	if err != nil || len(leave) == 0 {
		return err
	}
	if err := x.spreadAgain(); err != nil {
		return err
	}
	closed := x.t.Scope().Child("node " + node + " while it is cleared")
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := closed.Update(x.ctx, n, func() error { n.Spec.Unschedulable = true; return nil }); err != nil {
		return err
	}
	x.t.Logf("node %s is cleared of %d pods that are not on the users' way", node, len(leave))
	for _, p := range leave {
		if err := evict(x.ctx, x.env, &p); err != nil {
			return err
		}
	}
	return closed.Close(x.ctx)
}

// others are the pods on a node that a drain would evict and that are not on the users'
// way. Those with a claim cannot go elsewhere: their volumes are the node's.
func (x *trial) others(node string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	if err := x.env.Client().List(x.ctx, &pods, client.MatchingFields{"spec.nodeName": node}); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return !movable(&p) || p.Namespace == x.stage.ns || p.Namespace == "istio-ingress"
	}), nil
}

// spreadAgain has what stands on several nodes stand on several again when the trial has
// ended: what left a node comes back to it only when it is made anew, and a platform
// whose replicas are all on one node is not the one that was found.
func (x *trial) spreadAgain() error {
	before, err := x.stage.placed(x.ctx, x.env)
	if err != nil {
		return err
	}
	return x.t.Scope().Defer("replicas on several nodes", func(ctx context.Context) error {
		now, err := x.stage.placed(ctx, x.env)
		if err != nil {
			return err
		}
		for owner, pods := range now {
			if nodesOf(before[owner]) < 2 || nodesOf(pods) > 1 || len(pods) < 2 {
				continue
			}
			if err := evict(ctx, x.env, &pods[0]); err != nil {
				return err
			}
			again, err := x.stage.placed(ctx, x.env)
			if err != nil {
				return err
			}
			if nodesOf(again[owner]) < 2 {
				return fmt.Errorf("%s in %s stood on several nodes; its %d pods are on one, and the scheduler leaves them there", pods[0].GenerateName, pods[0].Namespace, len(pods))
			}
		}
		return nil
	})
}

// placed are the pods that stay, by the UID of what has them, without those of the trial's
// own namespaces and of claims, whose volumes are a node's.
func (s *stage) placed(ctx context.Context, env *environment.Environment) (map[types.UID][]corev1.Pod, error) {
	var all corev1.PodList
	if err := env.Client().List(ctx, &all); err != nil {
		return nil, err
	}
	by := map[types.UID][]corev1.Pod{}
	for _, p := range all.Items {
		owner := metav1.GetControllerOf(&p)
		if movable(&p) && p.DeletionTimestamp == nil && p.Spec.NodeName != "" && p.Namespace != s.ns && p.Namespace != s.outside {
			by[owner.UID] = append(by[owner.UID], p)
		}
	}
	return by, nil
}

// movable is a pod that another one can stand for elsewhere.
func movable(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	bound := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil })
	return owner != nil && !bound && owner.Kind != "DaemonSet" && owner.Kind != "Job" && owner.Kind != "Node"
}

func nodesOf(pods []corev1.Pod) int {
	on := map[string]bool{}
	for _, p := range pods {
		on[p.Spec.NodeName] = true
	}
	return len(on)
}

// evict waits until the pod's budget lets it go, and another one stands for it.
func evict(ctx context.Context, env *environment.Environment, p *corev1.Pod) error {
	name := p.Namespace + "/" + p.Name
	err := wait.Answers(ctx, evictedTimeout, "pod "+name+" to be evicted", func(ctx context.Context) (string, error) {
		err := env.Client().SubResource("eviction").Create(ctx, p, &policyv1.Eviction{})
		switch {
		case apierrors.IsTooManyRequests(err): // its budget
			return err.Error(), nil
		case apierrors.IsNotFound(err):
			return "", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	w := wait.On(env.Config)
	if err := w.Gone(ctx, awayTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: p.Namespace, Name: p.Name}); err != nil {
		return err
	}
	owner := metav1.GetControllerOf(p)
	_, err = w.Until(ctx, awayTimeout, wait.Target{Kind: schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind), Namespace: p.Namespace, Name: owner.Name}, allReady())
	return err
}

// allReady is met by what has as many ready pods as it wants.
func allReady() wait.Condition {
	return wait.Condition{What: "have all its pods ready", Missing: func(o *unstructured.Unstructured) string {
		want, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		has, _, _ := unstructured.NestedInt64(o.Object, "status", "readyReplicas")
		if has >= want {
			return ""
		}
		return fmt.Sprintf("%d of %d are ready", has, want)
	}}
}
