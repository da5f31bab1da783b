package dr

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	var plan copyPlan
	spec.Run(t, spec.Specification{
		ID: "DR-006", Risk: spec.Namespaced, Needs: []spec.Need{velero, s}, Timeout: 10 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveElsewhere(ctx, t, env, s, plan)
		},
		CounterProofs: []spec.Sabotage{
			s.volumeLeftOut(`rows of the copy|the copy does not serve`),
			s.renewing(spec.Swapped("restored over the original, and a note at its namespace", `objects of the original that changed: .*Namespace \S+ is changed; .*Pod backend-\S+ is changed; .*Role backend is changed; RoleBinding backend is changed`,
				&plan, copyPlan{over: map[string]any{"namespaceMapping": map[string]any{}, "existingResourcePolicy": "update"}, meanwhile: s.noteAtNamespace})),
			s.renewing(spec.Swapped("a row in the original that nobody wrote", `rows of the original: .* 1 rows that nobody wrote`, &plan, copyPlan{meanwhile: s.inventRow})),
			s.harmlessNote(),
		},
	})
}

// copyPlan is how the proof goes about it; faults change it for their time.
type copyPlan struct {
	over      map[string]any                                                            // of the restore
	meanwhile func(context.Context, *environment.Environment, *environment.Scope) error // done to the original
}

func (s *stage) noteAtNamespace(ctx context.Context, _ *environment.Environment, scope *environment.Scope) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	return scope.Update(ctx, ns, func() error {
		metav1.SetMetaDataAnnotation(&ns.ObjectMeta, "docuthinker.dev/reviewed-by", "nobody")
		return nil
	})
}

func (s *stage) inventRow(ctx context.Context, env *environment.Environment, _ *environment.Scope) error {
	return statement(ctx, env, s.ns, inventOne)
}

func proveElsewhere(ctx context.Context, t spec.T, env *environment.Environment, s *stage, plan copyPlan) {
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
	users, round, err := s.writing(ctx, probe.Plan{Rate: writeRate, For: backupTimeout.D, KeepAlive: true})
	spec.Check(t, err)

	copied, err := t.Scope().Namespace(ctx, "dr-copy", nil)
	spec.Check(t, err)
	elsewhere := map[string]any{"namespaceMapping": map[string]any{s.ns: copied}}
	maps.Copy(elsewhere, plan.over)
	_, err = restore(ctx, env, t.Scope(), b.GetName(), elsewhere)
	spec.Check(t, err)
	if plan.meanwhile != nil {
		spec.Check(t, plan.meanwhile(ctx, env, t.Scope()))
	}
	after, err := s.versions(ctx, env)
	spec.Check(t, err)
	require.Empty(t, changes(before, after), "objects of the original that changed")
	require.NoError(t, serves(ctx, s.outside, copied), "the copy does not serve")
	got, err := rows(ctx, s.outside, copied)
	spec.Check(t, err)
	require.Empty(t, difference(want, got), "rows of the copy differ from those at the backup")

	spec.Check(t, users.Await(ctx, users.Last()+writeSample))
	spec.Check(t, users.Stop(ctx))
	spec.Check(t, users.Outcomes().Check(writeSample, probe.LostNone()))
	now, err := rows(ctx, s.outside, s.ns)
	spec.Check(t, err)
	for _, w := range ledgerOf(users.Outcomes(), round) { // all were acknowledged; what they hold is DR-004's
		original[w.Number] = now[w.Number]
	}
	require.Empty(t, difference(original, now), "rows of the original")
	t.Observe(fmt.Sprintf("backup %s restored into %s: %d rows as at the backup; of the original no object changed (%d, its pods and its namespace with them), no row is lost, none is there that nobody wrote, and %d writes meanwhile all succeeded",
		b.GetName(), copied, len(got), len(before), len(users.Outcomes().Sent)), nil)
}

// steady are kinds whose objects change by a restore and by nobody else meanwhile.
var steady = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Secret"},
	{Version: "v1", Kind: "ConfigMap"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "ServiceAccount"},
	{Version: "v1", Kind: "PersistentVolumeClaim"},
	{Version: "v1", Kind: "Pod"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
}

// versions are the UID and the resource version of the stage's namespace and of the objects
// in it. Of those with a status, which a pod changes that is slow to answer, it is what
// else there is of them.
func (s *stage) versions(ctx context.Context, env *environment.Environment) (map[string]string, error) {
	ns := &corev1.Namespace{}
	if err := env.Client().Get(ctx, client.ObjectKey{Name: s.ns}, ns); err != nil {
		return nil, err
	}
	all := map[string]string{"Namespace " + s.ns: fmt.Sprintf("%s at %s", ns.UID, ns.ResourceVersion)}
	for _, kind := range steady {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := env.Client().List(ctx, list, client.InNamespace(s.ns)); err != nil {
			return nil, err
		}
		for _, o := range list.Items {
			version := o.ResourceVersion
			if kind.Group == "apps" || kind.Kind == "Pod" {
				version = fmt.Sprint(o.Generation, o.Labels, o.Annotations)
			}
			all[kind.Kind+" "+o.Name] = fmt.Sprintf("%s at %s", o.UID, version)
		}
	}
	return all, nil
}
