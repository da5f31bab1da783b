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
