package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// clause is one specification on its way to a verdict.
type clause struct {
	*harness
	spec   *Specification
	test   string
	start  time.Time
	logf   func(format string, args ...any)
	ground ground
	env    *environment.Environment

	held  demand // with leave not nil
	keys  *claim
	leave func() // gives the lease back
}

// carryOut brings a planned specification to its verdict and writes that down.
func (h *harness) carryOut(s *Specification, test string, logf func(format string, args ...any)) journal.Result {
	c := &clause{harness: h, spec: s, test: test, start: time.Now(), logf: logf}
	r := c.verdict(h.ctx)
	// What comes of a run that was cut short says nothing of the clause, unless
	// it was decided before.
	if h.ctx.Err() != nil && (r.Outcome == journal.Inconclusive || r.Outcome == journal.Void) {
		detail := context.Cause(h.ctx).Error()
		if r.Reason != reasonCut {
			detail = joined(detail, r.Reason, r.Detail)
		}
		r = inconclusive(reasonCut, detail)
	}
	r.Seconds = time.Since(c.start).Seconds()
	return h.settle(s.ID, r)
}

func (c *clause) verdict(ctx context.Context) journal.Result {
	if r := c.excused(); r != nil {
		return *r
	}
	if err := c.after(ctx, c.spec.After); err != nil {
		return inconclusive(reasonNoVerdicts, err.Error())
	}
	var err error
	if c.ground, c.env, err = c.open(); err != nil {
		return inconclusive(reasonNoPlace, err.Error())
	}
	defer c.letGo()
	needs, own := c.spec.installDemand(), c.spec.baselineDemand()
	if c.looks() { // whatever it would do instead
		needs, own = besideOthers, besideOthers
	}
	for _, step := range []struct {
		demand
		take func(context.Context) *journal.Result
	}{{needs, c.install}, {own, c.baseline}} {
		if err := c.enter(ctx, step.demand); err != nil {
			return inconclusive(reasonNoLease, err.Error())
		}
		if r := step.take(ctx); r != nil {
			return *r
		}
	}
	switch {
	case !c.counterProofs:
		return c.proved(ctx)
	case c.looks():
		reason, _ := c.refusal(c.spec.Risk)
		return inconclusive(reason, "it held by looking, and its faults are above what the profile allows")
	}
	if r := c.challenge(ctx); r.Outcome != journal.Proved {
		return r
	}
	return c.proved(ctx)
}

// proved is the verdict when all held, of what is still there.
func (c *clause) proved(ctx context.Context) journal.Result {
	for _, need := range c.spec.Needs {
		s, can := need.(standing)
		if !can || c.looks() {
			continue
		}
		if err := c.guard(ctx, c.limits.fault, func(ctx context.Context) error { return s.Stands(ctx, c.env) }); err != nil {
			return inconclusive(reasonReplaced, err.Error())
		}
	}
	return journal.Result{Outcome: journal.Proved}
}

// looks says that the clause is proved by what there is to see, and not by doing something.
func (c *clause) looks() bool {
	reason, _ := c.refusal(c.spec.Risk)
	return c.spec.Look != nil && reason != ""
}

// refusal is why the profile does not let something of a risk happen for the clause, in words that
// go on after "it"; the reason is empty where it does.
func (c *clause) refusal(risk environment.Risk) (reason, detail string) {
	if !c.profile.Allows(risk) {
		return journal.AboveCeiling, fmt.Sprintf("is %s, and the profile %s allows %s at most", risk, c.profile.Name, c.profile.RiskCeiling)
	}
	clause, err := c.catalogue.Lookup(c.spec.ID)
	if risk >= environment.Disruptive && (err != nil || !c.profile.MayDisturb(clause)) {
		return journal.OutsideRadius, fmt.Sprintf("is %s on a cluster that is others' as well, and blastRadius.disturbs of the profile %s names neither %s nor %q",
			risk, c.profile.Name, c.spec.ID, clause.Area)
	}
	return "", ""
}

// excused is the verdict of a specification that this profile does not try.
func (c *clause) excused() *journal.Result {
	var r journal.Result
	reason, detail := c.refusal(c.spec.Risk)
	if w, ok := c.profile.Waiver(c.spec.ID); ok {
		r = inconclusive(journal.Waived+w.Expires+": "+w.Reason, "")
	} else if reason != "" && c.spec.Look == nil {
		r = inconclusive(reason, "it "+detail)
	} else if c.spec.Ours && c.profile.Provider == environment.ProviderGiven {
		r = inconclusive(journal.GivenCluster, fmt.Sprintf("the clause is of one that the run makes, and that of profile %s is others'", c.profile.Name))
	} else if len(c.spec.After) > 0 && !c.counterProofs {
		r = inconclusive(journal.CounterProofsOff, "it goes by the killed counter-proofs of "+strings.Join(c.spec.After, ", "))
	} else {
		return nil
	}
	return &r
}

// enter gets what d demands, unless it is what is held.
func (c *clause) enter(ctx context.Context, d demand) error {
	if c.leave != nil && reflect.DeepEqual(c.held, d) {
		return nil
	}
	return c.turn(ctx, d)
}

