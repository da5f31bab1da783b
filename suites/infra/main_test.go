// Package infra proves the cloud infrastructure, the cluster itself, secrets, deploy and rollback, and the pipeline.
package infra

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

var images = []string{"postgresql", "flyway", "docuthinker", "redis", "terraform-provider-aws", "vault"}

func TestMain(m *testing.M) { spec.Main(m, "infra", platform.Options{Images: images}.Suite()) }

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"PIP-001", "PIP-002", "PIP-003", "PIP-004", "PIP-005", "PIP-006",
	)
}
