package perf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/perf/autoscale"
)

// autoscaling is fixtures/autoscaling as the platform's own application has it, and KEDA and
// metrics-server, which it needs.
const autoscaling platform.Component = "autoscaling"

// steady is for how long, in the platform's own times, fewer replicas must be enough:
// stabilizationWindowSeconds of fixtures/autoscaling.
const steady = 5 * time.Minute

// looks is how long the controller waits between two looks at an autoscaler.
func looks(env *environment.Environment) time.Duration { return autoscale.Looks(env.Root, env.Profile) }

// follow is for ten looks of the controller, for KEDA to be told and to tell it on a busy
// machine, and for fewer replicas to have been enough for long enough. That pods start, and
// that what they use is measured, is waited for apart.
func follow(env *environment.Environment) wait.Timeout {
	return wait.Timeout{Name: "replicasFollow", D: 10*looks(env) + 30*time.Second + time.Duration(float64(steady)/env.Profile.TimeScale)}
}

// settled is how long a number of replicas must stay: the controller looks twice in it.
func settled(env *environment.Environment) time.Duration { return 2*looks(env) + 2*time.Second }

// startedTimeout is for the pods that a scaler wants: fifty on two processors at most. It
// says nothing of the scaler.
var startedTimeout = wait.Timeout{Name: "replicasStarted", D: 2 * time.Minute}

// unscaledTimeout is for KEDA's finalizers, and for the garbage collector after them.
var unscaledTimeout = wait.Timeout{Name: "scalerGone", D: time.Minute}

var hpaKind = autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")

// change edits an object of fixtures/autoscaling for the time of a fault; nil for none.
type change func(o *unstructured.Unstructured)

// autoscalersOf are the objects of fixtures/autoscaling for a workload, in a namespace, with
// values over the chart's own.
func autoscalersOf(ctx context.Context, env *environment.Environment, workload, namespace string, values map[string]any) ([]*unstructured.Unstructured, error) {
	objects, err := platform.Render(ctx, env, autoscaling, namespace, values)
	if err != nil {
		return nil, err
	}
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetLabels()["app"] != workload })
	if len(objects) == 0 {
		return nil, fmt.Errorf("fixtures/autoscaling has nothing with label app: %s", workload)
	}
	return objects, nil
}

// scaling puts the autoscaler of a workload into a namespace, and returns once the
// controller has looked at it for the first time. The time for which fewer replicas must be
// enough and the window of requests are compressed; what a scaler is bound to by its own
// address is the caller's to edit.
func scaling(ctx context.Context, env *environment.Environment, scope *environment.Scope, workload, namespace string, edits ...change) error {
	fail := func(err error) error { return fmt.Errorf("autoscaler of %s: %w", workload, err) }
	objects, err := autoscalersOf(ctx, env, workload, namespace, nil)
	if err != nil {
		return fail(err)
	}
	// Helm has kinds that it does not know by their names: what a ScaledObject goes by comes
	// after it, and is to be there before.
	for _, o := range slices.Backward(objects) {
		if err := autoscale.Compress(o, env.Profile.TimeScale); err != nil {
			return fail(err)
		}
		if o.GetKind() == "ScaledObject" {
			if err := unscaled(ctx, env, namespace); err != nil { // the proof's before, which goes when KEDA lets it
				return fail(err)
			}
			// An interval of seconds: the least that KEDA has.
			if err := unstructured.SetNestedField(o.Object, int64(1), "spec", "pollingInterval"); err != nil {
				return fail(err)
			}
		}
		for _, edit := range edits {
			if edit != nil {
				edit(o)
			}
		}
		if err := scope.Create(ctx, o); err != nil {
			return fail(err)
		}
		if err := looked(ctx, env, o); err != nil {
			return fail(err)
		}
	}
	return nil
}

var scaledObjectKind = schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}

// unscaled waits until KEDA has let go of what was deleted, for its objects have finalizers,
// and until the autoscaler that it had made is collected: looked would take it for the next.
func unscaled(ctx context.Context, env *environment.Environment, namespace string) error {
	for _, kind := range []schema.GroupVersionKind{scaledObjectKind, hpaKind} {
		if err := wait.On(env.Config).Gone(ctx, unscaledTimeout, wait.Target{Kind: kind, Namespace: namespace}); err != nil {
			return err
		}
	}
	return nil
}

// calmed leaves so many replicas of a workload to what comes next, once nobody else says how
// many there are to be.
func calmed(ctx context.Context, env *environment.Environment, workload, namespace string, replicas int) error {
	if err := unscaled(ctx, env, namespace); err != nil {
		return err
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: workload}}
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	return client.IgnoreNotFound(env.Client().Patch(ctx, d, client.RawPatch(types.MergePatchType, patch)))
}

