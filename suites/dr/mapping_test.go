package dr

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestRestoreElsewhere proves that a backup can be looked at beside what it is of:
// restored into another namespace it is whole, and the original does not notice.
func TestRestoreElsewhere(t *testing.T) {
	s := newStage(t, "elsewhere", nil)
	var over map[string]any // of the restore; faults change it
	spec.Run(t, spec.Specification{
		ID: "DR-006", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveElsewhere(ctx, t, env, s, over)
		},
		CounterProofs: []spec.Sabotage{
			s.volumeLeftOut(`rows of the copy|the copy does not serve`),
			s.renewing(spec.Swapped("restored over the original", `objects of the original that the restore changed`, &over,
				map[string]any{"namespaceMapping": map[string]any{}, "existingResourcePolicy": "update"})),
			s.harmlessNote(),
		},
	})
}

func proveElsewhere(ctx context.Context, t spec.T, env *environment.Environment, s *stage, over map[string]any) {
	spec.Check(t, s.write(ctx, freshRows))
	want, err := rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	b, err := backUp(ctx, env, t.Scope(), s.location, s.ns, nil)
	spec.Check(t, err)
	spec.Check(t, s.write(ctx, freshRows)) // these are the original's alone
	original, err := rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	before, err := s.versions(ctx, env)
	spec.Check(t, err)
	users, _, err := s.writing(ctx, probe.Plan{Rate: writeRate, For: backupTimeout.D, KeepAlive: true})
	spec.Check(t, err)

	copied, err := t.Scope().Namespace(ctx, "dr-copy", nil)
	spec.Check(t, err)
	elsewhere := map[string]any{"namespaceMapping": map[string]any{s.ns: copied}}
	maps.Copy(elsewhere, over)
	_, err = restore(ctx, env, t.Scope(), b.GetName(), elsewhere)
	spec.Check(t, err)
	after, err := s.versions(ctx, env)
	spec.Check(t, err)
	var changed []string
	for o, version := range before {
		if after[o] != version {
			changed = append(changed, o)
		}
	}
	slices.Sort(changed)
	require.Empty(t, changed, "objects of the original that the restore changed")
	require.NoError(t, serves(ctx, s.outside, copied), "the copy does not serve")
	got, err := rows(ctx, s.outside, copied)
	spec.Check(t, err)
	require.Empty(t, difference(want, got), "rows of the copy differ from those at the backup")

	spec.Check(t, users.Await(ctx, users.Last()+writeSample))
	spec.Check(t, users.Stop(ctx))
	spec.Check(t, users.Outcomes().Check(writeSample, probe.LostNone()))
	now, err := rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	for n := range original {
		require.Equal(t, original[n], now[n], "row %d of the original", n)
	}
	t.Observe(fmt.Sprintf("backup %s restored into %s: %d rows as at the backup; of the original no object changed (%d), no row is lost, and %d writes meanwhile all succeeded",
		b.GetName(), copied, len(got), len(before), len(users.Outcomes().Sent)), nil)
}

// steady are kinds whose objects change by a restore and by nobody else meanwhile.
var steady = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Secret"},
	{Version: "v1", Kind: "ConfigMap"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "ServiceAccount"},
	{Version: "v1", Kind: "PersistentVolumeClaim"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
}

// versions are the UID and the resource version of the stage's objects. Of those with a
// status, which a pod changes that is slow to answer, it is what else there is of them.
func (s *stage) versions(ctx context.Context, env *environment.Environment) (map[string]string, error) {
	all := map[string]string{}
	for _, kind := range steady {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := env.Client().List(ctx, list, client.InNamespace(s.ns)); err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			version := o.GetResourceVersion()
			if kind.Group == "apps" {
				version = fmt.Sprint(o.GetGeneration(), o.GetLabels(), o.GetAnnotations())
			}
			all[kind.Kind+" "+o.GetName()] = fmt.Sprintf("%s at %s", o.GetUID(), version)
		}
	}
	return all, nil
}
