package spec

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

func TestInvalidSpecifications(t *testing.T) {
	const name = "TestDoor"
	const noHarmless = "it has no harmless change: one that fails whatever is changed would look as able to fail as one that tells faults from changes"
	for what, c := range map[string]struct {
		change func(*bench, *Specification)
		says   string // the whole error
	}{
		"no ID":                   {func(_ *bench, s *Specification) { s.ID = "" }, `catalogue: no clause ""`},
		"an unknown ID":           {func(_ *bench, s *Specification) { s.ID = "POL-00" }, `catalogue: no clause "POL-00"; nearest: POL-001, POL-002, POL-003`},
		"an ID of nowhere":        {func(_ *bench, s *Specification) { s.ID = "nowhere" }, `catalogue: no clause "nowhere"`},
		"an ID of another suite":  {func(_ *bench, s *Specification) { s.ID = "MSH-001" }, "MSH-001 is of the suite mesh, not of policy"},
		"no risk":                 {func(_ *bench, s *Specification) { s.Risk = 0 }, "it has no Risk"},
		"a risk that is none":     {func(_ *bench, s *Specification) { s.Risk = Destructive + 1 }, "it has no Risk"},
		"no proof":                {func(_ *bench, s *Specification) { s.Prove = nil }, "it has no Prove"},
		"a timeout below 0":       {func(_ *bench, s *Specification) { s.Timeout = -1 }, "its Timeout is below 0"},
		"a need that is nil":      {func(_ *bench, s *Specification) { s.Needs = []Need{need{name: "wall"}, nil} }, "one of its Needs is nil"},
		"an empty key":            {func(_ *bench, s *Specification) { s.Keys = []string{"door", ""} }, `a key may be neither empty nor "cluster"; a fault that disturbs everyone is Alone`},
		"the key of everyone":     {func(_ *bench, s *Specification) { s.Keys = []string{"cluster"} }, `a key may be neither empty nor "cluster"; a fault that disturbs everyone is Alone`},
		"no counter-proof":        {func(_ *bench, s *Specification) { s.CounterProofs = nil }, "it has no counter-proof that must fail: a specification that cannot fail proves nothing\n" + noHarmless},
		"only harmless ones":      {func(_ *bench, s *Specification) { s.CounterProofs = []Sabotage{paints("red")} }, "it has no counter-proof that must fail: a specification that cannot fail proves nothing"},
		"only faults":             {func(st *bench, s *Specification) { s.CounterProofs[1] = st.opens("another") }, noHarmless},
		"a fault without a name":  {func(_ *bench, s *Specification) { s.CounterProofs[0].Name = "" }, `counter-proof 1 "": it has no Name`},
		"a fault without Apply":   {func(_ *bench, s *Specification) { s.CounterProofs[0].Apply = nil }, `counter-proof 1 "fault": it has no Apply`},
		"a fault without Applied": {func(_ *bench, s *Specification) { s.CounterProofs[0].Applied = nil }, `counter-proof 1 "fault": it has no Applied: a fault that is not shown to be in force proves nothing`},
		"a bad pattern":           {func(_ *bench, s *Specification) { s.CounterProofs[0].Kills = "(" }, "counter-proof 1 \"fault\": Kills: error parsing regexp: missing closing ): `(`"},
		"a harmless killer":       {func(_ *bench, s *Specification) { s.CounterProofs[1].Kills = "open" }, `counter-proof 2 "red": a harmless change kills nothing, so it has no Kills`},
		"two ends for one fault": {func(_ *bench, s *Specification) {
			s.CounterProofs[0].Kills, s.CounterProofs[0].Unsettles = "open", "no samples"
		}, `counter-proof 1 "fault": what Unsettles is neither Harmless nor Kills`},
		"two faults of one name": {func(_ *bench, s *Specification) { s.CounterProofs[1].Name = "fault" }, `two counter-proofs are named "fault"`},
		"several things, at once": {func(_ *bench, s *Specification) {
			s.ID, s.Risk, s.Prove, s.CounterProofs[0].Apply = "POL-4", 0, nil, nil
		}, "catalogue: no clause \"POL-4\"; nearest: POL-001, POL-002, POL-003\nit has no Risk\nit has no Prove\ncounter-proof 1 \"fault\": it has no Apply"},
		"registered by two tests":  {func(st *bench, _ *Specification) { st.h.tests["POL-001"] = "TestFirst" }, "POL-001 is registered twice: by TestFirst and by TestDoor"},
		"promised and proved both": {func(st *bench, _ *Specification) { _ = st.h.planPromise("POL-001", "TestPromises/POL-001") }, "POL-001 is registered twice: by TestPromises/POL-001 and by TestDoor"},
	} {
		t.Run(what, func(t *testing.T) {
			st := newBench(t)
			s := st.of(st.look, st.opens("fault"), paints("red"))
			c.change(st, s)
			id := s.ID
			if id == "" {
				id = name // so that no report looks complete without it
			}
			require.EqualError(t, st.h.plan(s, name), "specification "+id+": "+c.says)

			planned, verdicts := st.journalled(journal.Planned), st.journalled(journal.Verdict)
			last := planned[len(planned)-1]
			require.Equal(t, id, last.ID)
			require.Equal(t, name, last.Plan.Test)
			require.Len(t, verdicts, 1)
			require.Equal(t, id, verdicts[0].ID)
			require.Equal(t, journal.Result{Outcome: journal.Void, Reason: "not a valid specification", Detail: c.says}, *verdicts[0].Result)
			require.Empty(t, st.noted(), "nothing was touched")
		})
	}
}

