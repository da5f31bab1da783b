package dr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

const (
	// everyTable is how many rows each table has, and the sum of their hashes: what the
	// application does not tell of, that is all but the documents, is held against this.
	everyTable = `SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM %I t', tablename, tablename)
		FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename \gexec
`
	changeNewest = `UPDATE documents SET body = body || '.' WHERE number = (SELECT max(number) FROM documents WHERE number < 1000000000)`
	inventOne    = `INSERT INTO documents (number, title, body) VALUES (1, 'nobody wrote it', '')`
	forgetOne    = `DELETE FROM audit_log WHERE id = (SELECT max(id) FROM audit_log)`
)

// tablesOf is what everyTable says of the database in a namespace.
func tablesOf(ctx context.Context, env *environment.Environment, namespace string) (map[string]string, error) {
	var out bytes.Buffer
	if err := psql(ctx, env, namespace, everyTable, &out); err != nil {
		return nil, err
	}
	tables := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, has, ok := strings.Cut(strings.TrimSpace(line), "|")
		if !ok {
			return nil, fmt.Errorf("psql: %q: want a table, its rows and their sum", line)
		}
		tables[name] = has
	}
	if len(tables) == 0 {
		return nil, errors.New("the database has no table")
	}
	return tables, nil
}

// statement changes the database behind the application's back.
func statement(ctx context.Context, env *environment.Environment, namespace, sql string) error {
	return psql(ctx, env, namespace, sql, io.Discard)
}

func psql(ctx context.Context, env *environment.Environment, namespace, sql string, out io.Writer) error {
	return env.Exec(ctx, namespace, "postgresql-0", "postgresql", strings.NewReader(sql), out, "psql", "-U", "docuthinker", "-d", "docuthinker", "-v", "ON_ERROR_STOP=1", "-XAtqf", "-")
}
