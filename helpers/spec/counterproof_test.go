package spec

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestTrials(t *testing.T) {
	type proof func(ctx context.Context, t T, forever <-chan struct{})
	says := func(format string) proof {
		return func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("%s", format) }
	}
	for name, c := range map[string]struct {
		harmless  bool
		kills     string
		unsettles string
		under     proof // what the proof does under the fault; nil: nothing
		outcome   journal.TrialOutcome
		why       string
		verdict   journal.Outcome
		reason    string
	}{
		"noticed":       {under: says("the door is open"), outcome: journal.Killed, why: "the door is open", verdict: journal.Proved},
		"as it should":  {under: says("the door is open"), kills: `^the \w+ is open$`, outcome: journal.Killed, why: "the door is open", verdict: journal.Proved},
		"not noticed":   {outcome: journal.Survived, why: "the proof held all the same", verdict: journal.Inconclusive, reason: "a seeded fault survived"},
		"not, by kills": {kills: "open", outcome: journal.Survived, why: "the proof held all the same", verdict: journal.Inconclusive, reason: "a seeded fault survived"},
		"one of two matches": {
			under: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("it rains"); t.Errorf("it is open") },
			kills: "open", outcome: journal.Killed, why: "it rains\nit is open", verdict: journal.Proved,
		},
		"no message of its own matches": { // the two together do
			under: func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("it rains"); t.Errorf("it is open") },
			kills: "(?s)rains.*open", outcome: journal.VoidTrial, why: `failed for another reason than "(?s)rains.*open": it rains` + "\nit is open",
			verdict: journal.Void, reason: "a counter-proof is void",
		},
		"for another reason": {
			under: says("it rains"), kills: "open", outcome: journal.VoidTrial, why: `failed for another reason than "open": it rains`,
			verdict: journal.Void, reason: "a counter-proof is void",
		},
		"killed by the path of a file": {
			under: func(_ context.Context, t T, _ <-chan struct{}) { assert.Fail(t, "it rains") },
			kills: `counterproof_test\.go|TestTrials`, outcome: journal.VoidTrial,
			why: "failed for another reason than \"counterproof_test\\\\.go|TestTrials\": it rains", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"broken": {
			under:   func(_ context.Context, t T, _ <-chan struct{}) { t.Broken(errors.New("no route")) },
			outcome: journal.VoidTrial, why: "the proof broke: no route", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"panic": {
			under:   func(context.Context, T, <-chan struct{}) { panic("oh") },
			outcome: journal.VoidTrial, why: "the proof broke: panic: oh", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"panic after the assertion": {
			under:   func(_ context.Context, t T, _ <-chan struct{}) { t.Errorf("it is open"); panic("oh") },
			outcome: journal.VoidTrial, why: "the proof broke: panic: oh; it had failed before by: it is open", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"Goexit": {
			under:   func(context.Context, T, <-chan struct{}) { runtime.Goexit() },
			outcome: journal.VoidTrial, why: "the proof broke: it was stopped without the message of an assertion", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"FailNow alone": {
			under:   func(_ context.Context, t T, _ <-chan struct{}) { t.FailNow() },
			outcome: journal.VoidTrial, why: "the proof broke: it was stopped without the message of an assertion", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"could not measure": {
			under:   func(_ context.Context, t T, _ <-chan struct{}) { t.Inconclusive("no samples", "0 of 9") },
			outcome: journal.VoidTrial, why: "the proof could not measure: no samples; 0 of 9", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"unsettled, as it should be": {
			under: func(_ context.Context, t T, _ <-chan struct{}) { t.Inconclusive("no samples", "0 of 9") }, unsettles: "^no samples$",
			outcome: journal.Killed, why: "not settled: no samples; 0 of 9", verdict: journal.Proved,
		},
		"unsettled for another reason": {
			under: func(_ context.Context, t T, _ <-chan struct{}) { t.Inconclusive("no time", "") }, unsettles: "^no samples$",
			outcome: journal.VoidTrial, why: "the proof could not measure: no time", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"failed, where it was to be unsettled": {
			under: says("it rains"), unsettles: "^no samples$",
			outcome: journal.VoidTrial, why: `failed, and was to come out inconclusive for "^no samples$": it rains`, verdict: journal.Void, reason: "a counter-proof is void",
		},
		"held, where it was to be unsettled": {
			unsettles: "^no samples$",
			outcome:   journal.Survived, why: "the proof held all the same", verdict: journal.Inconclusive, reason: "a seeded fault survived",
		},
		"late": {
			under:   func(ctx context.Context, t T, _ <-chan struct{}) { <-ctx.Done(); t.Errorf("it is open") },
			outcome: journal.VoidTrial, why: "the proof did not end in time: its 2m0s were over; it had failed before by: it is open", verdict: journal.Void, reason: "a counter-proof is void",
		},
		"deaf": {
			under:   func(_ context.Context, _ T, forever <-chan struct{}) { <-forever },
			outcome: journal.VoidTrial, why: "the proof did not end in time: it did not heed the end of its context and was left behind: its 2m0s were over",
			verdict: journal.Void, reason: "a counter-proof is void",
		},
		"harmless": {harmless: true, outcome: journal.Spared, verdict: journal.Proved},
		"a false alarm": {
			harmless: true, under: says("the wall is red"), outcome: journal.FalseAlarm, why: "the wall is red",
			verdict: journal.Inconclusive, reason: "a harmless change raised a false alarm",
		},
		"harmless and broken": {
			harmless: true, under: func(_ context.Context, t T, _ <-chan struct{}) { t.Broken(errors.New("no route")) },
			outcome: journal.VoidTrial, why: "the proof broke: no route", verdict: journal.Void, reason: "a counter-proof is void",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				forever := make(chan struct{})
				defer close(forever)
				s := newBench(t)
				fault := s.opens("fault")
				fault.Harmless, fault.Kills, fault.Unsettles = c.harmless, c.kills, c.unsettles
				other := s.opens("another, that is noticed")
				got := s.run(t, s.of(func(ctx context.Context, t T, env *environment.Environment) {
					if s.door() != "fault" {
						s.look(ctx, t, env)
						return
					}
					s.note("prove")
					t.Observe("looked elsewhere", nil)
					if c.under != nil {
						c.under(ctx, t, forever)
					}
				}, fault, other))

				trials := s.trials()
				require.Len(t, trials, 2)
				trials[0].Seconds, trials[1].Seconds = 0, 0
				require.Equal(t, journal.Trial{Name: "fault", Harmless: c.harmless, Outcome: c.outcome, Why: c.why}, trials[0])
				require.Equal(t, journal.Killed, trials[1].Outcome, "what became of one says nothing of the next")
				require.Equal(t, c.verdict, got.Outcome)
				require.Equal(t, c.reason, got.Reason)
				if c.verdict != journal.Proved {
					require.Equal(t, `"fault": `+c.why, got.Detail)
				}
				s.cleanedUp(t)
				require.Equal(t, 5, count(s.noted(), "prove"), "baseline, fault, restored, the other, restored")
			})
		})
	}
}

// What is seen in the first execution says nothing of those that follow.
func TestUnseen(t *testing.T) {
	for name, c := range map[string]struct {
		blind   int // the execution that sees nothing: 2 is under the fault, 3 follows it
		trial   journal.TrialOutcome
		outcome journal.Outcome
		reason  string
	}{
		"under a harmless change": {2, journal.VoidTrial, journal.Void, reasonVoid},
		"when it is undone":       {3, journal.Spared, journal.Inconclusive, reasonNotRestored},
		"never":                   {0, journal.Spared, journal.Proved, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t)
			harmless := s.opens("ajar")
			harmless.Harmless = true
			times := 0
			got := s.run(t, s.of(func(_ context.Context, t T, _ *environment.Environment) {
				if times++; times != c.blind {
					t.Observe("there is a house", nil)
				}
				if s.door() == "fault" {
					t.Errorf("the door is open")
				}
			}, harmless, s.opens("fault")))
			require.Equal(t, c.trial, s.trials()[0].Outcome)
			require.Equal(t, c.outcome, got.Outcome)
			require.Equal(t, c.reason, got.Reason)
			if c.blind > 0 {
				require.Contains(t, got.Detail, unseen)
			}
			s.cleanedUp(t)
		})
	}
}

func count(steps []string, what string) (n int) {
	for _, s := range steps {
		if s == what {
			n++
		}
	}
	return n
}

// A fault that cannot be applied, or is not shown to be, is void, whichever way
// its code fails, and the proof is not even tried under it.
func TestFaultsThatAreNotInForce(t *testing.T) {
	for _, m := range misbehaviours {
		for _, harmless := range []bool{false, true} {
			for _, where := range []string{"Apply", "Applied"} {
				name := where + " " + m.name
				if harmless {
					name += " harmless"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						forever := make(chan struct{})
						defer close(forever)
						s := newBench(t)
						fault := s.opens("fault")
						fault.Harmless = harmless
						why := "the fault was not shown to be in force: "
						if apply := fault.Apply; where == "Apply" {
							why = "the fault could not be applied: "
							fault.Apply = func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error {
								if err := apply(ctx, env, scope); err != nil { // half of it is done
									return err
								}
								return m.do(ctx, forever)
							}
						} else {
							fault.Applied = func(ctx context.Context, _ *environment.Environment) error { return m.do(ctx, forever) }
						}
						why += strings.ReplaceAll(m.says, limit, "2m0s")
						got := s.run(t, s.of(s.look, fault, s.opens("another")))

						require.Equal(t, journal.Void, got.Outcome)
						require.Equal(t, "a counter-proof is void", got.Reason)
						require.Equal(t, `"fault": `+why, got.Detail)
						trials := s.trials()
						require.Equal(t, journal.VoidTrial, trials[0].Outcome)
						require.Equal(t, why, trials[0].Why)
						require.Equal(t, journal.Killed, trials[1].Outcome)
						steps := s.noted()
						require.NotContains(t, steps, "close POL-001/under fault", "no proof under a fault that is not there")
						undone := slices.Index(steps, "undo fault")
						require.Positive(t, undone, "what was half done is undone: %q", steps)
						require.Equal(t, "prove", steps[undone+2], "and the baseline proved again: %q", steps)
						s.cleanedUp(t)
					})
				})
			}
		}
	}
}

