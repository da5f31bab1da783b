// Package dr proves backups by restoring them: a restore counts when the
// application reads back, row by row, what it had acknowledged. What Velero says of
// a backup counts for nothing.
package dr

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	velero      platform.Component = "velero"      // and so the object store
	docuthinker platform.Component = "docuthinker" // its images; instances are deployed by stages
)

// images are those of the application's database, its migrations and its queue,
// which no component installs.
var images = []string{"postgresql", "flyway", "redis"}

func TestMain(m *testing.M) {
	spec.Parallel(3) // RTO is that of a machine with time for it
	spec.Main(m, "dr", platform.Options{Components: []platform.Component{velero, docuthinker}, Images: images}.Suite())
}
