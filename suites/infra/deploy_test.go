package infra

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	docuthinker platform.Component = "docuthinker"
	policies    platform.Component = "policies"
)

// declaredReplicas are what the environments differ by, besides their names.
var declaredReplicas = map[string]int64{"dev": 1, "staging": 2, "production": 3}

// operated is what an operator does, and with what; faults change it for their time.
type operated struct {
	values   func(of string) string // whose values are taken for an environment
	render   func(o *unstructured.Unstructured)
	broken   map[string]any // values of the deployment that must not stand
	judged   string         // digest by which the frontend's image is said to have been judged, and was not; its own when empty
	rollback int
	undo     bool
	seconds  int // of a batch of spans, which nobody minds
}

// TestDeploy proves that the values of dev, staging and production differ as declared and
// are let in by the policies, and what deployment, rollback and an emergency's undo do.
func TestDeploy(t *testing.T) {
	as := operated{
		values: func(of string) string { return of }, render: func(*unstructured.Unstructured) {},
		broken: frontend("1.2.0", map[string]any{"errorRate": 0.5}), judged: "sha256:" + strings.Repeat("0", 64), rollback: 1, undo: true, seconds: 500,
	}
	with := func(name, kills string, change func(o *operated)) spec.Sabotage {
		return spec.Edited(name, kills, &as, change)
	}
	spec.Run(t, spec.Specification{
		ID: "INF-017", Risk: spec.Namespaced, Needs: []spec.Need{policies}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) { proveDeploy(ctx, t, env, as) },
		CounterProofs: []spec.Sabotage{
			with("production with staging's values", `(?s)environment of production: label of .*actual +: "staging"`, func(o *operated) {
				o.values = func(of string) string { return strings.Replace(of, "production", "staging", 1) }
			}),
			with("a backend by another name", `replicas in dev: declared .*, rendered map\[api:1 frontend:1`, func(o *operated) {
				o.render = deployment("backend", func(o *unstructured.Unstructured) { o.SetName("api") })
			}),
			with("a worker too many", `replicas in dev: declared .*worker:1\], rendered .*worker:2\]`, func(o *operated) {
				o.render = deployment("worker", func(o *unstructured.Unstructured) {
					_ = unstructured.SetNestedField(o.Object, int64(2), "spec", "replicas")
				})
			}),
			with("a privileged container", `(?s)the policies let in Deployment .*is privileged: set securityContext\.privileged to false`, func(o *operated) { o.render = privileged }),
			with("a bad deployment that is none", `a deployment that fails its smoke test: An error is expected`, func(o *operated) { o.broken = frontend("1.2.0", nil) }),
			with("an image that was judged", `a deployment of an image that was not judged: An error is expected`, func(o *operated) { o.judged = "" }),
			with("rollback to the wrong revision", `(?s)version after the rollback: .*actual +: "1\.1\.0"`, func(o *operated) { o.rollback = 2 }),
			with("no undo", `(?s)version after the undo: .*actual +: "6\.6\.6"`, func(o *operated) { o.undo = false }),
			spec.Harmless(with("spans wait for less long", "", func(o *operated) { o.seconds = 400 })),
		},
	})
}

// frontend are values of another version of it.
func frontend(version string, fault map[string]any) map[string]any {
	values := map[string]any{"version": version}
	if fault != nil {
		values["fault"] = fault
	}
	return map[string]any{"frontend": values}
}

// deployment changes one of them as it is rendered.
func deployment(name string, change func(*unstructured.Unstructured)) func(*unstructured.Unstructured) {
	return func(o *unstructured.Unstructured) {
		if o.GetKind() == "Deployment" && o.GetName() == name {
			change(o)
		}
	}
}

// privileged is what no policy lets in.
func privileged(o *unstructured.Unstructured) {
	if o.GetKind() == "Deployment" {
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		// With allowPrivilegeEscalation: false as well the API server has it for a contradiction.
		containers[0].(map[string]any)["securityContext"] = map[string]any{"privileged": true}
		_ = unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers")
	}
}

