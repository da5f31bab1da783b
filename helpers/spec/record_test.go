package spec

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBench(t)
		end := s.h.record.phase("POL-001", "lease", "the shared lease")
		time.Sleep(1500 * time.Millisecond) // of the bubble's clock
		end()
		end()
		require.Equal(t, []journal.Entry{
			{Kind: journal.PhaseStart, ID: "POL-001", Phase: &journal.Phase{Name: "lease", Wait: "the shared lease"}},
			{Kind: journal.PhaseEnd, ID: "POL-001", Phase: &journal.Phase{Name: "lease", Wait: "the shared lease", Seconds: 1.5}},
		}, s.entries, "it ends once")
	})
}

// The timeline of a specification, as the journal keeps it.
func TestPhasesOfASpecification(t *testing.T) {
	s := newBench(t)
	spec := s.of(s.look, s.opens("fault"))
	spec.Keys = []string{"door"}
	require.Equal(t, journal.Proved, s.run(t, spec).Outcome)
	var spans []string
	for _, e := range s.entries {
		require.Equal(t, "POL-001", e.ID)
		switch e.Kind {
		case journal.PhaseStart, journal.PhaseEnd:
			spans = append(spans, string(e.Kind)+" "+e.Phase.Name+" "+e.Phase.Wait)
		case journal.Observation:
			spans = append(spans, e.Text)
		default:
			spans = append(spans, string(e.Kind))
		}
	}
	require.Equal(t, []string{
		"planned",
		"phase-start lease the shared lease", "phase-end lease the shared lease",
		"phase-start baseline ", "looked at the door", "phase-end baseline ",
		"phase-start lease the exclusive lease", "phase-end lease the exclusive lease",
		"phase-start counter-proof: fault ", `under "fault": looked at the door`, "counter-proof", "phase-end counter-proof: fault ",
		"phase-start restore ", "restored: looked at the door", "phase-end restore ",
		"verdict",
	}, spans)
}

// A run whose journal could not be written is no evidence.
func TestTheFirstErrorOfTheJournalFailsTheSuite(t *testing.T) {
	s := newBench(t)
	write := s.h.record.append
	full := []error{errors.New("no space left"), errors.New("another")}
	s.h.record.append = func(e journal.Entry) error {
		if e.Kind != journal.Observation {
			return write(e)
		}
		err := full[0]
		full = full[1:]
		return err
	}
	require.NoError(t, s.h.record.failure())
	s.h.record.observation("POL-001", "one", nil)
	s.h.record.observation("POL-001", "two", json.RawMessage("1"))
	require.EqualError(t, s.h.record.failure(), "no space left")
	s.h.settle("POL-001", journal.Result{Outcome: journal.Proved})
	require.Equal(t, exitFailed, s.h.finish(0, nil, func() error { return nil }))
}
