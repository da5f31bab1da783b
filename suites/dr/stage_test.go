package dr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// stage is one specification's own instance of the application with its database,
// in a namespace of the run's; a place of its own in the object store; and a pod in
// another namespace, which outlives the loss of the first. Each trial loses and
// restores it.
type stage struct {
	*spec.Stage
	name     string
	database map[string]any // values over those of the database
	worker   bool           // documents can be analysed, too
	password string

	mu       sync.Mutex
	ns       string
	location string // of backups
	round    int    // of writes
	measured bool   // its objectives were, as often as the profile says
	// labels and annotations that the namespace had when it was lost.
	labels, annotations map[string]string
	remote              *store // of another cluster, for backups to outlive this one
	outside             *probe.Pod
}

func newStage(t *testing.T, name string, database map[string]any) *stage {
	t.Helper()
	s := &stage{name: name, database: database, password: password()}
	s.Stage = spec.NewStage(t, "stage "+name, s.build)
	return s
}

func password() string { return utilrand.String(24) }

func (s *stage) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if s.ns, err = scope.Namespace(ctx, "dr-"+s.name, nil); err != nil {
		return err
	}
	if err := s.deploy(ctx, env, scope); err != nil {
		return err
	}
	if s.location, err = newLocation(ctx, env, scope, s.ns, s.remote); err != nil {
		return err
	}
	s.outside, err = newReader(ctx, env, scope)
	return err
}

// newReader is a pod in a namespace of its own.
func newReader(ctx context.Context, env *environment.Environment, scope *environment.Scope) (*probe.Pod, error) {
	namespace, err := scope.Namespace(ctx, "dr-outside", nil)
	if err != nil {
		return nil, err
	}
	started, err := probe.Start(ctx, env, scope, probe.Spec{Namespace: namespace, Name: "reader", Labels: map[string]string{"app": "reader"}})
	if err != nil {
		return nil, err
	}
	return started[0], nil
}

// deploy puts the application into the stage's namespace. Its network policies stay
// out, so that the pod outside can ask it; POL-023 proves them.
func (s *stage) deploy(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
	database := map[string]any{"enabled": true, "password": s.password}
	maps.Copy(database, s.database)
	values := map[string]any{
		"networkPolicies": false, "drainDelay": "1s",
		"database": database,
		"redis":    map[string]any{"enabled": s.worker}, "worker": map[string]any{"enabled": s.worker},
	}
	return platform.Deploy(ctx, env, scope, docuthinker, s.ns, values)
}

// newLocation is a place of a namespace's own in the object store, so that what is
// done to its backups there harms no others; in that of another cluster, when there
// is a remote one.
func newLocation(ctx context.Context, env *environment.Environment, scope *environment.Scope, namespace string, remote *store) (string, error) {
	name := namespace + "-" + utilrand.String(4)
	return name, addLocation(ctx, env, scope, name, remote)
}

func addLocation(ctx context.Context, env *environment.Environment, scope *environment.Scope, name string, remote *store) error {
	o := ofVelero("BackupStorageLocation", name, nil)
	shared := ofVelero("BackupStorageLocation", "default", nil)
	if err := env.Client().Get(ctx, keyOf(shared), shared); err != nil {
		return err
	}
	o.Object["spec"] = shared.Object["spec"]
	spec := o.Object["spec"].(map[string]any)
	delete(spec, "default")
	storage, _ := spec["objectStorage"].(map[string]any)
	if storage == nil {
		return errors.New("Velero's default location has no object storage")
	}
	storage["prefix"] = name
	if remote != nil {
		spec["credential"] = map[string]any{"name": name, "key": "cloud"}
		config, _ := spec["config"].(map[string]any)
		config["s3Url"] = "http://" + remote.address
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: veleroNamespace, Name: name}, Data: remote.secret}
		if err := scope.Create(ctx, secret); err != nil {
			return err
		}
	}
	if err := scope.Defer("what was kept at "+name, func(ctx context.Context) error { return forget(ctx, env, name, remote) }); err != nil {
		return err
	}
	if err := scope.Create(ctx, o); err != nil {
		return err
	}
	_, err := wait.On(env.Config).Until(ctx, locationTimeout, targetOf("BackupStorageLocation", name), wait.Field("status.phase", "Available"))
	return err
}

// forget deletes what Velero keeps of a location that is gone: its repositories,
// and the objects in the store.
func forget(ctx context.Context, env *environment.Environment, location string, remote *store) error {
	repositories, err := listOf(ctx, env, "BackupRepository", "velero.io/storage-location", location)
	if err != nil {
		return err
	}
	for _, r := range repositories {
		if err := client.IgnoreNotFound(env.Client().Delete(ctx, &r)); err != nil {
			return err
		}
	}
	if remote != nil {
		return nil // whose store it is
	}
	store, err := openStore(ctx, env)
	if err != nil {
		return err
	}
	return store.removeAll(ctx, location+"/")
}

// renew gives the stage another application, for what a trial has done to this one.
func (s *stage) renew(ctx context.Context, env *environment.Environment) error {
	if err := s.lose(ctx, env); err != nil {
		return err
	}
	return s.anew(ctx, env)
}

// writing begins to write documents, each another one. round is for ledgerOf.
func (s *stage) writing(ctx context.Context, plan probe.Plan) (*probe.Record, int, error) {
	s.mu.Lock()
	s.round++
	round := firstRound + s.round
	s.mu.Unlock()
	plan.Request = probe.Request{
		Method: http.MethodPut, URL: fmt.Sprintf("http://backend.%s:8080%s", s.ns, writes(round)), Timeout: writeTimeout,
		Headers: map[string]string{"Content-Type": "application/json"}, Body: `{"title": "document {n}", "body": "what was acknowledged is kept"}`,
	}
	record, err := s.outside.Traffic(ctx, plan)
	return record, round, err
}

// reading begins to ask for a document again and again, as users do: by the frontend.
func (s *stage) reading(ctx context.Context, plan probe.Plan) (*probe.Record, error) {
	plan.Request = probe.Request{URL: fmt.Sprintf("http://frontend.%s:8080/api/documents?limit=1", s.ns), Timeout: writeTimeout}
	return s.outside.Traffic(ctx, plan)
}

const (
	firstRound   = 100
	writeTimeout = 5 * time.Second
)

// write adds n documents, all of which must be acknowledged.
func (s *stage) write(ctx context.Context, n int) error {
	record, _, err := s.writing(ctx, probe.Plan{Rate: 50, For: time.Minute, Count: n, KeepAlive: true})
	if err != nil {
		return err
	}
	if err := record.Wait(ctx); err != nil {
		return err
	}
	return record.Outcomes().Check(n, probe.LostNone())
}
