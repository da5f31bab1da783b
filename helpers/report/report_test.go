package report

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

func clauses(t *testing.T) []catalogue.Clause {
	t.Helper()
	list, err := catalogue.Find(".")
	require.NoError(t, err)
	return list
}

// proved is a whole run of one proved clause, before its end.
func proved(counterProofs bool) *tape {
	return newTape("policy").start(counterProofs).plan("POL-001", "privileged containers", "fault").
		trial("POL-001", "fault", journal.Killed, "admitted").verdict("POL-001", journal.Proved, "", "", 2)
}

func TestExitCode(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []journal.Entry
		torn    int
		exit    int
		says    string
	}{
		"empty journal":     {nil, 0, 2, "nothing was planned"},
		"only a start":      {newTape("policy").start(true).end("").entries, 0, 2, "nothing was planned"},
		"proved":            {proved(true).end("").entries, 0, 0, "1 of 1 clause proved."},
		"no start recorded": {proved(true).entries[1:], 0, 0, "1 of 1 clause proved."},
		"torn line":         {proved(true).end("").entries, 1, 2, "1 torn line in the journal"},
		"never ended":       {proved(true).entries, 0, 2, "1 suite cut short"},
		"cut short":         {proved(true).end("interrupted").entries, 0, 2, "1 suite cut short"},
		"killed before a verdict": {
			proved(true).plan("POL-002", "x").entries, 0, 2, "1 inconclusive; 1 suite cut short; 1 of 2 clauses proved.",
		},
		"refuted": {
			proved(true).plan("POL-002", "x").verdict("POL-002", journal.Refuted, "r", "", 1).end("").entries, 0, 1, "1 refuted",
		},
		"refuted and killed": {
			proved(true).plan("POL-002", "x").verdict("POL-002", journal.Refuted, "r", "", 1).entries, 0, 1, "1 refuted; 1 suite cut short",
		},
		"not whole, cut, and then again": {slices.Concat(proved(true).end("not whole: no space left").entries, newTape("policy").start(true).end("cut short").entries, newTape("policy").start(true).end("").entries), 0, 2, "1 suite cut short"},
		"not whole, and then again":      {append(proved(true).end("not whole: no space left").entries, newTape("policy").start(true).end("").entries...), 0, 2, "1 suite cut short"},
		"survivor":                       {proved(true).trial("POL-001", "b", journal.Survived, "").end("").entries, 0, 1, "1 seeded fault survived"},
		"false alarm":                    {proved(true).trial("POL-001", "b", journal.FalseAlarm, "").end("").entries, 0, 1, "1 false alarm"},
		"spared":                         {proved(true).trial("POL-001", "b", journal.Spared, "").end("").entries, 0, 0, "1 of 1 clause proved."},
		"void trial":                     {proved(true).trial("POL-001", "b", journal.VoidTrial, "").end("").entries, 0, 2, "1 void trial"},
		"unknown trial":                  {proved(true).trial("POL-001", "b", "odd", "").end("").entries, 0, 2, "1 void trial"},
		"void":                           {proved(true).plan("POL-002", "x").verdict("POL-002", journal.Void, "r", "", 1).end("").entries, 0, 2, "1 void"},
		"unknown":                        {proved(true).plan("POL-002", "x").verdict("POL-002", "great", "", "", 1).end("").entries, 0, 2, "1 void"},
		"accepted alone":                 {newTape("policy").start(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "no Falco engine", "", 0).end("").entries, 0, 2, "no clause was proved"},
		"accepted besides": {
			proved(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "no Falco engine: no BTF", "", 0).
				plan("POL-026", "x").verdict("POL-026", journal.Inconclusive, "not built yet", "", 0).end("").entries,
			0, 0, "1 of 3 clauses proved; 2 inconclusive for a reason known beforehand.",
		},
		"waived besides": {
			proved(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "no Falco engine: no BTF", "", 0).
				plan("POL-026", "x").verdict("POL-026", journal.Inconclusive, "waived until 2099-01-31: the door is being painted", "", 0).end("").entries,
			0, 0, "1 of 3 clauses proved; 2 inconclusive for a reason known beforehand, 1 of them waived.",
		},
		"given besides": {
			proved(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "the cluster is given", "it makes one beside", 0).end("").entries,
			0, 0, "1 of 2 clauses proved; 1 inconclusive for a reason known beforehand.",
		},
		"waived alone": {newTape("policy").start(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "waived until 2099-01-31: painting", "", 0).end("").entries, 0, 2, "no clause was proved"},
		"not accepted": {
			proved(true).plan("POL-025", "x").verdict("POL-025", journal.Inconclusive, "was not built yet", "", 0).end("").entries, 0, 2, "1 inconclusive",
		},
		"accepted words in a void": {
			proved(true).plan("POL-025", "x").verdict("POL-025", journal.Void, "not built yet", "", 0).end("").entries, 0, 2, "1 void",
		},
		"verdict without a plan": {
			newTape("policy").start(false).verdict("POL-001", journal.Proved, "", "", 1).end("").entries, 0, 2, "nothing was planned",
		},
		"no counter-proof in a run with them": {
			newTape("policy").start(true).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1).end("").entries, 0, 2, "no clause was proved",
		},
		"no counter-proof in a run without them": {
			newTape("policy").start(false).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1).end("").entries,
			0, 0, "1 of 1 clause proved; 1 of them not challenged",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := Build(tc.entries, tc.torn, nil)
			assert.Equal(t, tc.exit, r.ExitCode(), r.Headline)
			assert.Contains(t, r.Headline, tc.says)
			assert.Equal(t, tc.exit == 0, r.Verdict == journal.Proved)
			render(t, r)
		})
	}
}

