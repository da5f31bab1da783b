package certificate

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestGather(t *testing.T) {
	c, now := gathered(t)
	p := c.Predicate
	assert.Equal(t, "20261124-120000-4711", p.Run)
	assert.Equal(t, []any{commit, "kind", 60.0, attestation.Given}, []any{p.Commit, p.Profile, p.TimeScale, p.Key})
	assert.Equal(t, []Environment{{"kind-proving-ground", "5c1f0a7d9e21", "v1.37.2", 3}}, p.Environments)
	assert.Equal(t, journal.Backup{Name: "docuthinker-20261124-120000", Digest: backupDigest}, p.Backup)
	assert.Equal(t, Figure{journal.Objective{Target: 120, Runs: []float64{48.2, 41.7, 63.4}, TimeScale: 1}, 48.2, 63.4}, p.RTO, "of the baseline, not of a fault")
	assert.Equal(t, Figure{journal.Objective{Target: 60, Runs: []float64{31.5, 44, 38.25}, TimeScale: 60}, 38.25, 44}, p.RPO)
	assert.Equal(t, journal.Rows{Acknowledged: 12840, Recovered: 12790, After: 50}, p.Rows)
	require.Len(t, p.Clauses, 8)
	assert.Equal(t, "Daily and hourly schedules exist, fire, and expire by their TTL", p.Clauses[1].Text, "in the catalogue's words")
	for i, clause := range p.Clauses {
		clause.Text = ""
		assert.Equal(t, CertifiedClause{ID: required[i], Suite: "dr", Test: "Test" + required[i], Verdict: journal.Proved, Killed: 2, Faults: 2, Spared: 1}, clause)
	}
	assert.Equal(t, now, p.IssuedAt)
	assert.Equal(t, quarter(p.EndedAt), p.ExpiresAt, "of what was proved, however late it is issued")
	sum := sha256.Sum256([]byte(lock))
	assert.Equal(t, []attestation.Subject{
		{Name: "backup/docuthinker-20261124-120000", SHA256: strings.TrimPrefix(backupDigest, "sha256:")},
		{Name: "images.lock", SHA256: hex.EncodeToString(sum[:])},
		{Name: "docker.io/library/postgres:15", SHA256: strings.Repeat("a", 64)},
		{Name: "docker.io/velero/velero:v1.18.0", SHA256: strings.Repeat("b", 64)},
	}, c.Subjects, "what ran, and not what is only in the lock")
}

