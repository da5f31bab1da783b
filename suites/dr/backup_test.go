package dr

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestBackup proves that a backup by hand has everything in it: what is in the
// namespace is compared with what Velero wrote that it took, and with the bytes of
// each volume.
func TestBackup(t *testing.T) {
	s := newStage(t, "backup", nil)
	// options of the backup that the proof makes; faults change them.
	var options map[string]any
	spec.Run(t, spec.Specification{
		ID: "DR-001", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveBackup(ctx, t, env, s, options)
		},
		CounterProofs: []spec.Sabotage{
			s.volumeLeftOut(`volume backup of pod postgresql-0 is not in the backup`),
			s.secretLeftOut(`not in the backup: .*v1/Secret`),
			spec.Swapped("a backup of another namespace", `not in the backup`, &options, map[string]any{"includedNamespaces": []any{"default"}}),
			spec.Swapped("a kind left out", `not in the backup: .*v1/ConfigMap`, &options, map[string]any{"excludedResources": []any{"configmaps"}}),
			s.fault("a hook that fails", `Velero's own word|errors of the backup`, func(ctx context.Context, scope *environment.Scope) error {
				return s.hook(ctx, scope, `["/bin/false"]`)
			}),
			// The pod names its volume itself, whatever a backup takes by default.
			spec.Harmless(spec.Swapped("no volumes by default", "", &options, map[string]any{"defaultVolumesToFsBackup": false})),
		},
	})
}

func proveBackup(ctx context.Context, t spec.T, env *environment.Environment, s *stage, options map[string]any) {
	before, err := inventory(ctx, env, s.ns)
	spec.Check(t, err)
	b, err := backUp(ctx, env, t.Scope(), s.location, s.ns, options)
	spec.Check(t, err)
	counts := numbers(b, "errors", "warnings")
	assert.Equal(t, "Completed", phaseOf(b), "Velero's own word on the backup: errors %d, warnings %d", counts["errors"], counts["warnings"])
	assert.Zero(t, counts["errors"], "errors of the backup")
	taken, err := s.contents(ctx, env, b.GetName())
	spec.Check(t, err)
	var missing []string
	for _, o := range before {
		if !slices.Contains(taken, o) {
			missing = append(missing, o)
		}
	}
	assert.Empty(t, missing, "not in the backup: %s", strings.Join(missing, ", "))
	parts, err := volumes(ctx, env, b.GetName())
	spec.Check(t, err)
	i := slices.IndexFunc(parts, func(v volume) bool { return v.Pod == "postgresql-0" && v.Name == copied })
	require.GreaterOrEqual(t, i, 0, "volume %s of pod postgresql-0 is not in the backup, which has %v", copied, parts)
	v := parts[i]
	assert.True(t, v.Phase == "Completed" && v.Total > 0 && v.Done == v.Total, "volume %s", v)
	t.Observe(fmt.Sprintf("backup %s: %d objects of the namespace, all of them in what Velero wrote; volumes %v; %d errors, %d warnings",
		b.GetName(), len(before), parts, counts["errors"], counts["warnings"]), map[string]any{"objects": before, "volumes": parts})
}

// passing are kinds whose objects tell of a moment and are made anew.
var passing = []string{"Event", "Endpoints", "EndpointSlice", "Lease", "PodMetrics", "ControllerRevision"}

// inventory is all that is in a namespace, as apiVersion/Kind name, of every kind
// that the API server lists.
func inventory(ctx context.Context, env *environment.Environment, namespace string) ([]string, error) {
	d, err := discovery.NewDiscoveryClientForConfig(env.Config)
	if err != nil {
		return nil, err
	}
	kinds, err := discovery.ServerPreferredNamespacedResources(d)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, group := range kinds {
		for _, r := range group.APIResources {
			if !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "create") || slices.Contains(passing, r.Kind) {
				continue
			}
			list := &metav1.PartialObjectMetadataList{}
			list.APIVersion, list.Kind = group.GroupVersion, r.Kind+"List"
			if err := env.Client().List(ctx, list, client.InNamespace(namespace)); err != nil {
				return nil, fmt.Errorf("list %s %s: %w", group.GroupVersion, r.Kind, err)
			}
			for _, o := range list.Items {
				all = append(all, fmt.Sprintf("%s/%s %s/%s", group.GroupVersion, r.Kind, namespace, o.Name))
			}
		}
	}
	slices.Sort(all)
	return all, nil
}