func TestFindings(t *testing.T) {
	all := findings{
		unrestored: []string{"unrestored"}, survived: []string{"survived", "survived too"},
		alarms: []string{"alarm"}, void: []string{"void"}, forbidden: []string{"forbidden"}, outside: []string{"outside"},
	}
	graver := []struct {
		outcome journal.Outcome
		reason  string
		detail  string
		remove  func()
	}{
		{journal.Inconclusive, reasonNotRestored, "unrestored; survived; survived too; alarm; void; forbidden; outside", func() { all.unrestored = nil }},
		{journal.Inconclusive, reasonSurvived, "survived; survived too; alarm; void; forbidden; outside", func() { all.survived = nil }},
		{journal.Inconclusive, reasonFalseAlarm, "alarm; void; forbidden; outside", func() { all.alarms = nil }},
		{journal.Void, reasonVoid, "void; forbidden; outside", func() { all.void = nil }},
		{journal.Inconclusive, journal.AboveCeiling, "forbidden; outside", func() { all.forbidden = nil }},
		{journal.Inconclusive, journal.OutsideRadius, "outside", func() { all.outside = nil }},
		{journal.Proved, "", "", func() {}},
	}
	for _, want := range graver {
		require.Equal(t, journal.Result{Outcome: want.outcome, Reason: want.reason, Detail: want.detail}, all.verdict())
		want.remove()
	}
}

