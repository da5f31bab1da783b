package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// The first verdict comes after minutes of building images, or at once where nothing was
// to be done: neither is the pace of what is to come.
func TestProgressEstimatesByThePaceOfProofs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		p := newProgress(func(line string) { said = append(said, line) }, true)
		for _, id := range []string{"POL-001", "POL-002", "POL-003", "POL-004"} {
			p.tell(journal.Entry{Kind: journal.Planned, ID: id, Plan: &journal.Plan{CounterProofs: []string{"a", "b"}}})
		}
		verdict := func(id string) {
			p.tell(journal.Entry{Kind: journal.Verdict, ID: id, Result: &journal.Result{Outcome: journal.Proved}})
		}
		killed := func(id string) {
			p.tell(journal.Entry{Kind: journal.CounterProof, ID: id, Trial: &journal.Trial{Outcome: journal.Killed}})
		}
		time.Sleep(10 * time.Minute) // images
		verdict("POL-001")
		time.Sleep(10 * time.Second)
		killed("POL-002")
		verdict("POL-002") // and "b" is not tried any more
		p.tell(journal.Entry{Kind: journal.CounterProof, ID: "POL-003", Trial: &journal.Trial{Name: "a", Outcome: journal.Survived}})
		assert.Equal(t, []string{
			"POL-001 proved; 3 of 12 proofs and counter-proofs",
			"POL-002 proved; 6 of 12 proofs and counter-proofs, about 20s left",
			`POL-003: counter-proof "a": survived`,
		}, said)
	})
	var said []string
	p := newProgress(func(line string) { said = append(said, line) }, false)
	p.tell(journal.Entry{Kind: journal.Planned, ID: "POL-001", Plan: &journal.Plan{CounterProofs: []string{"a", "b"}}})
	p.tell(journal.Entry{Kind: journal.Verdict, ID: "POL-001", Result: &journal.Result{Outcome: journal.Inconclusive, Reason: "no Falco engine"}})
	assert.Equal(t, "POL-001 inconclusive; no Falco engine; 1 of 1 proofs and counter-proofs", strings.Join(said, "\n"))
}
