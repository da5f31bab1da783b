// Package mesh proves the service mesh: mTLS, routing, canaries and observability.
package mesh

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

func TestMain(m *testing.M) { spec.Main(m, "mesh", platform.For()) }

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"MSH-001", "MSH-002", "MSH-003", "MSH-004", "MSH-005", "MSH-006",
		"MSH-007", "MSH-008", "MSH-009", "MSH-010", "MSH-011", "MSH-012",
		"MSH-013", "MSH-014", "MSH-015", "MSH-016",
	)
}
