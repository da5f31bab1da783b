package spec

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestExcused(t *testing.T) {
	waiver := catalogue.Waiver{ID: "POL-001", Reason: "the door is being painted", Expires: "2099-01-31"}
	for name, c := range map[string]struct {
		ceiling environment.Risk
		waivers []catalogue.Waiver
		ours    environment.Provider // of the cluster, of a clause that is of one of ours
		want    journal.Result
	}{
		"above the ceiling": {ReadOnly, nil, "", journal.Result{
			Outcome: journal.Inconclusive, Reason: "above the risk ceiling", Detail: "it is namespaced, and the profile test allows read-only at most",
		}},
		"waived": {Destructive, []catalogue.Waiver{waiver}, "", journal.Result{
			Outcome: journal.Inconclusive, Reason: "waived until 2099-01-31: the door is being painted",
		}},
		"given": {Destructive, nil, environment.ProviderGiven, journal.Result{
			Outcome: journal.Inconclusive, Reason: "the cluster is given", Detail: "the clause is of one that the run makes, and that of profile test is others'",
		}},
		"ours":              {Destructive, nil, environment.ProviderKind, journal.Result{Outcome: journal.Proved}},
		"another is waived": {Destructive, []catalogue.Waiver{{ID: "POL-002"}}, "", journal.Result{Outcome: journal.Proved}},
		"at the ceiling":    {Namespaced, nil, "", journal.Result{Outcome: journal.Proved}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			s.h.profile.RiskCeiling, s.h.profile.Waivers, s.h.profile.Provider = c.ceiling, c.waivers, cmp.Or(c.ours, environment.ProviderGiven)
			of := s.of(s.look, s.opens("fault"))
			of.Ours = c.ours != ""
			got := s.run(t, of)
			got.Seconds = 0
			require.Equal(t, c.want, got)
			if c.want.Outcome != journal.Proved {
				require.Empty(t, s.noted(), "not even the environment is opened for it")
			}
			s.cleanedUp(t)
		})
	}
}

// Where nothing may be touched, what there is to see is looked at; where it may, it is not
// enough.
func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		ceiling environment.Risk
		faults  bool
		sees    func(T)
		want    journal.Result
		steps   []string
	}{
		"seen":         {ReadOnly, false, func(t T) { t.Observe("people go in by the door", nil) }, journal.Result{Outcome: journal.Proved}, []string{"look"}},
		"seen nothing": {ReadOnly, false, func(T) {}, journal.Result{Outcome: journal.Inconclusive, Reason: "nothing was observed", Detail: unseen}, []string{"look"}},
		"seen otherwise": {ReadOnly, false, func(t T) { t.Errorf("people go in by the window") }, journal.Result{
			Outcome: journal.Refuted, Reason: "people go in by the window",
		}, []string{"look"}},
		"with faults asked for": {ReadOnly, true, func(t T) { t.Observe("people go in by the door", nil) }, journal.Result{
			Outcome: journal.Inconclusive, Reason: "above the risk ceiling", Detail: "it held by looking, and its faults are above what the profile allows",
		}, []string{"look"}},
		"at the ceiling": {Namespaced, false, nil, journal.Result{Outcome: journal.Proved}, []string{"ensure wall", "prove"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			s.h.profile.RiskCeiling, s.h.counterProofs = c.ceiling, c.faults
			spec := s.of(s.look, s.opens("fault"))
			if name != "seen nothing" {
				spec.Needs = []Need{need{"wall", func(context.Context) error { s.note("ensure wall"); return nil }}}
			}
			spec.Alone = true // where it does something
			spec.Look = func(_ context.Context, t T, _ *environment.Environment) {
				s.note("look")
				c.sees(t)
			}
			got := s.run(t, spec)
			got.Seconds = 0
			require.Equal(t, c.want, got)
			var steps []string
			for _, step := range s.noted() {
				if step == "look" || step == "prove" || strings.HasPrefix(step, "ensure") {
					steps = append(steps, step)
				}
			}
			require.Equal(t, c.steps, steps)
			exclusive := slices.ContainsFunc(s.noted(), func(n string) bool { return strings.HasPrefix(n, "lease exclusive") })
			require.Equal(t, !slices.Contains(steps, "look"), exclusive, "who looks keeps nobody out")
			require.Empty(t, s.trials())
			s.cleanedUp(t)
		})
	}
}