func TestWithoutCounterProofsNoFaultIsSeeded(t *testing.T) {
	s := newBench(t)
	s.h.counterProofs = false
	require.Equal(t, journal.Proved, s.run(t, s.of(s.look, s.opens("fault"))).Outcome)
	require.Empty(t, s.trials())
	require.NotContains(t, s.noted(), "apply fault")
	s.cleanedUp(t)
}

func TestAProofThatCannotFailSurvives(t *testing.T) {
	s := newBench(t)
	got := s.run(t, s.of(s.blind, s.opens("one"), s.opens("two")))
	require.Equal(t, journal.Inconclusive, got.Outcome)
	require.Equal(t, "a seeded fault survived", got.Reason)
	require.Equal(t, `"one": the proof held all the same; "two": the proof held all the same`, got.Detail)
	for _, trial := range s.trials() {
		require.Equal(t, journal.Survived, trial.Outcome)
	}
	s.cleanedUp(t)
}

// The proof's clock starts with the proof: neither Apply nor Applied takes of it.
func TestTimeoutBoundsTheProofAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBench(t)
		fault := s.opens("fault")
		applied := fault.Applied
		fault.Applied = func(ctx context.Context, env *environment.Environment) error {
			time.Sleep(time.Minute)
			return applied(ctx, env)
		}
		spec := s.of(func(ctx context.Context, pt T, env *environment.Environment) {
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, time.Second, time.Until(deadline))
			s.look(ctx, pt, env)
		}, fault)
		spec.Timeout = time.Second
		require.Equal(t, journal.Proved, s.run(t, spec).Outcome)
		require.InDelta(t, 60, s.trials()[0].Seconds, 0.001)
	})
}