func proveDeploy(ctx context.Context, t spec.T, env *environment.Environment, as operated) {
	ns, err := t.Scope().Namespace(ctx, "infra-deploy", map[string]string{"docuthinker.dev/defaults": "enabled"})
	spec.Check(t, err)
	for _, of := range []string{"dev", "staging", "production"} {
		// The policies look at namespaces that bear this label only.
		asked, err := t.Scope().Namespace(ctx, "infra-values", map[string]string{"docuthinker.dev/defaults": "enabled", "docuthinker.dev/environment": of})
		spec.Check(t, err)
		proveValues(ctx, t, env, asked, of, as)
	}
	r, err := platform.OpenRelease(env, docuthinker, ns)
	spec.Check(t, err)
	base, err := platform.ReleaseValues(env, docuthinker, "dev")
	spec.Check(t, err)
	base = platform.Merged(base, map[string]any{"mesh": map[string]any{"tracing": map[string]any{"batchDelayMilliseconds": as.seconds}}})
	judged, err := env.Judged(ctx)
	spec.Check(t, err)
	deploys := func(version string) {
		_, err := r.Deploy(ctx, platform.Merged(base, frontend(version, nil)), judged)
		spec.Check(t, err)
		require.Equal(t, version, serving(ctx, t, env, ns), "version after it was deployed")
	}
	begin := time.Now()
	deploys("1.0.0")
	first := time.Since(begin)
	deploys("1.1.0")
	_, err = r.Deploy(ctx, platform.Merged(base, as.broken), judged)
	require.Error(t, err, "a deployment that fails its smoke test")
	require.ErrorContains(t, err, "its tests: ", "a deployment that fails its smoke test")
	require.ErrorContains(t, err, "revision 2 was put back", "a deployment that fails its smoke test")
	require.Equal(t, "1.1.0", serving(ctx, t, env, ns), "version after the bad deployment")
	_, err = r.Deploy(ctx, platform.Merged(base, frontend("1.1.0", nil)), otherwise(t, judged, as.judged))
	require.Error(t, err, "a deployment of an image that was not judged")
	require.ErrorContains(t, err, as.judged+" was judged", "a deployment of an image that was not judged")
	require.ErrorContains(t, err, "revision 4 was put back", "a deployment of an image that was not judged")

	begin = time.Now()
	_, err = r.Rollback(as.rollback)
	spec.Check(t, err)
	back := time.Since(begin)
	require.Equal(t, "1.0.0", serving(ctx, t, env, ns), "version after the rollback")
	spec.Check(t, r.Test())
	_, err = r.Rollback(99)
	require.ErrorContains(t, err, "there is none: Helm keeps 1, 2, 3, 4, 5, 6, 7", "a rollback to a revision that there never was")

	proveUndo(ctx, t, env, ns, as.undo)
	all, err := r.Revisions()
	spec.Check(t, err)
	t.Observe(fmt.Sprintf("the values of three environments differ as declared, and the policies let them in; in %d revisions: deployed in %s, a bad deployment was taken back by itself, and one of an image that nobody judged, rolled back in %s; a rollout was undone",
		len(all), first.Round(time.Second), back.Round(time.Second)), all)
}

// otherwise is what was judged with another digest for the frontend's image, when one is given.
func otherwise(t spec.T, judged map[string]string, digest string) map[string]string {
	t.Helper()
	other, found := maps.Clone(judged), false
	for name := range other {
		if strings.HasPrefix(name, "docker.io/docuthinker/frontend:") {
			found = true
			other[name] = cmp.Or(digest, other[name])
		}
	}
	require.True(t, found, "image of the frontend among those that were judged")
	return other
}

