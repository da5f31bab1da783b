package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// blind has workers find no analysis of a document, whoever has written one: an empty
// view is where the table was, and what they write goes through it.
func (q *queued) blind() spec.Sabotage {
	const anew = `; COMMIT; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'docuthinker' AND pid <> pg_backend_pid()` // sessions keep the path that they began with
	return spec.Sabotage{
		Name: "workers that do not see what others did", Kills: `analyses, one of each document`, Applied: spec.AtOnce, Restored: spec.AtOnce,
		Apply: func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			err := scope.Defer("the view of no analyses", func(ctx context.Context) error {
				return q.told(ctx, env, `BEGIN; ALTER ROLE docuthinker RESET search_path; DROP SCHEMA IF EXISTS blind CASCADE`+anew)
			})
			if err != nil {
				return err
			}
			return q.told(ctx, env, `BEGIN; CREATE SCHEMA blind; CREATE VIEW blind.analyses AS SELECT * FROM public.analyses WHERE false;
				ALTER ROLE docuthinker SET search_path = blind, public`+anew)
		},
	}
}

// told has the database do what a statement says.
func (q *queued) told(ctx context.Context, env *environment.Environment, statement string) error {
	return q.psql(ctx, env, statement, io.Discard)
}

func (q *queued) psql(ctx context.Context, env *environment.Environment, statement string, out io.Writer) error {
	return env.Exec(ctx, q.ns, "postgresql-0", "postgresql", nil, out, "psql", "-U", "docuthinker", "-d", "docuthinker", "-v", "ON_ERROR_STOP=1", "-Atqc", statement)
}

// emptied leaves no document of another proof: those of this one are numbered from 1, as
// its users' requests are.
func (q *queued) emptied(ctx context.Context, env *environment.Environment) error {
	return q.told(ctx, env, "TRUNCATE documents RESTART IDENTITY CASCADE")
}

// counts are what the database has.
type counts struct{ analyses, documents int }

// counted counts the analyses, and the documents that have one.
func (q *queued) counted(ctx context.Context, env *environment.Environment) (c counts, err error) {
	var out bytes.Buffer
	err = q.psql(ctx, env, `SELECT json_build_object('a', count(*), 'd', count(DISTINCT document_id)) FROM public.analyses`, &out)
	if err != nil {
		return c, err
	}
	var row struct{ A, D int }
	if err := json.Unmarshal([]byte(strings.TrimSpace(out.String())), &row); err != nil {
		return c, fmt.Errorf("psql: %q: %w", out.String(), err)
	}
	return counts{row.A, row.D}, nil
}