// turn gets what d demands, after giving back what is held: who waits for a
// lease must not hold one.
func (c *clause) turn(ctx context.Context, d demand) error {
	c.giveBack()
	// The same name each time, so that the report can add up what the lease cost.
	defer c.record.phase(c.spec.ID, "lease", "the "+d.mode.String()+" lease")()
	waits := func(what string) func(string) {
		return func(holders string) { c.say("waits for %s, held by %s", what, holders) }
	}
	var err error
	if c.keys, err = c.locks.acquire(ctx, c.spec.ID, d, c.keys, waits("its keys")); err != nil {
		return err
	}
	release, err := c.ground.Lease(ctx, d.mode, c.suite+" "+c.spec.ID, waits("the "+d.mode.String()+" lease"))
	if err != nil {
		c.letGo()
		return err
	}
	c.held, c.leave = d, release
	return nil
}

// yield lets those go before who wait to be alone, where that harms nobody: what
// has its faults in namespaces of its own is not touched by theirs, which are undone
// before it goes on. Those of this process with AloneLast wait on.
func (c *clause) yield(ctx context.Context) error {
	if c.held.mode != environment.Shared {
		return nil
	}
	return c.turn(ctx, c.held)
}

// letGo gives back the lease, then the keys.
func (c *clause) letGo() {
	c.giveBack()
	c.locks.drop(c.keys)
	c.keys = nil
}

func (c *clause) giveBack() {
	if c.leave != nil {
		c.leave()
		c.leave = nil
	}
}

func (c *clause) install(ctx context.Context) *journal.Result {
	if c.looks() { // what is there is what it is about
		return nil
	}
	for _, need := range c.spec.Needs {
		name := need.Name()
		end := c.record.phase(c.spec.ID, "install", name)
		err := c.guard(ctx, c.limits.ensure, func(ctx context.Context) error { return need.Ensure(ctx, c.env) })
		end()
		if err != nil {
			c.dump(ctx)
			r := inconclusive(fmt.Sprintf(componentReadiness, name), err.Error())
			var absent interface{ Absent() string } // names a component of which a given cluster has nothing
			if errors.As(err, &absent) {
				r.Reason = fmt.Sprintf(componentAbsence, absent.Absent())
			}
			return &r
		}
		c.say("%s is ready", name)
	}
	return nil
}

// baseline proves the untouched platform; nil means that the proof held.
func (c *clause) baseline(ctx context.Context) *journal.Result {
	defer c.record.phase(c.spec.ID, "baseline", "")()
	e, scope := c.prove(ctx, "", "baseline")
	r := c.weigh(e)
	if r != nil && !isKnown(r.Reason) {
		c.dump(ctx)
	}
	if err := c.close(scope); err != nil {
		if r == nil {
			r = &journal.Result{Outcome: journal.Inconclusive, Reason: reasonNotRestored}
		}
		r.Detail = joined(r.Detail, "what the proof made could not be undone: "+err.Error())
	}
	if r != nil {
		c.say("baseline: %s: %s", r.Outcome, headline(r.Reason))
		return r
	}
	c.say("baseline: held in %s, %d observations", e.elapsed.Round(time.Millisecond), e.seen)
	return nil
}

// weigh is the verdict of a baseline that did not hold.
func (c *clause) weigh(e ending) *journal.Result {
	var r journal.Result
	switch e.how {
	case held:
		if e.seen > 0 {
			return nil
		}
		r = inconclusive(reasonNothingSeen, unseen)
	case failed:
		r = journal.Result{Outcome: journal.Refuted, Reason: headline(e.failed[0])}
		if e.text != r.Reason {
			r.Detail = e.text
		}
	case unmeasured:
		r = inconclusive(e.reason, e.text)
	case late:
		r = inconclusive(reasonProofSlow, e.text)
	default:
		r = inconclusive(reasonProofBroken, e.text)
	}
	return &r
}

// prove executes the proof once. under names the fault in what is journalled,
// or is empty; the caller closes the scope.
func (c *clause) prove(ctx context.Context, under, scopeName string) (ending, *environment.Scope) {
	limit := c.limits.proof
	if c.spec.Timeout > 0 {
		limit = c.spec.Timeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("its %s were over", limit))
	defer cancel()
	prefix := ""
	if under != "" {
		prefix = under + ": "
	}
	p := &proof{
		name: c.test, ctx: ctx, scope: c.ground.Scope(c.spec.ID + "/" + scopeName),
		log: func(format string, args ...any) { c.logf("%s", prefix+fmt.Sprintf(format, args...)) },
		observe: func(text string, data json.RawMessage) {
			c.record.observation(c.spec.ID, prefix+text, data)
			c.say("%s%s", prefix, text)
		},
	}
	prove := c.spec.Prove
	if c.looks() {
		prove = c.spec.Look
	}
	return p.execute(c.limits.grace, prove, c.env), p.scope
}

// guard calls a suite's code with a limit.
func (c *clause) guard(ctx context.Context, limit time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("its %s were over", limit))
	defer cancel()
	err := guarded(ctx, c.limits.grace, call)
	var p *panicked
	if errors.As(err, &p) {
		c.say("%v\n%s", p, p.stack)
	}
	return err
}

// close undoes a scope even when the run is cut short.
func (c *clause) close(s *environment.Scope) error {
	return c.guard(context.WithoutCancel(c.ctx), c.limits.closing, s.Close)
}

// dump keeps the cluster's state for diagnosis. When the run is cut short, the
// time left belongs to undoing.
func (c *clause) dump(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	dir := filepath.Join(c.dumps, c.spec.ID)
	if err := c.ground.Dump(ctx, dir); err != nil {
		c.say("the dump is incomplete: %v", err)
	}
	c.say("the cluster's state is in %s", dir)
}

// say logs what happens with the time since the specification began.
func (c *clause) say(format string, args ...any) {
	c.logf("%7.1f s  %s", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

func joined(parts ...string) string {
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return strings.Join(said, "; ")
}
