package infra

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

const (
	postgresql   = "postgresql" // the server's pod, service and secret
	postgresPort = "5432"
	databaseUser = "docuthinker"
	baseSet      = "migrations" // the ConfigMap that is what the platform migrates by
)

var (
	serverReady = wait.Timeout{Name: "postgresqlReady", D: 90 * time.Second}
	// askLimit bounds one connection and what is asked over it.
	askLimit = 20 * time.Second
)

// server is one specification's own PostgreSQL, in a namespace of the run's, and
// beside it the migrations as the platform has them. It is made by the first
// proof and kept for all trials; each trial has databases of its own in it.
type server struct {
	*spec.Stage
	name string

	ns       string
	password string
	address  string // of the server, on this machine
}

// newServer declares a server. name is short: it begins the namespace's name.
func newServer(t *testing.T, name string) *server {
	t.Helper()
	s := &server{name: name}
	s.Stage = spec.NewStage(t, "PostgreSQL of "+name, s.build)
	return s
}

func (s *server) build(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
	if s.ns, err = scope.Namespace(ctx, "infra-"+s.name, nil); err != nil {
		return err
	}
	s.password = utilrand.String(24)
	base, err := migration.Platform(env.Root)
	if err != nil {
		return err
	}
	about := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: s.ns, Name: name} }
	if err := scope.Create(ctx, &corev1.ConfigMap{ObjectMeta: about(baseSet), Data: base}); err != nil {
		return err
	}
	if err := scope.Create(ctx, &corev1.Secret{ObjectMeta: about(postgresql), StringData: map[string]string{"username": databaseUser, "password": s.password}}); err != nil {
		return err
	}
	objects, err := platform.ReadObjects(filepath.Join("testdata", "postgresql.yaml"))
	if err != nil {
		return err
	}
	for _, o := range objects {
		o.SetNamespace(s.ns)
		if err := scope.Create(ctx, o); err != nil {
			return err
		}
	}
	_, err = wait.On(env.Config).Until(ctx, serverReady, wait.Target{Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Namespace: s.ns, Name: postgresql}, wait.PodReady())
	if err != nil {
		return err
	}
	address, stop, err := env.Forward(ctx, s.ns, postgresql, postgresPort)
	if err != nil {
		return err
	}
	if err := scope.Defer("port of "+s.Name(), func(context.Context) error { stop(); return nil }); err != nil {
		stop()
		return err
	}
	s.address = address
	return nil
}

// sql asks a database of the server. An answer is rows of one text each.
func (s *server) sql(ctx context.Context, database, query string, args ...any) ([]string, error) {
	return read(ctx, s, database, func(ctx context.Context, conn *pgx.Conn) ([]string, error) {
		return migration.Ask(ctx, conn, query, args...)
	})
}

// populate fills the tables of V1.
func (s *server) populate(ctx context.Context, database string) error {
	_, err := read(ctx, s, database, func(ctx context.Context, conn *pgx.Conn) (any, error) { return nil, migration.Populate(ctx, conn) })
	return err
}

// read asks a database of the server over a connection of its own.
func read[A any](ctx context.Context, s *server, database string, ask func(context.Context, *pgx.Conn) (A, error)) (answer A, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := s.connect(ctx, database)
	if err != nil {
		return answer, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if answer, err = ask(ctx, conn); err != nil {
		return answer, fmt.Errorf("database %s: %w", database, err)
	}
	return answer, nil
}

func (s *server) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", databaseUser, s.password, s.address, database))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", database, err)
	}
	return conn, nil
}

// database makes an empty one for one trial. It ends with the server.
func (s *server) database(ctx context.Context, use string) (string, error) {
	name := use + "_" + utilrand.String(6)
	_, err := s.sql(ctx, databaseUser, "create database "+pgx.Identifier{name}.Sanitize())
	return name, err
}
