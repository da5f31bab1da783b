// Package dr proves backups by restoring them.
package dr

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

func TestMain(m *testing.M) { spec.Main(m, "dr", platform.For()) }

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"DR-001", "DR-002", "DR-003", "DR-004", "DR-005", "DR-006",
		"DR-007", "DR-008", "DR-009",
	)
}
