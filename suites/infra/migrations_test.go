package infra

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

// migrationsTimeout is for the handful of Jobs of one proof, a Java machine each.
const migrationsTimeout = 5 * time.Minute

// TestMigrations proves that an empty database, and one with the rows of V1, come
// to the schema that V3 is to have.
func TestMigrations(t *testing.T) {
	s := newServer(t, "migrations")
	const v1, v2, v3 = "V1__initial_schema.sql", "V2__add_api_keys.sql", "V3__add_audit_log.sql"
	spec.Run(t, spec.Specification{
		ID:      "INF-012",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{s},
		Timeout: migrationsTimeout,
		Prove:   s.proveMigrations,
		CounterProofs: []spec.Sabotage{
			s.fault("a migration left out", `lacks column api_keys\.`, func(m migration.Set) { delete(m, v2) }),
			s.fault("a migrator that stops at V2", `lacks column audit_log\.`, add(migration.Settings, "flyway.target=2?\n")),
			s.fault("a column of another type", `lacks column audit_log\.at timestamp with time zone`, replace(v3, "timestamptz", "timestamp")),
			s.fault("a column that may be null", `lacks column documents\.title text not null`, replace(v1, "title      text not null", "title text")),
			s.fault("an index forgotten", `lacks index audit_log_at_idx`, replace(v3, "create index", "-- create index")),
			s.fault("a key that does not cascade", `lacks constraint analyses\.analyses_document_id_fkey`, replace(v1, " on delete cascade", "")),
			s.fault("a migration that loses rows", `rows of V1 are gone or changed`, add(v2, "truncate documents cascade;\n")),
			s.fault("a migration that rewrites rows", `rows of V1 are gone or changed`, add(v2, "update documents set created_at = now();\n")),
			s.fault("a remark in a migration", "", add(v1, "-- a remark\n")),
		},
	})
}

func (s *server) proveMigrations(ctx context.Context, t spec.T, env *environment.Environment) {
	base, err := s.base(ctx, env)
	broken(t, err)
	want := migration.Expected()

	populated := s.migrated(ctx, t, env, base.UpTo(1))
	broken(t, s.populate(ctx, populated))
	before, err := read(ctx, s, populated, migration.Rows)
	broken(t, err)
	s.mustMigrate(ctx, t, env, populated, base)
	s.checkSchema(ctx, t, populated, want, "from V1 with rows")
	after, err := read(ctx, s, populated, migration.Rows)
	broken(t, err)
	require.Empty(t, migration.Difference(before, after), "rows of V1 are gone or changed: %d before and %d after", len(before), len(after))

	empty := s.migrated(ctx, t, env, base)
	s.checkSchema(ctx, t, empty, want, "from an empty database")
	t.Observe(fmt.Sprintf("Flyway came to V%d from an empty database and from V1 with %d rows, which are all as they were; both schemas have the %d lines expected",
		migration.Latest, len(before), len(want)), nil)
}

func (s *server) checkSchema(ctx context.Context, t spec.T, database string, want []string, from string) {
	got, err := read(ctx, s, database, migration.Of)
	broken(t, err)
	require.Empty(t, migration.Difference(want, got), "the schema %s", from)
}

// migrated is a new database that a set was migrated into.
func (s *server) migrated(ctx context.Context, t spec.T, env *environment.Environment, m migration.Set) string {
	name, err := s.database(ctx, "m")
	broken(t, err)
	s.mustMigrate(ctx, t, env, name, m)
	return name
}

func (s *server) mustMigrate(ctx context.Context, t spec.T, env *environment.Environment, database string, m migration.Set) {
	c, err := s.flyway(ctx, env, t.Scope(), database, m, "migrate")
	broken(t, err)
	require.Zero(t, c.code, "migrate ended with %d: %s", c.code, c.log)
}

func broken(t spec.T, err error) {
	if err != nil {
		t.Broken(err)
	}
}

// TestMigrationsGoneWrong proves what becomes of a database when a migration, or
// who calls for it, does something wrong.
func TestMigrationsGoneWrong(t *testing.T) {
	s := newServer(t, "gone-wrong")
	spec.Run(t, spec.Specification{
		ID:      "INF-013",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{s},
		Timeout: migrationsTimeout,
		Prove:   s.proveGoneWrong,
		CounterProofs: []spec.Sabotage{
			s.fault("Flyway's lock passed by: a history for each migrator", `two migrators at once: \S+ ended with 1: (?s:.*)(already exists|duplicate key value)`,
				add(argumentsKey, "-table=checksums_$(POD_NAME) -baselineOnMigrate=true -baselineVersion=0")),
			s.fault("validation off", `a changed checksum was taken`, replace(migration.Settings, "validateOnMigrate=true", "validateOnMigrate=false")),
			s.fault("a repair before each migration", `a changed checksum was taken`, add(argumentsKey, "repair")),
			s.fault("migrations without a transaction", `after a failed migration .*has besides column documents\.half`, add(migration.Settings, "flyway.executeInTransaction=false\n")),
			s.fault("a clean-up after a failure that takes too much", `after a failed migration .*rows: lacks `, add("afterMigrateError__clean.sql", "truncate documents cascade;\n")),
			s.fault("a setting that is only patient", "", add(migration.Settings, "flyway.connectRetries=3\n")),
		},
	})
}

// failing begins with what would stay when it is not taken back, and ends with
// what no server knows.
const (
	failing = "alter table documents add column half text;\nupdate documents set half = 'done';\nselect no_such_function();\n"
	mended  = "alter table documents add column half text;\nupdate documents set half = 'done';\n"
	next    = "V4__half.sql"
)

