package spec

import (
	"strings"
	"testing"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/redact"
)

// Reasons of verdicts, as they stand in the journal beside its own.
const (
	reasonInvalid      = "not a valid specification"
	reasonNoVerdicts   = "others have no verdict"
	reasonNoPlace      = "no environment"
	reasonNoLease      = "no lease"
	reasonNothingSeen  = "nothing was observed"
	reasonProofBroken  = "the proof broke"
	reasonProofSlow    = "the proof did not end in time"
	reasonNotRestored  = "not restored"
	reasonSurvived     = "a seeded fault survived"
	reasonFalseAlarm   = "a harmless change raised a false alarm"
	reasonVoid         = "a counter-proof is void"
	reasonCut          = "the run was cut short"
	reasonReplaced     = "what it needs was replaced meanwhile"
	componentReadiness = "component %s not ready"
	componentAbsence   = "component %s is not there"
)

// known are the beginnings of reasons that are known before the run and that no
// run can overcome: only they skip a test. The first four are those that
// helpers/report accepts without changing its exit code.
var known = []string{journal.NotBuiltYet, journal.NoFalcoEngine, journal.GivenCluster, journal.Waived, journal.AboveCeiling, journal.OutsideRadius, journal.CounterProofsOff}

func isKnown(reason string) bool {
	for _, k := range known {
		if strings.HasPrefix(reason, k) {
			return true
		}
	}
	return false
}

// passes says whether a verdict leaves its Go test, passed or skipped, without an error.
func passes(r journal.Result) bool {
	return r.Outcome == journal.Proved || r.Outcome == journal.Inconclusive && isKnown(r.Reason)
}

func inconclusive(reason, detail string) journal.Result {
	return journal.Result{Outcome: journal.Inconclusive, Reason: reason, Detail: detail}
}

// conclude gives the Go test its outcome.
func conclude(t *testing.T, id string, r journal.Result) {
	t.Helper()
	text := id + " " + string(r.Outcome)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	if r.Detail != "" {
		text += "\n" + r.Detail
	}
	text = redact.Text(text) // logs of CI are read by many
	switch {
	case r.Outcome == journal.Proved:
		t.Log(text)
	case passes(r):
		t.Skip(text)
	default:
		t.Error(text)
	}
}