func TestFaultsAboveTheCeiling(t *testing.T) {
	forbidden := `the counter-proof %q is %s, and the profile test allows %s at most`
	for name, c := range map[string]struct {
		risk, ceiling environment.Risk
		keys          []string
		alone         bool // the second of two faults
		tried         int
		detail        string
	}{
		"all allowed":               {risk: Namespaced, ceiling: Disruptive, alone: true, tried: 2},
		"one is alone":              {risk: Namespaced, ceiling: Namespaced, alone: true, tried: 1, detail: fmt.Sprintf(forbidden, "second", "disruptive", "namespaced")},
		"even a look is not seeded": {risk: ReadOnly, ceiling: ReadOnly, detail: fmt.Sprintf(forbidden, "first", "namespaced", "read-only") + "; " + fmt.Sprintf(forbidden, "second", "namespaced", "read-only")},
		"keys are for all":          {risk: ReadOnly, ceiling: Namespaced, keys: []string{"door"}, detail: fmt.Sprintf(forbidden, "first", "disruptive", "namespaced") + "; " + fmt.Sprintf(forbidden, "second", "disruptive", "namespaced")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			s.h.profile.RiskCeiling = c.ceiling
			second := s.opens("second")
			second.Alone = c.alone
			spec := s.of(s.look, s.opens("first"), second)
			spec.Risk, spec.Keys = c.risk, c.keys
			got := s.run(t, spec)
			got.Seconds = 0
			want := journal.Result{Outcome: journal.Proved}
			if c.detail != "" {
				want = journal.Result{Outcome: journal.Inconclusive, Reason: "above the risk ceiling", Detail: c.detail}
			}
			require.Equal(t, want, got)
			require.Len(t, s.trials(), c.tried)
			s.cleanedUp(t)
		})
	}
}

// On a cluster that is others' as well, what disturbs them wants to be named by the profile.
func TestOutsideTheBlastRadius(t *testing.T) {
	const says = `is disruptive on a cluster that is others' as well, and blastRadius.disturbs of the profile test names neither POL-001 nor "policy"`
	outside := func(detail string) journal.Result {
		return journal.Result{Outcome: journal.Inconclusive, Reason: "outside the blast radius", Detail: detail}
	}
	proved := journal.Result{Outcome: journal.Proved}
	for name, c := range map[string]struct {
		provider environment.Provider
		disturbs []string
		risk     environment.Risk
		looks    bool
		want     journal.Result
		opened   bool
		tried    int // of two faults, of which one is alone
	}{
		"not named":                      {environment.ProviderGiven, nil, Disruptive, false, outside("it " + says), false, 0},
		"others are":                     {environment.ProviderGiven, []string{"mesh", "POL-002"}, Disruptive, false, outside("it " + says), false, 0},
		"by its ID":                      {environment.ProviderGiven, []string{"POL-001"}, Disruptive, false, proved, true, 2},
		"by its area":                    {environment.ProviderGiven, []string{"policy"}, Disruptive, false, proved, true, 2},
		"a cluster of ours":              {environment.ProviderKind, nil, Disruptive, false, proved, true, 2},
		"one that only looks":            {environment.ProviderGiven, nil, Disruptive, true, outside("it held by looking, and its faults are above what the profile allows"), true, 0},
		"a fault of one that may go on":  {environment.ProviderGiven, nil, Namespaced, false, outside(`the counter-proof "second" ` + says), true, 1},
		"and of one that is named":       {environment.ProviderGiven, []string{"policy"}, Namespaced, false, proved, true, 2},
		"a destructive one, by its area": {environment.ProviderGiven, []string{"policy"}, Destructive, false, proved, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			s.h.profile.Provider, s.h.profile.BlastRadius.Disturbs = c.provider, c.disturbs
			second := s.opens("second")
			second.Alone = true
			of := s.of(s.look, s.opens("first"), second)
			of.Risk = c.risk
			if c.looks {
				of.Look = func(_ context.Context, t T, _ *environment.Environment) { t.Observe("people go in by the door", nil) }
			}
			got := s.run(t, of)
			got.Seconds = 0
			require.Equal(t, c.want, got)
			require.True(t, passes(got), "it is known beforehand, and skips the test")
			require.Equal(t, c.opened, slices.Contains(s.noted(), "open"), "nothing is touched for what is refused")
			require.Len(t, s.trials(), c.tried)
			s.cleanedUp(t)
		})
	}
}