func (s *server) proveGoneWrong(ctx context.Context, t spec.T, env *environment.Environment) {
	base, err := s.base(ctx, env)
	broken(t, err)
	s.proveSerialised(ctx, t, env, base)

	database := s.migrated(ctx, t, env, base.UpTo(migration.Latest))
	broken(t, s.populate(ctx, database))
	before, err := read(ctx, s, database, migration.State)
	broken(t, err)

	changed := base.With("V2__add_api_keys.sql", base["V2__add_api_keys.sql"]+"-- changed after it was applied\n")
	c, err := s.flyway(ctx, env, t.Scope(), database, changed, "migrate")
	broken(t, err)
	require.NotZero(t, c.code, "a changed checksum was taken: %s", c.log)
	require.Contains(t, c.log, "checksum mismatch for migration version 2", "a changed checksum was refused for another reason")
	s.checkState(ctx, t, database, before, "after a changed checksum")

	c, err = s.flyway(ctx, env, t.Scope(), database, base.With(next, failing), "migrate")
	broken(t, err)
	require.NotZero(t, c.code, "a migration that calls what is not there was taken: %s", c.log)
	require.Contains(t, c.log, "no_such_function", "a migration failed for another reason")
	s.checkState(ctx, t, database, before, "after a failed migration")

	c, err = s.flyway(ctx, env, t.Scope(), database, base, "undo")
	broken(t, err)
	require.NotZero(t, c.code, "undo was taken, which this edition is not to have: %s", c.log)
	require.Contains(t, c.log, "undo is not supported by OSS Edition", "undo failed for another reason")
	s.checkState(ctx, t, database, before, "after undo was refused")

	s.mustMigrate(ctx, t, env, database, base.With(next, mended))
	done, err := s.sql(ctx, database, "select count(*)::text from documents where half = 'done'")
	broken(t, err)
	require.Equal(t, []string{fmt.Sprint(migration.Seeded)}, done, "documents that the forward fix has changed")
	t.Observe("a changed checksum and a failing migration were refused, with schema, rows and history as before; "+
		"undo is no part of Flyway's free edition, which says so; a mended migration went forward over the same rows", nil)
}

func (s *server) checkState(ctx context.Context, t spec.T, database string, before map[string][]string, when string) {
	now, err := read(ctx, s, database, migration.State)
	broken(t, err)
	var changed []string
	for _, what := range []string{"schema", "history", "rows"} {
		if d := migration.Difference(before[what], now[what]); d != "" {
			changed = append(changed, what+": "+d[:min(len(d), 300)])
		}
	}
	if len(changed) > 0 {
		t.Errorf("%s the database is another: %s", when, strings.Join(changed, "; "))
		t.FailNow()
	}
}

// gate holds whoever migrates until the test lets go, so that two migrators are
// at it at once for sure.
const (
	gateFile = "V0_1__gate.sql"
	gateKey  = 4711
)

var migratorsMeet = wait.Timeout{Name: "migratorsMeet", D: 60 * time.Second}

// meeting counts the migrators of a database that either wait at the gate or ask
// for Flyway's lock, and those at the gate.
const meeting = `select count(distinct application_name) || ' at it, ' || count(*) filter (where wait_event = 'advisory') || ' at the gate'
	from pg_stat_activity where datname = current_database() and application_name like 'flyway-%'
	and (wait_event = 'advisory' or query like '%pg_try_advisory%')`

func (s *server) proveSerialised(ctx context.Context, t spec.T, env *environment.Environment, base migration.Set) {
	database, err := s.database(ctx, "two")
	broken(t, err)
	held, err := s.connect(ctx, database)
	broken(t, err)
	defer held.Close(context.WithoutCancel(ctx))
	_, err = held.Exec(ctx, "select pg_advisory_lock($1)", gateKey)
	broken(t, err)
	gated := base.With(gateFile, fmt.Sprintf("select pg_advisory_lock_shared(%[1]d);\nselect pg_advisory_unlock_shared(%[1]d);\n", gateKey))
	var jobs []string
	for range 2 {
		job, err := s.start(ctx, env, t.Scope(), database, gated, "migrate")
		broken(t, err)
		jobs = append(jobs, job)
	}
	var seen string
	broken(t, wait.Answers(ctx, migratorsMeet, "two migrators of "+database+" to be at it at once", func(ctx context.Context) (string, error) {
		if err := held.QueryRow(ctx, meeting).Scan(&seen); err != nil {
			return "", err
		}
		if strings.HasPrefix(seen, "2 at it, ") && !strings.HasSuffix(seen, " 0 at the gate") {
			return "", nil
		}
		return seen, nil
	}))
	_, err = held.Exec(ctx, "select pg_advisory_unlock($1)", gateKey)
	broken(t, err)
	applied := 0
	for _, job := range jobs {
		c, err := s.ended(ctx, env, job)
		broken(t, err)
		assert.Zero(t, c.code, "two migrators at once: %s ended with %d: %s", job, c.code, c.log)
		applied += c.applied()
		if c.code != 0 {
			t.FailNow()
		}
	}
	history, err := read(ctx, s, database, migration.History)
	broken(t, err)
	require.Len(t, history, migration.Latest+1, "two migrators at once: the history of the gate and %d migrations", migration.Latest)
	require.Equal(t, migration.Latest+1, applied, "two migrators at once: migrations that both say to have applied")
	want := migration.Expected()
	s.checkSchema(ctx, t, database, want, "after two migrators at once")
	t.Observe(fmt.Sprintf("two migrators at once (%s): Flyway's lock let them in one by one, for each migration; %d of %d were applied, each once, and both ended well",
		seen, applied, migration.Latest+1), nil)
}
