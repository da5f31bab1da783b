package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stretchr/testify/assert"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// roleOf is the role of a workload's pods, which is the label app of the probe that stands
// for them. The last two end, and have no probe.
var roleOf = map[string]string{
	"frontend": "frontend", "backend": "backend", "backend-canary": "backend", "backend-primary": "backend", "worker": "worker",
	"postgresql": "database", "redis": "cache", "migrations": "migrations", "smoke": "smoke",
}

// proveSelected asserts that each pod of the application is, by the labels that it has now,
// under the policies that its role is under, and so under those that are tried with a probe.
func proveSelected(ctx context.Context, t spec.T, env *environment.Environment, policies []networkingv1.NetworkPolicy) {
	var pods corev1.PodList
	if err := env.Client().List(ctx, &pods, client.InNamespace(appNamespace)); err != nil {
		t.Broken(err)
	}
	var sets appsv1.ReplicaSetList // after the pods: none that these are of is missing
	if err := env.Client().List(ctx, &sets, client.InNamespace(appNamespace)); err != nil {
		t.Broken(err)
	}
	deployments := map[string]string{} // by their ReplicaSets
	for _, s := range sets.Items {
		if owner := metav1.GetControllerOf(&s); owner != nil {
			deployments[s.Name] = owner.Name
		}
	}
	found := map[string][]string{}
	count, asTheirs := 0, 0
	for _, p := range pods.Items {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue // it sends and receives nothing any more
		}
		count++
		workload := workloadOf(&p, deployments)
		role, known := roleOf[workload]
		if !assert.True(t, known, "pod %s is of no workload that has a role, but of %q", p.Name, workload) {
			continue
		}
		is, err := over(p.Labels, policies)
		if err != nil {
			t.Broken(err)
		}
		want, err := over(map[string]string{"app": role}, policies)
		if err != nil {
			t.Broken(err)
		}
		if assert.Equal(t, want, is, "pod %s is under other policies than its role %s; its labels are %v", p.Name, role, p.Labels) {
			asTheirs++
		}
		found[role] = is
	}
	if count == 0 {
		t.Inconclusive("no targets", "%s has no pod that runs", appNamespace)
	}
	t.Observe(fmt.Sprintf("%d of %d pods of %s, by their labels, are under the policies of their roles (%s)",
		asTheirs, count, appNamespace, strings.Join(slices.Sorted(maps.Keys(found)), ", ")), found)
	if asTheirs < count {
		t.FailNow() // then a probe stands for nobody, and what it is let through tells nothing
	}
}

// workloadOf is the name of what made a pod, or that of a pod which nothing made.
func workloadOf(p *corev1.Pod, deployments map[string]string) string {
	owner := metav1.GetControllerOf(p)
	switch {
	case owner == nil:
		return p.Name
	case owner.Kind == "ReplicaSet":
		return deployments[owner.Name]
	case owner.Kind == "Job": // its name ends in a digest
		name, _, _ := strings.Cut(owner.Name, "-")
		return name
	}
	return owner.Name
}

// over are the names of the policies that select a pod with these labels, sorted.
func over(of map[string]string, policies []networkingv1.NetworkPolicy) ([]string, error) {
	names := []string{}
	for _, p := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", p.Name, err)
		}
		if selector.Matches(labels.Set(of)) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