func TestGatherRefuses(t *testing.T) {
	verdict := func(o journal.Outcome, reason string) change {
		return with(journal.Verdict, "DR-003", func(e *journal.Entry) { e.Result = &journal.Result{Outcome: o, Reason: reason} })
	}
	trial := func(o journal.TrialOutcome, why string) change {
		return with(journal.CounterProof, "DR-007", func(e *journal.Entry) { e.Trial.Outcome, e.Trial.Why = o, why })
	}
	run := func(edit func(*journal.Run)) change {
		return with(journal.RunStart, "", func(e *journal.Entry) { edit(e.Start) })
	}
	again := func(edit func(*journal.Run)) change {
		return func(all []journal.Entry) []journal.Entry {
			first := slices.IndexFunc(all, func(e journal.Entry) bool { return e.Start != nil })
			other := *all[first].Start
			edit(&other)
			return slices.Insert(all, first, journal.Entry{Kind: journal.RunStart, Start: &other})
		}
	}
	platform := func(edit func(*journal.Platform)) change {
		return with(journal.Environment, "", func(e *journal.Entry) { edit(e.Platform) })
	}
	rto := func(o journal.Objective) change {
		return evidence("DR-003", func(r *journal.Recovery) { r.RTO = &o })
	}
	rows := func(r journal.Rows) change {
		return evidence("DR-004", func(all *journal.Recovery) { all.Rows = &r })
	}
	const none = "no observation in the baseline of DR-001…008 has it"
	for name, c := range map[string]struct {
		change change
		says   string
	}{
		"a clause refuted":               {verdict(journal.Refuted, "row 7 is lost"), "DR-003: refuted: row 7 is lost"},
		"a clause inconclusive":          {verdict(journal.Inconclusive, "not built yet"), "DR-003: inconclusive: not built yet"},
		"a clause void":                  {verdict(journal.Void, "broken"), "DR-003: void: broken"},
		"a clause without a verdict":     {without(journal.Verdict, "DR-003"), "DR-003: inconclusive: the run ended before a verdict"},
		"a clause never planned":         {without(journal.Planned, "DR-003"), "DR-003: inconclusive: a verdict without a plan"},
		"a counter-proof survived":       {trial(journal.Survived, "it held"), `DR-007: the counter-proof "a byte flipped" came out as survived, want killed: it held`},
		"a counter-proof void":           {trial(journal.VoidTrial, "not in force"), `DR-007: the counter-proof "a byte flipped" came out as void, want killed: not in force`},
		"counter-proofs left out":        {without(journal.CounterProof, "DR-007"), "DR-007: these counter-proofs were not tried: a byte flipped, an object missing, a label added"},
		"a suite that was cut":           {with(journal.RunEnd, "", func(e *journal.Entry) { e.Text = journal.NotWhole + "no space left" }), "the suite dr did not end well: not whole: no space left"},
		"no commit":                      {run(func(r *journal.Run) { r.Commit = "" }), "the run recorded no commit"},
		"a commit that nobody has":       {run(func(r *journal.Run) { r.Commit += "-dirty" }), commit + "-dirty, which nobody else can look at: commit, then run it again"},
		"a process of another commit":    {again(func(r *journal.Run) { r.Commit = strings.Repeat("0", 40) }), "processes of the suites dr were started in different ways"},
		"no time scale":                  {run(func(r *journal.Run) { r.TimeScale = 0 }), "timeScale is 0, want 1 or more"},
		"no start":                       {without(journal.RunStart, ""), "the suite dr did not record how it was started"},
		"no environment":                 {without(journal.Environment, ""), "the run recorded no environment"},
		"no fingerprint":                 {platform(func(p *journal.Platform) { p.Hash = "" }), "an environment has no name or no fingerprint"},
		"no images":                      {platform(func(p *journal.Platform) { p.Images = nil }), "the run recorded no image"},
		"an image that is not locked":    {platform(func(p *journal.Platform) { p.Images[0].Name = "docker.io/library/postgre:15" }), `images.lock does not know it, did you mean "docker.io/library/postgres:15"?`},
		"an image of another digest":     {platform(func(p *journal.Platform) { p.Images[0].Digest = backupDigest }), "postgres:15 ran as " + backupDigest + ", and images.lock says sha256:aaaa"},
		"no RTO":                         {evidence("DR-003", func(r *journal.Recovery) { r.RTO = nil }), "the run measured no RTO: " + none},
		"no RPO":                         {evidence("DR-004", func(r *journal.Recovery) { r.RPO = nil }), "the run measured no RPO: " + none},
		"no rows":                        {evidence("DR-004", func(r *journal.Recovery) { r.Rows = nil }), "the run measured no rows: " + none},
		"no backup":                      {evidence("DR-001", func(r *journal.Recovery) { r.Backup = nil }), "the run measured no backup: " + none},
		"figures outside of a baseline":  {with(journal.PhaseStart, "DR-003", func(e *journal.Entry) { e.Phase.Name = "install" }), "the run measured no RTO: " + none},
		"an RTO without a run":           {rto(journal.Objective{Target: 120, TimeScale: 1}), "RTO: no run measured it"},
		"an RTO missed by its worst run": {rto(journal.Objective{Target: 120, Runs: []float64{1, 1, 120.5}, TimeScale: 1}), "RTO: the worst of 3 runs took 120.5 s, and the target is 120 s"},
		"an RTO without a target":        {rto(journal.Objective{Runs: []float64{1}, TimeScale: 1}), "RTO: the target is 0 s, want more than 0"},
		"an RTO below nothing":           {rto(journal.Objective{Target: 9, Runs: []float64{-1}, TimeScale: 1}), "RTO: a run took -1 s"},
		"an RTO on a clock of its own":   {rto(journal.Objective{Target: 9, Runs: []float64{1}, TimeScale: 30}), "RTO: its clock is compressed ×30, want ×1 or ×60"},
		"an RTO twice":                   {evidence("DR-004", func(r *journal.Recovery) { r.RTO = &journal.Objective{Target: 9, Runs: []float64{1}, TimeScale: 1} }), "gives the RTO, which another one gave before"},
		"an RPO missed":                  {evidence("DR-004", func(r *journal.Recovery) { r.RPO.Target = 40 }), "RPO: the worst of 3 runs took 44 s, and the target is 40 s"},
		"a hole in the rows":             {rows(journal.Rows{Acknowledged: 100, Recovered: 90, After: 9}), "rows: 100 acknowledged, but 90 recovered and 9 newer than the last recovered one: 1 are lost"},
		"a row never acknowledged":       {rows(journal.Rows{Acknowledged: 100, Recovered: 101}), "-1 are lost or were never acknowledged"},
		"nothing read back":              {rows(journal.Rows{Acknowledged: 5, After: 5}), "rows: 0 recovered, 5 newer: nothing was read back"},
		"a digest that is none":          {evidence("DR-001", func(r *journal.Recovery) { r.Backup.Digest = "sha256:0" }), `the digest of the backup is "sha256:0"`},
		"a mistyped figure": {
			with(journal.Observation, "DR-003", func(e *journal.Entry) { e.Data = []byte(`{"certificate":{"rto":{"targetSecond":1}}}`) }),
			`DR-003: the observation "backup Completed": unknown key "rto.targetSecond", did you mean "targetSeconds"?`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			entries, torn := written(t, t.TempDir(), c.change(story()))
			got, err := Gather(entries, torn, clauses(t), []byte(lock), time.Now().Add(time.Minute))
			var refused *Refused
			require.ErrorAs(t, err, &refused)
			assert.ErrorContains(t, err, c.says)
			assert.Nil(t, got)
		})
	}
}