func TestKilledRun(t *testing.T) {
	run := proved(true).plan("POL-002", "x").plan("POL-003", "y")
	run.add(journal.Entry{Kind: journal.PhaseStart, ID: "POL-002", Phase: &journal.Phase{Name: "lease", Wait: "another run"}}).pass(4).saw("", "last words", nil)
	s := Build(run.entries, 1, nil).Suites[0]
	require.Len(t, s.Clauses, 3)
	c := s.Clauses[1]
	assert.Equal(t, journal.Inconclusive, c.Outcome)
	assert.Equal(t, "the run ended before a verdict", c.Reason)
	assert.Equal(t, `last seen in phase "lease", waiting for another run since 09:00:06`, c.Detail)
	assert.False(t, c.Accepted)
	assert.True(t, c.Phases[0].Open)
	assert.InDelta(t, 5, c.Phases[0].Seconds, 1e-9)
	assert.Equal(t, "it had not begun", s.Clauses[2].Detail)
	assert.NotEmpty(t, s.Cut)
}

func TestSeveralVerdicts(t *testing.T) {
	for name, tc := range map[string]struct {
		run  *tape
		want journal.Outcome
	}{
		"refuted, then proved": {newTape("s").start(false).plan("POL-001", "x").verdict("POL-001", journal.Refuted, "", "", 1).
			start(false).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1), journal.Refuted},
		"killed, then proved":       {newTape("s").start(false).plan("POL-001", "x").start(false).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1), journal.Proved},
		"proved, then killed":       {newTape("s").start(false).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1).start(false).plan("POL-001", "x"), journal.Inconclusive},
		"planned twice, ended once": {newTape("s").start(false).plan("POL-001", "x").plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1), journal.Inconclusive},
		"proved, then void":         {newTape("s").start(false).plan("POL-001", "x").verdict("POL-001", journal.Proved, "", "", 1).verdict("POL-001", journal.Void, "", "", 1), journal.Void},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, tc.want, Build(tc.run.end("").entries, 0, nil).Suites[0].Clauses[0].Outcome)
		})
	}
}

func TestKillScore(t *testing.T) {
	r := Build(sample(), 0, nil)
	assert.Equal(t, Totals{
		Planned: 15, Proved: 7, Refuted: 1, Inconclusive: 6, Void: 1, Accepted: 3,
		Killed: 12, Survived: 1, VoidFaults: 1, Spared: 6, KillScore: r.Totals.KillScore,
	}, r.Totals)
	assert.InDelta(t, 12.0/14, *r.Totals.KillScore, 1e-9)
	assert.Nil(t, Build(nil, 0, nil).Totals.KillScore, "no fault seeded is not a score of 0")
	assert.Equal(t, "99 %", percent(0.999))
	assert.Equal(t, "100 %", percent(1))
}

