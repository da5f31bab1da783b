// Package infra proves the cloud infrastructure, the cluster itself, secrets, deploy and rollback.
package infra

import (
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

var images = []string{"postgresql", "flyway", "docuthinker", "redis", "terraform-provider-aws", "moto", "vault"}

func TestMain(m *testing.M) { spec.Main(m, "infra", platform.Options{Images: images}.Suite()) }
