// Package chaos proves that the platform survives faults that are proved to have happened.
package chaos

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

func TestMain(m *testing.M) { spec.Main(m, "chaos", platform.For()) }

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"CHS-001", "CHS-002", "CHS-003", "CHS-004", "CHS-005", "CHS-006",
		"CHS-007", "CHS-008", "CHS-009",
	)
}
