package policy

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// The folders of fixtures/policies/constraints, which prove POL-001 to POL-010.
var constraintFolders = []string{
	"01-privileged-containers", "02-non-root-users", "03-resource-limits", "04-no-latest-tag", "05-trusted-registries",
	"06-host-namespaces", auditedFolder, "08-read-only-root-filesystem", productionReplicas, "10-image-pull-policy",
}

const (
	auditedFolder      = "07-required-labels" // of its template are the constraints by which the audit is tried
	productionReplicas = "09-production-replicas"
)

// constraintKey is what the faults of one policy change.
func constraintKey(folder string) string { return "constraint/" + folder }

// allConstraints are the keys of a proof that depends on every policy.
func allConstraints(own ...string) []string {
	for _, folder := range constraintFolders {
		own = append(own, constraintKey(folder))
	}
	return own
}

func TestPrivilegedContainers(t *testing.T) { runConstraint(t, "POL-001", constraintFolders[0]) }

func TestNonRootUsers(t *testing.T) { runConstraint(t, "POL-002", constraintFolders[1]) }

func TestResourceLimits(t *testing.T) { runConstraint(t, "POL-003", constraintFolders[2]) }

func TestNoLatestTag(t *testing.T) { runConstraint(t, "POL-004", constraintFolders[3]) }

func TestTrustedRegistries(t *testing.T) { runConstraint(t, "POL-005", constraintFolders[4]) }

func TestHostNamespaces(t *testing.T) { runConstraint(t, "POL-006", constraintFolders[5]) }

func TestRequiredLabels(t *testing.T) { runConstraint(t, "POL-007", constraintFolders[6]) }

func TestReadOnlyRootFilesystem(t *testing.T) { runConstraint(t, "POL-008", constraintFolders[7]) }

func TestProductionReplicas(t *testing.T) { runConstraint(t, "POL-009", constraintFolders[8]) }

func TestImagePullPolicy(t *testing.T) { runConstraint(t, "POL-010", constraintFolders[9]) }

// runConstraint proves that a policy denies the violating object by its name and
// with its reason, and admits the twin that differs in that one thing, for every
// kind of container and every kind of workload.
func runConstraint(t *testing.T, id, folder string) {
	t.Helper()
	spec.Run(t, spec.Specification{
		ID:    id,
		Risk:  spec.Namespaced,
		Needs: []spec.Need{policies},
		Keys:  []string{constraintKey(folder)},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveConstraint(ctx, t, env, folder)
		},
		CounterProofs: constraintFaults(folder),
	})
}

func proveConstraint(ctx context.Context, t spec.T, env *environment.Environment, folder string) {
	p, err := loadConstraint(env, folder)
	if err != nil {
		t.Broken(err)
	}
	ns, err := trialNamespace(ctx, env, map[string]string{environmentLabel: "production"})
	if err != nil {
		t.Broken(err)
	}
	// Pods are really asked for. Workloads would bring pods of their own, so they
	// are dry runs: that those tell the same as the real thing is POL-022. Those that are
	// scaled later are made.
	found, err := try(ctx, env, t.Scope(), ns, p.cases, func(c constraintCase) bool { return c.object.GetKind() != "Pod" })
	if err != nil {
		t.Broken(err)
	}
	if folder == productionReplicas && !slices.ContainsFunc(found, finding.differs) {
		proveScaling(ctx, t, env, p, ns)
	}
	bad, denied, good, admitted := 0, 0, 0, 0
	for _, f := range found {
		same := assert.Equal(t, f.Want.String(), f.Got.String(), f.File)
		switch {
		case f.Want.Admitted && same:
			good, admitted = good+1, admitted+1
		case f.Want.Admitted:
			good++
		case same:
			bad, denied = bad+1, denied+1
		default:
			bad++
		}
	}
	t.Observe(fmt.Sprintf("%s: %d of %d violating objects denied by it alone with its reason, %d of %d compliant ones admitted",
		p.constraint.GetName(), denied, bad, admitted, good), found)
}
