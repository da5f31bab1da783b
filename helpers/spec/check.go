package spec

import (
	"context"
	"errors"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// Finding is an error that tells what was seen and is not as expected, such as
// *probe.Unmet. Any other error says nothing of the clause.
type Finding interface {
	error
	Finding()
}

// Check ends the proof on an error: by an assertion that failed when it is a
// Finding, and else as broken.
func Check(t T, err error) {
	t.Helper()
	var found Finding
	if errors.As(err, &found) {
		t.Errorf("%v", err)
		t.FailNow()
	}
	if err != nil {
		t.Broken(err)
	}
}

// InTime asserts that what was awaited came: that a wait's time was over is what was seen,
// and what else ended it, such as a pod whose image could not be had, says nothing of the
// clause. what is what the assertion is about.
func InTime(t T, err error, what string) {
	t.Helper()
	var late interface {
		error
		Late() bool // as a *wait.Error is when its time was over
	}
	if errors.As(err, &late) && late.Late() {
		t.Errorf("%s: %v", what, err)
		t.FailNow()
	}
	Check(t, err)
}

// Harmless is a change under which the proof must hold.
func Harmless(s Sabotage) Sabotage {
	s.Harmless, s.Kills = true, ""
	return s
}

// Swapped puts another value in the place of one that the proof goes by, for the
// time of a fault. It is in force at once, and gone at once: whoever has the proof
// leave more behind under it sets Restored anew. It wants no more of the lease than
// the proof itself.
func Swapped[V any](name, kills string, at *V, value V) Sabotage {
	return Sabotage{
		Name: name, Kills: kills, Applied: AtOnce, Restored: AtOnce, swaps: true,
		Apply: func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
			meant := *at
			*at = value
			return scope.Defer("what the proof goes by", func(context.Context) error { *at = meant; return nil })
		},
	}
}

// Edited is Swapped with a copy of the value, as it is now, that edit has changed.
func Edited[V any](name, kills string, at *V, edit func(*V)) Sabotage {
	value := *at
	edit(&value)
	return Swapped(name, kills, at, value)
}

// AtOnce is the Applied of a fault that is in force when Apply returns, and the
// Restored of one that is gone with its scope.
func AtOnce(context.Context, *environment.Environment) error { return nil }
