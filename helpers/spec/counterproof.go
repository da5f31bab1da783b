package spec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// findings are what the counter-proofs of a specification brought to light.
type findings struct {
	unrestored, survived, alarms, void, forbidden, outside []string
}

// verdict is proved when there is nothing, else that of the gravest finding.
func (f *findings) verdict() journal.Result {
	var r journal.Result
	for _, kind := range []struct {
		outcome journal.Outcome
		reason  string
		what    []string
	}{
		{journal.Inconclusive, reasonNotRestored, f.unrestored},
		{journal.Inconclusive, reasonSurvived, f.survived},
		{journal.Inconclusive, reasonFalseAlarm, f.alarms},
		{journal.Void, reasonVoid, f.void},
		{journal.Inconclusive, journal.AboveCeiling, f.forbidden},
		{journal.Inconclusive, journal.OutsideRadius, f.outside},
	} {
		if len(kind.what) > 0 && r.Outcome == "" {
			r.Outcome, r.Reason = kind.outcome, kind.reason
		}
		r.Detail = joined(append([]string{r.Detail}, kind.what...)...)
	}
	if r.Outcome == "" {
		r.Outcome = journal.Proved
	}
	return r
}

// group are faults that are tried under the same lease and keys.
type group struct {
	demand
	faults []*Sabotage
}

// challenge tries the counter-proofs of a specification whose baseline held: those
// that leave the platform as it is first, and those that disturb everyone last. The
// platform is proved to be back before the keys are given to others; what shares the
// lease gives way between its faults.
func (c *clause) challenge(ctx context.Context) journal.Result {
	var found findings
	groups := []group{
		{c.spec.baselineDemand(), c.faults(&found, func(f *Sabotage) bool { return f.swaps })},
		{c.spec.faultDemand(false), c.faults(&found, func(f *Sabotage) bool { return !f.swaps && !f.Alone })},
		{c.spec.faultDemand(true), c.faults(&found, func(f *Sabotage) bool { return f.Alone })},
	}
	groups = slices.DeleteFunc(groups, func(g group) bool { return len(g.faults) == 0 })
	for n, group := range groups {
		faults := group.faults
		if err := c.enter(ctx, group.demand); err != nil {
			return inconclusive(reasonNoLease, err.Error())
		}
		for i, fault := range faults {
			if i > 0 {
				if err := c.yield(ctx); err != nil {
					return inconclusive(reasonNoLease, err.Error())
				}
			}
			// What the platform did not notice need not be proved to be gone from it.
			last := i == len(faults)-1 && (!fault.swaps || n == len(groups)-1)
			err := c.try(ctx, fault, last, &found)
			if err != nil {
				found.unrestored = append(found.unrestored, fmt.Sprintf("after %q: %v", fault.Name, err))
				c.say("NOT RESTORED after %q: %v", fault.Name, err)
			}
			// On a platform that is not as it was, no further fault tells anything.
			if err != nil {
				return found.verdict()
			}
			// What was not tried, or not proved to be back, is not proved.
			if ctx.Err() != nil {
				if r := found.verdict(); r.Outcome != journal.Proved {
					return r
				}
				return inconclusive(reasonCut, "")
			}
		}
	}
	return found.verdict()
}

// faults are those of one kind that the profile allows.
func (c *clause) faults(found *findings, are func(*Sabotage) bool) (faults []*Sabotage) {
	for i := range c.spec.CounterProofs {
		f := &c.spec.CounterProofs[i]
		if !are(f) {
			continue
		}
		reason, detail := c.refusal(c.spec.faultRisk(f))
		switch refused := fmt.Sprintf("the counter-proof %q %s", f.Name, detail); reason {
		case "":
			faults = append(faults, f)
		case journal.OutsideRadius:
			found.outside = append(found.outside, refused)
		default:
			found.forbidden = append(found.forbidden, refused)
		}
	}
	return faults
}

