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
	tracing     platform.Component = "otel-collector" // and so jaeger and the log store
	logStore    platform.Component = "log-store"
	kiali       platform.Component = "kiali"       // and so prometheus
	docuthinker platform.Component = "docuthinker" // its images; instances are deployed by stages
)

// images are those of the application's database, its migrations and its queue,
// which no component installs.
var images = []string{"postgresql", "flyway", "redis"}

func TestMain(m *testing.M) {
	spec.Parallel(3) // each has many pods of its own to start
	// Canaries wait for Flagger's intervals most of their time, and MSH-004 for ejections, which
	// others can fill; and what loses a pod of the platform's own keeps the others out.
	spec.First("MSH-004", "MSH-010", "MSH-011", "MSH-012")
	spec.Last("MSH-007", "MSH-009", "MSH-014")
	spec.Main(m, "mesh", platform.Options{
		Components: []platform.Component{istio, gateway, prometheus, flagger, tracing, logStore, kiali, docuthinker}, Images: images,
	}.Suite())
}
