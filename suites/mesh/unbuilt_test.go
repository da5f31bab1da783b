//go:build !canary

package mesh

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestNotBuiltYet keeps the clauses in the report whose specifications are not
// ready: those of the canaries are tried with -tags canary. MSH-010 was seen
// proved so, with its counter-proofs; the others do not hold still yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t, "MSH-010", "MSH-011", "MSH-012", "MSH-013")
}
