package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// stage is one specification's own instance of the application, in a namespace
// of the run's, with callers beside it.
type stage struct {
	*spec.Stage
	name    string
	values  map[string]any
	callers []caller
	spans   bool // the application tells the collector of its own
	empty   bool // there is no application, and the callers are alone
	shared  bool // others prove on it

	admitted     []string // service accounts that are let in everywhere
	preparations []preparation

	ns      string // the application's namespace
	outside string // a namespace without the mesh; "" where no caller is outside
	pods    map[string]*probe.Pod
}

// caller is a probe pod of a stage. Its namespace is the application's, or the
// one outside of the mesh.
type caller struct {
	probe.Spec
	outside bool
}

// newStage declares a stage; values go over the least. name is short:
// it begins the namespaces' names.
func newStage(t *testing.T, name string, values map[string]any, callers ...caller) *stage {
	t.Helper()
	s := &stage{name: name, values: values, callers: callers}
	s.Stage = spec.NewStage(t, "stage "+name, s.build)
	return s
}

// traced is the stage with an application that sends its spans, as the chart has it, for who
// looks at them. The others' are not sent, for each batch is a request by the sidecars.
func (s *stage) traced() *stage {
	s.spans = true
	return s
}

// admitting lets a service account of the stage in everywhere, beside what the
// application's policies allow. It takes nothing away from them.
func (s *stage) admitting(serviceAccount string) *stage {
	if !slices.Contains(s.admitted, serviceAccount) {
		s.admitted = append(s.admitted, serviceAccount)
	}
	return s
}

// preparation puts something into a stage for good, when all else stands.
type preparation func(*stage, context.Context, *environment.Environment, *environment.Scope) error

func (s *stage) preparedBy(p preparation) *stage {
	s.preparations = append(s.preparations, p)
	return s
}

// host is the application's name at the gateway.
func (s *stage) host() string { return s.ns + ".docuthinker.example" }

// Ensure builds it, and waits until its proxies have all that belongs to it. A type that puts
// more into it first ensures its Stage, and waits once.
func (s *stage) Ensure(ctx context.Context, env *environment.Environment) error {
	if err := s.Stage.Ensure(ctx, env); err != nil {
		return err
	}
	return settled(ctx, env, s.ns)
}

