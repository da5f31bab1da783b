// Package policy proves what the platform admits and forbids: Gatekeeper's
// constraints, mutations, audit and webhook, network policies and RBAC. The
// policies are data in fixtures/policies; so are the objects that they are
// tried on.
package policy

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	policies    platform.Component = "policies" // and so Gatekeeper
	docuthinker platform.Component = "docuthinker"
)

func TestMain(m *testing.M) {
	// All of them: most wait for keys, and what waits is not to keep from its baseline what need not.
	spec.Parallel(28)
	spec.AloneLast()
	spec.Main(m, "policy", platform.For(policies, docuthinker))
}
