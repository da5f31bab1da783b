package spec

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// bench is a harness whose journal is in memory and whose ground is the bench
// itself: no cluster is behind it. The platform on it is a door that must be
// shut; a fault opens it, and a sound proof looks.
type bench struct {
	h   *harness
	cut context.CancelCauseFunc

	mu      sync.Mutex
	entries []journal.Entry
	steps   []string // what was asked of the ground and done to the door, in order
	openBy  string
	stuck   map[string]error // by scope: what its closing fails with
	refused map[environment.LeaseMode]error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx, cut := context.WithCancelCause(context.Background())
	t.Cleanup(func() { cut(nil) })
	s := &bench{cut: cut, stuck: map[string]error{}, refused: map[environment.LeaseMode]error{}}
	s.h = &harness{
		suite:         "policy",
		profile:       &environment.Profile{Name: "test", RiskCeiling: Destructive, TimeScale: 1, Provider: environment.ProviderKind},
		counterProofs: true,
		dumps:         "dumps",
		limits:        defaultLimits,
		ctx:           ctx,
		tests:         map[string]string{},
		progress:      map[string]*progress{},
		commit:        func() string { return "c0ffee" },
		catalogue: catalogue.Catalogue{
			{ID: "POL-001", Area: "policy", Text: "The door is shut."},
			{ID: "POL-002", Area: "policy", Text: "The window is shut."},
			{ID: "POL-003", Area: "policy", Text: "The lights are out."},
			{ID: "MSH-001", Area: "mesh", Text: "Nobody listens."},
			{ID: "PIP-001", Area: "pipeline", Text: "What is built is signed."},
		},
	}
	s.h.record.append = func(e journal.Entry) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entries = append(s.entries, e)
		return nil
	}
	s.h.open = func() (ground, *environment.Environment, error) {
		s.note("open")
		return s, &environment.Environment{}, nil
	}
	return s
}

func (s *bench) Lease(_ context.Context, mode environment.LeaseMode, why string, _ func(string)) (func(), error) {
	if err := s.refused[mode]; err != nil {
		return nil, err
	}
	s.note("lease %s for %s", mode, why)
	return func() { s.note("release %s", mode) }, nil
}

func (s *bench) Scope(name string) *environment.Scope {
	scope := (&environment.Environment{}).Scope(name)
	err := scope.Defer("note", func(context.Context) error {
		s.note("close %s", name)
		return s.stuck[name]
	})
	if err != nil {
		panic(err) // a new scope is open
	}
	return scope
}

func (s *bench) Dump(_ context.Context, dir string, _ ...string) error {
	s.note("dump %s", filepath.ToSlash(dir))
	return errors.New("one pod had no log")
}

func (s *bench) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, fmt.Sprintf(format, args...))
}

func (s *bench) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.steps)
}

func (s *bench) door() (openBy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openBy
}

func (s *bench) setDoor(openBy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openBy = openBy
}

// look is a sound proof.
func (s *bench) look(_ context.Context, t T, _ *environment.Environment) {
	s.note("prove")
	t.Observe("looked at the door", nil)
	if by := s.door(); by != "" {
		t.Errorf("the door is open: %s", by)
	}
}

// blind is a proof that cannot fail.
func (s *bench) blind(_ context.Context, t T, _ *environment.Environment) {
	t.Observe("there is a house", nil)
}

// opens is a fault that opens the door.
func (s *bench) opens(name string) Sabotage {
	return Sabotage{
		Name: name,
		Apply: func(_ context.Context, _ *environment.Environment, scope *environment.Scope) error {
			s.note("apply %s", name)
			s.setDoor(name)
			return scope.Defer("shut the door", func(context.Context) error {
				s.note("undo %s", name)
				s.setDoor("")
				return nil
			})
		},
		Applied: func(context.Context, *environment.Environment) error {
			if s.door() == "" {
				return errors.New("the door is shut")
			}
			return nil
		},
	}
}

// paints is a harmless change.
func paints(name string) Sabotage {
	return Sabotage{
		Name: name, Harmless: true, Applied: AtOnce,
		Apply: func(context.Context, *environment.Environment, *environment.Scope) error { return nil },
	}
}

// of is a specification of the door.
func (s *bench) of(prove func(context.Context, T, *environment.Environment), faults ...Sabotage) *Specification {
	return &Specification{ID: "POL-001", Risk: Namespaced, Prove: prove, CounterProofs: faults}
}

// run plans a specification and brings it to its verdict. The harmless change that a valid
// one has is in the plan alone: what is tried is what the test names.
func (s *bench) run(t *testing.T, spec *Specification) journal.Result {
	t.Helper()
	valid := *spec
	valid.CounterProofs = append(slices.Clone(spec.CounterProofs), paints("of the plan alone"))
	require.NoError(t, s.h.plan(&valid, t.Name()))
	return s.h.carryOut(spec, t.Name(), t.Logf)
}

// journalled are the journal's entries of a kind, in order.
func (s *bench) journalled(kind journal.Kind) (found []journal.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func (s *bench) trials() (all []journal.Trial) {
	for _, e := range s.journalled(journal.CounterProof) {
		all = append(all, *e.Trial)
	}
	return all
}

// cleanedUp asserts what must hold after every verdict: nothing held, nothing
// open, every phase ended, and the verdict written last.
func (s *bench) cleanedUp(t *testing.T) {
	t.Helper()
	require.Empty(t, s.door(), "the fault is still in force")
	require.Empty(t, s.h.locks.held, "keys are still held")
	require.Empty(t, s.h.locks.waiting)
	balance := map[string]int{}
	for _, step := range s.noted() {
		for prefix, n := range map[string]int{"lease ": 1, "release ": -1} {
			if len(step) > len(prefix) && step[:len(prefix)] == prefix {
				balance["lease"] += n
			}
		}
	}
	for _, e := range s.journalled(journal.PhaseStart) {
		balance[e.Phase.Name]++
	}
	for _, e := range s.journalled(journal.PhaseEnd) {
		balance[e.Phase.Name]--
	}
	for what, n := range balance {
		require.Zero(t, n, "begun but not ended, or the other way round: %s", what)
	}
	require.NotEmpty(t, s.entries)
	require.Equal(t, journal.Verdict, s.entries[len(s.entries)-1].Kind)
}

// misbehaviour is a way in which a suite's code fails to do what it should.
// forever is closed when the test is over.
type misbehaviour struct {
	name string
	do   func(ctx context.Context, forever <-chan struct{}) error
	says string // limit stands for the limit of the call
}

const limit = "‹limit›"

var misbehaviours = []misbehaviour{
	{"error", func(context.Context, <-chan struct{}) error { return errors.New("no such door") }, "no such door"},
	{"panic", func(context.Context, <-chan struct{}) error { panic("oh") }, "panic: oh"},
	{"Goexit", func(context.Context, <-chan struct{}) error { runtime.Goexit(); return nil }, "it ended its goroutine instead of returning"},
	{"late", func(ctx context.Context, _ <-chan struct{}) error { <-ctx.Done(); return context.Cause(ctx) }, "its " + limit + " were over"},
	{"deaf", func(_ context.Context, forever <-chan struct{}) error { <-forever; return nil }, "it did not heed the end of its context and was left behind: its " + limit + " were over"},
}
