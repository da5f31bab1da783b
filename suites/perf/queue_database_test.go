package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// emptied leaves no document of another proof: those of this one are numbered from 1, as
// its users' requests are.
func (q *queued) emptied(ctx context.Context, env *environment.Environment) error {
	return env.Exec(ctx, q.ns, "postgresql-0", "postgresql", nil, io.Discard, "psql", "-U", "docuthinker", "-d", "docuthinker", "-v", "ON_ERROR_STOP=1", "-qc",
		"TRUNCATE documents RESTART IDENTITY CASCADE")
}

// counts are what the database has.
type counts struct{ analyses, documents int }

// counted counts the analyses, and the documents that have one.
func (q *queued) counted(ctx context.Context, env *environment.Environment) (c counts, err error) {
	var out bytes.Buffer
	err = env.Exec(ctx, q.ns, "postgresql-0", "postgresql", nil, &out, "psql", "-U", "docuthinker", "-d", "docuthinker", "-Atc",
		`SELECT json_build_object('a', count(*), 'd', count(DISTINCT document_id)) FROM analyses`)
	if err != nil {
		return c, err
	}
	var row struct{ A, D int }
	if err := json.Unmarshal([]byte(strings.TrimSpace(out.String())), &row); err != nil {
		return c, fmt.Errorf("psql: %q: %w", out.String(), err)
	}
	return counts{row.A, row.D}, nil
}
