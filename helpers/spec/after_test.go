package spec

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestAfterOthers(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	for _, parallel := range []string{"1", "4"} {
		run := "at-once-" + parallel
		require.Equal(t, 0, s.start(t, "one after others", run, "-counterproof", "-test.parallel="+parallel).wait())
		r, entries := s.read(t, run)
		require.Equal(t, journal.Proved, r.Verdict, r.Headline)
		at := func(kind journal.Kind, id string) int {
			return slices.IndexFunc(entries, func(e journal.Entry) bool { return e.Kind == kind && e.ID == id })
		}
		first := at(journal.PhaseStart, "POL-003")
		require.Greater(t, first, at(journal.Verdict, "POL-001"))
		require.Greater(t, first, at(journal.Verdict, "POL-002"))
	}
}

func TestFirstAndLast(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	for _, parallel := range []string{"1", "3"} {
		run := "at-once-" + parallel
		require.Equal(t, 0, s.start(t, "first and last", run, "-counterproof", "-test.parallel="+parallel).wait())
		_, entries := s.read(t, run)
		var begun []string
		for _, e := range entries {
			if e.Kind == journal.PhaseStart && e.ID != "" && !slices.Contains(begun, e.ID) {
				begun = append(begun, e.ID)
			}
		}
		require.Len(t, begun, 7)
		require.Equal(t, "POL-008", begun[0])
		begun = begun[1:]
		if parallel == "1" { // else a place is not yet a begin
			require.Equal(t, "POL-004", begun[0])
			require.ElementsMatch(t, []string{"POL-003", "POL-005"}, begun[1:3])
			require.ElementsMatch(t, []string{"POL-001", "POL-002", "POL-006"}, begun[3:])
			require.Greater(t, slices.Index(begun, "POL-006"), slices.Index(begun, "POL-001"))
		}
	}
}

func TestAloneLastOfASuite(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	require.Equal(t, 0, s.start(t, "alone last", "r1", "-counterproof").wait())
	_, entries := s.read(t, "r1")
	fault := slices.IndexFunc(entries, func(e journal.Entry) bool {
		return e.Kind == journal.CounterProof && e.ID == "POL-002" && e.Trial.Name == "the door is opened again"
	})
	baseline := slices.IndexFunc(entries, func(e journal.Entry) bool {
		return e.Kind == journal.PhaseStart && e.ID == "POL-001" && e.Phase.Name == "baseline"
	})
	require.Positive(t, fault)
	require.Greater(t, baseline, fault, "the other wanted less all the time, also when it let others go first")
}

func TestAfterOthersWantsTheirCounterProofs(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	require.Equal(t, 0, s.start(t, "one after others", "r1").wait())
	r, _ := s.read(t, "r1")
	c := clauseOf(t, r, "POL-003")
	require.Equal(t, journal.Result{Outcome: journal.Inconclusive, Reason: "counter-proofs are off"}, journal.Result{Outcome: c.Outcome, Reason: c.Reason})
}
