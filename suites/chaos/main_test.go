// Package chaos proves that the platform survives faults that are proved to have
// happened. Litmus carries them out; what it says of them settles nothing.
package chaos

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	istio       platform.Component = "istio"
	gateway     platform.Component = "gateway"
	litmus      platform.Component = "litmus"
	docuthinker platform.Component = "docuthinker"
)

func TestMain(m *testing.M) {
	spec.Parallel(1) // a fault is to be the only thing that users notice
	spec.Main(m, "chaos", platform.Options{
		Components: []platform.Component{istio, gateway, litmus, docuthinker},
		Images:     []string{"postgresql", "flyway"}, // of the application's database
	}.Suite())
}
