// Package migration holds what the application's database is migrated by, and
// what it is then to look like: for the specifications on the cluster, and for
// the inner loop beside them.
package migration

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Latest is the version to which the platform migrates.
const Latest = 3

// Seeded is how many documents a populated database has, each with an analysis.
const Seeded = 200

//go:embed schema.txt
var expected string

// Expected is what Latest is to have, in the form of Of, sorted.
func Expected() []string {
	lines := strings.Split(strings.TrimSpace(expected), "\n")
	slices.Sort(lines)
	return lines
}

// ofTables leaves out Flyway's own table, whatever it is called: it has a
// checksum, and no table of the platform's has.
const ofTables = `from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
	where not exists (select from pg_attribute a where a.attrelid = coalesce((select i.indrelid from pg_index i where i.indexrelid = c.oid), c.oid) and a.attname = 'checksum')`

const query = `
with tables as (select c.oid, c.relname, c.relkind ` + ofTables + `)
select case relkind when 'r' then 'table ' when 'S' then 'sequence ' when 'v' then 'view ' else 'relation ' end || relname from tables where relkind <> 'i'
union all
select concat_ws(' ', 'column', relname || '.' || attname, format_type(atttypid, atttypmod), case when attnotnull then 'not null' end,
		case attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end, 'default ' || pg_get_expr(adbin, adrelid))
	from tables join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
	left join pg_attrdef on adrelid = attrelid and adnum = attnum
	where relkind = 'r'
union all
select 'constraint ' || relname || '.' || conname || ' ' || pg_get_constraintdef(pg_constraint.oid) from tables join pg_constraint on conrelid = tables.oid
union all
select 'index ' || relname || ' ' || pg_get_indexdef(oid) from tables where relkind = 'i'
order by 1`

// Of tells what a database has, a line each, sorted: relations, columns with
// type, nullability, identity and default, constraints and indexes.
func Of(ctx context.Context, conn *pgx.Conn) ([]string, error) { return Ask(ctx, conn, query) }

// Ask has a query answered whose rows are one text each.
func Ask(ctx context.Context, conn *pgx.Conn, query string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Difference is empty when both have the same lines.
func Difference(want, got []string) string {
	var out []string
	for _, l := range want {
		if !slices.Contains(got, l) {
			out = append(out, "lacks "+l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			out = append(out, "has besides "+l)
		}
	}
	return strings.Join(out, "; ")
}

// Populate fills the tables of V1.
func Populate(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `
with d as (insert into documents (number, title, body) select n, 'title ' || n, repeat(md5(n::text), 10) from generate_series(1, $1::int) n returning id, number)
insert into analyses (document_id, summary) select id, 'summary of ' || number from d`, Seeded)
	return err
}

// Rows are all of V1's, each in one text, times included.
func Rows(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	return Ask(ctx, conn, `select 'documents ' || to_jsonb(t)::text from documents t union all select 'analyses ' || to_jsonb(t)::text from analyses t order by 1`)
}

// History is what Flyway says of a database: version, checksum and success of
// each migration, in order.
func History(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	return Ask(ctx, conn, `select concat_ws(' ', version, checksum, success) from flyway_schema_history order by installed_rank`)
}

// State is all of a database that a refused migration may not change.
func State(ctx context.Context, conn *pgx.Conn) (map[string][]string, error) {
	out := map[string][]string{}
	for what, ask := range map[string]func(context.Context, *pgx.Conn) ([]string, error){"schema": Of, "rows": Rows, "history": History} {
		lines, err := ask(ctx, conn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out[what] = lines
	}
	return out, nil
}