// try seeds one fault, has the proof run under it, removes it, and returns why
// the platform is not as it was. A fault with Restored is known to be gone, so
// that the proof that nothing is left of it can wait for the last one.
func (c *clause) try(ctx context.Context, f *Sabotage, last bool, found *findings) error {
	end := c.record.phase(c.spec.ID, "counter-proof: "+f.Name, "")
	start := time.Now()
	fault := c.ground.Scope(c.spec.ID + "/" + f.Name)
	fault.WaitGone = true // what is only marked for deletion may still be in force
	scopes := []*environment.Scope{fault}
	var e ending
	err := c.seed(ctx, f, fault)
	if err == nil {
		var own *environment.Scope
		e, own = c.prove(ctx, fmt.Sprintf("under %q", f.Name), "under "+f.Name)
		scopes = append(scopes, own)
	}
	trial := outcome(f, e, err)
	trial.Seconds = time.Since(start).Seconds()
	c.record.add(journal.Entry{Kind: journal.CounterProof, ID: c.spec.ID, Trial: &trial})
	end()
	c.say("counter-proof %q: %s %s", f.Name, trial.Outcome, headline(trial.Why))
	found.add(trial)

	defer c.record.phase(c.spec.ID, "restore", "")()
	var errs []error
	for _, s := range slices.Backward(scopes) { // the proof may have changed what the fault had changed
		errs = append(errs, c.close(s))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	if f.Restored != nil {
		if err := c.guard(ctx, cmp.Or(f.Timeout, c.limits.fault), func(ctx context.Context) error { return f.Restored(ctx, c.env) }); err != nil {
			return err
		}
		if !last {
			return nil
		}
	}
	return c.reprove(ctx)
}

func (c *clause) seed(ctx context.Context, f *Sabotage, s *environment.Scope) error {
	err := c.guard(ctx, cmp.Or(f.Timeout, c.limits.fault), func(ctx context.Context) error { return f.Apply(ctx, c.env, s) })
	if err != nil {
		return fmt.Errorf("the fault could not be applied: %w", err)
	}
	err = c.guard(ctx, cmp.Or(f.Timeout, c.limits.fault), func(ctx context.Context) error { return f.Applied(ctx, c.env) })
	if err != nil {
		return fmt.Errorf("the fault was not shown to be in force: %w", err)
	}
	return nil
}

// reprove proves the baseline again.
func (c *clause) reprove(ctx context.Context) error {
	e, scope := c.prove(ctx, "restored", "restored")
	err := c.close(scope)
	if e.how == held && e.seen == 0 {
		return errors.Join(errors.New("the baseline is not known to hold: "+unseen), err)
	}
	if e.how != held && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("the baseline holds no more: %s", joined(e.reason, e.text)), err)
	}
	return err
}

// unseen is why a proof that held counts for nothing.
const unseen = "the proof held without an observation: it calls T.Observe nowhere on its way"

// outcome judges one trial; err says that the fault was not in force.
func outcome(f *Sabotage, e ending, err error) journal.Trial {
	t := journal.Trial{Name: f.Name, Harmless: f.Harmless, Outcome: journal.VoidTrial, Why: e.text}
	switch {
	case err != nil:
		t.Why = err.Error()
	case e.how == held && f.Harmless && e.seen == 0:
		t.Why = unseen
	case e.how == held && f.Harmless:
		t.Outcome = journal.Spared
	case e.how == held:
		t.Outcome, t.Why = journal.Survived, "the proof held all the same"
	case e.how == failed && f.Harmless:
		t.Outcome = journal.FalseAlarm
	case e.how == unmeasured && f.Unsettles != "" && matches(f.Unsettles, []string{e.reason}):
		t.Outcome, t.Why = journal.Killed, "not settled: "+joined(e.reason, e.text)
	case e.how == failed && f.Unsettles == "":
		if !matches(f.Kills, e.failed) {
			t.Why = fmt.Sprintf("failed for another reason than %q: %s", f.Kills, e.text)
			break
		}
		t.Outcome = journal.Killed
	case e.how == failed:
		t.Why = fmt.Sprintf("failed, and was to come out inconclusive for %q: %s", f.Unsettles, e.text)
	case e.how == unmeasured:
		t.Why = "the proof could not measure: " + joined(e.reason, e.text)
	case e.how == late:
		t.Why = "the proof did not end in time: " + e.text
	default:
		t.Why = "the proof broke: " + e.text
	}
	return t
}

// matches: check has made sure that kills compiles; empty matches all.
func matches(kills string, messages []string) bool {
	pattern := regexp.MustCompile(kills)
	for _, m := range messages {
		if pattern.MatchString(m) {
			return true
		}
	}
	return false
}

func (f *findings) add(t journal.Trial) {
	what := fmt.Sprintf("%q: %s", t.Name, t.Why)
	switch t.Outcome {
	case journal.Survived:
		f.survived = append(f.survived, what)
	case journal.FalseAlarm:
		f.alarms = append(f.alarms, what)
	case journal.VoidTrial:
		f.void = append(f.void, what)
	}
}