// proveValues holds what an environment's values render against what it is declared to be,
// and asks the API server, policies and all, whether it would take it.
func proveValues(ctx context.Context, t spec.T, env *environment.Environment, ns, of string, as operated) {
	values, err := platform.ReleaseValues(env, docuthinker, as.values(of))
	spec.Check(t, err)
	objects, err := platform.Render(ctx, env, docuthinker, ns, platform.Merged(values, map[string]any{"database": map[string]any{"password": "OfNobodyAndForNothing00"}}))
	spec.Check(t, err)
	require.NotEmpty(t, objects, "objects of %s", of)
	want := map[string]int64{"frontend": declaredReplicas[of], "backend": declaredReplicas[of]}
	if enabled, _, _ := unstructured.NestedBool(values, "worker", "enabled"); enabled {
		want["worker"] = declaredReplicas[of]
	}
	replicas, budgets := map[string]int64{}, 0
	for _, o := range objects {
		as.render(o)
		require.Equal(t, of, o.GetLabels()["environment"], "environment of %s: label of %s %s", of, o.GetKind(), o.GetName())
		switch o.GetKind() {
		case "PodDisruptionBudget":
			budgets++
		case "Deployment":
			replicas[o.GetName()], _, _ = unstructured.NestedInt64(o.Object, "spec", "replicas")
		}
	}
	delete(replicas, "redis") // one, where it is not outside of the cluster
	require.Equal(t, want, replicas, "replicas in %s: declared %v, rendered %v", of, want, replicas)
	for _, o := range objects {
		tried := o.DeepCopy()
		err := env.Client().Create(ctx, tried, client.DryRunAll)
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) { // a webhook that was slow refused nothing
			spec.Check(t, err)
		}
		require.NoError(t, err, "the policies let in %s %s of %s", o.GetKind(), o.GetName(), of)
	}
	require.Equal(t, declaredReplicas[of] > 1, budgets > 0, "PodDisruptionBudgets of %s: there are %d", of, budgets)
}

// serving is the version by which the frontend's ready pods call themselves; all of them
// the same.
func serving(ctx context.Context, t spec.T, env *environment.Environment, ns string) string {
	t.Helper()
	var pods corev1.PodList
	spec.Check(t, env.Client().List(ctx, &pods, client.InNamespace(ns), client.MatchingLabels{"app": "frontend"}))
	version := ""
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil {
			continue
		}
		body, err := env.Ask(ctx, ns, p.Name, "8080", http.MethodGet, "echo", nil)
		spec.Check(t, err)
		var echo struct{ Version string }
		spec.Check(t, json.Unmarshal(body, &echo))
		require.True(t, version == "" || version == echo.Version, "pods of the frontend are of the versions %s and %s", version, echo.Version)
		version = echo.Version
	}
	require.NotEmpty(t, version, "version of the frontend, of %d pods", len(pods.Items))
	return version
}

// proveUndo changes the frontend past Helm, and takes that back as kubectl rollout undo
// does.
func proveUndo(ctx context.Context, t spec.T, env *environment.Environment, ns string, undo bool) {
	was := serving(ctx, t, env, ns)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "frontend"}}
	spec.Check(t, env.Client().Get(ctx, client.ObjectKeyFromObject(d), d))
	vars := d.Spec.Template.Spec.Containers[0].Env
	i := slices.IndexFunc(vars, func(v corev1.EnvVar) bool { return v.Name == "APP_VERSION" })
	require.GreaterOrEqual(t, i, 0, "variable APP_VERSION of the frontend, of %v", vars)
	vars[i] = corev1.EnvVar{Name: vars[i].Name, Value: "6.6.6"}
	spec.Check(t, env.Client().Update(ctx, d))
	spec.Check(t, rolledOut(ctx, env, "Deployment", ns, "frontend"))
	require.Equal(t, "6.6.6", serving(ctx, t, env, ns), "version after the change past Helm")
	if undo {
		clients, err := kubernetes.NewForConfig(env.Config)
		spec.Check(t, err)
		by, err := polymorphichelpers.RollbackerFor(appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind(), clients)
		spec.Check(t, err)
		_, err = by.Rollback(d, nil, 0, util.DryRunNone)
		spec.Check(t, err)
		spec.Check(t, rolledOut(ctx, env, "Deployment", ns, "frontend"))
	}
	require.Equal(t, was, serving(ctx, t, env, ns), "version after the undo")
}
