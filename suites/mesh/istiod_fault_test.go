package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

func controlPlaneFaults(s *stage) []spec.Sabotage {
	return []spec.Sabotage{
		lossyRoute(s),
		quietNote(s),
		deafFrontend(s),
		controlPlane.alone(),
		selectingNothing(s),
		withoutReviews(s),
	}
}

// lossyRoute has one request in five fail on its way to the stage's frontend.
func lossyRoute(s *stage) spec.Sabotage {
	inForce := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			return gatewaysHave(ctx, env, s.host(), fmt.Sprintf("with a fault: %t", want), func(routes map[string]string) bool {
				for _, r := range routes {
					if strings.Contains(r, "envoy.filters.http.fault") {
						return want
					}
				}
				return !want
			})
		}
	}
	return spec.Sabotage{
		Name: "one request in five of the running traffic aborted", Kills: "expected no request to be lost",
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return s.abort(ctx, scope, http.StatusServiceUnavailable, 20)
		},
		Applied: inForce(true), Restored: inForce(false),
	}
}

func istiodService() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: controlPlane.namespace, Name: controlPlane.name}}
}

// quietNote is harmless.
func quietNote(s *stage) spec.Sabotage {
	inForce := func(ctx context.Context, env *environment.Environment) error { return settled(ctx, env, s.ns) }
	return spec.Sabotage{
		Name: "a note at istiod's Service", Harmless: true,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			service := istiodService()
			return scope.Update(ctx, service, func() error {
				metav1.SetMetaDataAnnotation(&service.ObjectMeta, "docuthinker.dev/note", "nothing")
				return nil
			})
		},
		Applied: inForce, Restored: inForce,
	}
}

// deafFrontend takes from the frontend's sidecar all routes of the port that a new one is
// of. It goes on serving, and a new pod gets all that it wants.
func deafFrontend(s *stage) spec.Sabotage {
	host := ingressGateway.name + "." + ingressGateway.namespace + ".svc.cluster.local" // serves at that port, too
	has := func(want bool) func(context.Context, *environment.Environment) error {
		return func(ctx context.Context, env *environment.Environment) error {
			what := fmt.Sprintf("the frontend's proxy to have routes of port %s: %t", markerRoutes, want)
			return wait.Answers(ctx, pushTimeout, what, func(ctx context.Context) (string, error) {
				pods, err := proxied(ctx, env, s.ns)
				at := slices.IndexFunc(pods, func(pod string) bool { return strings.HasPrefix(pod, "frontend-") })
				if err != nil || at < 0 {
					return "it is not there", err
				}
				routes, err := routesOf(ctx, env, s.ns, pods[at], markerRoutes, host)
				if err == nil && (routes[markerRoutes] != "") != want {
					return fmt.Sprintf("of %s it has %v", host, routes), nil
				}
				return "", err
			})
		}
	}
	return spec.Sabotage{
		Name: "a sidecar without the routes of a port", Kills: `(?s)a new route reached not every proxy while an istiod was gone: .* frontend-\S+ lacks it`,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			if err := has(true)(ctx, env); err != nil {
				return err
			}
			return scope.Create(ctx, object("networking.istio.io/v1alpha3", "EnvoyFilter", s.ns, "deaf", map[string]any{
				"workloadSelector": map[string]any{"labels": map[string]any{"app.kubernetes.io/component": "frontend"}},
				"configPatches": []any{map[string]any{
					"applyTo": "VIRTUAL_HOST",
					"match":   map[string]any{"context": "SIDECAR_OUTBOUND", "routeConfiguration": map[string]any{"name": markerRoutes}},
					"patch":   map[string]any{"operation": "REMOVE"},
				}},
			}))
		},
		Applied: has(false),
		// The proof ended before the istiod that it took away was there again.
		Restored: func(ctx context.Context, env *environment.Environment) error {
			return errors.Join(has(true)(ctx, env), controlPlane.settles(ctx, env, controlPlane.replicas))
		},
	}
}

