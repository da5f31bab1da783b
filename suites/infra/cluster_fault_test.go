package infra

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// podsTimeout is for a controller's pods to go, or to roll out, on all nodes.
var podsTimeout = wait.Timeout{Name: "podsFollow", D: 90 * time.Second}

// rolledOut waits for a Deployment's or a DaemonSet's pods.
func rolledOut(ctx context.Context, env *environment.Environment, kind, namespace, name string) error {
	_, err := wait.On(env.Config).Until(ctx, podsTimeout, wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind(kind), Namespace: namespace, Name: name}, wait.RolledOut())
	return err
}

// nodeNeverReady is a node that no kubelet tells of.
func nodeNeverReady() spec.Sabotage {
	return spec.Sabotage{
		Name: "a node whose kubelet is silent", Kills: `node silent-\S+ is ready`, Alone: true, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return scope.Create(ctx, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "silent-"},
				Spec:       corev1.NodeSpec{Unschedulable: true},
			})
		},
	}
}

// zoneForgotten takes the zone of a worker away.
func zoneForgotten() spec.Sabotage {
	return spec.Sabotage{
		Name: "a worker without its zone", Kills: `labels of the nodes: stated .*, there \[.*"worker "`, Alone: true, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			var nodes corev1.NodeList
			if err := env.Client().List(ctx, &nodes); err != nil {
				return err
			}
			for i := range nodes.Items {
				n := &nodes.Items[i]
				if _, is := n.Labels[controlPlane]; is || n.Labels[corev1.LabelTopologyZone] == "" {
					continue
				}
				return scope.Update(ctx, n, func() error {
					delete(n.Labels, corev1.LabelTopologyZone)
					return nil
				})
			}
			return errors.New("no worker has a zone")
		},
	}
}

// noDefaultClass leaves claims that name no class without one.
func noDefaultClass() spec.Sabotage {
	return spec.Sabotage{
		Name: "no StorageClass is the default", Kills: `(?s)default StorageClasses, of \d+: .*actual +: 0`, Alone: true, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			var classes storagev1.StorageClassList
			if err := env.Client().List(ctx, &classes); err != nil {
				return err
			}
			for i := range classes.Items {
				c := &classes.Items[i]
				if c.Annotations[defaultClass] == "true" {
					return scope.Update(ctx, c, func() error {
						c.Annotations[defaultClass] = "false"
						return nil
					})
				}
			}
			return errors.New("no StorageClass is the default already")
		},
	}
}

// noDNS takes the pods of CoreDNS away.
func noDNS() spec.Sabotage {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "coredns"}}
	return withoutPods("no CoreDNS", `(?s)is reached by its name: .*it is not open but error: .*lookup`, "Deployment", d, map[string]string{"k8s-app": "kube-dns"}, func() {
		d.Spec.Replicas = ptr.To[int32](0)
	})
}

// noFirewall takes what makes policies into rules away from all nodes: those that it has
// made stay.
func noFirewall() spec.Sabotage {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-router"}}
	return withoutPods("no NetworkPolicy engine", `(?s)is closed by a policy: .*it is not closed but open`, "DaemonSet", d, map[string]string{"k8s-app": "kube-router"}, func() {
		d.Spec.Template.Spec.NodeSelector = map[string]string{"no-node": "has-this"}
	})
}

// withoutPods edits a controller so that it has no pods any more.
func withoutPods(name, kills, kind string, o client.Object, of map[string]string, edit func()) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills, Alone: true,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			var pods corev1.PodList
			if err := env.Client().List(ctx, &pods, client.InNamespace(o.GetNamespace()), client.MatchingLabels(of)); err != nil {
				return err
			}
			if len(pods.Items) == 0 {
				return fmt.Errorf("%s %s had no pods labelled %v", kind, o.GetName(), of)
			}
			return scope.Update(ctx, o, func() error {
				edit()
				return nil
			})
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			return wait.On(env.Config).Gone(ctx, podsTimeout, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: o.GetNamespace(), Selector: labels.SelectorFromSet(of)})
		},
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return rolledOut(ctx, env, kind, o.GetNamespace(), o.GetName())
		},
	}
}
