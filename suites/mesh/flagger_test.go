package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// declaredInterval is that of the platform's Canary, and what its metrics are of. It is ten
// seconds here, the least that Flagger takes.
const declaredInterval = "60s"

// What the clauses say of that Canary, which the application's chart has: it is held
// against these.
const (
	interval      = 10 * time.Second
	timeScale     = "time compressed 6 x: interval 60 s -> 10 s"
	threshold     = 5   // failed checks
	maxWeight     = 50  // per cent
	stepWeight    = 10  // per cent
	minSuccess    = 99  // per cent of requests
	maxDuration   = 500 // milliseconds, 99th percentile
	alertChannel  = "on-call"
	alertSecret   = "on-call"
	eventPath     = "/events"
	alertPath     = "/alerts"
	abortPath     = "/abort"
	canaryName    = "backend"
	flaggerAPI    = "flagger.app/v1beta1"
	backendHeader = "X-Backend-Version"
)

// slack is what an analysis may take of the time that Flagger itself needs.
const slack = 1.2

var (
	// canaryMoves is for the next change of a Canary's status: a tick, and those on
	// which pods are not ready yet.
	canaryMoves   = wait.Timeout{Name: "canaryMoves", D: 90 * time.Second}
	frontendReady = wait.Timeout{Name: "frontendReady", D: 60 * time.Second}
	// proxyFollows is for a new weight to come from Flagger to a proxy.
	proxyFollows = wait.Timeout{Name: "proxyFollows", D: interval - time.Second}
)

// rollout is a stage whose backend Flagger rolls out. It has users behind the
// gateway, and a receiver of what Flagger tells: each event, for Kubernetes drops
// those of an object that has many, and each alert. Kept over the trials, it
// begins each one with Flagger at rest and a version of its own.
type rollout struct {
	*stage
	ensuring   sync.Mutex
	handedOver bool
	declared   []string // intervals of the analysis, and of each of its metrics, by the chart
	versions   int

	led  chan struct{} // closed when the test has ended by whose rollback others may go; nil where there is none
	seen *rollback     // that one, when it was proved
}

func newRollout(t *testing.T, name string) *rollout {
	return &rollout{stage: newStage(t, name, map[string]any{"mesh": map[string]any{
		"routing": map[string]any{"backend": "flagger"},
		"flagger": map[string]any{"alertSecret": alertSecret},
	}},
		caller{Spec: probe.Spec{Name: "users"}, outside: true},
		caller{Spec: probe.Spec{Name: "receiver", Upstream: &probe.Upstream{}}, outside: true})}
}

// Ensure compresses the chart's Canary and has the receiver told of everything, once: of
// alerts by the Secret that the chart's AlertProvider names, and of each event by a webhook
// that is the suite's own.
func (r *rollout) Ensure(ctx context.Context, env *environment.Environment) error {
	r.ensuring.Lock()
	defer r.ensuring.Unlock()
	if err := r.Stage.Ensure(ctx, env); err != nil || r.handedOver {
		return err
	}
	receiver := fmt.Sprintf("http://%s:8080", r.pods["receiver"].IP)
	err := r.Scope().Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: alertSecret}, StringData: map[string]string{"address": receiver + alertPath},
	})
	if err != nil {
		return err
	}
	canary := r.object()
	if err := r.Scope().Update(ctx, canary, func() error {
		analysis, _, err := unstructured.NestedMap(canary.Object, "spec", "analysis")
		if err != nil {
			return err
		}
		r.declared = nil
		metrics, _ := analysis["metrics"].([]any)
		for _, of := range append([]any{analysis}, metrics...) {
			r.declared = append(r.declared, fmt.Sprint(of.(map[string]any)["interval"]))
			of.(map[string]any)["interval"] = interval.String()
		}
		analysis["webhooks"] = []any{map[string]any{"name": "events", "type": "event", "url": receiver + eventPath}}
		return unstructured.SetNestedMap(canary.Object, analysis, "spec", "analysis")
	}); err != nil {
		return err
	}
	if _, err := r.await(ctx, env, "be initialized", func(p progress) bool { return p.Phase == "Initialized" }); err != nil {
		return err
	}
	if err := r.well(ctx, env); err != nil {
		return err
	}
	r.handedOver = true
	return nil
}

