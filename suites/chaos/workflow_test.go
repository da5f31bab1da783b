package chaos

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// order is that of the platform's comprehensive workflow.
var order = []string{"pod-delete", "pod-network-latency", "pod-cpu-hog", "pod-memory-hog", "node-drain", "container-kill"}

// sequence is how the workflow is gone through; faults change it for their time.
type sequence struct {
	plan
	last string         // the experiment that the plan's fault is in; "" for all
	told func(*account) // what is changed in the account of the last
	skip string         // an experiment that the file lacks
}

// TestWorkflow proves that users bear the six faults of the comprehensive workflow,
// one after the other.
func TestWorkflow(t *testing.T) {
	s := newStage(t, "workflow", platform.Merged(roomy, patient))
	s.adjust = outOfMesh
	var p sequence
	spec.Run(t, spec.Specification{
		ID: "CHS-007", Risk: spec.Disruptive, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 20 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveWorkflow(ctx, t, env, s, p)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("the node's drain left out", `experiments of the workflow`, &p, sequence{skip: "node-drain"}),
			unsettled("the second is not run, though its ChaosResult says Pass", `the fault did not happen: pod-(http|network)-latency$`, &p, sequence{plan: plan{idle: true}, last: "pod-network-latency"}),
			spec.Swapped("a rule is left behind by the first", `pod-delete.*what is left of the fault`, &p, sequence{plan: plan{later: (*trial).leave}, last: "pod-delete"}),
			spec.Swapped("its fourth step says 100 MB", `MEMORY_CONSUMPTION of pod-memory-hog, in its file`, &p,
				sequence{plan: plan{file: map[string]string{"MEMORY_CONSUMPTION": "100"}}, last: "pod-memory-hog"}),
			spec.Swapped("the ChaosResult of the first says Fail", `pod-delete: its ChaosResult says Completed, Fail`, &p,
				sequence{last: "pod-delete", told: func(a *account) { a.Litmus.Verdict = "Fail" }}),
			spec.Swapped("the second begins with the first", `latency: it began at [^\n]* when pod-delete was not over`, &p,
				sequence{last: "pod-network-latency", told: func(a *account) { a.From = time.Time{} }}),
			s.note(),
		},
	})
}

// resilience is the share of the workflow's experiments that users bore, of those
// that were seen to happen.
type resilience struct {
	Score    float64    `json:"score"` // per cent
	Accounts []*account `json:"accounts"`
}

func proveWorkflow(ctx context.Context, t spec.T, env *environment.Environment, s *stage, p sequence) {
	steps, err := engines(env.Root, "comprehensive")
	spec.Check(t, err)
	steps = slices.DeleteFunc(steps, func(o *unstructured.Unstructured) bool { return experimentOf(o) == p.skip })
	var names []string
	for _, o := range steps {
		names = append(names, experimentOf(o))
	}
	require.Equal(t, order, names, "experiments of the workflow")
	for i, o := range steps {
		if p.last == names[i] {
			spec.Check(t, vary(o, p.file))
		}
		sayFigures(t, o)
	}
	all, err := hypotheses(env.Root)
	spec.Check(t, err)

	var r resilience
	var unmet []string
	for i, o := range steps {
		e, err := s.step(ctx, env, names[i])
		spec.Check(t, err)
		if e.name != names[i] { // the kernel lacks what it takes
			o, err = engine(env.Root, e.name)
			spec.Check(t, err)
			o.SetName(steps[i].GetName())
			sayFigures(t, o)
		}
		var with plan
		if p.last == names[i] {
			with = p.plan
		}
		with.hypothesis = all[e.name]
		a := s.endure(ctx, t, env, e, o, with)
		if p.told != nil && p.last == names[i] {
			p.told(a)
		}
		if passed := (result{"Completed", "Pass"}); a.Litmus != passed {
			a.unmet("its ChaosResult says %s, %s", a.Litmus.Phase, a.Litmus.Verdict)
		}
		if i > 0 && !a.From.After(r.Accounts[i-1].Ended) {
			a.unmet("it began at %s, when %s was not over", a.From, r.Accounts[i-1].Experiment)
		}
		r.Accounts = append(r.Accounts, a)
		t.Logf("%d of %d: %s", i+1, len(steps), a)
		for _, u := range a.Unmet {
			unmet = append(unmet, e.name+": "+u)
		}
		if p.last == names[i] {
			break // what comes after it would show nothing more
		}
	}
	borne := slices.DeleteFunc(slices.Clone(r.Accounts), func(a *account) bool { return len(a.Unmet) > 0 || a.Seen == "" })
	r.Score = 100 * float64(len(borne)) / float64(len(steps))
	require.Empty(t, unmet, "resilience %.0f %%: experiments that users did not bear", r.Score)
	require.Equal(t, 100., r.Score, "resilience")
	t.Observe(fmt.Sprintf("resilience %.0f %%: users bore %d experiments of %d, one after the other, each seen to happen and each with a ChaosResult", r.Score, len(borne), len(steps)), r)
}

// step is an experiment of the workflow.
func (s *stage) step(ctx context.Context, env *environment.Environment, name string) (experiment, error) {
	if name == "pod-network-latency" {
		return latency(ctx, env, s)
	}
	for _, e := range []experiment{podDelete, cpuHog, memoryHog, nodeDrain, containerKill} {
		if e.name == name {
			return e, nil
		}
	}
	return experiment{}, fmt.Errorf("the workflow has an experiment %s, which nothing here sees happen", name)
}
