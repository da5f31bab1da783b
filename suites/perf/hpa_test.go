package perf

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// What the platform states of the frontend's autoscaler: replicas, and per cent of what its
// pods ask for.
const (
	frontendLeast, frontendMost = 2, 10
	frontendCPU, frontendMemory = 70, 80
)

// hpaMeasures is for metrics-server to have measured new pods twice.
var hpaMeasures = wait.Timeout{Name: "hpaHasMetrics", D: 2 * time.Minute}

// TestHPA proves that the frontend's HorizontalPodAutoscaler follows the processor's time
// and the memory that its pods use.
func TestHPA(t *testing.T) {
	l := newLevels(t, "hpa", map[string]any{"frontend": map[string]any{"replicas": 2, "resources": map[string]any{
		"requests": map[string]any{"cpu": "20m", "memory": "64Mi"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"},
	}}})
	var edit change
	metrics := func(name, kills string, with func([]any) []any) spec.Sabotage {
		return spec.Swapped(name, kills, &edit, func(o *unstructured.Unstructured) { _ = each(o, with, "spec", "metrics") })
	}
	target := func(metric int, percent int64) func([]any) []any {
		return func(m []any) []any {
			m[metric].(map[string]any)["resource"].(map[string]any)["target"].(map[string]any)["averageUtilization"] = percent
			return m
		}
	}
	bound := func(name, which string, replicas int64) spec.Sabotage {
		return spec.Swapped(name, `the least and the most replicas of the frontend`, &edit, field("HorizontalPodAutoscaler", replicas, "spec", which))
	}
	spec.Run(t, spec.Specification{
		ID: "PRF-013", Risk: spec.Namespaced, Needs: []spec.Need{docuthinker, autoscaling, l}, Timeout: 40 * time.Minute, // of all waits, in the platform's own times
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveHPA(ctx, t, env, l, edit) },
		CounterProofs: []spec.Sabotage{
			metrics("not by the processor's time", `measures cpu`, func(m []any) []any { return m[1:] }),
			metrics("not by memory", `measures memory`, func(m []any) []any { return m[:1] }),
			metrics("a target of the processor's time that is never met", `under load, at .*cpu (7[1-9]|[89]\d|\d{3,}) %`, target(0, 100000)),
			metrics("a target of memory that is never met", `use more memory than they ask for, at .*memory \d{3,} %`, target(1, 100000)),
			metrics("a target of 80 % of the processor's time", `per cent of cpu that the frontend's autoscaler aims at`, target(0, 80)),
			metrics("a target of 90 % of memory", `per cent of memory that the frontend's autoscaler aims at`, target(1, 90)),
			bound("one replica at least", "minReplicas", 1),
			bound("twelve replicas at most", "maxReplicas", 12),
			without("metrics-server is gone", `measures cpu`, "kube-system", "metrics-server"),
			altered("the platform's own frontend has nine replicas at most", "frontend", func(o *unstructured.Unstructured) error {
				return unstructured.SetNestedField(o.Object, int64(9), "spec", "maxReplicas")
			}),
			spec.Swapped("KEDA scales the frontend as well", `autoscalers of frontend`, &edit, field("ScaledObject", "frontend", "spec", "scaleTargetRef", "name")),
			spec.Harmless(spec.Swapped("fewer replicas are enough after two seconds", "", &edit, field("HorizontalPodAutoscaler", int64(2), "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"))),
		},
	})
}

// measuring is met by an HPA that has the current value of a resource.
func measuring(metric string) wait.Condition {
	return wait.Condition{What: "measure " + metric, Missing: func(o *unstructured.Unstructured) string {
		current, _, _ := unstructured.NestedSlice(o.Object, "status", "currentMetrics")
		for _, c := range current {
			name, _, _ := unstructured.NestedString(c.(map[string]any), "resource", "name")
			_, has, _ := unstructured.NestedInt64(c.(map[string]any), "resource", "current", "averageUtilization")
			if name == metric && has {
				return ""
			}
		}
		return fmt.Sprintf("its metrics are %v", current)
	}}
}

// saidMore is met by an HPA whose status is of a look at which it wanted more replicas.
func saidMore(than int32) wait.Condition {
	return wait.Condition{What: fmt.Sprintf("say that it wants more than %d replicas", than), Missing: func(o *unstructured.Unstructured) string {
		wanted, _, _ := unstructured.NestedInt64(o.Object, "status", "desiredReplicas")
		if wanted > int64(than) {
			return ""
		}
		return fmt.Sprintf("it says %d", wanted)
	}}
}