func TestPlan(t *testing.T) {
	st := newBench(t)
	s := st.of(st.look, st.opens("fault"), paints("red"))
	s.Needs = []Need{need{"wall", func(context.Context) error { return errors.New("not reached") }}}
	require.NoError(t, st.h.plan(s, "TestDoor"))
	require.NoError(t, st.h.plan(s, "TestDoor"), "the same test comes again with -count")

	own := st.of(st.look, st.opens("fault"), paints("red"))
	own.ID, own.Risk = "PIP-001", ReadOnly
	require.NoError(t, st.h.plan(own, "TestPipeline"), "the pipeline's clauses are every suite's")

	door := &journal.Plan{Clause: "The door is shut.", Risk: "namespaced", Test: "TestDoor", Needs: []string{"wall"}, CounterProofs: []string{"fault", "red"}}
	require.Equal(t, []journal.Entry{
		{Kind: journal.Planned, ID: "POL-001", Plan: door},
		{Kind: journal.Planned, ID: "POL-001", Plan: door},
		{Kind: journal.Planned, ID: "PIP-001", Plan: &journal.Plan{Clause: "What is built is signed.", Risk: "read-only", Test: "TestPipeline", CounterProofs: []string{"fault", "red"}}},
	}, st.entries)
}

func TestPromises(t *testing.T) {
	st := newBench(t)
	require.NoError(t, st.h.planPromise("POL-002", "TestPromises/POL-002"))
	require.NoError(t, st.h.planPromise("POL-002", "TestPromises/POL-002"), "with -count")
	require.EqualError(t, st.h.planPromise("POL-002", "TestPromises/POL-002#01"),
		"specification POL-002: POL-002 is registered twice: by TestPromises/POL-002 and by TestPromises/POL-002#01")
	require.EqualError(t, st.h.planPromise("MSH-001", "TestPromises/MSH-001"), "specification MSH-001: MSH-001 is of the suite mesh, not of policy")
	require.EqualError(t, st.h.planPromise("POL-02", "TestPromises/POL-02"), `specification POL-02: catalogue: no clause "POL-02"; nearest: POL-002`)
	planned := st.journalled(journal.Planned)
	require.Len(t, planned, 5)
	require.Equal(t, journal.Plan{Clause: "The window is shut.", Test: "TestPromises/POL-002"}, *planned[0].Plan)
	verdicts := st.journalled(journal.Verdict)
	require.Len(t, verdicts, 3)
	for _, v := range verdicts {
		require.Equal(t, journal.Void, v.Result.Outcome)
	}
}

func TestKnownReasons(t *testing.T) {
	for reason, want := range map[string]bool{
		"not built yet":                       true,
		"no Falco engine":                     true,
		"the cluster is given":                true,
		"above the risk ceiling":              true,
		"outside the blast radius":            true,
		"waived until 2099-01-31: a reason":   true,
		"":                                    false,
		"no samples":                          false,
		"a seeded fault survived":             false,
		"the run was cut short":               false,
		"no environment":                      false,
		"component falco not ready":           false,
		"it says not built yet further below": false,
	} {
		require.Equal(t, want, isKnown(reason), "%q", reason)
	}
}
