package perf

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/autoscale"
)

// What the platform states of the frontend's autoscaler: replicas, and per cent of what its
// pods ask for.
const (
	frontendLeast, frontendMost = 2, 10
	frontendCPU, frontendMemory = 70, 80
)

var (
	// hpaMeasures is for metrics-server to have measured new pods twice.
	hpaMeasures = wait.Timeout{Name: "hpaHasMetrics", D: 2 * time.Minute}
	// hpaSeesLoad is for kubelets to have measured it, which they do each ten to fifteen
	// seconds, for metrics-server to have asked them twice since, and for a look at that;
	// and twice that long.
	hpaSeesLoad = wait.Timeout{Name: "hpaSeesLoad", D: 90 * time.Second}
)

// frontendRate is how many requests a second users make of two pods that ask for 20m each:
// 100 brought 132 to 190 % of that.
const frontendRate = 150

// TestHPA proves that the frontend's HorizontalPodAutoscaler follows the processor's time
// and the memory that its pods use.
func TestHPA(t *testing.T) {
	l := newLevels(t, "hpa", map[string]any{"frontend": map[string]any{"replicas": 2, "resources": map[string]any{
		"requests": map[string]any{"cpu": "20m", "memory": "64Mi"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"},
	}}})
	var edit change
	rate := float64(frontendRate)
	less := spec.Swapped("users who ask for hardly anything", "", &rate, 2)
	less.Unsettles = "less load than planned"
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
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveHPA(ctx, t, env, l, rate, edit)
		},
		Look: lookAtHPA,
		CounterProofs: []spec.Sabotage{
			metrics("not by the processor's time", `measures cpu`, func(m []any) []any { return m[1:] }),
			metrics("not by memory", `measures memory`, func(m []any) []any { return m[:1] }),
			metrics("a target of the processor's time that is never met", `under load, at .*cpu (7[1-9]|[89]\d|\d{3,}) %`, target(0, 100000)),
			metrics("a target of memory that is never met", `use more memory than they ask for, at .*memory \d{3,} %`, target(1, 100000)),
			metrics("a target of 80 % of the processor's time", `per cent of cpu that the frontend's autoscaler aims at`, target(0, 80)),
			metrics("a target of 90 % of memory", `per cent of memory that the frontend's autoscaler aims at`, target(1, 90)),
			bound("one replica at least", "minReplicas", 1),
			bound("twelve replicas at most", "maxReplicas", 12),
			less,
			without("metrics-server is gone", `measures cpu`, "kube-system", "metrics-server"),
			altered("the platform's own frontend has nine replicas at most", "frontend", func(o *unstructured.Unstructured) error {
				return unstructured.SetNestedField(o.Object, int64(9), "spec", "maxReplicas")
			}),
			spec.Swapped("KEDA scales the frontend as well", `autoscalers of frontend`, &edit, field("ScaledObject", "frontend", "spec", "scaleTargetRef", "name")),
			spec.Harmless(spec.Swapped("fewer replicas are enough after two seconds", "", &edit, field("HorizontalPodAutoscaler", int64(2), "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"))),
		},
	})
}

