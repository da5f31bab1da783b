package spec

import (
	"context"
	"fmt"
	"path"
	"slices"
	"sync"
	"testing"
)

// progress is how far a specification has come, for those that go by its evidence.
type progress struct {
	waits bool // for others' evidence
	begun bool // has one of the -parallel places, or had one
	ended chan struct{}
	once  sync.Once // with -count it ends again
}

// turns are the IDs that First and Last were given.
var turns struct{ first, last []string }

// First names specifications of the suite that get one of the -parallel places before all
// others, before Main is called: those that take longest, and wait for most of it. Begun last
// they would go on with nothing beside them.
func First(ids ...string) { turns.first = ids }

// Last names those that get a place after all others, before Main is called: those that want
// the exclusive lease. While they wait for it nobody gets a shared one.
func Last(ids ...string) { turns.last = ids }

// before are those that get a place before a specification. Nobody waits for one that itself
// waits for others' evidence. What belongs to another test is left out, for go test begins no parallel
// test before the sub-tests of one that is not parallel have ended.
func (h *harness) before(s *Specification) []string {
	ids := slices.Clone(s.After)
	if slices.Contains(turns.first, s.ID) {
		return ids
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, other := range h.progress {
		switch {
		case other.waits, slices.Contains(turns.last, id), path.Dir(h.tests[id]) != path.Dir(h.tests[s.ID]):
		case slices.Contains(turns.first, id), slices.Contains(turns.last, s.ID):
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *progress) end() {
	s.begun = true
	s.once.Do(func() { close(s.ended) })
}

func (h *harness) begin(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress[id].begun = true
}

// begun says whether all of ids that were selected have begun.
func (h *harness) begun(ids []string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if s := h.progress[id]; s != nil && !s.begun {
			return false
		}
	}
	return true
}

// after waits for the verdicts of those of ids that were selected.
func (h *harness) after(ctx context.Context, ids []string) error {
	for _, id := range ids {
		h.mu.Lock()
		s := h.progress[id]
		h.mu.Unlock()
		if s == nil {
			continue
		}
		select {
		case <-s.ended:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the verdict of %s: %w", id, context.Cause(ctx))
		}
	}
	return nil
}

// lineUp calls carryOut in one of the -parallel places once all of ids have one,
// or had one: who waits for them must not keep them out. A test within gives its
// parent's place back and asks for one behind all who wait already.
func (h *harness) lineUp(t *testing.T, ids []string, carryOut func(*testing.T)) {
	if h.begun(ids) || h.ctx.Err() != nil { // a run that is cut short waits for nobody
		carryOut(t)
		return
	}
	t.Run("after", func(t *testing.T) {
		t.Parallel()
		h.lineUp(t, ids, carryOut)
	})
}
