//go:build cluster

package endurance

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

var (
	kills = flag.Int("kills", 200, "how many runs are killed")
	seed  = flag.Uint64("seed", 1, "of the random moments")
)

// short is a run that makes namespaces, pods and roles, and changes what others made:
// a constraint and a mutation, with their faults.
var short = []string{"-test.run=^Test(PrivilegedContainers|TeamLabel|RBAC)$", "-counterproof", "-test.timeout=10m"}

// kill is one way to end a run.
type kill struct {
	name   string
	signal os.Signal // nil: the run's own -timeout
}

var killings = []kill{{"SIGINT", syscall.SIGINT}, {"SIGTERM", syscall.SIGTERM}, {"SIGKILL", syscall.SIGKILL}, {"-timeout", nil}}

// TestKills kills short runs at random moments: when the next one starts, nothing of
// them is left, on the cluster or on this machine, and none says that it proved what it
// did not come to.
func TestKills(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	whole := s.start(t, ctx, short...)
	require.Zero(t, whole.wait(), whole.out.String())
	length := time.Since(whole.began)
	before, err := inventory(ctx, s.env)
	require.NoError(t, err)
	t.Logf("a whole run takes %s; %d objects are watched; -seed %d", length.Round(time.Millisecond), len(before), *seed)

	random := rand.New(rand.NewPCG(*seed, 0))
	tally := map[string]*count{}
	for n := range *kills {
		k := killings[n%len(killings)]
		at := time.Duration(random.Int64N(int64(length)))
		args := short
		if k.signal == nil {
			args = append(slices.Clone(short), fmt.Sprintf("-test.timeout=%s", at.Round(time.Millisecond)))
		}
		p := s.start(t, ctx, args...)
		if k.signal != nil {
			strike := time.AfterFunc(at, func() { _ = p.cmd.Process.Signal(k.signal) }) // it may have ended
			p.wait()
			strike.Stop()
		}
		code := p.wait()
		c := tally[k.name]
		if c == nil {
			c = &count{}
			tally[k.name] = c
		}
		c.runs++
		assert.NoError(t, p.gone(ctx), "%d, %s after %s", n, k.name, at)
		honest(t, p, code, c)
		if k.signal == syscall.SIGKILL { // what nobody has taken back yet
			stands, err := inventory(ctx, s.env)
			require.NoError(t, err)
			if len(differences(before, stands)) > 0 {
				c.seen++
			}
		}
		left, undone, err := s.left(ctx, before)
		require.NoError(t, err, "%d, %s after %s", n, k.name, at)
		c.undone += undone
		if undone > 0 {
			c.reaped++
		}
		assert.Empty(t, left, "%d, %s after %s: left behind by\n%s", n, k.name, at, p.out.String())
		if len(left) > 0 {
			c.left++
			before, err = inventory(ctx, s.env) // else each run after it is held to it
			require.NoError(t, err)
		}
		if n%20 == 19 {
			t.Logf("%d of %d killed, %d left something", n+1, *kills, total(tally))
		}
	}
	if c := tally["SIGKILL"]; c != nil {
		assert.NotZero(t, c.seen, "no run that was killed left anything to be taken back: would it be seen?")
	}
	last := s.start(t, ctx, short...)
	assert.Zero(t, last.wait(), "a whole run after all of them: %s", last.out.String())
	files, err := os.ReadDir(s.temp)
	require.NoError(t, err)
	for _, name := range slices.Sorted(maps.Keys(tally)) {
		c := tally[name]
		t.Logf("%-9s %3d runs: %3d ended whole, %3d had something for the next start to take back (%d objects), %d left something",
			name, c.runs, c.whole, c.reaped, c.undone, c.left)
	}
	t.Logf("a whole run takes %s; %d files are left in the temporary directory", length.Round(time.Millisecond), len(files))
}

// count is what came of one way to be killed.
type count struct{ runs, whole, reaped, undone, seen, left int }

func total(tally map[string]*count) (left int) {
	for _, c := range tally {
		left += c.left
	}
	return left
}

// honest: only a run that came to its end may be called proved.
func honest(t *testing.T, p *process, code int, c *count) {
	t.Helper()
	verdicts, r, err := p.verdicts()
	require.NoError(t, err)
	if code == 0 {
		c.whole++
	}
	if r == nil || len(r.Suites) == 0 {
		assert.NotZero(t, code, "it ended well and has no journal")
		return
	}
	for id, v := range verdicts {
		assert.False(t, strings.HasPrefix(v, string(journal.Refuted)), "%s: %s by a kill", id, v)
	}
	if (code != 0 && r.Suites[0].Cut != "") || (code == -1 && len(verdicts) < 3) {
		assert.NotZero(t, r.ExitCode(), "killed or cut short, and called proved: %v", verdicts)
	}
}
