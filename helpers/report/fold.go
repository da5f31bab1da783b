package report

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// folder gathers one suite.
type folder struct {
	suite   *Suite
	clauses map[string]*pending
	phases  []open
}

// pending is a clause on its way to a verdict. missing counts plans without a
// verdict in the suite's process number start.
type pending struct {
	Clause
	start    int
	missing  int
	declared []string
	results  []journal.Result
}

type open struct {
	Span
	id    string
	ended bool
}

// fold turns entries into suites, clauses and environments. Only what a single
// clause says is decided here; judge decides about the run.
func fold(r *Report, entries []journal.Entry) {
	entries = slices.Clone(entries)
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].Time.Before(entries[j].Time) })
	folders, runs := map[string]*folder{}, map[string]bool{}
	for _, e := range entries {
		if e.Run != "" && !runs[e.Run] {
			runs[e.Run] = true
			if r.Run == "" {
				r.Run = e.Run
			}
		}
		f := folders[e.Suite]
		if f == nil {
			f = &folder{suite: &Suite{Name: e.Suite, started: e.Time}, clauses: map[string]*pending{}}
			folders[e.Suite] = f
		}
		f.suite.stopped = e.Time
		if e.Kind == journal.Environment && e.Platform != nil {
			place(r, *e.Platform, e.Suite)
		}
		if notice := f.take(e); notice != "" {
			r.Notices = append(r.Notices, notice)
		}
	}
	if len(entries) > 0 {
		r.Started, r.Ended = entries[0].Time.UTC(), entries[len(entries)-1].Time.UTC()
		r.Seconds = r.Ended.Sub(r.Started).Seconds()
	}
	if r.Torn > 0 {
		r.Notices = append(r.Notices, plural(r.Torn, "torn line")+": a process was killed while it wrote, and what it wrote is lost")
	}
	if len(runs) > 1 {
		names := make([]string, 0, len(runs))
		for name := range runs {
			names = append(names, name)
		}
		sort.Strings(names)
		r.Notices = append(r.Notices, "the directory holds several runs: "+strings.Join(names, ", "))
	}
	for _, f := range folders {
		r.Suites = append(r.Suites, f.finish())
	}
	sort.Slice(r.Suites, func(i, j int) bool { return before(r.Suites[i].Name, r.Suites[j].Name) })
}

// place adds a suite to the environment with this fingerprint, on this very cluster.
func place(r *Report, p journal.Platform, suite string) {
	for i := range r.Environments {
		known := &r.Environments[i]
		if known.Cluster == p.Cluster && known.ClusterUID == p.ClusterUID && known.Hash == p.Hash {
			if !slices.Contains(known.Suites, suite) {
				known.Suites = append(known.Suites, suite)
			}
			if len(p.Nodes) > len(known.Nodes) {
				known.Nodes = p.Nodes
			}
			for _, i := range p.Images { // each suite has those of its own components
				if !slices.Contains(known.Images, i) {
					known.Images = append(known.Images, i)
				}
			}
			return
		}
	}
	p.Images = slices.Clone(p.Images) // what is appended to it is not the entry's
	r.Environments = append(r.Environments, Environment{Platform: p, Suites: []string{suite}})
}

// take folds one entry; it returns a notice about an entry that it cannot use.
func (f *folder) take(e journal.Entry) (notice string) {
	odd := func(what string) string { return fmt.Sprintf("%s: %s entry %s", e.Suite, e.Kind, what) }
	switch e.Kind {
	case journal.RunStart:
		f.suite.Starts++
		f.suite.Start, f.suite.Ended = e.Start, false
		if !strings.HasPrefix(f.suite.Cut, journal.NotWhole) { // what is lost no later process makes up for
			f.suite.Cut = ""
		}
	case journal.RunEnd:
		f.suite.Ended = true
		if !strings.HasPrefix(f.suite.Cut, journal.NotWhole) {
			f.suite.Cut = e.Text
		}
	case journal.Environment:
		if e.Platform == nil {
			return odd("without a platform")
		}
	case journal.Planned:
		if e.Plan == nil || e.ID == "" {
			return odd("without an ID or a plan")
		}
		c := f.clause(e.ID)
		if c.start != f.suite.Starts { // a later process takes up what an earlier one left open
			c.start, c.missing = f.suite.Starts, 0
		}
		c.planned, c.missing = true, c.missing+1
		c.Text, c.Test, c.Risk, c.Needs, c.declared = e.Plan.Clause, e.Plan.Test, e.Plan.Risk, e.Plan.Needs, e.Plan.CounterProofs
	case journal.Verdict:
		if e.Result == nil || e.ID == "" {
			return odd("without an ID or a result")
		}
		c := f.clause(e.ID)
		c.missing = max(0, c.missing-1)
		c.results = append(c.results, *e.Result)
	case journal.CounterProof:
		if e.Trial == nil || e.ID == "" {
			return odd("without an ID or a trial")
		}
		c := f.clause(e.ID)
		c.Trials = append(c.Trials, *e.Trial)
	case journal.Observation:
		note := Note{Time: e.Time.UTC(), Text: e.Text, Data: e.Data}
		if e.ID == "" {
			f.suite.Notes = append(f.suite.Notes, note)
		} else {
			c := f.clause(e.ID)
			c.Observations = append(c.Observations, note)
		}
	case journal.PhaseStart, journal.PhaseEnd:
		if e.Phase == nil {
			return odd("without a phase")
		}
		f.phase(e)
	default:
		return fmt.Sprintf("%s: entry of unknown kind %q", e.Suite, e.Kind)
	}
	return ""
}

func (f *folder) clause(id string) *pending {
	c := f.clauses[id]
	if c == nil {
		c = &pending{Clause: Clause{ID: id, Suite: f.suite.Name}}
		f.clauses[id] = c
	}
	return c
}