// rested is calmed, and waits until these replicas are all that there are: a fault may have
// left others.
func rested(ctx context.Context, env *environment.Environment, workload, namespace string, replicas int) error {
	if err := calmed(ctx, env, workload, namespace, replicas); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, startedTimeout, deploymentOf(namespace, workload), wait.RolledOut())
	return err
}

// rescaled edits the scaler of a workload as it stands. KEDA passes that on to the autoscaler
// that it has made, which goes on: nothing has to go, and be looked at for the first time again.
func rescaled(ctx context.Context, scope *environment.Scope, workload, namespace string, edits ...change) error {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(scaledObjectKind)
	o.SetNamespace(namespace)
	o.SetName(workload)
	return scope.Update(ctx, o, func() error {
		for _, edit := range edits {
			if edit != nil {
				edit(o)
			}
		}
		return nil
	})
}

// hpaOf is the autoscaler that KEDA makes of a workload's ScaledObject.
func hpaOf(namespace, workload string) wait.Target {
	return wait.Target{Kind: hpaKind, Namespace: namespace, Name: "keda-hpa-" + workload}
}

// looked waits for the autoscaler that is o, or that KEDA makes of o, to have been looked
// at by its controller: what it wants from then on is known at its next look.
func looked(ctx context.Context, env *environment.Environment, o *unstructured.Unstructured) error {
	of := hpaOf(o.GetNamespace(), o.GetName())
	switch o.GetKind() {
	case "HorizontalPodAutoscaler":
		of.Name = o.GetName()
	case "ScaledObject":
	default:
		return nil
	}
	_, err := wait.On(env.Config).Until(ctx, follow(env), of, wait.Condition{
		What: "have been looked at", Missing: func(o *unstructured.Unstructured) string {
			if conditions, has, _ := unstructured.NestedSlice(o.Object, "status", "conditions"); !has || len(conditions) == 0 {
				return "it has no conditions"
			}
			return ""
		},
	})
	return err
}

// The triggers of fixtures/autoscaling, by the names that KEDA has for their kinds.
const (
	byQueue    = "aws-sqs-queue"
	byRequests = "prometheus"
	byHours    = "cron"
)

// trigger gives what a ScaledObject's trigger of one kind goes by another value.
func trigger(kind, key, value string) change {
	return retrigger(kind, key, func(string) string { return value })
}

// retrigger makes another value of the one that is there. Objects without such a trigger
// stay as they are.
func retrigger(kind, key string, with func(was string) string) change {
	return func(o *unstructured.Unstructured) {
		_ = each(o, func(triggers []any) []any {
			for _, one := range triggers {
				if one := one.(map[string]any); one["type"] == kind {
					metadata := one["metadata"].(map[string]any)
					was, _ := metadata[key].(string)
					metadata[key] = with(was)
				}
			}
			return triggers
		}, "spec", "triggers")
	}
}

// scaledBy are the autoscalers of fixtures/autoscaling by the workload that they scale.
func scaledBy(ctx context.Context, env *environment.Environment, edit change) (map[string][]string, error) {
	objects, err := platform.Render(ctx, env, autoscaling, appNamespace, nil)
	if err != nil {
		return nil, err
	}
	by := map[string][]string{}
	for _, o := range objects {
		if edit != nil {
			edit(o)
		}
		if of, has, _ := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name"); has {
			by[of] = append(by[of], o.GetKind()+" "+o.GetName())
		}
	}
	return by, nil
}

// installed are those of the platform's own application, with the profile's values.
func installed(ctx context.Context, env *environment.Environment, workload string) ([]*unstructured.Unstructured, error) {
	values := map[string]any{}
	data, err := os.ReadFile(filepath.Join(env.Root, "fixtures", "platform", string(autoscaling), "values-"+env.Profile.ValuesOf()+".yaml"))
	if err == nil {
		err = yaml.Unmarshal(data, &values)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return autoscalersOf(ctx, env, workload, appNamespace, values)
}

// scaledAsStated asserts that the platform's own application has the autoscaler of a
// workload that is proved on a copy, at its own times.
func scaledAsStated(ctx context.Context, t spec.T, env *environment.Environment, workload string) {
	t.Helper()
	objects, err := installed(ctx, env, workload)
	spec.Check(t, err)
	for _, o := range objects {
		live := &unstructured.Unstructured{}
		live.SetGroupVersionKind(o.GroupVersionKind())
		spec.Check(t, env.Client().Get(ctx, client.ObjectKeyFromObject(o), live))
		require.Empty(t, lacking(o.Object["spec"], live.Object["spec"], "spec"), "what the platform's own autoscaler of %s has otherwise than stated", workload)
	}
}

// altered has the platform's own application scaled otherwise.
func altered(name, workload string, edit func(*unstructured.Unstructured) error) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: `the platform's own autoscaler of ` + workload + ` has otherwise than stated`, Alone: true, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			objects, err := installed(ctx, env, workload)
			if err != nil {
				return err
			}
			return scope.Update(ctx, objects[0], func() error { return edit(objects[0]) })
		},
	}
}

