package spec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestBaseline(t *testing.T) {
	for name, c := range map[string]struct {
		prove  func(ctx context.Context, t T, forever <-chan struct{})
		want   journal.Result
		noDump bool
	}{
		"held":   {prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Observe("a door", nil) }, want: journal.Result{Outcome: journal.Proved}, noDump: true},
		"failed": {prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("it is open") }, want: journal.Result{Outcome: journal.Refuted, Reason: "it is open"}},
		"failed twice": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("it\nis open"); t.Errorf("it rains") },
			want:  journal.Result{Outcome: journal.Refuted, Reason: "it is open", Detail: "it\nis open\nit rains"},
		},
		"held without an observation": {
			prove: func(context.Context, T, <-chan struct{}) {},
			want: journal.Result{
				Outcome: journal.Inconclusive, Reason: "nothing was observed",
				Detail: "the proof held without an observation: it calls T.Observe nowhere on its way",
			},
		},
		"unmeasured": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Inconclusive("no samples", "0 of %d", 9) },
			want:  journal.Result{Outcome: journal.Inconclusive, Reason: "no samples", Detail: "0 of 9"},
		},
		"unmeasured for a reason known before": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) {
				t.Inconclusive("no Falco engine", "no /sys/kernel/btf")
			},
			want:   journal.Result{Outcome: journal.Inconclusive, Reason: "no Falco engine", Detail: "no /sys/kernel/btf"},
			noDump: true,
		},
		"broken": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.Broken(errors.New("no route")) },
			want:  journal.Result{Outcome: journal.Inconclusive, Reason: "the proof broke", Detail: "no route"},
		},
		"panic": {
			prove: func(context.Context, T, <-chan struct{}) { panic("oh") },
			want:  journal.Result{Outcome: journal.Inconclusive, Reason: "the proof broke", Detail: "panic: oh"},
		},
		"FailNow alone": {
			prove: func(_ context.Context, t T, _ <-chan struct{}) { t.FailNow() },
			want: journal.Result{
				Outcome: journal.Inconclusive, Reason: "the proof broke",
				Detail: "it was stopped without the message of an assertion",
			},
		},
		"late": { // it saw nothing while there was time: that refutes nothing
			prove: func(ctx context.Context, t T, _ <-chan struct{}) { <-ctx.Done(); t.Errorf("it is open") },
			want: journal.Result{
				Outcome: journal.Inconclusive, Reason: "the proof did not end in time",
				Detail: "its 2m0s were over; it had failed before by: it is open",
			},
		},
		"deaf": {
			prove: func(_ context.Context, _ T, forever <-chan struct{}) { <-forever },
			want: journal.Result{
				Outcome: journal.Inconclusive, Reason: "the proof did not end in time",
				Detail: "it did not heed the end of its context and was left behind: its 2m0s were over",
			},
		},
	} {
		for _, counterProofs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, counter-proofs %v", name, counterProofs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					forever := make(chan struct{})
					defer close(forever)
					s := newBench(t)
					s.h.counterProofs = counterProofs
					got := s.run(t, s.of(func(ctx context.Context, pt T, env *environment.Environment) {
						require.NoError(t, pt.Scope().Defer("own", func(context.Context) error { s.note("undo own"); return nil }))
						if s.door() != "" {
							s.look(ctx, pt, env)
							return
						}
						c.prove(ctx, pt, forever)
					}, s.opens("fault")))
					got.Seconds = 0
					require.Equal(t, c.want, got)
					s.cleanedUp(t)
					want := []string{"open", "lease shared for policy POL-001", "dump dumps/POL-001", "undo own", "close POL-001/baseline"}
					if c.noDump {
						want = append(want[:2], want[3:]...)
					}
					if c.want.Outcome == journal.Proved && counterProofs {
						require.Len(t, s.trials(), 1)
						require.Equal(t, want, s.noted()[:len(want)])
						return
					}
					require.Empty(t, s.trials(), "no fault is seeded on a baseline that did not hold")
					require.Equal(t, append(want, "release shared"), s.noted())
				})
			})
		}
	}
}

func TestBaselineThatCannotBeUndone(t *testing.T) {
	for name, c := range map[string]struct {
		prove func(s *bench) func(context.Context, T, *environment.Environment)
		want  journal.Result
	}{
		"held": {
			func(s *bench) func(context.Context, T, *environment.Environment) { return s.look },
			journal.Result{
				Outcome: journal.Inconclusive, Reason: "not restored",
				Detail: "what the proof made could not be undone: scope POL-001/baseline: undo note: the hinge is stuck",
			},
		},
		"failed": {
			func(*bench) func(context.Context, T, *environment.Environment) {
				return func(_ context.Context, t T, _ *environment.Environment) { t.Errorf("it is open") }
			},
			journal.Result{
				Outcome: journal.Refuted, Reason: "it is open",
				Detail: "what the proof made could not be undone: scope POL-001/baseline: undo note: the hinge is stuck",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			s.stuck["POL-001/baseline"] = errors.New("the hinge is stuck")
			got := s.run(t, s.of(c.prove(s), s.opens("fault")))
			got.Seconds = 0
			require.Equal(t, c.want, got)
			require.Empty(t, s.trials())
			s.cleanedUp(t)
		})
	}
}

type need struct {
	name   string
	ensure func(context.Context) error
}

func (n need) Name() string { return n.name }

