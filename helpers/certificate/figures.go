package certificate

import (
	"encoding/json"
	"slices"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// baseline is the phase in which a clause is proved on the untouched platform.
// What is observed under a seeded fault, or after it, is no figure of it.
const baseline = "baseline"

// figures takes what was observed for the certificate in the baselines of the
// required clauses.
func (g *gatherer) figures(p *Predicate, entries []journal.Entry) {
	type clause struct{ suite, id string }
	phases := map[clause]string{}
	var all journal.Recovery
	for _, e := range entries {
		at := clause{e.Suite, e.ID}
		switch {
		case !slices.Contains(required, e.ID):
		case e.Kind == journal.PhaseStart && e.Phase != nil:
			phases[at] = e.Phase.Name
		case e.Kind == journal.PhaseEnd:
			delete(phases, at)
		case e.Kind == journal.Observation && phases[at] == baseline:
			g.take(&all, e)
		}
	}
	const none = "the run measured no %s: no observation in the baseline of DR-001…008 has it"
	if all.Backup == nil {
		g.refuse(none, "backup")
	} else {
		p.Backup = *all.Backup
	}
	if all.RTO == nil {
		g.refuse(none, "RTO")
	} else {
		p.RTO = figure(*all.RTO)
	}
	if all.RPO == nil {
		g.refuse(none, "RPO")
	} else {
		p.RPO = figure(*all.RPO)
	}
	if all.Rows == nil {
		g.refuse(none, "rows")
	} else {
		p.Rows = *all.Rows
	}
}

// take adds what one observation gives. A part that is given twice would leave a
// choice between them.
func (g *gatherer) take(all *journal.Recovery, e journal.Entry) {
	var data map[string]json.RawMessage
	if json.Unmarshal(e.Data, &data) != nil || data["certificate"] == nil {
		return
	}
	var part journal.Recovery
	if err := strictyaml.Unmarshal(data["certificate"], &part); err != nil {
		g.refuse("%s: the observation %q: %v", e.ID, e.Text, err)
		return
	}
	twice := func(what string) {
		g.refuse("%s: the observation %q gives %s, which another one gave before: want it once", e.ID, e.Text, what)
	}
	if part.Backup != nil && all.Backup != nil {
		twice("the backup")
	}
	if part.RTO != nil && all.RTO != nil {
		twice("the RTO")
	}
	if part.RPO != nil && all.RPO != nil {
		twice("the RPO")
	}
	if part.Rows != nil && all.Rows != nil {
		twice("the rows")
	}
	all.Backup, all.Rows = first(all.Backup, part.Backup), first(all.Rows, part.Rows)
	all.RTO, all.RPO = first(all.RTO, part.RTO), first(all.RPO, part.RPO)
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}
