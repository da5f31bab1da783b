package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// walk is one rollout with a proof looking on.
type walk struct {
	*rollout
	ctx     context.Context
	t       spec.T
	env     *environment.Environment
	old     string // the version before
	version string // the new one
	told    int    // requests that the receiver had before
	at      progress
	users   *probe.Record
	before  int // requests of users that were answered before the new version came
}

const (
	userRate = 10 // requests a second
	// userTimeout is of users who wait: a machine without time for four stages at once answers
	// nobody for some seconds (43 of 1047 requests, once, within 5 s), and that is no error of
	// a version. Who is sent where nobody is waits for nothing all the same.
	userTimeout = 15 * time.Second
	minUsers    = 20 // requests that say how users fare
)

// healthy are the settings of a version that has nothing.
var healthy = map[string]string{"FAULT_ERROR_RATE": "0", "FAULT_LATENCY": "0s"}

// begin has users send traffic, releases a version with settings over healthy
// ones, and returns when Flagger has begun with it.
func (r *rollout) begin(ctx context.Context, t spec.T, env *environment.Environment, settings map[string]string) *walk {
	w := &walk{rollout: r, ctx: ctx, t: t, env: env}
	require.Equal(t, []string{declaredInterval, declaredInterval, declaredInterval}, r.declared, "the chart's Canary looks each, and at metrics of")
	all, err := r.pods["receiver"].Requests(ctx)
	spec.Check(w.t, err)
	w.told = len(all)
	w.at, err = r.await(ctx, env, "be at rest", progress.atRest)
	spec.Check(w.t, err)
	w.old, err = r.primary(ctx, env)
	spec.Check(w.t, err)
	request := r.asUser()
	request.Timeout = userTimeout
	w.users, err = r.pods["users"].Traffic(ctx, probe.Plan{Request: request, Rate: userRate, For: proofLimit, KeepAlive: true})
	spec.Check(w.t, err)
	spec.Check(w.t, w.users.Await(ctx, minUsers))
	w.before = w.users.Last()
	with := maps.Clone(healthy)
	maps.Copy(with, settings)
	w.version, err = r.release(ctx, with)
	spec.Check(w.t, err)
	w.move()
	require.Equal(t, "Progressing", w.at.Phase, "Flagger begins with the new version")
	return w
}

// move waits for Flagger's next step.
func (w *walk) move() {
	at, err := w.next(w.ctx, w.env, w.at)
	spec.Check(w.t, err)
	w.at = at
	w.t.Logf("%+v", at)
}

// share is the canary's at the frontend's proxy.
func (w *walk) share(want int64) int64 {
	got, err := w.rollout.share(w.ctx, w.env, want)
	spec.Check(w.t, err)
	return got
}

// lastHalt is why the last check that failed did. One may do so for want of
// figures, when Prometheus has found the new pods too late for it; two say nothing
// of the version.
func (w *walk) lastHalt() (why string, absent bool) {
	events, err := w.events(w.ctx, w.told)
	spec.Check(w.t, err)
	all := halts(events)
	if len(all) == 0 {
		return "no check failed", false
	}
	n := 0
	for _, h := range all {
		if strings.Contains(h, "no values found") {
			n++
		}
	}
	why = all[len(all)-1]
	require.LessOrEqual(w.t, n, 1, "checks that failed for want of metrics, which says nothing of the version: %s", why)
	return why, strings.Contains(why, "no values found")
}

// finish gives what came of users' requests, of minUsers at least since the call.
func (w *walk) finish() probe.Outcomes {
	spec.Check(w.t, w.users.Await(w.ctx, w.users.Last()+minUsers))
	spec.Check(w.t, w.users.Stop(w.ctx))
	return w.users.Outcomes()
}

// fault changes a value of the Canary, which Flagger reads anew at each tick.
func (r *rollout) fault(name, kills string, value any, path ...string) spec.Sabotage {
	return r.faultIn(schema.FromAPIVersionAndKind(flaggerAPI, "Canary"), canaryName, name, kills, value, path...)
}

// faultIn changes a value of an object by which Flagger goes.
func (r *rollout) faultIn(kind schema.GroupVersionKind, object, name, kills string, value any, path ...string) spec.Sabotage {
	return spec.Sabotage{
		Name: name, Kills: kills,
		Apply: func(ctx context.Context, _ *environment.Environment, s *environment.Scope) error {
			return r.change(ctx, s, kind.GroupVersion().String(), kind.Kind, object, value, path...)
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			_, err := wait.On(env.Config).Until(ctx, canaryMoves, wait.Target{Kind: kind, Namespace: r.ns, Name: object}, wait.Condition{What: "have the fault", Missing: func(o *unstructured.Unstructured) string {
				if live, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...); !reflect.DeepEqual(live, value) {
					return fmt.Sprintf("has %v", live)
				}
				return ""
			}})
			return err
		},
		Restored: r.calm,
	}
}

const teapot = http.StatusTeapot // what no server here answers otherwise

// noLoad lets no request come to the backend: the gateway answers users itself,
// and the frontend is ready without having asked the backend.
func (r *rollout) noLoad(kills string) spec.Sabotage {
	return spec.Sabotage{
		Name: "no load during the analysis", Kills: kills,
		Apply: func(ctx context.Context, env *environment.Environment, s *environment.Scope) error {
			if err := r.abort(ctx, s, teapot, 100); err != nil {
				return err
			}
			d := &appsv1.Deployment{}
			d.Namespace, d.Name = r.ns, "frontend"
			return s.Update(ctx, d, func() error {
				d.Spec.Template.Spec.Containers[0].ReadinessProbe.HTTPGet.Path = "/healthz"
				return nil
			})
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			if err := r.frontendRolledOut(ctx, env); err != nil {
				return err
			}
			// A gateway has no route of a mere host, so that settled does not do there.
			return wait.Answers(ctx, frontendReady, "the gateway to answer users itself", func(ctx context.Context) (string, error) {
				a, err := r.pods["users"].Call(ctx, r.asUser(), probe.Status(teapot))
				var unmet *probe.Unmet
				if errors.As(err, &unmet) {
					return a.String(), nil
				}
				return "", err
			})
		},
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return errors.Join(r.calm(ctx, env), r.well(ctx, env))
		},
	}
}

// harmless annotates the Canary.
func (r *rollout) harmless() spec.Sabotage {
	s := spec.Harmless(r.fault("an annotation", "", "nobody", "metadata", "annotations", "docuthinker.dev/reviewed-by"))
	s.Apply = func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
		o := r.object()
		return scope.Update(ctx, o, func() error {
			return unstructured.SetNestedField(o.Object, "nobody", "metadata", "annotations", "docuthinker.dev/reviewed-by")
		})
	}
	return s
}
