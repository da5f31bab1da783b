//go:build cluster

package endurance

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	repeats = flag.Int("repeats", 20, "how often the same is run")
	faulty  = flag.Bool("faults", false, "repeat with counter-proofs")
)

// TestRepeats runs the same commit again and again: the verdicts are the same.
func TestRepeats(t *testing.T) {
	s := newSite(t)
	args := []string{"-test.timeout=20m"}
	if *faulty {
		args = append(args, "-counterproof")
	}
	seen := map[string]map[string]int{} // clause -> verdict -> times
	var took []time.Duration
	for n := range *repeats {
		p := s.start(t, t.Context(), args...)
		p.wait()
		took = append(took, time.Since(p.began))
		verdicts, _, err := p.verdicts()
		require.NoError(t, err)
		require.NotEmpty(t, verdicts, p.out.String())
		note(seen, verdicts)
		if d := flakes(seen); len(d) > 0 {
			t.Logf("run %d:\n%s", n+1, p.out.String())
		}
		t.Logf("%d of %d: %s, %d clauses, of which differ: %v", n+1, *repeats, took[n].Round(time.Millisecond), len(verdicts), flakes(seen))
	}
	slices.Sort(took)
	t.Logf("%d runs of %d clauses: %s at least, %s in the middle, %s at most", len(took), len(seen), took[0], took[len(took)/2], took[len(took)-1])
	assert.Empty(t, flakes(seen))
}

// TestTwoAtOnce has two runs on the same cluster, with their faults: each has the
// verdicts that it has alone.
func TestTwoAtOnce(t *testing.T) {
	s := newSite(t)
	before, err := inventory(t.Context(), s.env)
	require.NoError(t, err)
	args := []string{"-counterproof", "-test.timeout=40m"}
	first, second := s.start(t, t.Context(), args...), s.start(t, t.Context(), args...)
	seen := map[string]map[string]int{}
	for _, p := range []*process{first, second} {
		code := p.wait()
		verdicts, r, err := p.verdicts()
		require.NoError(t, err)
		require.NotEmpty(t, verdicts, p.out.String())
		note(seen, verdicts)
		assert.Zero(t, code, p.out.String())
		assert.Zero(t, r.ExitCode(), r.Headline)
		t.Logf("%s: %s; faults killed %d, survived %d, void %d", time.Since(p.began).Round(time.Second), r.Headline, r.Totals.Killed, r.Totals.Survived, r.Totals.VoidFaults)
	}
	assert.Empty(t, flakes(seen))
	left, _, err := s.left(context.WithoutCancel(t.Context()), before)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func note(seen map[string]map[string]int, verdicts map[string]string) {
	for id, v := range verdicts {
		if seen[id] == nil {
			seen[id] = map[string]int{}
		}
		seen[id][v]++
	}
}

// flakes are clauses with more than one verdict.
func flakes(seen map[string]map[string]int) (all []string) {
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		if len(seen[id]) > 1 {
			all = append(all, fmt.Sprintf("%s %s", id, strings.Trim(fmt.Sprint(seen[id]), "map[]")))
		}
	}
	return all
}
