package spec

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// street is what many specifications look at at once: doors with keys, which
// faults open, and the light, which faults that are alone put out.
type street struct {
	mu     sync.Mutex
	wrong  map[string]string // by door or light: the specification whose fault it is
	looked int
}

func (s *street) set(what, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong[what] = by
}

func (s *street) is(what string) (by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked++
	return s.wrong[what]
}

// of looks at its doors and the light for a while; whoever else's fault it sees
// is told apart from its own.
func (s *street) of(id string, risk environment.Risk, keys ...string) *Specification {
	things := append([]string{"light"}, keys...)
	fault := func(name, what string, alone bool) Sabotage {
		return Sabotage{
			Name: name, Alone: alone, Kills: "^" + what + " is " + id + "'s fault$",
			Apply: func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
				s.set(what, id)
				return scope.Defer("as it was", func(context.Context) error { s.set(what, ""); return nil })
			},
			Applied: func(context.Context, *environment.Environment) error {
				if by := s.is(what); by != id {
					return fmt.Errorf("it is %q's", by)
				}
				return nil
			},
		}
	}
	spec := &Specification{
		ID: id, Risk: risk, Keys: keys,
		Prove: func(_ context.Context, t T, _ *environment.Environment) {
			t.Observe("looked up and down", nil)
			for range 200 {
				for _, what := range things {
					if by := s.is(what); by != "" {
						t.Errorf("%s is %s's fault", what, by)
						t.FailNow()
					}
				}
				runtime.Gosched()
			}
		},
		CounterProofs: []Sabotage{fault("the light is out", "light", true), paints("red")},
	}
	for _, key := range keys {
		spec.CounterProofs = append(spec.CounterProofs, fault(key+" is open", key, false))
	}
	return spec
}

// Specifications that share a key never see each other's faults, those that are
// alone are seen by nobody, everyone ends, and the lease is the real one.
func TestManySpecificationsAtOnce(t *testing.T) {
	st := newBench(t)
	cache := t.TempDir()
	openReal(t, st, cache)
	st.h.catalogue = nil
	s := &street{wrong: map[string]string{}}
	var specs []*Specification
	risks := []environment.Risk{ReadOnly, Namespaced, Disruptive, Destructive}
	for i, keys := range [][]string{{"a"}, {"a", "b"}, {"b"}, {"b", "c"}, {"c"}, {}, {"c", "a"}, {"d"}} {
		for j := range 2 {
			id := fmt.Sprintf("POL-1%d%d", i, j)
			st.h.catalogue = append(st.h.catalogue, catalogue.Clause{ID: id, Area: "policy", Text: "All is well in the street."})
			specs = append(specs, s.of(id, risks[(i+j)%len(risks)], keys...))
		}
	}
	results := make([]journal.Result, len(specs))
	var all sync.WaitGroup
	for i, spec := range specs {
		require.NoError(t, st.h.plan(spec, spec.ID))
		all.Go(func() { results[i] = st.h.carryOut(spec, spec.ID, func(string, ...any) {}) })
	}
	all.Wait()
	for i, r := range results {
		require.Equal(t, journal.Proved, r.Outcome, "%s: %s: %s", specs[i].ID, r.Reason, r.Detail)
	}
	for _, trial := range st.trials() {
		want := journal.Killed
		if trial.Harmless {
			want = journal.Spared
		}
		require.Equal(t, want, trial.Outcome, trial.Why)
	}
	st.cleanedUp(t)
	for _, left := range files(t, cache) {
		require.Regexp(t, `^leases/test\.(lock|gate)$`, left, "nobody holds the lease")
	}
}

// openReal has a harness run on an environment with leases in cache.
func openReal(t *testing.T, st *bench, cache string) {
	t.Helper()
	t.Setenv("GROUND_CACHE", cache)
	env, err := environment.Open(st.h.profile, "test", newCluster(t).kubeconfig, "hash")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	st.h.open = func() (ground, *environment.Environment, error) { return env, env, nil }
}

// The run is cut short while specifications wait for keys and for the lease.
func TestCutShortWhileWaiting(t *testing.T) {
	st := newBench(t)
	openReal(t, st, t.TempDir())
	st.h.counterProofs = false
	var all sync.WaitGroup
	var got [3]journal.Result
	// start begins a specification and returns what it says that it waits for.
	start := func(i int, spec *Specification, begun <-chan struct{}) string {
		require.NoError(t, st.h.plan(spec, spec.ID))
		waits, ended := make(chan string, 9), make(chan struct{})
		all.Go(func() {
			defer close(ended)
			got[i] = st.h.carryOut(spec, spec.ID, func(format string, args ...any) {
				if _, line, found := strings.Cut(fmt.Sprintf(format, args...), "waits for "); found {
					waits <- line
				}
			})
		})
		select {
		case line := <-waits:
			return line
		case <-begun:
			return "nothing"
		case <-ended:
			return "nothing, and ended"
		}
	}
	begun := make(chan struct{})
	first := st.of(func(ctx context.Context, t T, _ *environment.Environment) {
		close(begun)
		<-ctx.Done()
		t.Broken(ctx.Err())
	}, st.opens("fault"), paints("red"))
	first.Keys = []string{"door"}
	require.Equal(t, "nothing", start(0, first, begun))
	second := st.of(st.look, st.opens("fault"), paints("red"))
	second.ID, second.Risk, second.Keys = "POL-002", Disruptive, []string{"window"}
	require.Regexp(t, `^the exclusive lease, held by process \d+ of run \S+, shared since \S+: policy POL-001$`, start(1, second, nil))
	third := st.of(st.look, st.opens("fault"), paints("red"))
	third.ID, third.Risk, third.Keys = "POL-003", Disruptive, []string{"door", "window"}
	require.Equal(t, "its keys, held by POL-001, POL-002", start(2, third, nil))
	st.cut(errors.New("signal interrupt"))
	all.Wait()
	for _, r := range got {
		require.Equal(t, journal.Inconclusive, r.Outcome)
		require.Equal(t, "the run was cut short", r.Reason)
		require.Contains(t, r.Detail, "signal interrupt")
	}
	require.Contains(t, got[1].Detail, "no lease")
	require.Contains(t, got[2].Detail, "no lease")
	st.cleanedUp(t)
}
