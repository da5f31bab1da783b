package spec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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

// gone is the error of a need that tells what a given cluster has nothing of.
type gone struct{ error }

func (gone) Absent() string { return "hinge" }

func TestAComponentThatIsNotThere(t *testing.T) {
	s := newBench(t)
	spec := s.of(s.look, s.opens("fault"))
	spec.Needs = []Need{need{"wall", func(context.Context) error {
		return errors.Join(errors.New("component door: late"), fmt.Errorf("component hinge: %w", gone{errors.New("none of it")}))
	}}}
	got := s.run(t, spec)
	got.Seconds = 0
	require.Equal(t, journal.Result{
		Outcome: journal.Inconclusive, Reason: "component hinge is not there", Detail: "component door: late\ncomponent hinge: none of it",
	}, got)
	require.False(t, passes(got), "nobody knew of it beforehand")
	s.cleanedUp(t)
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
