package dr

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// knownTimeout is for a new Velero to find the backups of a location.
var knownTimeout = wait.Timeout{Name: "backupsFound", D: 3 * time.Minute}

// TestClusterLost proves that a cluster which is lost whole, its control plane and
// all nodes, comes back in a new one. The backups are in the object store of the
// first cluster, which stands for the region that S3 is in.
func TestClusterLost(t *testing.T) {
	var change func(*stage) spec.Sabotage // of the application in the cluster that is to be lost
	changed := func(f func(*stage) spec.Sabotage) spec.Sabotage {
		of := f(&stage{})
		there := spec.Swapped(of.Name, of.Kills, &change, f)
		there.Harmless = of.Harmless
		return there
	}
	spec.Run(t, spec.Specification{
		ID: "DR-005", Risk: spec.Namespaced, Ours: true, Needs: []spec.Need{velero}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveClusterLost(ctx, t, env, change)
		},
		CounterProofs: []spec.Sabotage{
			changed(func(s *stage) spec.Sabotage {
				return s.volumeLeftOut(`(?s)does not serve in the new cluster: .*` + noBackend)
			}),
			changed(func(s *stage) spec.Sabotage {
				return s.frontendLeftOut(`what is in the new cluster differs .* but was apps/v1/Deployment frontend is lost$`)
			}),
			changed(func(s *stage) spec.Sabotage { return s.harmlessNote() }),
		},
	})
}

func proveClusterLost(ctx context.Context, t spec.T, env *environment.Environment, change func(*stage) spec.Sabotage) {
	remote, err := openStore(ctx, env)
	spec.Check(t, err)
	first := anotherCluster(ctx, t, env, "lost")
	spec.Check(t, velero.Ensure(ctx, first))
	s := &stage{name: "cluster", password: password(), database: map[string]any{"fillMiB": 20}, remote: remote}
	require.NoError(t, s.build(ctx, first, first.Lasting()), "the application in the cluster that is to be lost")
	spec.Check(t, s.write(ctx, freshRows))
	if change != nil {
		spec.Check(t, change(s).Apply(ctx, first, first.Lasting()))
	}
	before, err := snapshotOf(ctx, first, s.outside, s.ns)
	spec.Check(t, err)
	b, err := backUp(ctx, first, first.Lasting(), s.location, s.ns, nil)
	spec.Check(t, err)

	spec.Check(t, t.Scope().Defer("backups of the lost cluster", func(ctx context.Context) error { return forget(ctx, env, s.location, nil) }))
	lost := time.Now()
	spec.Check(t, first.Destroy(ctx))
	second := anotherCluster(ctx, t, env, "new")
	ready := time.Since(lost)
	spec.Check(t, velero.Ensure(ctx, second))
	scope := second.Lasting()
	spec.Check(t, addLocation(ctx, second, scope, s.location, remote))
	_, err = wait.On(second.Config).Until(ctx, knownTimeout, targetOf("Backup", b.GetName()), wait.Exists())
	spec.Check(t, err)
	_, err = second.Built(ctx, append(images, string(docuthinker))...)
	spec.Check(t, err)
	_, err = restore(ctx, second, scope, b.GetName(), nil)
	spec.Check(t, err)
	reader, err := newReader(ctx, second, scope)
	spec.Check(t, err)
	require.NoError(t, serves(ctx, reader, s.ns), "the application does not serve in the new cluster")
	after, err := snapshotOf(ctx, second, reader, s.ns)
	spec.Check(t, err)
	took := time.Since(lost)
	require.Empty(t, before.against(after), "what is in the new cluster differs from what was in the lost one")
	t.Observe(fmt.Sprintf("cluster %s (%s) lost with all its nodes; cluster %s (%s) stood after %s, and after %s the application served all %d rows there, with all %d objects",
		first.Cluster, first.ClusterUID, second.Cluster, second.ClusterUID, ready.Round(time.Second), took.Round(time.Second), len(after.rows), len(before.objects)), nil)
}

// anotherCluster is one with what every environment has; it ends with the proof.
func anotherCluster(ctx context.Context, t spec.T, env *environment.Environment, name string) *environment.Environment {
	made, err := platform.Beside(ctx, env, name)
	spec.Check(t, err)
	spec.Check(t, t.Scope().Defer("cluster "+made.Cluster, made.Destroy))
	return made
}
