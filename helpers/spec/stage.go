package spec

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/redact"
)

// Stage is a Need of one specification alone, such as an instance of the
// application: made by its first proof, kept for all its trials, so that a fault is
// seeded in what was proved a moment before, and gone with the test. Suites embed
// it in types that say what stands there. Where no faults are seeded, several
// specifications may prove on one: see Keep.
type Stage struct {
	name  string
	build func(ctx context.Context, env *environment.Environment, scope *environment.Scope) error

	mu    sync.Mutex
	scope *environment.Scope
	built bool
	kept  int // tests that have not ended
}

// stageLimit bounds the undoing of a stage.
const stageLimit = 2 * time.Minute

// NewStage declares a stage. build is called once, unless it failed, and makes all of
// it through the scope.
func NewStage(t testing.TB, name string, build func(context.Context, *environment.Environment, *environment.Scope) error) *Stage {
	t.Helper()
	s := &Stage{name: name, build: build}
	s.Keep(t)
	return s
}

// Keep has the stage stand until another test has ended, too. It is called before that test
// waits for its turn. Faults of one would be met by the other, so it is for a run without
// (SeedsFaults).
func (s *Stage) Keep(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	s.kept++
	s.mu.Unlock()
	t.Cleanup(func() {
		s.mu.Lock()
		s.kept--
		last := s.kept == 0
		s.mu.Unlock()
		if !last || s.scope == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), stageLimit)
		defer cancel()
		if err := s.scope.Close(ctx); err != nil {
			t.Errorf("%s: %s", s.name, redact.Text(err.Error()))
		}
	})
}

// Name is what the journal calls it.
func (s *Stage) Name() string { return s.name }

// Scope is what it was made through, and what is to last as long. It is nil before
// Ensure.
func (s *Stage) Scope() *environment.Scope { return s.scope }

// Ensure builds it, once.
func (s *Stage) Ensure(ctx context.Context, env *environment.Environment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.built {
		return nil
	}
	if s.scope == nil {
		s.scope = env.Lasting().Child(s.name)
	}
	if err := s.build(ctx, env, s.scope); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.built = true
	return nil
}