// each puts another list in the place of one that is there.
func each(o *unstructured.Unstructured, with func([]any) []any, path ...string) error {
	list, has, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil || !has {
		return err
	}
	return unstructured.SetNestedSlice(o.Object, with(list), path...)
}

// field edits one of an object of that kind.
func field(kind string, value any, path ...string) change {
	return func(o *unstructured.Unstructured) {
		if o.GetKind() == kind {
			_ = unstructured.SetNestedField(o.Object, value, path...)
		}
	}
}

func deploymentOf(namespace, name string) wait.Target {
	return wait.Target{Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Namespace: namespace, Name: name}
}

// deploymentMeets waits for a Deployment, as a fault's Applied or Restored.
func deploymentMeets(of func() wait.Target, c wait.Condition) func(context.Context, *environment.Environment) error {
	return func(ctx context.Context, env *environment.Environment) error {
		_, err := wait.On(env.Config).Until(ctx, monitorsTimeout, of(), c)
		return err
	}
}

// haveReplicas is met by a Deployment with so many ready pods, and no more wanted.
func haveReplicas(n int64) wait.Condition {
	return wait.Condition{What: fmt.Sprintf("have %d replicas, all ready", n), Missing: func(o *unstructured.Unstructured) string {
		want, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		ready, _, _ := unstructured.NestedInt64(o.Object, "status", "readyReplicas")
		if want == n && ready == n {
			return ""
		}
		return fmt.Sprintf("%d are wanted and %d ready", want, ready)
	}}
}

// wantReplicas is met while a Deployment is told to have from low to high replicas.
func wantReplicas(low, high int64) wait.Condition {
	return wait.Condition{What: fmt.Sprintf("want %d to %d replicas", low, high), Missing: func(o *unstructured.Unstructured) string {
		want, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		if want >= low && want <= high {
			return ""
		}
		return fmt.Sprintf("%d are wanted", want)
	}}
}

// scalesTo waits until a Deployment is told to have so many replicas, which is the scaler's
// part, makes sure that it stays so, and waits until it has them, which is not; how names the
// figure in the assertion. Its message has the number that is wanted in its place, by which a
// scaler that is wrong is told from one that has not moved yet. It gives how long it took
// until they were wanted.
func scalesTo(ctx context.Context, t spec.T, env *environment.Environment, of wait.Target, n int64, how string) time.Duration {
	t.Helper()
	return scalesFrom(ctx, t, env, time.Now(), of, n, how)
}

// scalesFrom is scalesTo from a moment on which may be yet to come.
func scalesFrom(ctx context.Context, t spec.T, env *environment.Environment, from time.Time, of wait.Target, n int64, how string) time.Duration {
	t.Helper()
	wanted(ctx, t, env, from, of, n, how)
	took := time.Since(from)
	stays := func(d time.Duration) {
		t.Helper()
		spec.InTime(t, wait.On(env.Config).Holds(ctx, d, of, wantReplicas(n, n)), how)
	}
	stays(settled(env)) // while they start
	started(ctx, t, env, of)
	stays(0) // and once they have
	return took
}

// wanted is the scaler's part of scalesFrom.
func wanted(ctx context.Context, t spec.T, env *environment.Environment, from time.Time, of wait.Target, n int64, how string) {
	t.Helper()
	limit := follow(env)
	limit.D += max(0, time.Until(from))
	_, err := wait.On(env.Config).Until(ctx, limit, of, wantReplicas(n, n))
	spec.InTime(t, err, how)
}

// started waits until there are as many replicas as are wanted, however many that is by then.
func started(ctx context.Context, t spec.T, env *environment.Environment, of wait.Target) {
	t.Helper()
	_, err := wait.On(env.Config).Until(ctx, startedTimeout, of, wait.RolledOut())
	spec.Check(t, err)
}

// light are the values of an application of which 50 pods fit on a node.
func light(replicas int) map[string]any {
	return map[string]any{"replicas": replicas, "resources": map[string]any{
		"requests": map[string]any{"cpu": "2m", "memory": "12Mi"}, "limits": map[string]any{"cpu": "1", "memory": "64Mi"},
	}}
}