func TestGatherTellsEveryReason(t *testing.T) {
	entries := without(journal.Environment, "")(without(journal.Verdict, "DR-008")(story()))
	read, _ := written(t, t.TempDir(), entries)
	_, err := Gather(read, 0, clauses(t), []byte(lock), time.Now())
	require.ErrorContains(t, err, "certificate refused: DR-008: inconclusive")
	require.ErrorContains(t, err, "\n  and: the run recorded no environment")
}

func TestGatherOfOddJournals(t *testing.T) {
	now := time.Now().Add(time.Minute)
	dir := t.TempDir()
	entries, _ := written(t, dir, story())

	_, err := Gather(nil, 0, clauses(t), []byte(lock), now)
	require.ErrorContains(t, err, "the journal is of 0 runs")
	require.ErrorContains(t, err, "DR-001: the run has no verdict of it")
	_, err = Gather(entries, 1, clauses(t), []byte(lock), now)
	require.ErrorContains(t, err, "1 torn lines")

	running, torn := written(t, t.TempDir(), without(journal.RunEnd, "")(story()))
	_, err = Gather(running, torn, clauses(t), []byte(lock), time.Now().Add(time.Minute))
	require.NoError(t, err, "DR-009 asks for the certificate of the run that it is in")
	_, err = Gather(entries, 0, nil, []byte(lock), now)
	require.ErrorContains(t, err, `DR-001: catalogue: no clause "DR-001"`)
	_, err = Gather(entries, 0, clauses(t), []byte(`[{"nam": "x"}]`), now)
	require.ErrorContains(t, err, `images.lock: json: unknown field "nam"`)
	_, err = Gather(entries, 0, clauses(t), []byte(lock), quarter(time.Now()).Add(time.Hour))
	require.ErrorContains(t, err, "expired at ", "an old run gets no new quarter")

	w, err := journal.Create(dir, "another", "policy", nil)
	require.NoError(t, err)
	require.NoError(t, w.Append(journal.Entry{Kind: journal.RunEnd}))
	require.NoError(t, w.Close())
	entries, _, err = journal.Read(dir)
	require.NoError(t, err)
	_, err = Gather(entries, 0, clauses(t), []byte(lock), now)
	require.ErrorContains(t, err, "the journal is of 2 runs (20261124-120000-4711, another), want one")
}

func TestLoad(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	written(t, dir, story())
	now := time.Now().Add(time.Minute)
	_, err := Load(root, filepath.Join(dir, "none"), now)
	require.ErrorContains(t, err, "is it the directory of a run?")
	_, err = Load(root, dir, now)
	require.ErrorContains(t, err, "no docs/specifications.md")
	catalogue, err := os.ReadFile("../../docs/specifications.md")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(root, "docs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "specifications.md"), catalogue, 0o600))
	_, err = Load(root, dir, now)
	require.ErrorContains(t, err, "images.lock: no such file")
	require.NoError(t, os.WriteFile(filepath.Join(root, "images.lock"), []byte(lock), 0o600))
	c, err := Load(root, dir, now)
	require.NoError(t, err)
	require.Len(t, c.Subjects, 4)
}

func TestQuarter(t *testing.T) {
	for from, want := range map[string]string{
		"2026-11-24": "2027-02-24", "2026-11-30": "2027-02-28", "2027-11-30": "2028-02-29",
		"2026-08-31": "2026-11-30", "2026-12-31": "2027-03-31", "2026-01-01": "2026-04-01",
	} {
		at, err := time.Parse(time.DateOnly, from)
		require.NoError(t, err)
		assert.Equal(t, want, quarter(at).Format(time.DateOnly), from)
	}
}
