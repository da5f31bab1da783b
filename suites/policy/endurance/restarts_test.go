//go:build cluster

package endurance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/proving-ground/proving-ground/helpers/engine"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// TestRestarts takes the ground away under a run: what it says then is right, or that it
// does not know. The engine comes last: it takes the cluster with it, which the next
// start has to make again.
func TestRestarts(t *testing.T) {
	for _, c := range []struct {
		name    string
		restart func(context.Context, *site, *engine.Engine) error
	}{
		{"API server", func(ctx context.Context, s *site, e *engine.Engine) error {
			_, err := e.Docker(ctx, "exec", s.env.Cluster+"-control-plane", "sh", "-c", "crictl stop --timeout 0 $(crictl ps -q --name kube-apiserver)")
			return err
		}},
		{"registry", func(ctx context.Context, _ *site, e *engine.Engine) error {
			_, err := e.Docker(ctx, "restart", "-t", "0", image.RegistryContainer)
			return err
		}},
		{"engine", func(ctx context.Context, s *site, _ *engine.Engine) error {
			if _, err := engine.Stop(ctx, s.cache); err != nil {
				return err
			}
			_, err := engine.Ensure(ctx, s.root, s.cache, func(string) {})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			e, err := engine.Find(t.Context(), s.cache)
			require.NoError(t, err)
			p := s.start(t, t.Context(), append([]string{"-test.v"}, short...)...)
			proving, stop := context.WithTimeout(t.Context(), 2*time.Minute)
			defer stop()
			faulty := false
			require.NoError(t, journal.Follow(proving, p.dir(), func(entry journal.Entry) {
				if entry.Kind == journal.PhaseStart && strings.HasPrefix(entry.Phase.Name, "counter-proof: ") {
					faulty = true
					stop()
				}
			}))
			require.True(t, faulty, "it never came to a fault:\n%s", p.out.String())
			require.NoError(t, c.restart(t.Context(), s, e))
			code := p.wait()
			verdicts, r, err := p.verdicts()
			require.NoError(t, err)
			require.NotNil(t, r)
			for id, v := range verdicts {
				assert.False(t, strings.HasPrefix(v, string(journal.Refuted)), "%s: %s, and it was the %s", id, v, c.name)
				assert.NotContains(t, v, "survived", id)
			}
			t.Logf("%s restarted: exit code %d after %s: %v", c.name, code, time.Since(p.began).Round(time.Second), verdicts)
			assert.Contains(t, []int{0, 1}, code, "it broke down: 2 is a panic's")
			if t.Failed() {
				t.Log(p.out.String())
			}
		})
	}
}

// TestEngineEnds ends the engine between runs, as a machine's end does. The next start takes
// the cluster as it stands; no pod is held back for having started before the network did.
func TestEngineEnds(t *testing.T) {
	s := newSite(t)
	stopped, err := engine.Stop(t.Context(), s.cache)
	require.NoError(t, err)
	require.True(t, stopped, "an engine of somebody else's is not ended")
	began := time.Now()
	profile, err := environment.LoadProfile(s.root, "kind")
	require.NoError(t, err)
	env, err := environment.Up(t.Context(), profile, environment.UpOptions{Progress: func(line string) { t.Log(line) }})
	require.NoError(t, err)
	defer env.Close()
	took := time.Since(began).Round(time.Second)
	require.Equal(t, s.env.ClusterUID, env.ClusterUID, "it is another cluster")
	var pods corev1.PodList
	require.NoError(t, env.Client().List(t.Context(), &pods))
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil {
				assert.NotEqual(t, "CrashLoopBackOff", w.Reason, "%s/%s: %s", p.Namespace, p.Name, w.Message)
			}
		}
	}
	run := s.start(t, t.Context(), append([]string{"-test.v"}, short...)...)
	assert.Equal(t, 0, run.wait(), run.out.String())
	t.Logf("up after %s with %d pods, and three policies proved with their faults after %s", took, len(pods.Items), time.Since(began).Round(time.Second))
}
