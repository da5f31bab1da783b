// Package inner is the inner loop of whoever writes a migration: PostgreSQL and
// Flyway in two containers, without a cluster. What counts is INF-012 and INF-013,
// on the cluster.
package inner

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/suites/infra/migration"
)

// TestMigrations has the platform's migrations, and some that are wrong, go over
// an empty database and one with rows.
func TestMigrations(t *testing.T) {
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	platform, err := migration.Platform(root)
	require.NoError(t, err)
	c := start(t)
	const v2, v3 = "V2__add_api_keys.sql", "V3__add_audit_log.sql"
	for _, test := range []struct {
		name string
		set  migration.Set
		want string // of the error; nothing when all is well
	}{
		{"the platform's", platform, ""},
		{"a column forgotten", platform.With(v3, "create table audit_log (id bigint);"), `lacks column audit_log\.`},
		{"rows lost", platform.With(v2, platform[v2]+"truncate documents cascade;\n"), "rows of V1 are gone or changed"},
		{"what no server knows", platform.With(v3, "select no_such_function();"), "(?s)flyway migrate ended with .*no_such_function"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := c.try(t.Context(), test.set)
			if test.want == "" {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				require.Regexp(t, test.want, err.Error())
			}
		})
	}
}

// try migrates an empty database, and one that has V1 and rows, and says what is
// wrong with them afterwards.
func (c *containers) try(ctx context.Context, m migration.Set) error {
	for _, populated := range []bool{false, true} {
		if err := c.tryOne(ctx, m, populated); err != nil {
			return err
		}
	}
	return nil
}

func (c *containers) tryOne(ctx context.Context, m migration.Set, populated bool) error {
	database, err := c.database(ctx)
	if err != nil {
		return err
	}
	conn, err := c.connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var before []string
	if populated {
		if err := c.migrate(ctx, database, m.UpTo(1)); err != nil {
			return err
		}
		if err := migration.Populate(ctx, conn); err != nil {
			return err
		}
		if before, err = migration.Rows(ctx, conn); err != nil {
			return err
		}
	}
	if err := c.migrate(ctx, database, m); err != nil {
		return err
	}
	got, err := migration.Of(ctx, conn)
	if err != nil {
		return err
	}
	after, err := migration.Rows(ctx, conn)
	if err != nil {
		return err
	}
	if d := migration.Difference(before, after); d != "" {
		return fmt.Errorf("rows of V1 are gone or changed: %.300s", d)
	}
	if d := migration.Difference(migration.Expected(), got); d != "" {
		return fmt.Errorf("the schema: %s", d)
	}
	return nil
}
