//go:build cluster

package endurance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/engine"
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
