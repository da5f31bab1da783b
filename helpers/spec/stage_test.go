package spec

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// A stage that could not be built is built again for the next who needs it, and one that
// stands never.
func TestStage(t *testing.T) {
	env := &environment.Environment{}
	built, fails := 0, errors.New("no wood")
	var through *environment.Scope
	s := NewStage(t, "house", func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
		built++
		through = scope
		return fails
	})
	require.Equal(t, "house", s.Name())
	require.Nil(t, s.Scope())
	require.EqualError(t, s.Ensure(t.Context(), env), "house: no wood")
	fails = nil
	require.NoError(t, s.Ensure(t.Context(), env))
	require.NoError(t, s.Ensure(t.Context(), env))
	require.Equal(t, 2, built)
	require.Same(t, through, s.Scope(), "what is made of it lasts as long")
}

// A stage that several tests keep is gone with the last of them, whichever that is.
func TestStageOfSeveral(t *testing.T) {
	var s *Stage
	gone := false
	t.Run("first", func(t *testing.T) {
		s = NewStage(t, "house", func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
			return scope.Defer("roof", func(context.Context) error { gone = true; return nil })
		})
		require.NoError(t, s.Ensure(t.Context(), &environment.Environment{}))
		t.Run("second", func(t *testing.T) { s.Keep(t) })
		require.False(t, gone, "it was taken away with the test that ended first")
	})
	require.True(t, gone, "it outlives its tests")
}

func TestSeedsFaults(t *testing.T) {
	defer running.Store(running.Load())
	for _, with := range []bool{true, false} {
		running.Store(&harness{counterProofs: with})
		require.Equal(t, with, SeedsFaults(t))
	}
}
