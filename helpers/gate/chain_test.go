package gate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// A red run, and run again until it is green: three nights, each chained to the one before
// it, the second of another commit. Whoever leaves one out is not released.
func TestDecideByTheChain(t *testing.T) {
	refuted := verdictOf("POL-002", journal.Refuted, "a pod with :latest was admitted")
	for name, c := range map[string]struct {
		unsigned bool // is let through
		change   func(red, other, green *Given)
		given    string
		want     Verdict
		says     string
	}{
		"all three":                             {false, nil, "abc", Hold, "against  POL-002: refuted in run a"},
		"the green alone":                       {false, nil, "c", Inconclusive, "lacking  run c (c.json) follows run b, whose statement was not given: give it too"},
		"without the red":                       {false, nil, "bc", Inconclusive, "lacking  run b (b.json) follows run a, whose statement was not given"},
		"without the second":                    {false, nil, "ac", Hold, "lacking  run c (c.json) follows run b"},
		"unsigned ones do not tell":             {false, func(_, other, _ *Given) { other.Signed = false }, "abc", Hold, "lacking  run c (c.json) follows run b"},
		"nobody is asked":                       {true, nil, "c", Release, "RELEASE"},
		"a chain begun anew":                    {false, func(_, _, green *Given) { green.Evidence.Run.Previous = nil }, "c", Inconclusive, "lacking  run c (c.json) is the first of its chain: what ran within 36h0m0s before now is not known"},
		"of an old statement nobody knows when": {false, func(_, _, green *Given) { green.Evidence.Run.Previous.EndedAt = time.Time{} }, "c", Inconclusive, "follows run b"},
		"the one before is too old to count": {false, func(_, _, green *Given) {
			green.Evidence.Run.Previous.EndedAt = time.Now().Add(-37 * time.Hour)
		}, "c", Release, "RELEASE"},
		"the first, too old to count": {false, func(_, other, _ *Given) {
			other.Evidence.Run.EndedAt, other.Evidence.Run.Previous = time.Now().Add(-37*time.Hour), nil
		}, "bc", Release, "RELEASE"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy(t, strings.Replace(sound, "signed: true", fmt.Sprintf("signed: %t", !c.unsigned), 1))
			require.NoError(t, err)
			nights := map[rune]*Given{}
			var before *Given
			for _, night := range []struct {
				id     rune
				change func([]journal.Entry) []journal.Entry
			}{{'a', refuted}, {'b', start(func(r *journal.Run) { r.Commit = "f00" })}, {'c', nil}} {
				g := run(t, string(night.id), night.change)
				if before != nil {
					require.NoError(t, g.Evidence.Follow(before.Evidence, before.Statement))
				}
				nights[night.id], before = &g, &g
			}
			if c.change != nil {
				c.change(nights['a'], nights['b'], nights['c'])
			}
			var given []Given
			for _, id := range c.given {
				given = append(given, *nights[id])
			}
			d := Decide(p, candidate, given, time.Now())
			said := d.Explain()
			assert.Equal(t, c.want, d.Verdict, said)
			assert.Contains(t, said, c.says)
		})
	}
}
