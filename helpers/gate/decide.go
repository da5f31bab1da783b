package gate

import (
	"fmt"
	"time"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/evidence"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/report"
)

// Verdict of the gate.
type Verdict string

// Release lets it go. Hold does not: something speaks against it. Inconclusive does not
// either: what must be proved was not, as far as the evidence goes.
const (
	Release      Verdict = "release"
	Hold         Verdict = "hold"
	Inconclusive Verdict = "inconclusive"
)

// ExitCode is the verdict for a pipeline: 0 release, 1 hold, 2 inconclusive.
func (v Verdict) ExitCode() int {
	switch v {
	case Release:
		return 0
	case Hold:
		return 1
	}
	return 2
}

// Candidate is what is to be released.
type Candidate struct {
	Commit  string
	Cluster string            // UID of the given cluster whose evidence counts; one that we make of our pins is the same as any other
	Images  map[string]string // by name, with its tag, the digest: the images of images.lock
}

// Given is evidence as it came to the gate.
type Given struct {
	From      string // where it was read
	Evidence  *evidence.Evidence
	Signed    bool
	Statement []byte // as it was signed; another may follow it
}

// Decision is the verdict with what led to it.
type Decision struct {
	Verdict   Verdict
	Candidate Candidate
	Policy    *Policy
	Proved    int      // clauses that are
	Waived    []string // clauses that are not, and need not be, with the reason
	Against   []string // what speaks against the release
	Lacking   []string // what is not known
	Excused   []string // faults that were void, and may be, with the reason
	Counted   []string // evidence
	Refused   []string // evidence that does not count, and why
}

// Decide weighs evidence at the time now. A clause is proved when a run that counts proved
// it and killed a fault of it, and none refuted it: of several runs the worst counts, for a
// clause that holds now and then does not hold. So it wants all of them, by their chain.
func Decide(p *Policy, c Candidate, given []Given, now time.Time) Decision {
	d := Decision{Candidate: c, Policy: p, Lacking: p.unlocked(c)}
	found, counts := map[string][]of{}, []Given(nil)
	for _, g := range given {
		if why := p.refuses(g, c, now); why != "" {
			d.Refused = append(d.Refused, g.name()+": "+why)
			continue
		}
		counts = append(counts, g)
		d.Counted = append(d.Counted, g.name())
		score, excused := p.killScore(g)
		d.Excused = append(d.Excused, excused...)
		if score != nil && *score < p.KillScoreLeast {
			d.Against = append(d.Against, fmt.Sprintf("%s: kill score %.2f, want %.2f: its proofs do not notice faults", g.name(), *score, p.KillScoreLeast))
		}
		for _, s := range g.Evidence.Report.Suites {
			for _, clause := range s.Clauses {
				if s.Cut != "" && clause.Outcome == journal.Proved { // what it would have said next is not known
					clause.Outcome, clause.Reason = journal.Inconclusive, "its suite did not end well: "+s.Cut
				}
				found[clause.ID] = append(found[clause.ID], of{clause, g.name()})
			}
		}
	}
	d.Lacking = append(p.gaps(counts, given, now), d.Lacking...)
	waivers := map[string]catalogue.Waiver{}
	for _, w := range p.Waivers {
		if end, err := w.End(); err != nil || !now.Before(end) {
			d.Against = append(d.Against, fmt.Sprintf("%s: its waiver expired on %s; mend what it excuses, or renew it with a reason", w.ID, w.Expires))
			continue
		}
		waivers[w.ID] = w
	}
	for _, id := range p.clauses {
		against, lacking := weigh(found[id])
		switch w, waived := waivers[id]; {
		case against == "" && lacking == "":
			d.Proved++
		case against != "": // waived or not: what is excused is that it could not be proved, not that it does not hold
			d.Against = append(d.Against, id+": "+against)
		case waived:
			d.Waived = append(d.Waived, fmt.Sprintf("%s until %s: %s (%s)", id, w.Expires, w.Reason, lacking))
		default:
			d.Lacking = append(d.Lacking, id+": "+lacking)
		}
	}
	switch {
	case len(d.Against) > 0:
		d.Verdict = Hold
	case len(d.Lacking) > 0 || d.Proved == 0:
		d.Verdict = Inconclusive
	default:
		d.Verdict = Release
	}
	return d
}

// killScore is the share of the faults of a run that were killed, without those that were
// void and may be; nil where none was seeded.
func (p *Policy) killScore(g Given) (score *float64, excused []string) {
	for _, s := range g.Evidence.Report.Suites {
		for _, c := range s.Clauses {
			for _, t := range c.Trials {
				for _, v := range p.MayBeVoid {
					if t.Outcome == journal.VoidTrial && !t.Harmless && c.ID == v.ID && t.Name == v.Fault {
						excused = append(excused, fmt.Sprintf("%s: %q was void in %s: %s", c.ID, t.Name, g.name(), v.Reason))
					}
				}
			}
		}
	}
	t := g.Evidence.Report.Totals
	seeded := t.Killed + t.Survived + t.VoidFaults - len(excused)
	if seeded <= 0 {
		return nil, excused
	}
	share := float64(t.Killed) / float64(seeded)
	return &share, excused
}

// of is what one run says of a clause.
type of struct {
	report.Clause
	run string
}

// weigh is what speaks against a clause, or else what is not known of it.
func weigh(all []of) (against, lacking string) {
	proved := false
	for _, c := range all {
		switch c.Outcome {
		case journal.Refuted:
			return fmt.Sprintf("refuted in %s: %s", c.run, c.Reason), ""
		case journal.Proved:
			proved = proved || !c.Unchallenged
			if c.Unchallenged {
				lacking = fmt.Sprintf("proved in %s, where no counter-proof was killed: its proof is not known to be able to fail", c.run)
			}
		default:
			lacking = fmt.Sprintf("%s in %s: %s", c.Outcome, c.run, c.Reason)
		}
		for _, t := range c.Trials {
			if t.Outcome == journal.Survived || t.Outcome == journal.FalseAlarm {
				return fmt.Sprintf("its trial %q came out as %s in %s", t.Name, t.Outcome, c.run), ""
			}
		}
	}
	switch {
	case proved:
		return "", ""
	case lacking == "":
		return "", "no evidence that counts has a verdict of it"
	}
	return "", lacking
}

func (g Given) name() string { return "run " + g.Evidence.Run.ID + " (" + g.From + ")" }
