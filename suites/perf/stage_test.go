package perf

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// stage is one specification's own instance of the application behind the ingress
// gateway, with its database; and a namespace outside of the mesh, from which it is
// put under load.
type stage struct {
	*spec.Stage
	name     string
	values   map[string]any
	password string

	mu       sync.Mutex
	measured map[string]bool // scenarios, by script, that ran once

	ns, outside string
	gateway     string // address and port of the ingress gateway
}

// newStage declares a stage; values go over those of stageValues.
func newStage(t testing.TB, name string, values map[string]any) *stage {
	t.Helper()
	s := &stage{measured: map[string]bool{}, name: name, values: values, password: utilrand.String(24)}
	s.Stage = spec.NewStage(t, "stage "+name, s.build)
	return s
}

// host is the application's name at the gateway.
func (s *stage) host() string { return s.ns + ".docuthinker.example" }

func (s *stage) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if s.ns, err = scope.Namespace(ctx, "perf-"+s.name, map[string]string{"istio-injection": "enabled"}); err != nil {
		return err
	}
	if s.outside, err = scope.Namespace(ctx, "perf-outside", nil); err != nil {
		return err
	}
	service := &corev1.Service{}
	if err := env.Client().Get(ctx, client.ObjectKey{Namespace: "istio-ingress", Name: "istio-ingressgateway"}, service); err != nil {
		return err
	}
	s.gateway = service.Spec.ClusterIP + ":443"
	return s.deploy(ctx, env, nil)
}

// deploy puts the application into the stage's namespace, with other values over the
// stage's. Its network policies stay out, which POL-023 proves.
func (s *stage) deploy(ctx context.Context, env *environment.Environment, over map[string]any) error {
	// A core for each of the two, where production has nodes of their own: what the
	// machine has not is not given by a limit.
	service := map[string]any{"replicas": 2, "resources": map[string]any{
		"requests": map[string]any{"cpu": "20m", "memory": "32Mi"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"},
	}}
	values := platform.Merged(map[string]any{
		"networkPolicies": false, "drainDelay": "1s",
		"frontend": service, "backend": service,
		"database": map[string]any{"enabled": true, "password": s.password},
		"mesh":     map[string]any{"enabled": true, "host": s.host()},
	}, platform.Merged(s.values, over))
	if err := platform.Deploy(ctx, env, s.Scope(), docuthinker, s.ns, values); err != nil {
		return fmt.Errorf("the application under load: %w", err)
	}
	return nil
}