// phase opens a span, or ends the last open one of that name and clause.
func (f *folder) phase(e journal.Entry) {
	if e.Kind == journal.PhaseStart {
		f.phases = append(f.phases, open{id: e.ID, Span: Span{Name: e.Phase.Name, Wait: e.Phase.Wait, Start: e.Time.UTC()}})
		return
	}
	length := max(0, e.Phase.Seconds)
	for i := len(f.phases) - 1; i >= 0; i-- {
		p := &f.phases[i]
		if p.ended || p.id != e.ID || p.Name != e.Phase.Name {
			continue
		}
		p.ended, p.Seconds = true, length
		if length == 0 {
			p.Seconds = e.Time.Sub(p.Start).Seconds()
		}
		if p.Wait == "" {
			p.Wait = e.Phase.Wait
		}
		return
	}
	start := e.Time.UTC().Add(-time.Duration(length * float64(time.Second)))
	f.phases = append(f.phases, open{
		id: e.ID, ended: true,
		Span: Span{Name: e.Phase.Name, Wait: e.Phase.Wait, Start: start, Seconds: length},
	})
}

// finish closes what is open and gives every clause its verdict.
func (f *folder) finish() Suite {
	s := f.suite
	s.Seconds = s.stopped.Sub(s.started).Seconds()
	if s.Starts > 0 && !s.Ended {
		s.Cut = "the process ended without writing its end: killed, crashed, or still running"
	}
	for _, p := range f.phases {
		if !p.ended {
			p.Open, p.Seconds = true, s.stopped.Sub(p.Start).Seconds()
		}
		if p.id == "" {
			s.Phases = append(s.Phases, p.Span)
		} else {
			c := f.clause(p.id)
			c.Phases = append(c.Phases, p.Span)
		}
	}
	byStart(s.Phases)
	s.Clauses = []Clause{}
	for _, c := range f.clauses {
		byStart(c.Phases)
		c.decide(s.Start != nil && s.Start.CounterProofs)
		s.Clauses = append(s.Clauses, c.Clause)
	}
	sort.Slice(s.Clauses, func(i, j int) bool { return before(s.Clauses[i].ID, s.Clauses[j].ID) })
	return *s
}

func byStart(spans []Span) {
	sort.SliceStable(spans, func(i, j int) bool { return spans[i].Start.Before(spans[j].Start) })
}

// before orders names and IDs as the catalogue does, unknown ones last.
func before(a, b string) bool {
	if i, j := rank(a), rank(b); i != j {
		return i < j
	}
	return a < b
}

var order = []string{"infra", "inf", "policy", "pol", "mesh", "msh", "chaos", "chs", "dr", "perf", "prf", "pipeline", "pip"}

func rank(name string) int {
	prefix, _, _ := strings.Cut(strings.ToLower(name), "-")
	if i := slices.Index(order, prefix); i >= 0 {
		return i
	}
	return len(order)
}

var severity = map[journal.Outcome]int{journal.Proved: 1, journal.Inconclusive: 2, journal.Void: 3, journal.Refuted: 4}

// decide takes the worst recorded verdict, and never a better one than the
// record supports: without a verdict, without a plan, or without a killed
// fault in a run with counter-proofs, nothing is proved.
func (c *pending) decide(counterProofs bool) {
	c.Verdicts = len(c.results)
	for _, result := range c.results {
		if severity[result.Outcome] == 0 {
			result.Reason = strings.TrimSpace(fmt.Sprintf("unknown verdict %q %s", result.Outcome, result.Reason))
			result.Outcome = journal.Void
		}
		c.Seconds += result.Seconds
		if severity[result.Outcome] > severity[c.Outcome] {
			c.Outcome, c.Reason, c.Detail = result.Outcome, result.Reason, result.Detail
		}
	}
	killed := slices.ContainsFunc(c.Trials, func(t journal.Trial) bool { return t.Outcome == journal.Killed })
	switch {
	case severity[c.Outcome] > severity[journal.Inconclusive]: // a refuted or void one stays so
	case c.missing > 0 || len(c.results) == 0:
		c.Outcome, c.Reason, c.Detail = journal.Inconclusive, reasonNoVerdict, c.last()
	case !c.planned:
		c.Outcome, c.Reason = journal.Inconclusive, reasonUnplanned
	case c.Outcome == journal.Proved && counterProofs && !killed:
		c.Outcome, c.Reason = journal.Inconclusive, reasonUnchallenged
	}
	c.Accepted = c.Outcome == journal.Inconclusive && isAccepted(c.Reason)
	c.Unchallenged = c.Outcome == journal.Proved && !killed
	if counterProofs && !c.Accepted {
		for _, name := range c.declared {
			if !slices.ContainsFunc(c.Trials, func(t journal.Trial) bool { return t.Name == name }) {
				c.Untried = append(c.Untried, name)
			}
		}
	}
	c.Remedy = remedy(&c.Clause)
}

// last says what the clause was doing when its run ended.
func (c *pending) last() string {
	for i := len(c.Phases) - 1; i >= 0; i-- {
		p := c.Phases[i]
		if p.Open && p.Wait != "" {
			return fmt.Sprintf("last seen in phase %q, waiting for %s since %s", p.Name, p.Wait, p.Start.Format(time.TimeOnly))
		}
		if p.Open {
			return fmt.Sprintf("last seen in phase %q, since %s", p.Name, p.Start.Format(time.TimeOnly))
		}
	}
	if len(c.Phases) == 0 {
		return "it had not begun"
	}
	return fmt.Sprintf("last seen after phase %q", c.Phases[len(c.Phases)-1].Name)
}