// well waits until users are served by the primary, behind a frontend that says
// that it is ready.
func (r *rollout) well(ctx context.Context, env *environment.Environment) error {
	if err := r.frontendRolledOut(ctx, env); err != nil {
		return err
	}
	if err := settled(ctx, env, r.ns); err != nil {
		return err
	}
	primary, err := r.primary(ctx, env)
	if err != nil {
		return err
	}
	return wait.Answers(ctx, frontendReady, "users of "+r.ns+" to be served", func(ctx context.Context) (string, error) {
		var unmet *probe.Unmet
		if err := r.answeredBy(ctx, primary); errors.As(err, &unmet) {
			return err.Error(), nil
		} else if err != nil {
			return "", err
		}
		return "", nil
	})
}

func (r *rollout) frontendRolledOut(ctx context.Context, env *environment.Environment) error {
	return rolledOut(ctx, env, frontendReady, "Deployment", r.ns, "frontend")
}

// metric is one of Flagger's built-in checks over the last interval.
func metric(name string, allowed map[string]any) map[string]any {
	return map[string]any{"name": name, "interval": interval.String(), "thresholdRange": allowed}
}

func (r *rollout) target() wait.Target {
	return wait.Target{Kind: schema.FromAPIVersionAndKind(flaggerAPI, "Canary"), Namespace: r.ns, Name: canaryName}
}

// progress is how far Flagger is.
type progress struct {
	Phase        string
	Weight       int64
	FailedChecks int64
}

func (p progress) atRest() bool {
	return p.Phase == "Initialized" || p.Phase == "Succeeded" || p.Phase == "Failed"
}

func progressOf(o *unstructured.Unstructured) (p progress) {
	p.Phase, _, _ = unstructured.NestedString(o.Object, "status", "phase")
	p.Weight, _, _ = unstructured.NestedInt64(o.Object, "status", "canaryWeight")
	p.FailedChecks, _, _ = unstructured.NestedInt64(o.Object, "status", "failedChecks")
	return p
}

// next waits for Flagger to move on.
func (r *rollout) next(ctx context.Context, env *environment.Environment, at progress) (progress, error) {
	return r.await(ctx, env, fmt.Sprintf("move on from %+v", at), func(p progress) bool { return p != at })
}

func (r *rollout) await(ctx context.Context, env *environment.Environment, what string, is func(progress) bool) (progress, error) {
	found, err := wait.On(env.Config).Until(ctx, canaryMoves, r.target(), wait.Condition{What: what, Missing: func(o *unstructured.Unstructured) string {
		if p := progressOf(o); !is(p) {
			return fmt.Sprintf("is at %+v", p)
		}
		return ""
	}})
	if err != nil {
		return progress{}, err
	}
	return progressOf(found[0]), nil
}

// calm brings Flagger to rest: an analysis that a trial left behind is rolled
// back at the next tick, by a webhook that says so, as the receiver does to
// everyone.
func (r *rollout) calm(ctx context.Context, env *environment.Environment) error {
	at, err := r.await(ctx, env, "have a status", func(p progress) bool { return p.Phase != "" })
	if err != nil || at.atRest() {
		return err
	}
	abort := env.Scope("abort of " + r.ns)
	o := r.object()
	err = abort.Update(ctx, o, func() error {
		hooks, _, err := unstructured.NestedSlice(o.Object, "spec", "analysis", "webhooks")
		if err != nil {
			return err
		}
		hooks = append(hooks, map[string]any{
			"name": "abort", "type": "rollback", "url": fmt.Sprintf("http://%s:8080%s", r.pods["receiver"].IP, abortPath),
		})
		return unstructured.SetNestedSlice(o.Object, hooks, "spec", "analysis", "webhooks")
	})
	if err == nil {
		_, err = r.await(ctx, env, "come to rest", progress.atRest)
	}
	return errors.Join(err, abort.Close(context.WithoutCancel(ctx)))
}

func (r *rollout) object() *unstructured.Unstructured {
	return object(flaggerAPI, "Canary", r.ns, canaryName, nil)
}