// newcomerKept is how the proof fails when a new pod does not get what it needs of istiod:
// it is not let in without a sidecar, or its sidecar waits for all that it starts with.
const newcomerKept = `(?s)a new pod did not become ready in the mesh while an istiod was gone: ` +
	`(it is not there: .*failed calling webhook "\S*sidecar-injector\.istio\.io"|its sidecar runs and was given nothing)`

// selectingNothing leaves the proxies that are connected as they are; nobody else
// finds istiod.
func selectingNothing(s *stage) spec.Sabotage {
	endpoints := func(ctx context.Context, env *environment.Environment, what string, want bool) error {
		_, err := wait.On(env.Config).Until(ctx, pushTimeout, wait.Target{
			Kind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), Namespace: controlPlane.namespace,
			Selector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: controlPlane.name}),
		}, wait.Condition{What: what, Missing: func(o *unstructured.Unstructured) string {
			if list, _, _ := unstructured.NestedSlice(o.Object, "endpoints"); (len(list) > 0) != want {
				return fmt.Sprintf("it has %d endpoints", len(list))
			}
			return ""
		}})
		return err
	}
	return spec.Sabotage{
		Name: "istiod's Service selecting nothing", Alone: true, Kills: newcomerKept,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			service := istiodService()
			return scope.Update(ctx, service, func() error {
				service.Spec.Selector["istio"] = "nobody"
				return nil
			})
		},
		Applied: func(ctx context.Context, env *environment.Environment) error {
			return endpoints(ctx, env, "have no endpoint", false)
		},
		Restored: func(ctx context.Context, env *environment.Environment) error {
			if err := endpoints(ctx, env, "have endpoints", true); err != nil {
				return err
			}
			return restored(ctx, env, s)
		},
	}
}

// restored waits until the control plane is whole and the stage's proxies have
// found it again.
func restored(ctx context.Context, env *environment.Environment, s *stage) error {
	if err := controlPlane.settles(ctx, env, controlPlane.replicas); err != nil {
		return err
	}
	return settled(ctx, env, s.ns)
}

// withoutReviews takes from istiod the right to have the API server look at a
// pod's token. It injects sidecars still, but gives no certificate to a proxy
// that comes anew.
func withoutReviews(s *stage) spec.Sabotage {
	const role, reviews = "istiod-clusterrole-istio-system", "tokenreviews"
	may := func(ctx context.Context, env *environment.Environment, want bool) error {
		return wait.Answers(ctx, pushTimeout, "the API server to know what istiod may do", func(ctx context.Context) (string, error) {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               "system:serviceaccount:" + controlPlane.namespace + ":istiod",
				ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "authentication.k8s.io", Resource: reviews, Verb: "create"},
			}}
			if err := env.Client().Create(ctx, review); err != nil {
				return "", err
			}
			if review.Status.Allowed != want {
				return fmt.Sprintf("it may create %s: %t", reviews, review.Status.Allowed), nil
			}
			return "", nil
		})
	}
	return spec.Sabotage{
		Name: "istiod without the right to review tokens", Alone: true, Kills: newcomerKept,
		Apply: func(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
			r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: role}}
			return scope.Update(ctx, r, func() error {
				before := len(r.Rules)
				r.Rules = slices.DeleteFunc(r.Rules, func(rule rbacv1.PolicyRule) bool { return slices.Contains(rule.Resources, reviews) })
				if len(r.Rules) != before-1 {
					return fmt.Errorf("ClusterRole %s: %d rules name %s, want one", role, before-len(r.Rules), reviews)
				}
				return nil
			})
		},
		Applied: func(ctx context.Context, env *environment.Environment) error { return may(ctx, env, false) },
		Restored: func(ctx context.Context, env *environment.Environment) error {
			if err := may(ctx, env, true); err != nil {
				return err
			}
			return restored(ctx, env, s)
		},
	}
}
