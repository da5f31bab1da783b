// Package mesh proves the service mesh: mTLS, routing, circuit breaking,
// authorization, gateways, canaries and what can be observed of them. Each
// specification has an instance of the application of its own, so that they
// run at once and a fault in one disturbs no other.
package mesh

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	istio       platform.Component = "istio"
	gateway     platform.Component = "gateway" // and so cert-manager
	flagger     platform.Component = "flagger" // and so prometheus
	prometheus  platform.Component = "prometheus"
	tracing     platform.Component = "otel-collector" // and so jaeger
	logStore    platform.Component = "log-store"
	docuthinker platform.Component = "docuthinker" // its images; instances are deployed by stages
)

func TestMain(m *testing.M) {
	spec.Main(m, "mesh", platform.For(istio, gateway, prometheus, flagger, tracing, logStore, docuthinker))
}

// TestNotBuiltYet keeps the clauses in the report that have no specification yet.
func TestNotBuiltYet(t *testing.T) {
	spec.NotBuiltYet(t,
		"MSH-001", "MSH-002", "MSH-003", "MSH-004", "MSH-005", "MSH-006",
		"MSH-007", "MSH-008", "MSH-009", "MSH-010", "MSH-011", "MSH-012",
		"MSH-013", "MSH-014", "MSH-015", "MSH-016",
	)
}