// measuring is met by an HPA that scales and has the current value of a resource.
func measuring(metric string) wait.Condition {
	return wait.Condition{What: "measure " + metric, Missing: func(o *unstructured.Unstructured) string {
		var h autoscalingv2.HorizontalPodAutoscaler
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &h); err != nil {
			return err.Error()
		}
		if why := autoscale.Inactive(h.Status); why != "" {
			return why
		}
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

// told is met by an HPA whose status, which is of its controller's last look, is so.
func told(what string, is func(hpaStatus) bool) wait.Condition {
	return wait.Condition{What: what, Missing: func(o *unstructured.Unstructured) string {
		var h autoscalingv2.HorizontalPodAutoscaler
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &h); err != nil {
			return err.Error()
		}
		if is(h.Status) {
			return ""
		}
		return fmt.Sprintf("it wants %d, at %s", h.Status.DesiredReplicas, utilization(h.Status))
	}}
}

type hpaStatus = autoscalingv2.HorizontalPodAutoscalerStatus

var (
	saysMore = told(fmt.Sprintf("say that it wants more than %d replicas", frontendLeast), func(s hpaStatus) bool { return s.DesiredReplicas > frontendLeast })
	saysLess = told(fmt.Sprintf("say that it wants no more than %d replicas", frontendLeast), func(s hpaStatus) bool { return s.DesiredReplicas <= frontendLeast })
	// sawLess is met by one that has measured less than what the platform has it aim at.
	sawLess = told("measure less than its targets", func(s hpaStatus) bool {
		return autoscale.Used(s, corev1.ResourceCPU) < frontendCPU && autoscale.Used(s, corev1.ResourceMemory) < frontendMemory
	})
)

// sawMore is met by one that has measured more of a resource than it would tolerate, were it
// to aim at what the platform states, or that has followed already.
func sawMore(name corev1.ResourceName, aim int32) wait.Condition {
	least := autoscale.Tolerated * float64(aim)
	return told(fmt.Sprintf("measure more than %.0f %% of %s", least, name), func(s hpaStatus) bool {
		return s.DesiredReplicas > frontendLeast || float64(autoscale.Used(s, name)) > least
	})
}

// measuresBoth asserts that the frontend's autoscaler has the bounds that are stated, and waits
// until it measures both of what it goes by.
func measuresBoth(ctx context.Context, t spec.T, env *environment.Environment, h autoscalingv2.HorizontalPodAutoscaler) wait.Target {
	t.Helper()
	require.Equal(t, [2]int32{frontendLeast, frontendMost}, [2]int32{ptr.Deref(h.Spec.MinReplicas, 1), h.Spec.MaxReplicas}, "the least and the most replicas of the frontend")
	hpa := wait.Target{Kind: hpaKind, Namespace: h.Namespace, Name: h.Name}
	for _, metric := range []string{"cpu", "memory"} {
		_, err := wait.On(env.Config).Until(ctx, hpaMeasures, hpa, measuring(metric))
		spec.InTime(t, err, "the frontend's autoscaler measures "+metric)
	}
	return hpa
}

func proveHPA(ctx context.Context, t spec.T, env *environment.Environment, l *levels, rate float64, edit change) {
	scalers, err := scaledBy(ctx, env, edit)
	spec.Check(t, err)
	require.NotEmpty(t, scalers["frontend"], "autoscalers of frontend, of all that the platform has")
	for workload, by := range scalers {
		require.Len(t, by, 1, "autoscalers of %s: two would contend", workload)
	}
	scaledAsStated(ctx, t, env, "frontend") // before it is tried on a copy
	frontend := deploymentOf(l.ns, "frontend")
	spec.Check(t, rested(ctx, env, "frontend", l.ns, frontendLeast))
	spec.Check(t, scaling(ctx, env, t.Scope(), "frontend", l.ns, edit))
	now := func() (h autoscalingv2.HorizontalPodAutoscaler) {
		spec.Check(t, env.Client().Get(ctx, client.ObjectKey{Namespace: l.ns, Name: "frontend"}, &h))
		return h
	}
	w := wait.On(env.Config)
	hpa := measuresBoth(ctx, t, env, now())
	// fewer is for what is measured to be less, too.
	fewer := func(when string) (took time.Duration) {
		start, limit := time.Now(), follow(env)
		limit.D += hpaMeasures.D
		_, err := w.Until(ctx, limit, frontend, wantReplicas(0, frontendLeast))
		took = time.Since(start)
		if err == nil { // it says so after it has scaled
			_, err = w.Until(ctx, follow(env), hpa, saysLess)
		}
		spec.InTime(t, err, fmt.Sprintf("the frontend has %d replicas %s", frontendLeast, when))
		return took
	}
	// What a load before has left to be measured would be taken for this one's.
	if _, err := w.Until(ctx, hpaMeasures, hpa, sawLess); err != nil {
		t.Inconclusive("not at rest", "%v", err)
	}
	fewer("at rest")
	// What it has measured tells one that is wrong from one that is slow, and from a machine
	// on which there is nothing to follow.
	more := func(name corev1.ResourceName, aim int32, why string) (took time.Duration, h autoscalingv2.HorizontalPodAutoscaler) {
		start := time.Now()
		if _, err := w.Until(ctx, hpaSeesLoad, hpa, sawMore(name, aim)); err != nil {
			t.Inconclusive("less load than planned", "%s: %v", why, err)
		}
		_, err := w.Until(ctx, follow(env), frontend, wantReplicas(frontendLeast+1, frontendMost))
		took = time.Since(start)
		if err == nil { // it says what it went by after it has scaled
			_, err = w.Until(ctx, follow(env), hpa, saysMore)
		}
		h = now()
		spec.InTime(t, err, fmt.Sprintf("the frontend has more than %d replicas %s, at %s", frontendLeast, why, utilization(h.Status)))
		// After that, for one that is never met is told by what it does.
		require.Equal(t, aim, autoscale.Aim(h, name), "per cent of %s that the frontend's autoscaler aims at", name)
		return took, h
	}

	traffic, err := l.traffic(ctx, rate, 10*time.Minute) // which is more than both waits for it
	spec.Check(t, err)
	defer func() { _ = traffic.Stop(ctx) }()
	up, loaded := more(corev1.ResourceCPU, frontendCPU, "under load")
	spec.Check(t, traffic.Stop(ctx))
	down := fewer("when the load is over")
	t.Observe(fmt.Sprintf("%d replicas at rest; more after %s of %.0f requests a second (%d, at %s); as before %s after the load",
		frontendLeast, up.Round(time.Second), rate, loaded.Status.DesiredReplicas, utilization(loaded.Status), down.Round(time.Second)), loaded.Status)

	// Of memory the pods always use more than 1Mi: with that as their request they are
	// over the target without any load, and without the processor's time having a say.
	spec.Check(t, requestsMemory(ctx, t.Scope(), l.ns, "1Mi"))
	started(ctx, t, env, frontend)
	up, full := more(corev1.ResourceMemory, frontendMemory, "while its pods use more memory than they ask for")
	if autoscale.Used(full.Status, corev1.ResourceCPU) >= frontendCPU {
		t.Inconclusive("two causes", "more replicas may be due to the processor's time, and were to be due to memory: at %s", utilization(full.Status))
	}
	spec.Check(t, requestsMemory(ctx, t.Scope(), l.ns, "64Mi"))
	started(ctx, t, env, frontend)
	down = fewer("when its memory is enough")
	t.Observe(fmt.Sprintf("more %s after its pods asked for 1Mi of memory, without load (%d, at %s); as before %s after they asked for enough",
		up.Round(time.Second), full.Status.DesiredReplicas, utilization(full.Status), down.Round(time.Second)), full.Status)
}

// requestsMemory has the frontend's pods ask for so much memory.
func requestsMemory(ctx context.Context, scope *environment.Scope, namespace, memory string) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "frontend"}}
	return scope.Update(ctx, d, func() error {
		d.Spec.Template.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse(memory)
		return nil
	})
}

// utilization is what an autoscaler has measured, in per cent of what is asked for.
func utilization(s hpaStatus) (text string) {
	for _, m := range s.CurrentMetrics {
		if m.Resource != nil && m.Resource.Current.AverageUtilization != nil {
			text += fmt.Sprintf(" %s %d %%", m.Resource.Name, *m.Resource.Current.AverageUtilization)
		}
	}
	return text[min(1, len(text)):]
}
