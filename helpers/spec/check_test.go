package spec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

type seen struct{ what string }

func (s seen) Error() string { return s.what }
func (seen) Finding()        {}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		how  how
		text string
	}{
		"nothing":           {nil, held, ""},
		"a finding":         {seen{"the door is open"}, failed, "the door is open"},
		"a finding, within": {fmt.Errorf("house: %w", seen{"the door is open"}), failed, "house: the door is open"},
		"any other error":   {errors.New("no way there"), broken, "no way there"},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := execute(t, func(_ context.Context, t T, _ <-chan struct{}) {
				Check(t, c.err)
				if c.err != nil {
					panic("the proof went on")
				}
			})
			require.Equal(t, ending{how: c.how, text: c.text}, ending{how: e.how, text: e.text})
		})
	}
}

// ended is a wait that did.
type ended struct{ late bool }

func (ended) Error() string { return "it was waited for" }
func (e ended) Late() bool  { return e.late }

func TestInTime(t *testing.T) {
	for name, c := range map[string]struct {
		err error
		how how
	}{
		"it came":                     {nil, held},
		"it came too late":            {fmt.Errorf("pod: %w", ended{late: true}), failed},
		"an image that cannot be had": {ended{}, broken},
		"any other error":             {errors.New("no way there"), broken},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := execute(t, func(_ context.Context, t T, _ <-chan struct{}) { InTime(t, c.err, "the door is open") })
			require.Equal(t, c.how, e.how)
			if c.how == failed {
				require.Contains(t, e.text, "the door is open: pod: it was waited for")
			}
		})
	}
}

func TestSwapped(t *testing.T) {
	s := newBench(t)
	at := 1
	f := Swapped("two", "too many", &at, 2)
	require.NoError(t, f.check())
	scope := s.Scope("test")
	require.NoError(t, f.Apply(t.Context(), (*environment.Environment)(nil), scope))
	require.Equal(t, 2, at)
	require.NoError(t, scope.Close(t.Context()))
	require.Equal(t, 1, at)
	require.Equal(t, Sabotage{Name: "two", Harmless: true}, Harmless(Sabotage{Name: "two", Kills: "too many"}))
}

func TestSwappedWantsNoMoreOfTheLeaseThanTheProof(t *testing.T) {
	s := newBench(t)
	shut := true
	specification := s.of(func(ctx context.Context, t T, env *environment.Environment) {
		s.look(ctx, t, env)
		if !shut {
			t.Errorf("it does not want it shut")
		}
	}, s.opens("opened"), Swapped("open is well", "", &shut, false))
	specification.Risk, specification.Keys = ReadOnly, []string{"door"}
	require.Equal(t, journal.Proved, s.run(t, specification).Outcome)
	var order []string
	for _, step := range s.noted() {
		if step == "prove" || strings.HasPrefix(step, "lease ") || strings.HasPrefix(step, "apply ") {
			order = append(order, step)
		}
	}
	shared, exclusive := "lease shared for policy POL-001", "lease exclusive for policy POL-001"
	require.Equal(t, []string{shared, "prove", "prove", exclusive, "apply opened", "prove", "prove"}, order,
		"the baseline, what is swapped, what is opened, and the baseline again")
}
