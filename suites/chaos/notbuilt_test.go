//go:build !chaos

package chaos

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
// Those of CHS-001, 003, 004, 006 and 009 are written and were never run: they are
// built with -tags chaos.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t, "CHS-001", "CHS-002", "CHS-003", "CHS-004", "CHS-005", "CHS-006", "CHS-007", "CHS-008", "CHS-009")
}