// build deploys the application and starts the callers.
func (s *stage) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	scope.Whole = true // nothing here has a finalizer that wants another of them
	if s.ns, err = scope.Namespace(ctx, "mesh-"+s.name, map[string]string{"istio-injection": "enabled"}); err != nil {
		return err
	}
	if slices.ContainsFunc(s.callers, func(c caller) bool { return c.outside }) {
		if s.outside, err = scope.Namespace(ctx, "mesh-"+s.name+"-outside", nil); err != nil {
			return err
		}
	}
	var specs []probe.Spec
	for _, c := range s.callers {
		c.Namespace, c.Mesh = s.ns, true
		if c.outside {
			c.Namespace, c.Mesh = s.outside, false
		}
		if c.Labels == nil {
			c.Labels = map[string]string{"app": "caller-" + c.Name}
		}
		specs = append(specs, c.Spec)
	}
	// At once: each waits for pods to start.
	var started []*probe.Pod
	group, building := errgroup.WithContext(ctx)
	if !s.empty {
		group.Go(func() error { return s.deploy(building, env, nil) })
	}
	group.Go(func() (err error) {
		if err := accounts(building, env, specs); err != nil {
			return err
		}
		started, err = probe.Start(building, env, scope, specs...)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	s.pods = map[string]*probe.Pod{}
	for _, p := range started {
		s.pods[p.Name] = p
	}
	for _, account := range s.admitted {
		if err := scope.Create(ctx, s.admission(account)); err != nil {
			return err
		}
	}
	for _, prepare := range s.preparations {
		if err := prepare(s, ctx, env, scope); err != nil {
			return err
		}
	}
	return nil
}

// accountTimeout is for the service account of a namespace that was made a moment ago, or for
// one that the chart brings.
var accountTimeout = wait.Timeout{Name: "serviceAccountThere", D: 60 * time.Second}

// accounts waits for the service accounts that pods go by: none is let in without.
func accounts(ctx context.Context, env *environment.Environment, specs []probe.Spec) error {
	for _, c := range specs {
		_, err := wait.On(env.Config).Until(ctx, accountTimeout, wait.Target{
			Kind: corev1.SchemeGroupVersion.WithKind("ServiceAccount"), Namespace: c.Namespace, Name: cmp.Or(c.ServiceAccount, "default"),
		}, wait.Exists())
		if err != nil {
			return err
		}
	}
	return nil
}

// deploy puts the application into the stage's namespace, with other values over
// the stage's.
func (s *stage) deploy(ctx context.Context, env *environment.Environment, over map[string]any) error {
	values := platform.Merged(platform.Merged(s.least(), s.values), over)
	return platform.Deploy(ctx, env, s.Scope(), docuthinker, s.ns, values)
}

// least are values of one pod of each. The network policies stay out, for a
// call that is refused here must be refused by the mesh; POL-023 proves them.
func (s *stage) least() map[string]any {
	mesh := map[string]any{"enabled": true, "host": s.host()}
	if !s.spans {
		mesh["tracing"] = map[string]any{"endpoint": ""}
	}
	return map[string]any{"networkPolicies": false, "drainDelay": "1s", "mesh": mesh}
}

// ownDatabase are the values of one that the stage has for itself.
func ownDatabase() map[string]any {
	return map[string]any{"enabled": true, "password": utilrand.String(24)}
}

// everything is an application with all that belongs to it.
func everything() map[string]any {
	return map[string]any{"database": ownDatabase(), "redis": map[string]any{"enabled": true}, "worker": map[string]any{"enabled": true}}
}

// What is outside of the mesh, for it speaks no HTTP, or ends: its doors are the
// NetworkPolicies' (docuthinker.outsideMesh in the chart; POL-023). By name, so that
// nothing else can pass for it.
var (
	outsideServices = []string{"postgresql", "redis"}
	outsideApps     = []string{"database", "cache", "migrations"}
)

// ports are all ports of the application's services in the mesh, as host:port, read from
// the cluster so that none is forgotten.
func (s *stage) ports(ctx context.Context, env *environment.Environment) ([]string, error) {
	var services corev1.ServiceList
	if err := env.Client().List(ctx, &services, client.InNamespace(s.ns)); err != nil {
		return nil, err
	}
	var ports []string
	for _, service := range services.Items {
		if slices.Contains(outsideServices, service.Name) {
			continue
		}
		for _, p := range service.Spec.Ports {
			ports = append(ports, fmt.Sprintf("%s.%s:%d", service.Name, s.ns, p.Port))
		}
	}
	return ports, nil
}

// The API versions of what the mesh is told.
const (
	networkingV1 = "networking.istio.io/v1"
	securityV1   = "security.istio.io/v1"
	telemetryV1  = "telemetry.istio.io/v1"
)

// object is one of a kind that has no Go type here.
func object(apiVersion, kind, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	o.SetNamespace(namespace)
	o.SetName(name)
	if spec != nil {
		o.Object["spec"] = spec
	}
	return o
}

// change edits an object of the stage that the chart made; path leads to a value
// that must be there, so that a fault in a renamed field is an error and no
// silent nothing.
func (s *stage) change(ctx context.Context, scope *environment.Scope, apiVersion, kind, name string, value any, path ...string) error {
	o := object(apiVersion, kind, s.ns, name, nil)
	return scope.Update(ctx, o, func() error {
		if _, ok, err := unstructured.NestedFieldNoCopy(o.Object, path...); !ok || err != nil {
			return errors.Join(err, fmt.Errorf("%s %s has no %s", kind, name, strings.Join(path, ".")))
		}
		if value == nil {
			unstructured.RemoveNestedField(o.Object, path...)
			return nil
		}
		return unstructured.SetNestedField(o.Object, value, path...)
	})
}
