// Package perf proves performance, service levels, alerts and autoscaling.
package perf

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	istio       platform.Component = "istio"
	gateway     platform.Component = "gateway"
	docuthinker platform.Component = "docuthinker"
)

func TestMain(m *testing.M) {
	spec.Main(m, "perf", platform.Options{
		Components: []platform.Component{istio, gateway, docuthinker, prometheus, alertmanager, autoscaling, moto},
		Images:     []string{"k6", "postgresql", "flyway"},
	}.Suite())
}
