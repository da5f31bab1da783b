package inner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/wait"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

const (
	postgresImage = "docker.io/library/postgres:15"
	flywayImage   = "docker.io/flyway/flyway:11.8.2"
	port          = "5432/tcp"
	user          = "docuthinker"
	// life ends a container of its own accord, in seconds, when the test that made it
	// was killed: testcontainers' reaper is an image that no module has.
	life = "600"
)

// containers are a PostgreSQL and, on its network, a Flyway that waits for calls.
type containers struct {
	postgres, flyway *testcontainers.DockerContainer
	password         string
	address          string // of PostgreSQL, on this machine
}

func start(t *testing.T) *containers {
	t.Helper()
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	load(t)
	c := &containers{password: utilrand.String(24)}
	var err error
	c.postgres, err = testcontainers.Run(t.Context(), postgresImage, lives(), testcontainers.WithExposedPorts(port),
		testcontainers.WithEntrypoint("timeout", "--kill-after=5", life, "docker-entrypoint.sh"), testcontainers.WithCmd("postgres"),
		testcontainers.WithEnv(map[string]string{"POSTGRES_DB": user, "POSTGRES_USER": user, "POSTGRES_PASSWORD": c.password}),
		testcontainers.WithWaitStrategy(wait.ForExec([]string{"pg_isready", "--quiet", "--host=127.0.0.1", "--username=" + user}).WithStartupTimeout(time.Minute)))
	testcontainers.CleanupContainer(t, c.postgres)
	require.NoError(t, err)
	c.flyway, err = testcontainers.Run(t.Context(), flywayImage, lives(),
		testcontainers.WithEntrypoint("timeout", life, "sleep", "infinity"), testcontainers.WithCmd(),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
			h.NetworkMode = container.NetworkMode("container:" + c.postgres.GetContainerID())
		}))
	testcontainers.CleanupContainer(t, c.flyway)
	require.NoError(t, err)
	c.address, err = c.postgres.PortEndpoint(t.Context(), port, "")
	require.NoError(t, err)
	return c
}

// lives has the engine remove a container that has ended.
func lives() testcontainers.CustomizeRequestOption {
	return testcontainers.WithHostConfigModifier(func(h *container.HostConfig) { h.AutoRemove = true })
}

// load has both images in an engine, built if they are not there.
func load(t *testing.T) {
	t.Helper()
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	cache, err := environment.CacheDir()
	require.NoError(t, err)
	tell := func(line string) { t.Log(line) }
	e, err := engine.Ensure(t.Context(), root, cache, tell)
	require.NoError(t, err)
	if e.Host != "" {
		t.Setenv("DOCKER_HOST", e.Host)
	}
	builder, err := environment.Builder(root, false, tell)
	require.NoError(t, err)
	built, err := builder.Build(t.Context(), postgresImage, flywayImage)
	require.NoError(t, err)
	for _, name := range []string{postgresImage, flywayImage} {
		require.NoError(t, builder.Store.LoadInto(t.Context(), e, built[name]))
	}
}

// database makes an empty one.
func (c *containers) database(ctx context.Context) (string, error) {
	name := "m_" + utilrand.String(6)
	conn, err := c.connect(ctx, user)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	return name, err
}

func (c *containers) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, c.password, c.address, database))
}

// migrate calls Flyway's migrate on a database with a set. Its refusal is an
// error with what it said.
func (c *containers) migrate(ctx context.Context, database string, m migration.Set) error {
	dir := path.Join("/tmp", utilrand.String(8))
	for file, text := range m {
		text = strings.ReplaceAll(text, "filesystem:/flyway/sql", "filesystem:"+dir)
		if err := c.flyway.CopyToContainer(ctx, []byte(text), path.Join(dir, file), 0o644); err != nil {
			return err
		}
	}
	code, out, err := c.flyway.Exec(ctx, []string{"flyway", "-skipCheckForUpdate", "-configFiles=" + path.Join(dir, migration.Settings), "migrate"}, exec.Multiplexed(),
		exec.WithEnv([]string{"FLYWAY_USER=" + user, "FLYWAY_PASSWORD=" + c.password, "FLYWAY_URL=jdbc:postgresql://127.0.0.1/" + database + "?sslmode=disable"}))
	if err != nil {
		return err
	}
	var said bytes.Buffer
	if _, err := io.Copy(&said, out); err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("flyway migrate ended with %d: %s", code, said.String())
	}
	return nil
}