func (n need) Ensure(ctx context.Context, _ *environment.Environment) error { return n.ensure(ctx) }

func TestNeeds(t *testing.T) {
	for risk, between := range map[environment.Risk][]string{
		Namespaced: nil,
		Disruptive: {"release shared", "lease exclusive for policy POL-001"}, // others go on until its needs are ready
	} {
		s := newBench(t)
		fine := func(name string) Need {
			return need{name, func(context.Context) error { s.note("ensure %s", name); return nil }}
		}
		spec := s.of(s.look, s.opens("fault"))
		spec.Risk, spec.Needs = risk, []Need{fine("wall"), fine("door")}
		require.Equal(t, journal.Proved, s.run(t, spec).Outcome)
		want := slices.Concat([]string{"open", "lease shared for policy POL-001", "ensure wall", "ensure door"}, between, []string{"prove"})
		require.Equal(t, want, s.noted()[:len(want)])
		require.Equal(t, []string{"wall", "door"}, s.journalled(journal.Planned)[0].Plan.Needs)
		s.cleanedUp(t)
	}

	for _, m := range misbehaviours {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				forever := make(chan struct{})
				defer close(forever)
				s := newBench(t)
				spec := s.of(s.look, s.opens("fault"))
				spec.Needs = []Need{
					need{"wall", func(ctx context.Context) error { return m.do(ctx, forever) }},
					need{"door", func(context.Context) error { s.note("ensure door"); return nil }},
				}
				got := s.run(t, spec)
				got.Seconds = 0
				require.Equal(t, journal.Result{
					Outcome: journal.Inconclusive, Reason: "component wall not ready", Detail: strings.ReplaceAll(m.says, limit, "20m0s"),
				}, got)
				require.Equal(t, []string{"open", "lease shared for policy POL-001", "dump dumps/POL-001", "release shared"}, s.noted())
				s.cleanedUp(t)
			})
		})
	}
}

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

func TestNoPlaceNoLease(t *testing.T) {
	t.Run("no environment", func(t *testing.T) {
		s := newBench(t)
		s.h.open = func() (ground, *environment.Environment, error) { return nil, nil, errors.New("no disk") }
		got := s.run(t, s.of(s.look, s.opens("fault")))
		require.Equal(t, []string{string(journal.Inconclusive), "no environment", "no disk"}, []string{string(got.Outcome), got.Reason, got.Detail})
		s.cleanedUp(t)
	})
	t.Run("no lease", func(t *testing.T) {
		s := newBench(t)
		s.refused[environment.Shared] = errors.New("read-only file system")
		got := s.run(t, s.of(s.look, s.opens("fault")))
		require.Equal(t, []string{string(journal.Inconclusive), "no lease", "read-only file system"}, []string{string(got.Outcome), got.Reason, got.Detail})
		s.cleanedUp(t)
	})
	t.Run("no lease for the faults", func(t *testing.T) {
		s := newBench(t)
		s.refused[environment.Exclusive] = errors.New("read-only file system")
		spec := s.of(s.look, s.opens("fault"))
		spec.Keys = []string{"door"}
		got := s.run(t, spec)
		require.Equal(t, []string{string(journal.Inconclusive), "no lease", "read-only file system"}, []string{string(got.Outcome), got.Reason, got.Detail})
		s.cleanedUp(t)
	})
}

func TestBaselineCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBench(t)
		time.AfterFunc(time.Second, func() { s.cut(errors.New("signal interrupt")) })
		got := s.run(t, s.of(func(ctx context.Context, t T, _ *environment.Environment) {
			<-ctx.Done()
			t.Errorf("saw nothing")
		}, s.opens("fault")))
		require.Equal(t, journal.Result{
			Outcome: journal.Inconclusive, Reason: "the run was cut short", Seconds: 1,
			Detail: "signal interrupt; the proof did not end in time; signal interrupt; it had failed before by: saw nothing",
		}, got)
		require.Equal(t, []string{"open", "lease shared for policy POL-001", "close POL-001/baseline", "release shared"}, s.noted(),
			"no dump: the time left belongs to undoing")
		s.cleanedUp(t)
	})
}

func TestRefutedBeforeTheRunWasCutShort(t *testing.T) {
	s := newBench(t)
	s.stuck["POL-001/baseline"] = nil
	got := s.run(t, s.of(func(_ context.Context, pt T, _ *environment.Environment) {
		require.NoError(t, pt.Scope().Defer("cut", func(context.Context) error { s.cut(errors.New("signal interrupt")); return nil }))
		pt.Errorf("it is open")
	}, s.opens("fault")))
	require.Equal(t, journal.Refuted, got.Outcome, "what was measured in time stays so")
	require.Equal(t, "it is open", got.Reason)
}

type replaced struct{ need }

func (replaced) Stands(context.Context, *environment.Environment) error {
	return errors.New("somebody built another one")
}

func TestWhatANeedIsAtTheEnd(t *testing.T) {
	for _, counterProofs := range []bool{true, false} {
		s := newBench(t)
		s.h.counterProofs = counterProofs
		c := s.of(s.look, s.opens("fault"))
		c.Needs = []Need{replaced{need{"house", func(context.Context) error { return nil }}}}
		got := s.run(t, c)
		got.Seconds = 0
		require.Equal(t, journal.Result{Outcome: journal.Inconclusive, Reason: "what it needs was replaced meanwhile", Detail: "somebody built another one"}, got)
		s.cleanedUp(t)
	}
}
