package report

import (
	"fmt"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Reasons that this package gives by itself.
const (
	reasonNoVerdict    = "the run ended before a verdict"
	reasonUnplanned    = "a verdict without a plan: the specification was not registered for this run"
	reasonUnchallenged = "no counter-proof was killed, though counter-proofs were on"
)

// accepted are the beginnings of reasons for which an inconclusive clause does
// not change the exit code by itself: a limit of the project, of the machine or of a
// cluster that others made, or a waiver of the profile, with its reason and its end. They are known before the
// run and no run can overcome them, so that a run that proves all that it can is
// not told apart from one that failed to try. They are shown as prominently as any
// other clause that is not proved, and the gate has waivers of its own. Every other
// reason, also an unknown one, makes the run inconclusive. A profile whose waiver is
// over is refused before anything begins.
var accepted = []string{journal.NotBuiltYet, journal.NoFalcoEngine, journal.GivenCluster, journal.Waived}

// remedies maps the beginning of a reason to what to do about it.
var remedies = []struct{ reason, remedy string }{
	{journal.NotBuiltYet, "Build the specification; until then the clause is a promise without evidence."},
	{journal.NoFalcoEngine, "Run on a machine whose kernel lets Falco load its eBPF probe."},
	{journal.GivenCluster, "Run this suite with a profile that makes its cluster, such as kind."},
	{journal.Waived, "Mend what the profile's waiver excuses before it ends: from then on no run with it begins."},
	{journal.AboveCeiling, "Run with a profile whose risk ceiling allows it, on an environment that may be disturbed."},
	{journal.OutsideRadius, "Widen the profile's blastRadius, once those who share the cluster agree, or run on a cluster that is made for it."},
	{journal.CounterProofsOff, "Run with counter-proofs on: its evidence is what they killed."},
	{reasonNoVerdict, "Look at its last phase for what it was doing, then run this suite again."},
	{reasonUnplanned, "Register the specification before it runs, so that a killed run is noticed."},
	{reasonUnchallenged, "Give the specification a fault under which its proof must fail."},
}

func isAccepted(reason string) bool {
	for _, a := range accepted {
		if strings.HasPrefix(reason, a) {
			return true
		}
	}
	return false
}

// remedy says what to do about a clause that is not proved or whose trials
// went wrong; empty when there is nothing to do.
func remedy(c *Clause) string {
	for _, t := range c.Trials {
		switch t.Outcome {
		case journal.Survived:
			return fmt.Sprintf("The proof does not notice %q: strengthen its assertion until that fault fails it.", t.Name)
		case journal.FalseAlarm:
			return fmt.Sprintf("The proof fails on the harmless change %q: loosen what it asserts beyond the clause.", t.Name)
		}
	}
	for _, r := range remedies {
		if c.Reason != "" && strings.HasPrefix(c.Reason, r.reason) {
			return r.remedy
		}
	}
	again := "run this suite again"
	if c.Test != "" {
		again = fmt.Sprintf("run `go test ./suites/%s -run '^%s$'` again", c.Suite, c.Test)
	}
	switch c.Outcome {
	case journal.Refuted:
		return "The platform does not do what the clause says: mend it from the observations, then " + again + "."
	case journal.Void:
		return "The proof or a fault broke, so nothing was learnt: mend the specification or its fault, then " + again + "."
	case journal.Inconclusive:
		return "Meet the reason's condition, then " + again + "."
	}
	for _, t := range c.Trials {
		if t.Outcome == journal.VoidTrial {
			return fmt.Sprintf("The trial %q is void: make sure that its fault is applied and that the proof fails by an assertion.", t.Name)
		}
	}
	return ""
}

// judge adds up the totals and gives the run's verdict.
func judge(r *Report) {
	for i := range r.Suites {
		s := &r.Suites[i]
		for j := range s.Clauses {
			count(&s.Totals, &s.Clauses[j])
		}
		score(&s.Totals)
		add(&r.Totals, s.Totals)
	}
	score(&r.Totals)

	against, unsettled := causes(r)
	t := r.Totals
	proved := fmt.Sprintf("%d of %s proved", t.Proved, plural(t.Planned, "clause"))
	switch {
	case len(against) > 0:
		r.Verdict, r.Exit = journal.Refuted, 1
		r.Headline = strings.Join(append(against, unsettled...), "; ") + "; " + proved + "."
	case len(unsettled) > 0:
		r.Verdict, r.Exit = journal.Inconclusive, 2
		r.Headline = strings.Join(unsettled, "; ") + "; " + proved + "."
	default:
		r.Verdict, r.Exit = journal.Proved, 0
		r.Headline = proved
		if t.Accepted > 0 {
			r.Headline += fmt.Sprintf("; %d inconclusive for a reason known beforehand", t.Accepted)
			if t.Waived > 0 {
				r.Headline += fmt.Sprintf(", %d of them waived", t.Waived)
			}
		}
		if t.Unchallenged > 0 {
			r.Headline += fmt.Sprintf("; %d of them not challenged by a counter-proof in this run", t.Unchallenged)
		}
		r.Headline += "."
	}
}

// causes returns what speaks against the platform or its proofs (exit code 1)
// and what leaves the run unsettled (exit code 2).
func causes(r *Report) (against, unsettled []string) {
	t := r.Totals
	when := func(list *[]string, n int, text string) {
		if n > 0 {
			*list = append(*list, fmt.Sprintf("%d %s", n, text))
		}
	}
	when(&against, t.Refuted, "refuted")
	when(&against, t.Survived, "seeded "+word(t.Survived, "fault")+" survived")
	when(&against, t.FalseAlarms, "false "+word(t.FalseAlarms, "alarm")+" on a harmless change")

	switch {
	case t.Planned == 0:
		unsettled = append(unsettled, "nothing was planned")
	case t.Proved == 0:
		unsettled = append(unsettled, "no clause was proved")
	}
	when(&unsettled, t.Void, "void")
	when(&unsettled, t.Inconclusive-t.Accepted, "inconclusive")
	when(&unsettled, t.VoidFaults+t.VoidHarmless, "void "+word(t.VoidFaults+t.VoidHarmless, "trial"))
	cut := 0
	for _, s := range r.Suites {
		if s.Cut != "" {
			cut++
		}
	}
	when(&unsettled, cut, word(cut, "suite")+" cut short")
	when(&unsettled, r.Torn, "torn "+word(r.Torn, "line")+" in the journal")
	return against, unsettled
}

func count(t *Totals, c *Clause) {
	if c.planned {
		t.Planned++
	}
	switch c.Outcome {
	case journal.Proved:
		t.Proved++
	case journal.Refuted:
		t.Refuted++
	case journal.Void:
		t.Void++
	default:
		t.Inconclusive++
	}
	if c.Accepted {
		t.Accepted++
		if strings.HasPrefix(c.Reason, journal.Waived) {
			t.Waived++
		}
	}
	if c.Unchallenged {
		t.Unchallenged++
	}
	for _, trial := range c.Trials {
		switch trial.Outcome {
		case journal.Killed:
			t.Killed++
		case journal.Survived:
			t.Survived++
		case journal.Spared:
			t.Spared++
		case journal.FalseAlarm:
			t.FalseAlarms++
		default:
			if trial.Harmless {
				t.VoidHarmless++
			} else {
				t.VoidFaults++
			}
		}
	}
}

func add(t *Totals, s Totals) {
	t.Planned += s.Planned
	t.Proved += s.Proved
	t.Refuted += s.Refuted
	t.Inconclusive += s.Inconclusive
	t.Void += s.Void
	t.Accepted += s.Accepted
	t.Waived += s.Waived
	t.Unchallenged += s.Unchallenged
	t.Killed += s.Killed
	t.Survived += s.Survived
	t.VoidFaults += s.VoidFaults
	t.Spared += s.Spared
	t.FalseAlarms += s.FalseAlarms
	t.VoidHarmless += s.VoidHarmless
}

func score(t *Totals) {
	if faults := t.Killed + t.Survived + t.VoidFaults; faults > 0 {
		s := float64(t.Killed) / float64(faults)
		t.KillScore = &s
	}
}

func word(n int, singular string) string {
	if n == 1 {
		return singular
	}
	return singular + "s"
}

func plural(n int, singular string) string { return fmt.Sprintf("%d %s", n, word(n, singular)) }