func proveHPA(ctx context.Context, t spec.T, env *environment.Environment, l *levels, edit change) {
	scalers, err := scaledBy(ctx, env, edit)
	spec.Check(t, err)
	require.NotEmpty(t, scalers["frontend"], "autoscalers of frontend, of all that the platform has")
	for workload, by := range scalers {
		require.Len(t, by, 1, "autoscalers of %s: two would contend", workload)
	}
	scaledAsStated(ctx, t, env, "frontend") // before it is tried on a copy
	frontend := deploymentOf(l.ns, "frontend")
	spec.Check(t, scaling(ctx, env, t.Scope(), "frontend", l.ns, edit))
	now := func() (h autoscalingv2.HorizontalPodAutoscaler) {
		spec.Check(t, env.Client().Get(ctx, client.ObjectKey{Namespace: l.ns, Name: "frontend"}, &h))
		return h
	}
	stands := now()
	require.Equal(t, [2]int32{frontendLeast, frontendMost}, [2]int32{ptr.Deref(stands.Spec.MinReplicas, 1), stands.Spec.MaxReplicas}, "the least and the most replicas of the frontend")
	for name, percent := range map[corev1.ResourceName]int32{corev1.ResourceCPU: frontendCPU, corev1.ResourceMemory: frontendMemory} {
		if aim := aimOf(stands, name); aim != 0 { // none is found by what it measures, one that is never met by what follows
			assert.Equal(t, percent, aim, "per cent of %s that the frontend's autoscaler aims at", name)
		}
	}
	w := wait.On(env.Config)
	hpa := wait.Target{Kind: hpaKind, Namespace: l.ns, Name: "frontend"}
	for _, metric := range []string{"cpu", "memory"} {
		_, err := w.Until(ctx, hpaMeasures, hpa, measuring(metric))
		spec.InTime(t, err, "the frontend's autoscaler measures "+metric)
	}
	idle := now().Status.DesiredReplicas
	// What it has measured tells one that is wrong from one that is slow.
	more := func(why string) (took time.Duration, h autoscalingv2.HorizontalPodAutoscaler) {
		start := time.Now()
		_, err := w.Until(ctx, follow(env), frontend, wantReplicas(int64(idle)+1, frontendMost))
		took = time.Since(start)
		if err == nil { // it says what it went by after it has scaled
			_, err = w.Until(ctx, follow(env), hpa, saidMore(idle))
		}
		h = now()
		spec.InTime(t, err, fmt.Sprintf("the frontend has more than %d replicas %s, at %s", idle, why, utilization(h)))
		return took, h
	}

	traffic, err := l.pods["users"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "http://frontend." + l.ns + ":8080/api/echo"}, Rate: 100, For: 8 * time.Minute, KeepAlive: true,
	})
	spec.Check(t, err)
	defer func() { _ = traffic.Stop(ctx) }()
	up, loaded := more("under load")
	spec.Check(t, traffic.Stop(ctx))
	start := time.Now()
	_, err = w.Until(ctx, follow(env), frontend, wantReplicas(0, int64(idle)))
	spec.InTime(t, err, fmt.Sprintf("the frontend has %d replicas when the load is over", idle))
	t.Observe(fmt.Sprintf("%d replicas at rest; more after %s of 100 requests a second (%d, at %s); as before %s after the load",
		idle, up.Round(time.Second), loaded.Status.DesiredReplicas, utilization(loaded), time.Since(start).Round(time.Second)), loaded.Status)

	// Of memory the pods always use more than 1Mi: with that as their request they are
	// over the target without any load, and without the processor's time having a say.
	spec.Check(t, requestsMemory(ctx, t.Scope(), l.ns, "1Mi"))
	up, full := more("while its pods use more memory than they ask for")
	require.Less(t, usedOf(full, corev1.ResourceCPU), int32(frontendCPU), "per cent of the processor's time while it is memory that is short; at %s", utilization(full))
	spec.Check(t, requestsMemory(ctx, t.Scope(), l.ns, "64Mi"))
	start = time.Now()
	_, err = w.Until(ctx, follow(env), frontend, wantReplicas(0, int64(idle)))
	spec.InTime(t, err, fmt.Sprintf("the frontend has %d replicas when its memory is enough", idle))
	t.Observe(fmt.Sprintf("more %s after its pods asked for 1Mi of memory, without load (%d, at %s); as before %s after they asked for enough",
		up.Round(time.Second), full.Status.DesiredReplicas, utilization(full), time.Since(start).Round(time.Second)), full.Status)
}

// requestsMemory has the frontend's pods ask for so much memory.
func requestsMemory(ctx context.Context, scope *environment.Scope, namespace, memory string) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "frontend"}}
	return scope.Update(ctx, d, func() error {
		d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse(memory)
		return nil
	})
}

// usedOf is what an autoscaler has measured of one resource, in per cent of what is asked for.
func usedOf(h autoscalingv2.HorizontalPodAutoscaler, name corev1.ResourceName) (percent int32) {
	for _, m := range h.Status.CurrentMetrics {
		if m.Resource != nil && m.Resource.Name == name {
			percent = ptr.Deref(m.Resource.Current.AverageUtilization, 0)
		}
	}
	return percent
}

// aimOf is what an autoscaler aims at of one resource, in per cent of what is asked for.
func aimOf(h autoscalingv2.HorizontalPodAutoscaler, name corev1.ResourceName) (percent int32) {
	for _, m := range h.Spec.Metrics {
		if m.Resource != nil && m.Resource.Name == name {
			percent = ptr.Deref(m.Resource.Target.AverageUtilization, 0)
		}
	}
	return percent
}

// utilization is what an autoscaler has measured, in per cent of what is asked for.
func utilization(h autoscalingv2.HorizontalPodAutoscaler) (text string) {
	for _, m := range h.Status.CurrentMetrics {
		if m.Resource != nil && m.Resource.Current.AverageUtilization != nil {
			text += fmt.Sprintf(" %s %d %%", m.Resource.Name, *m.Resource.Current.AverageUtilization)
		}
	}
	return text[min(1, len(text)):]
}
