// Package pipeline proves what stands between a commit and production: the pipeline's
// stages, and that who looks at production cannot touch it.
package pipeline

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	access      platform.Component = "access"
	policies    platform.Component = "policies"
	docuthinker platform.Component = "docuthinker"
)

func TestMain(m *testing.M) {
	spec.Main(m, "pipeline", platform.Options{
		Components: []platform.Component{access, policies, docuthinker, istio, flagger, prometheus},
		Images:     []string{"trivy"}, // which runs on this machine
	}.Suite())
}
