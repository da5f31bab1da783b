package chaos

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// stage is one specification's own instance of the application behind the ingress
// gateway, with its database, in a namespace of the run's; and its users, in another
// one.
type stage struct {
	*spec.Stage
	name     string
	values   map[string]any
	password string
	// adjust, when not nil, changes the application once it stands.
	adjust func(context.Context, *environment.Environment, *stage) error

	mu      sync.Mutex
	ns      string
	outside string // a namespace of users and lookouts
	users   *probe.Pod
	round   int
}

// newStage declares a stage; values go over those of stageValues.
func newStage(t *testing.T, name string, values map[string]any) *stage {
	t.Helper()
	s := &stage{name: name, values: values, password: utilrand.String(24)}
	s.Stage = spec.NewStage(t, "stage "+name, s.build)
	return s
}

// host is the application's name at the gateway.
func (s *stage) host() string { return s.ns + ".docuthinker.example" }

func (s *stage) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if s.ns, err = scope.Namespace(ctx, "chaos-"+s.name, map[string]string{"istio-injection": "enabled"}); err != nil {
		return err
	}
	if err := s.deploy(ctx, env); err != nil {
		return err
	}
	if s.adjust != nil {
		if err := s.adjust(ctx, env, s); err != nil {
			return err
		}
	}
	// Experiments reach this namespace, and no other.
	let, err := platform.ReadObjects(filepath.Join(env.Root, "fixtures", "chaos", "target.yaml"))
	if err != nil {
		return err
	}
	for _, o := range let {
		o.SetNamespace(s.ns)
		if err := scope.Create(ctx, o); err != nil {
			return err
		}
	}
	if s.outside, err = scope.Namespace(ctx, "chaos-outside", nil); err != nil {
		return err
	}
	if err := lookOut(ctx, env, scope, s.outside); err != nil {
		return err
	}
	// On no node that is drained: users are no part of what is tried.
	node, err := s.aside(ctx, env)
	if err != nil {
		return err
	}
	started, err := probe.Start(ctx, env, scope, probe.Spec{Namespace: s.outside, Name: "users", Labels: map[string]string{"app": "users"}, Node: node})
	if err != nil {
		return err
	}
	s.users = started[0]
	return nil
}

// deploy puts the application into the stage's namespace, with values over the
// stage's. Its network policies stay out, which POL-023 proves.
func (s *stage) deploy(ctx context.Context, env *environment.Environment) error {
	values := platform.Merged(map[string]any{
		"networkPolicies": false, "drainDelay": "2s",
		"frontend": map[string]any{"replicas": 2, "resources": reserved},
		"backend":  map[string]any{"replicas": replicas, "resources": reserved},
		"database": map[string]any{"enabled": true, "password": s.password, "resources": reserved},
		"mesh":     map[string]any{"enabled": true, "host": s.host(), "sidecar": map[string]any{"resources": reserved}},
	}, s.values)
	return platform.Deploy(ctx, env, s.Scope(), docuthinker, s.ns, values)
}

// reserved is what each process on the users' way has of the processor when a whole
// node's pods begin anew and want all of it: the kernel shares it out by the requests.
var reserved = map[string]any{"requests": map[string]any{"cpu": "30m"}}

// replicas of the backend: half of them can be told from all and from one.
const replicas = 4

const (
	userRate    = 25               // requests a second
	userTimeout = 15 * time.Second // latency is judged by itself: who waits is not lost
	userLimit   = 6 * time.Minute  // ends traffic that nobody stopped
)

// traffic has users write documents, each another one, through the ingress gateway: at
// most so many, or for as long as it takes.
func (s *stage) traffic(ctx context.Context, most int) (*probe.Record, int, error) {
	s.mu.Lock()
	s.round++
	round := firstRound + s.round
	s.mu.Unlock()
	record, err := s.users.Traffic(ctx, probe.Plan{
		Rate: userRate, For: userLimit, Count: most, KeepAlive: true,
		Request: probe.Request{
			Method: http.MethodPut, Timeout: userTimeout,
			URL: fmt.Sprintf("https://%s/api/documents/%d{n}", s.host(), round), Connect: gatewayAddress, Insecure: true,
			Headers: map[string]string{"Content-Type": "application/json"}, Body: `{"title": "document {n}", "body": "what was acknowledged is kept"}`,
		},
	})
	return record, round, err
}

const gatewayAddress = "istio-ingressgateway.istio-ingress:443"

// firstRound has three digits, so that the numbers of one record cannot be those of
// another.
const firstRound = 100
