package certificate

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

const (
	lock = `[
  {"name": "docker.io/library/postgres:15", "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "source": "built"},
  {"name": "docker.io/velero/velero:v1.18.0", "digest": "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "source": "built", "pin": "module@v1 h1:x="},
  {"name": "docker.io/docuthinker/backend:1.0.0", "digest": "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", "source": "built"}
]
`
	backupDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	commit       = "30477d6bdbf7db9764bdaa89af84549320f9eb1c"
)

// story is a run of the DR suite that is worth a certificate, as the harness
// writes it, with figures under a seeded fault too, which are none.
func story() []journal.Entry {
	images := []journal.Image{
		{Name: "docker.io/library/postgres:15", Digest: "sha256:" + strings.Repeat("a", 64), Source: "built"},
		{Name: "docker.io/velero/velero:v1.18.0", Digest: "sha256:" + strings.Repeat("b", 64), Source: "built"},
	}
	entries := []journal.Entry{
		{Kind: journal.RunStart, Start: &journal.Run{Profile: "kind", RiskCeiling: "destructive", TimeScale: 60, CounterProofs: true, Commit: commit, Go: "go1.26.8"}},
		{Kind: journal.Environment, Platform: &journal.Platform{
			Cluster: "kind-proving-ground", Hash: "5c1f0a7d9e21", Kubernetes: "v1.37.2", Nodes: make([]journal.Node, 3), Images: images,
		}},
	}
	seen := map[string]journal.Recovery{
		"DR-001": {Backup: &journal.Backup{Name: "docuthinker-20261124-120000", Digest: backupDigest}},
		"DR-003": {RTO: &journal.Objective{Target: 120, Runs: []float64{48.2, 41.7, 63.4}, TimeScale: 1}},
		"DR-004": {
			RPO:  &journal.Objective{Target: 60, Runs: []float64{31.5, 44, 38.25}, TimeScale: 60},
			Rows: &journal.Rows{Acknowledged: 12840, Recovered: 12790, After: 50},
		},
	}
	for _, id := range required {
		entries = append(entries, journal.Entry{Kind: journal.Planned, ID: id, Plan: &journal.Plan{
			Clause: id, Risk: "destructive", Test: "Test" + id, CounterProofs: []string{"a byte flipped", "an object missing", "a label added"},
		}})
	}
	for _, id := range required {
		phase := func(name string, inside ...journal.Entry) {
			entries = append(entries, journal.Entry{Kind: journal.PhaseStart, ID: id, Phase: &journal.Phase{Name: name}})
			entries = append(entries, inside...)
			entries = append(entries, journal.Entry{Kind: journal.PhaseEnd, ID: id, Phase: &journal.Phase{Name: name, Seconds: 1}})
		}
		saw := func(r journal.Recovery) journal.Entry {
			return journal.Entry{Kind: journal.Observation, ID: id, Text: "restored and read back", Data: data(journal.Evidence{Certificate: r})}
		}
		phase("baseline", journal.Entry{Kind: journal.Observation, ID: id, Text: "backup Completed", Data: data(map[string]int{"items": 73})}, saw(seen[id]))
		phase("counter-proof: a byte flipped", saw(journal.Recovery{RTO: &journal.Objective{Target: 120, Runs: []float64{9999}, TimeScale: 1}}))
		phase("restore", saw(seen[id]))
		for _, name := range []string{"a byte flipped", "an object missing"} {
			entries = append(entries, journal.Entry{Kind: journal.CounterProof, ID: id, Trial: &journal.Trial{Name: name, Outcome: journal.Killed, Why: "row 7: other content"}})
		}
		entries = append(entries,
			journal.Entry{Kind: journal.CounterProof, ID: id, Trial: &journal.Trial{Name: "a label added", Harmless: true, Outcome: journal.Spared}},
			journal.Entry{Kind: journal.Verdict, ID: id, Result: &journal.Result{Outcome: journal.Proved, Seconds: 40}})
	}
	return append(entries, journal.Entry{Kind: journal.RunEnd})
}

func data(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// change is one thing that is different in a story.
type change func([]journal.Entry) []journal.Entry

// with edits the first entry of a kind and clause.
func with(kind journal.Kind, id string, edit func(*journal.Entry)) change {
	return func(entries []journal.Entry) []journal.Entry {
		for i := range entries {
			if entries[i].Kind == kind && entries[i].ID == id {
				edit(&entries[i])
				return entries
			}
		}
		panic("the story has no " + string(kind) + " of " + id)
	}
}

// without leaves out every entry of a kind and clause.
func without(kind journal.Kind, id string) change {
	return func(entries []journal.Entry) []journal.Entry {
		return slices.DeleteFunc(entries, func(e journal.Entry) bool { return e.Kind == kind && e.ID == id })
	}
}

// evidence edits what the baseline of a clause gave.
func evidence(id string, edit func(*journal.Recovery)) change {
	return func(entries []journal.Entry) []journal.Entry {
		for i, e := range entries {
			var was journal.Evidence
			if e.Kind == journal.Observation && e.ID == id && strings.Contains(string(e.Data), `"certificate"`) {
				if err := json.Unmarshal(e.Data, &was); err != nil {
					panic(err)
				}
				edit(&was.Certificate)
				entries[i].Data = data(was)
				return entries
			}
		}
		panic("the story has no evidence of " + id)
	}
}

// written is a story through the journal's own writer and reader.
func written(t testing.TB, dir string, entries []journal.Entry) (read []journal.Entry, torn int) {
	t.Helper()
	w, err := journal.Create(dir, "20261124-120000-4711", "dr", nil)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, w.Append(e))
	}
	require.NoError(t, w.Close())
	read, torn, err = journal.Read(dir)
	require.NoError(t, err)
	return read, torn
}

func clauses(t testing.TB) []catalogue.Clause {
	t.Helper()
	known, err := catalogue.Find(".")
	require.NoError(t, err)
	return known
}

// gathered is the certificate of the story, a minute after the run.
func gathered(t testing.TB) (*Certificate, time.Time) {
	t.Helper()
	entries, torn := written(t, t.TempDir(), story())
	now := time.Now().UTC().Add(time.Minute).Truncate(time.Second)
	c, err := Gather(entries, torn, clauses(t), []byte(lock), now)
	require.NoError(t, err)
	return c, now
}
