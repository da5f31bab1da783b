package mesh

import (
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// shared is a stage that several specifications prove on in a run without counter-proofs:
// there nobody disturbs anybody, and pods that start are most of what such a run costs. With
// counter-proofs each has its own, for the faults of one would be met by the others.
type shared[S kept[S]] struct {
	declare func(*testing.T) S

	mu    sync.Mutex
	stage S
	tests int // that have not ended
}

// kept is a stage, or something on one.
type kept[S any] interface {
	comparable
	Keep(t testing.TB)
	join(t *testing.T, other S) // be whatever the other one is declared to be, too
}

var (
	// secured has all of the application, and a caller who is let in everywhere.
	secured = &shared[*stage]{declare: func(t *testing.T) *stage { return newStage(t, "secured", nil) }}
	// visited has users who come by the gateways, and a database behind the backend.
	visited = &shared[*stage]{declare: func(t *testing.T) *stage { return newStage(t, "visited", nil) }}
	// takenBack is where a version of which half the answers are errors is rolled back.
	takenBack = &shared[*rollout]{declare: func(t *testing.T) *rollout { return newRollout(t, "errors") }}
)

// with is the stage of a specification: its own, or the shared one, which gets what any of
// them wants. Each calls it before spec.Run, so that all have done so when it is built: go
// test lets no parallel test go on before the others have begun.
func (c *shared[S]) with(t *testing.T, own S) S {
	t.Helper()
	if spec.SeedsFaults(t) {
		return own
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var none S
	if c.stage == none {
		c.stage = c.declare(t)
	} else {
		c.stage.Keep(t)
	}
	c.tests++
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.tests--; c.tests == 0 {
			c.stage = none // with -count the tests come again
		}
	})
	c.stage.join(t, own)
	return c.stage
}

// keys are those of a specification that wants the stage for itself as well, where others
// prove on it.
func (s *stage) keys(own ...string) []string {
	if s.shared {
		own = append(own, s.Name())
	}
	return own
}

func (s *stage) join(t *testing.T, other *stage) {
	t.Helper()
	s.shared = true
	s.values = platform.Merged(s.values, other.values)
	s.spans = s.spans || other.spans
	s.preparations = append(s.preparations, other.preparations...)
	for _, account := range other.admitted {
		s.admitting(account)
	}
	for _, c := range other.callers {
		at := slices.IndexFunc(s.callers, func(of caller) bool { return of.Name == c.Name })
		switch {
		case at < 0:
			s.callers = append(s.callers, c)
		case !reflect.DeepEqual(s.callers[at], c):
			t.Fatalf("caller %s of stage %s is another one in stage %s", c.Name, s.name, other.name)
		}
	}
}

func (r *rollout) join(t *testing.T, other *rollout) {
	t.Helper()
	r.stage.join(t, other.stage)
}