// release puts a new version of the backend into its Deployment, with settings of
// its own, and gives the version. It goes by the stage's scope: to take it back
// after a proof would be a new version to Flagger.
func (r *rollout) release(ctx context.Context, settings map[string]string) (string, error) {
	r.versions++
	version := fmt.Sprintf("1.%d.0", r.versions)
	d := &appsv1.Deployment{}
	d.Namespace, d.Name = r.ns, "backend"
	return version, r.Scope().Update(ctx, d, func() error {
		d.Labels["version"], d.Spec.Template.Labels["version"] = version, version
		container := &d.Spec.Template.Spec.Containers[0]
		left := len(settings)
		for i := range container.Env {
			e := &container.Env[i]
			if value, is := settings[e.Name]; is {
				e.Value = value
				left--
			}
		}
		if left > 0 {
			return fmt.Errorf("deployment backend of %s has not all of %v", r.ns, settings)
		}
		return nil
	})
}

// primary is the version that Flagger has as the good one.
func (r *rollout) primary(ctx context.Context, env *environment.Environment) (string, error) {
	var d appsv1.Deployment
	err := env.Client().Get(ctx, client.ObjectKey{Namespace: r.ns, Name: "backend-primary"}, &d)
	return d.Spec.Template.Labels["version"], err
}

// share is the canary's per cent of the backend's requests, as the frontend's
// proxy has it once it has what is wanted, or when it had time enough.
func (r *rollout) share(ctx context.Context, env *environment.Environment, want int64) (got int64, err error) {
	host := "backend." + r.ns + ".svc.cluster.local"
	asked := false
	err = wait.Answers(ctx, proxyFollows, fmt.Sprintf("the frontend's proxy to give the canary %d %%", want), func(ctx context.Context) (string, error) {
		var pods corev1.PodList
		if err := env.Client().List(ctx, &pods, client.InNamespace(r.ns), client.MatchingLabels{"app": "frontend"}); err != nil {
			return "", err
		}
		if len(pods.Items) != 1 {
			return fmt.Sprintf("%d frontends", len(pods.Items)), nil
		}
		shares, err := weights(ctx, env, r.ns, pods.Items[0].Name, host, "8080")
		if err != nil {
			return err.Error(), nil // the pod may have ended meanwhile
		}
		got, asked = 0, true
		sum := int64(0)
		for cluster, weight := range shares {
			sum += int64(weight)
			if strings.Contains(cluster, "|backend-canary.") {
				got += int64(weight)
			}
		}
		if sum != 100 || got != want {
			return fmt.Sprint(shares), nil
		}
		return "", nil
	})
	if asked && ctx.Err() == nil {
		return got, nil // the caller judges
	}
	return got, err
}

// weights are the shares in percent by which a proxy spreads the requests of a
// host at a port, by cluster, as its route has them; nil when it has no such route.
func weights(ctx context.Context, env *environment.Environment, namespace, pod, host, port string) (map[string]int, error) {
	routes, err := routesOf(ctx, env, namespace, pod, port, host) // a sidecar's route configurations are called by their ports
	if err != nil || routes[port] == "" {
		return nil, err
	}
	var known struct {
		Routes []struct {
			Route struct {
				Cluster          string
				WeightedClusters struct {
					Clusters []struct {
						Name   string
						Weight int
					}
				} `json:"weighted_clusters"`
			}
		}
	}
	if err := json.Unmarshal([]byte(routes[port]), &known); err != nil {
		return nil, fmt.Errorf("routes of %s/%s: %w", namespace, pod, err)
	}
	if len(known.Routes) == 0 {
		return nil, nil
	}
	r := known.Routes[0].Route
	if r.Cluster != "" {
		return map[string]int{r.Cluster: 100}, nil
	}
	shares := map[string]int{}
	for _, w := range r.WeightedClusters.Clusters {
		shares[w.Name] = w.Weight
	}
	return shares, nil
}

// moved says how long Flagger took, and fails when it was longer than so many
// intervals need.
func moved(t spec.T, from time.Time, intervals int, what string) string {
	took, least := time.Since(from), time.Duration(intervals)*interval
	require.LessOrEqual(t, took, time.Duration(float64(least)*slack), "%s takes Flagger %s at least", what, least)
	return fmt.Sprintf("%s in %.0f s, %.2f x the %d intervals that Flagger needs", what, took.Seconds(), took.Seconds()/least.Seconds(), intervals)
}
