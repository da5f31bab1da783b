package spec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestOrderOfSteps(t *testing.T) {
	s := newBench(t)
	restored := func(f Sabotage) Sabotage {
		f.Restored = func(context.Context, *environment.Environment) error {
			s.note("restored %s", f.Name)
			return nil
		}
		return f
	}
	alone := restored(s.opens("alone"))
	alone.Alone = true
	// As declared, the one that is alone stands first.
	spec := s.of(s.look, alone, restored(s.opens("a")), s.opens("b"), restored(s.opens("c")), restored(s.opens("d")))
	require.Equal(t, journal.Proved, s.run(t, spec).Outcome)
	require.Equal(t, []string{
		"open", "lease shared for policy POL-001",
		"prove", "close POL-001/baseline",
		// Known to be gone, so not proved again.
		"apply a", "prove", "close POL-001/under a", "undo a", "close POL-001/a", "restored a",
		// Whoever waits to be alone goes before.
		"release shared", "lease shared for policy POL-001",
		// Not known to be gone.
		"apply b", "prove", "close POL-001/under b", "undo b", "close POL-001/b", "prove", "close POL-001/restored",
		"release shared", "lease shared for policy POL-001",
		"apply c", "prove", "close POL-001/under c", "undo c", "close POL-001/c", "restored c",
		"release shared", "lease shared for policy POL-001",
		// The last one before the keys are given to others.
		"apply d", "prove", "close POL-001/under d", "undo d", "close POL-001/d", "restored d", "prove", "close POL-001/restored",
		"release shared", "lease exclusive for policy POL-001",
		"apply alone", "prove", "close POL-001/under alone", "undo alone", "close POL-001/alone", "restored alone", "prove", "close POL-001/restored",
		"release exclusive",
	}, s.noted())
	s.cleanedUp(t)
}

// A proof may change what the fault has changed. Undone in the order of their
// making, the proof would put the fault back: it found it there.
func TestProofsAreUndoneBeforeTheirFault(t *testing.T) {
	s := newBench(t)
	spec := s.of(func(ctx context.Context, pt T, env *environment.Environment) {
		s.look(ctx, pt, env)
		found := s.door()
		s.setDoor("the proof")
		require.NoError(t, pt.Scope().Defer("as it was found", func(context.Context) error {
			s.setDoor(found)
			return nil
		}))
	}, s.opens("fault"))
	got := s.run(t, spec)
	require.Equal(t, journal.Proved, got.Outcome, "%s: %s", got.Reason, got.Detail)
	s.cleanedUp(t)
}

func TestNotRestored(t *testing.T) {
	stays := errors.New("the hinge is stuck")
	type setting struct {
		stage *bench
		fault *Sabotage
	}
	for name, c := range map[string]struct {
		set    func(setting)
		detail string
	}{
		"the fault cannot be undone": {
			func(s setting) { s.stage.stuck["POL-001/first"] = stays },
			`after "first": scope POL-001/first: undo note: the hinge is stuck`,
		},
		"the proof under it cannot be undone": {
			func(s setting) { s.stage.stuck["POL-001/under first"] = stays },
			`after "first": scope POL-001/under first: undo note: the hinge is stuck`,
		},
		"the proof of the baseline after it cannot be undone": {
			func(s setting) { s.stage.stuck["POL-001/restored"] = stays },
			`after "first": scope POL-001/restored: undo note: the hinge is stuck`,
		},
		"something is left": {
			func(s setting) {
				s.fault.Apply = func(context.Context, *environment.Environment, *environment.Scope) error {
					s.stage.setDoor("first")
					return nil
				}
			},
			`after "first": the baseline holds no more: the door is open: first`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			first, second, alone := s.opens("first"), s.opens("second"), s.opens("alone")
			alone.Alone = true
			c.set(setting{s, &first})
			got := s.run(t, s.of(s.look, first, second, alone))
			require.Equal(t, journal.Inconclusive, got.Outcome)
			require.Equal(t, "not restored", got.Reason)
			require.Equal(t, c.detail, got.Detail)
			require.Len(t, s.trials(), 1, "on a platform that is not as it was, no further fault tells anything")
			require.Equal(t, journal.Killed, s.trials()[0].Outcome)
			s.setDoor("")
			s.cleanedUp(t)
		})
	}
}

func TestRestored(t *testing.T) {
	for _, m := range misbehaviours {
		t.Run(m.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				forever := make(chan struct{})
				defer close(forever)
				s := newBench(t)
				first := s.opens("first")
				first.Restored = func(ctx context.Context, _ *environment.Environment) error { return m.do(ctx, forever) }
				got := s.run(t, s.of(s.look, first, s.opens("second")))
				require.Equal(t, journal.Inconclusive, got.Outcome)
				require.Equal(t, "not restored", got.Reason)
				require.Equal(t, `after "first": `+strings.ReplaceAll(m.says, limit, "2m0s"), got.Detail)
				require.Len(t, s.trials(), 1)
				s.cleanedUp(t)
			})
		})
	}
}

