package infra

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ofTables leaves out Flyway's own table, whatever it is called: it has a
// checksum, and no table of the platform's has.
const ofTables = `from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
	where not exists (select from pg_attribute a where a.attrelid = coalesce((select i.indrelid from pg_index i where i.indexrelid = c.oid), c.oid) and a.attname = 'checksum')`

// schemaQuery tells what there is, a line each: relations, columns with type,
// nullability, identity and default, constraints and indexes.
const schemaQuery = `
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

// schema is what a database has, sorted.
func (s *server) schema(ctx context.Context, database string) ([]string, error) {
	return s.sql(ctx, database, schemaQuery)
}

// expectedSchema is what V3 is to have.
func expectedSchema() ([]string, error) {
	text, err := os.ReadFile(filepath.Join("testdata", "schema.txt"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	slices.Sort(lines)
	return lines, err
}

// difference is empty when both have the same lines.
func difference(want, got []string) string {
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

// seeded is how many documents a populated database has, each with an analysis.
const seeded = 200

// populate fills the tables of V1.
func (s *server) populate(ctx context.Context, database string) error {
	_, err := s.sql(ctx, database, `
with d as (insert into documents (number, title, body) select n, 'title ' || n, repeat(md5(n::text), 10) from generate_series(1, $1::int) n returning id, number)
insert into analyses (document_id, summary) select id, 'summary of ' || number from d`, seeded)
	return err
}

// rows are all of V1's, each in one text, times included.
func (s *server) rows(ctx context.Context, database string) ([]string, error) {
	rows, err := s.sql(ctx, database, `select 'documents ' || to_jsonb(t)::text from documents t union all select 'analyses ' || to_jsonb(t)::text from analyses t order by 1`)
	if err == nil && len(rows) == 0 {
		return []string{}, nil
	}
	return rows, err
}

// history is what Flyway says of a database: version, checksum and success of
// each migration, in order.
func (s *server) history(ctx context.Context, database string) ([]string, error) {
	return s.sql(ctx, database, `select concat_ws(' ', version, checksum, success) from flyway_schema_history order by installed_rank`)
}

// state is all of a database that a refused migration may not change.
func (s *server) state(ctx context.Context, database string) (map[string][]string, error) {
	out := map[string][]string{}
	for what, ask := range map[string]func(context.Context, string) ([]string, error){"schema": s.schema, "rows": s.rows, "history": s.history} {
		lines, err := ask(ctx, database)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out[what] = lines
	}
	return out, nil
}
