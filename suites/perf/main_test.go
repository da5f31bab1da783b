// Package perf proves performance, service levels, alerts and autoscaling.
package perf

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

func TestMain(m *testing.M) { spec.Main(m, "perf", platform.For()) }

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"PRF-001", "PRF-002", "PRF-003", "PRF-004", "PRF-005", "PRF-006",
		"PRF-007", "PRF-008", "PRF-009", "PRF-010", "PRF-011", "PRF-012",
		"PRF-013", "PRF-014",
	)
}