// What both went wrong is said, the graver as the reason.
func TestSurvivedAndNotRestored(t *testing.T) {
	s := newBench(t)
	s.stuck["POL-001/first"] = errors.New("the hinge is stuck")
	got := s.run(t, s.of(s.blind, s.opens("first"), s.opens("second")))
	require.Equal(t, "not restored", got.Reason)
	require.Equal(t, `after "first": scope POL-001/first: undo note: the hinge is stuck; "first": the proof held all the same`, got.Detail)
}

// A scope that hangs is given up after its limit, and the run goes on.
func TestAScopeThatNeverCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forever := make(chan struct{})
		defer close(forever)
		s := newBench(t)
		hangs := s.opens("hangs")
		apply := hangs.Apply
		hangs.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
			if err := apply(ctx, env, scope); err != nil {
				return err
			}
			return scope.Defer("hang", func(context.Context) error { <-forever; return nil })
		}
		got := s.run(t, s.of(s.look, hangs))
		require.Equal(t, "not restored", got.Reason)
		require.Contains(t, got.Detail, fmt.Sprintf("it did not heed the end of its context and was left behind: its %s were over", defaultLimits.closing))
		require.Contains(t, s.noted(), "release shared")
	})
}

func TestFaultsWaitUntilTheirObjectsAreGone(t *testing.T) {
	s := newBench(t)
	fault := s.opens("fault")
	apply := fault.Apply
	var waits bool
	fault.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		waits = scope.WaitGone
		return apply(ctx, env, scope)
	}
	require.Equal(t, journal.Proved, s.run(t, s.of(s.look, fault)).Outcome)
	require.True(t, waits, "what is only marked for deletion may still be in force")
}

// A run may be cut short at every step; nothing is left, and what was not tried
// to its end is not proved.
func TestCutShort(t *testing.T) {
	why := errors.New("signal interrupt")
	for name, c := range map[string]struct {
		at     func(s *bench, first, second *Sabotage)
		trials int
	}{
		"in Apply": {func(s *bench, first, _ *Sabotage) {
			first.Apply = func(ctx context.Context, _ *environment.Environment, _ *environment.Scope) error {
				s.cut(why)
				<-ctx.Done()
				return ctx.Err()
			}
		}, 1},
		"in Applied": {func(s *bench, first, _ *Sabotage) {
			first.Applied = func(ctx context.Context, _ *environment.Environment) error {
				s.cut(why)
				<-ctx.Done()
				return ctx.Err()
			}
		}, 1},
		"while the first of two faults is undone": {func(s *bench, first, _ *Sabotage) {
			apply := first.Apply
			first.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
				return errors.Join(apply(ctx, env, scope), scope.Defer("cut", func(context.Context) error { s.cut(why); return nil }))
			}
		}, 1},
		"while the last fault is undone": {func(s *bench, _, second *Sabotage) {
			apply := second.Apply
			second.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
				return errors.Join(apply(ctx, env, scope), scope.Defer("cut", func(context.Context) error { s.cut(why); return nil }))
			}
		}, 2},
		"in Restored": {func(s *bench, first, _ *Sabotage) {
			first.Restored = func(ctx context.Context, _ *environment.Environment) error {
				s.cut(why)
				<-ctx.Done()
				return ctx.Err()
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			first, second := s.opens("first"), s.opens("second")
			c.at(s, &first, &second)
			got := s.run(t, s.of(s.look, first, second))
			require.Len(t, s.trials(), c.trials)
			s.cleanedUp(t)
			require.Equal(t, journal.Inconclusive, got.Outcome)
			require.Equal(t, "the run was cut short", got.Reason)
			require.Contains(t, got.Detail, "signal interrupt")
		})
	}
}

// What was found before the run was cut short is not lost.
func TestCutShortAfterAFinding(t *testing.T) {
	s := newBench(t)
	first := s.opens("first")
	apply := first.Apply
	first.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
		return errors.Join(apply(ctx, env, scope), scope.Defer("cut", func(context.Context) error { s.cut(errors.New("signal interrupt")); return nil }))
	}
	got := s.run(t, s.of(s.blind, first, s.opens("second")))
	require.Equal(t, "the run was cut short", got.Reason)
	require.Equal(t, `signal interrupt; a seeded fault survived; "first": the proof held all the same`, got.Detail)
	s.cleanedUp(t)
}

// A fault whose removal takes long says so.
func TestFaultsTimeout(t *testing.T) {
	for limit, want := range map[time.Duration]journal.Outcome{0: journal.Inconclusive, 5 * time.Minute: journal.Proved} {
		synctest.Test(t, func(t *testing.T) {
			s := newBench(t)
			f := s.opens("fault")
			f.Timeout = limit
			f.Restored = func(ctx context.Context, _ *environment.Environment) error {
				select {
				case <-time.After(3 * time.Minute):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			require.Equal(t, want, s.run(t, s.of(s.look, f)).Outcome, limit)
		})
	}
}
