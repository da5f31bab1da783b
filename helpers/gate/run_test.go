package gate

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/evidence"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// candidate is what all runs are of.
var candidate = Candidate{Commit: commit, Cluster: cluster, Images: map[string]string{store: digest, backend + ":1.0.0": digest}}

// run is evidence of a run on staging, a week after the one before it, that proved all that
// is asked for, but for what a change makes of its entries.
func run(t *testing.T, id string, change func([]journal.Entry) []journal.Entry) Given {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "specifications.md"), []byte(listed), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "images.lock"), []byte("[]"), 0o600))
	entries := []journal.Entry{
		{Kind: journal.RunStart, Start: &journal.Run{Profile: "staging", TimeScale: 1, CounterProofs: true, Commit: commit}},
		{Kind: journal.Environment, Platform: &journal.Platform{Cluster: "staging", ClusterUID: cluster, Hash: "5c1f", Images: []journal.Image{{Name: store, Digest: digest}, {Name: backend + ":1.0.0", Digest: digest}}}},
	}
	for _, clause := range []string{"MSH-001", "POL-001", "POL-002"} {
		entries = append(entries,
			journal.Entry{Kind: journal.Planned, ID: clause, Plan: &journal.Plan{Test: "T", CounterProofs: []string{"gone"}}},
			journal.Entry{Kind: journal.CounterProof, ID: clause, Trial: &journal.Trial{Name: "gone", Outcome: journal.Killed}},
			journal.Entry{Kind: journal.Verdict, ID: clause, Result: &journal.Result{Outcome: journal.Proved}})
	}
	entries = append(entries, journal.Entry{Kind: journal.RunEnd})
	if change != nil {
		entries = change(entries)
	}
	w, err := journal.Create(filepath.Join(root, "run"), id, "policy", nil)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, w.Append(e))
	}
	require.NoError(t, w.Close())
	e, err := evidence.Gather(root, filepath.Join(root, "run"))
	require.NoError(t, err)
	e.Run.Previous = &evidence.Link{Run: "last week", SHA256: "00", EndedAt: e.Run.EndedAt.Add(-7 * 24 * time.Hour)}
	return Given{From: id + ".json", Evidence: e, Signed: true, Statement: []byte(id)}
}

// ends gives the end of the journal a text.
func ends(text string) func([]journal.Entry) []journal.Entry {
	return with(func(e *journal.Entry) {
		if e.Kind == journal.RunEnd {
			e.Text = text
		}
	})
}

// with changes each entry.
func with(change func(*journal.Entry)) func([]journal.Entry) []journal.Entry {
	return func(all []journal.Entry) []journal.Entry {
		for i := range all {
			change(&all[i])
		}
		return all
	}
}

func verdictOf(id string, outcome journal.Outcome, reason string) func([]journal.Entry) []journal.Entry {
	return with(func(e *journal.Entry) {
		if e.Kind == journal.Verdict && e.ID == id {
			e.Result = &journal.Result{Outcome: outcome, Reason: reason}
		}
	})
}

func trialOf(id string, outcome journal.TrialOutcome) func([]journal.Entry) []journal.Entry {
	return with(func(e *journal.Entry) {
		if e.Kind == journal.CounterProof && e.ID == id {
			e.Trial = &journal.Trial{Name: "gone", Outcome: outcome}
		}
	})
}

func start(change func(*journal.Run)) func([]journal.Entry) []journal.Entry {
	return with(func(e *journal.Entry) {
		if e.Start != nil {
			change(e.Start)
		}
	})
}

func platform(change func(*journal.Platform)) func([]journal.Entry) []journal.Entry {
	return with(func(e *journal.Entry) {
		if e.Platform != nil {
			var own journal.Platform
			data, _ := json.Marshal(e.Platform)
			_ = json.Unmarshal(data, &own)
			change(&own)
			e.Platform = &own
		}
	})
}

// atTheEnd has the cluster, which is another's, described once more at the end.
func atTheEnd(change func(*journal.Platform)) func([]journal.Entry) []journal.Entry {
	return func(all []journal.Entry) []journal.Entry {
		again := platform(func(p *journal.Platform) {
			change(p)
			p.Hash = fmt.Sprint(p.Images) // as of a given cluster
		})(slices.Clone(all[1:2]))
		return slices.Insert(all, len(all)-1, again...)
	}
}

// without leaves all out that a run wrote down of a clause.
func without(id string) func([]journal.Entry) []journal.Entry {
	return func(all []journal.Entry) []journal.Entry {
		return slices.DeleteFunc(all, func(e journal.Entry) bool { return e.ID == id })
	}
}

func withoutTrials(all []journal.Entry) (kept []journal.Entry) {
	for _, e := range all {
		if e.Start != nil {
			e.Start.CounterProofs = false
		}
		if e.Kind != journal.CounterProof {
			kept = append(kept, e)
		}
	}
	return kept
}