func TestTrace(t *testing.T) {
	run := proved(true).plan("POL-02", "x").end("").entries
	other := newTape("mesh").start(false).plan("POL-001", "privileged containers").verdict("POL-001", journal.Inconclusive, "not built yet", "", 0).end("")
	got := Build(append(run, other.entries...), 0, clauses(t)).Trace
	assert.Equal(t, 99, got.Catalogued)
	assert.Len(t, got.Unproven, 98)
	assert.Equal(t, []Orphan{{ID: "POL-02", Text: "x", Suites: []string{"policy"}, Near: "POL-002, POL-012, POL-020"}}, got.Unknown)
	require.Len(t, got.Shared, 1)
	assert.Equal(t, []string{"policy", "mesh"}, got.Shared[0].Suites)
	assert.Contains(t, got.Areas, Area{Name: "policy", Catalogued: 28, Specified: 1, Proved: 0})

	none := Build(run, 0, nil).Trace
	assert.Zero(t, none.Catalogued)
	assert.Empty(t, none.Unknown, "without a catalogue nothing is unknown")
}

func TestPhases(t *testing.T) {
	run := newTape("s").start(false).plan("POL-001", "x").phase("POL-001", "baseline", "", 5)
	run.add(journal.Entry{Kind: journal.PhaseEnd, ID: "POL-001", Phase: &journal.Phase{Name: "restore", Seconds: 2}})
	run.add(journal.Entry{Kind: journal.PhaseEnd, ID: "POL-001"})
	r := Build(run.end("").entries, 0, nil)
	got := r.Suites[0].Clauses[0].Phases
	require.Len(t, got, 2)
	assert.Equal(t, "baseline 5 restore 2", got[0].Name+" "+clock(got[0].Seconds)[:1]+" "+got[1].Name+" "+clock(got[1].Seconds)[:1])
	assert.Equal(t, []string{"s: phase-end entry without a phase"}, r.Notices)
}

func TestLoad(t *testing.T) {
	_, err := Load(t.TempDir())
	require.ErrorContains(t, err, "is it the directory of a run?")

	dir := t.TempDir()
	w, err := journal.Create(dir, "r", "policy", nil)
	require.NoError(t, err)
	for _, e := range proved(true).end("").entries {
		require.NoError(t, w.Append(e))
	}
	require.NoError(t, w.Close())
	r, err := Load(dir)
	require.NoError(t, err)
	assert.Zero(t, r.ExitCode(), r.Headline)
	assert.Equal(t, 99, r.Trace.Catalogued)

	f, err := os.OpenFile(filepath.Join(dir, "policy.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"time":"20`)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	r, err = Load(dir)
	require.NoError(t, err)
	assert.Equal(t, 1, r.Torn)
	assert.Equal(t, 2, r.ExitCode())
	require.NoError(t, r.Write(dir))
	for _, name := range []string{HTMLFile, JSONFile, JUnitFile} {
		assert.FileExists(t, filepath.Join(dir, name))
	}
	left, err := filepath.Glob(filepath.Join(dir, ".report-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	again, err := Load(dir)
	require.NoError(t, err, "what Write leaves does not disturb the journal")
	assert.Equal(t, r, again)
	require.Error(t, r.Write(filepath.Join(dir, "absent")))
}

// Each suite installs components of its own, on one cluster.
func TestImagesOfAllSuites(t *testing.T) {
	on := func(suite string, images ...string) *tape {
		p := &journal.Platform{Cluster: "kind-ground", Hash: "91c0de"}
		for _, name := range images {
			p.Images = append(p.Images, journal.Image{Name: name, Digest: "sha256:" + name})
		}
		return proved(true).add(journal.Entry{Kind: journal.Environment, Platform: p}).as(suite)
	}
	chaos, dr := on("chaos", "node", "litmus", "istio"), on("dr", "node", "velero")
	r := Build(append(chaos.entries, dr.entries...), 0, clauses(t))
	require.Len(t, r.Environments, 1)
	var names []string
	for _, i := range r.Environments[0].Images {
		names = append(names, i.Name)
	}
	assert.Equal(t, []string{"node", "litmus", "istio", "velero"}, names)
	assert.Equal(t, []string{"chaos", "dr"}, r.Environments[0].Suites)

	for i := range dr.entries {
		if p := dr.entries[i].Platform; p != nil {
			p.ClusterUID = "another"
		}
	}
	assert.Len(t, Build(append(chaos.entries, dr.entries...), 0, clauses(t)).Environments, 2, "a cluster's namesake is another cluster")
}
