package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// experiment is one of Litmus', and how it is known to have happened.
type experiment struct {
	name string            // Litmus', and of its file in fixtures/chaos
	env  map[string]string // durations as they are compressed
	// prepare, when not nil, brings the targets to where they are hit, before users
	// come; it may add to the variables.
	prepare func(x *trial) error
	// begin, when not nil, has what shows it looked at from before its begin.
	begin func(x *trial) error
	// happened says what was seen of the fault and from when to when, or an error
	// when it was not seen; it is asked when the experiment is over.
	happened func(x *trial) (seen string, from, to time.Time, err error)
}

// plan is what a specification tries; faults change it for their time.
type plan struct {
	hypothesis hypothesis
	file       map[string]string  // variables that the experiment's file has others of
	variables  map[string]string  // over the experiment's
	label      string             // of the targets, in the place of the engine's
	requests   int                // of users, and no more; without it as many as it takes
	idle       bool               // the experiment is not run at all, but Litmus says that it was
	impatient  bool               // users, during the fault
	behind     time.Duration      // that users' own requests are sent late by, during the fault
	later      func(*trial) error // what befalls the platform besides, once users are well again
	// stop, when not nil, is how an experiment is stopped that costs users too much.
	stop func(context.Context, *trial, *unstructured.Unstructured) error
}

// trial is one experiment under the users' eyes.
type trial struct {
	ctx       context.Context
	t         spec.T
	env       *environment.Environment
	stage     *stage
	plan      plan
	variables map[string]string // of the experiment
	planned   time.Duration     // of the fault, whatever a seeded fault has of it
	pods      *podLog
	n         int // of the pods at the start
	gauges    *gauges
	direct    map[string]*probe.Record // of each pod, asked past the mesh
	node      *nodeLog
	users     *probe.Record
	round     int
	begun     time.Time // the experiment, by us
}

var (
	steadyTimeout  = wait.Timeout{Name: "replicasReady", D: 60 * time.Second}
	targets        = client.MatchingLabels{"app": "backend"}
	errNotHappened = errors.New("nothing of it was seen")
	errTooFew      = fmt.Errorf("%w on half of the pods", errNotHappened)
	errNotAtOnce   = fmt.Errorf("%w at once", errTooFew)
)

// account is what one trial showed, for the journal.
type account struct {
	Experiment string            `json:"experiment"`
	Engine     string            `json:"engine"`
	Lasts      string            `json:"lastsSeconds"`  // the fault, as it was asked for
	Stated     string            `json:"statedSeconds"` // as the platform has it
	Targets    []string          `json:"targets"`
	Seen       string            `json:"seen"`
	From       time.Time         `json:"from"` // the fault's begin
	To         time.Time         `json:"to"`
	Recovery   float64           `json:"recoverySeconds"`
	Aborted    *abort            `json:"aborted,omitempty"`
	Ended      time.Time         `json:"ended"` // the experiment, by Litmus
	End        string            `json:"end"`   // completed, or stopped before
	Litmus     result            `json:"litmus"`
	Users      map[string]window `json:"users"` // before, during, after
	Left       []string          `json:"left"`  // of the fault, on the nodes
	Unmet      []string          `json:"unmet,omitempty"`
}

// lasts is the variable of an experiment that says for how many seconds its fault does.
const lasts = "TOTAL_CHAOS_DURATION"

// unmet notes what was not as it is promised.
func (a *account) unmet(format string, args ...any) {
	a.Unmet = append(a.Unmet, fmt.Sprintf(format, args...))
}

// judge notes what users did not find, and says whether they did. Too few samples
// settle nothing.
func (a *account) judge(t spec.T, want steady, of probe.Outcomes, when string) bool {
	err := want.judge(of)
	if err == nil {
		return true
	}
	if errors.Is(err, errCameLate) {
		t.Inconclusive(errCameLate.Error(), "users %s: %v", when, err)
	}
	var unmet *probe.Unmet
	if !errors.As(err, &unmet) && a.Aborted == nil { // who stops it early has fewer of them
		t.Inconclusive("no samples", "users %s: %v", when, err)
	}
	a.unmet("users %s: %v", when, err)
	return false
}

// overBudget notes that users bore more than they are to, which refutes what is
// promised also where the fault was not seen: it was stopped before.
func (a *account) overBudget() {
	a.unmet("users during the fault bore more than their budget, and %s was stopped at %s: %s", a.Experiment, a.Aborted.At.Format("15:04:05.000"), a.Aborted.Cause)
}

// hold asserts that the trial showed what is promised.
func (a *account) hold(t spec.T) {
	require.Empty(t, a.Unmet, "what %s showed that is not promised", a.Experiment)
}

// window is how users fared in a part of the time.
type window struct {
	Samples int     `json:"samples"`
	Errors  float64 `json:"errors"` // share
	P95     float64 `json:"p95Millis"`
}

func windowOf(o probe.Outcomes) window {
	w := window{Samples: len(o.Sent)}
	if w.Samples > 0 {
		w.Errors, w.P95 = o.ErrorShare(), float64(o.Took(95).Milliseconds())
	}
	return w
}

// endure runs the experiment of an engine, and notes where users did not find what
// they are promised before, during and after it, and what is left of it. A fault that
// did not happen settles nothing.
func (s *stage) endure(ctx context.Context, t spec.T, env *environment.Environment, e experiment, o *unstructured.Unstructured, p plan) *account {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what looks at it ends with it
	x := &trial{ctx: ctx, t: t, env: env, stage: s, plan: p, variables: map[string]string{}}
	maps.Copy(x.variables, e.env)
	own, _ := variable(o, lasts)
	if env.Profile.TimeScale == 1 && own != "" { // on the platform's own times a fault lasts as long as it states
		x.variables[lasts] = own
	}
	var err error
	x.planned, err = time.ParseDuration(cmp.Or(x.variables[lasts], own) + "s")
	spec.Check(t, err)
	maps.Copy(x.variables, p.variables)
	if e.prepare != nil {
		spec.Check(t, e.prepare(x))
	}
	x.pods, err = followPods(ctx, env, s.ns, client.InNamespace(s.ns), targets)
	spec.Check(t, err)
	there, err := x.pods.soFar()
	spec.Check(t, err)
	x.n = len(there)
	found, err := fingerprint(ctx, env, s)
	spec.Check(t, err)
	accounts.found(found)
	x.users, x.round, err = s.traffic(ctx, p.requests)
	spec.Check(t, err)
	before, err := x.steady(p.hypothesis.Before)
	if err != nil { // a platform that is not well already would show nothing
		reason := "no samples"
		switch {
		case errors.As(err, new(*probe.Unmet)):
			reason = "no steady state"
		case errors.Is(err, errCameLate):
			reason = errCameLate.Error()
		}
		t.Inconclusive(reason, "users before the fault: %v", err)
	}
	a := &account{Experiment: e.name, Lasts: cmp.Or(x.variables[lasts], own), Stated: own, Users: map[string]window{}}
	if e.begin != nil {
		spec.Check(t, e.begin(x))
	}
	x.run(o, a)
	promised := p.hypothesis.During.Samples > 0 // else the budget alone says what users are to bear
	a.Seen, a.From, a.To, err = e.happened(x)
	switch {
	case errors.Is(err, errNotHappened) && a.Aborted != nil && promised && x.followed(a.Targets):
		a.unmet("the fault was not seen: %v", err)
		a.From, a.To, err = a.Aborted.At, a.Ended, nil
	case errors.As(err, new(*stayed)):
		a.unmet("%v", err)
		err = nil
	case errors.Is(err, errNotHappened):
		reason := "the fault did not happen: " + e.name
		switch {
		case errors.Is(err, errNotAtOnce):
			reason += ", on half of the pods at once"
		case errors.Is(err, errTooFew):
			reason += ", on half of the pods"
		}
		t.Inconclusive(reason, "%s of %s: %v; Litmus says %s", e.name, s.ns, err, a.Litmus.Verdict)
	}
	spec.Check(t, err)
	if first := x.firstFailed(); !first.IsZero() && first.Before(a.From) {
		a.From = first // users noticed it before a watch told of it
	}
	over := a.To
	if promised { // a container may be back before enough users have come: those right behind it count as well
		users := x.after(a.From, p.hypothesis.During.Samples).Sent
		if last := users[len(users)-1].Due.Add(time.Millisecond); last.After(over) {
			over = last
		}
	}
	recovered := x.recovered(over)
	a.Recovery = recovered.Sub(over).Seconds()
	if p.later != nil {
		spec.Check(t, p.later(x))
	}
	spec.Check(t, x.users.Stop(ctx))

	all := x.users.Outcomes()
	parts := map[string]probe.Outcomes{"before": before, "during": sentLate(all.Between(a.From, recovered), p.behind), "after": all.Between(recovered, time.Now())}
	for name, part := range parts {
		a.Users[name] = windowOf(part)
	}
	if promised {
		if a.Aborted != nil {
			a.overBudget()
		}
		a.judge(t, p.hypothesis.During, parts["during"], "during the fault")
	}
	if most := p.hypothesis.Recovery.Seconds(); a.Recovery > most {
		a.unmet("users found it as before %.1f s after the fault's end, %.1f s at most are promised", a.Recovery, most)
	} else { // how they fare who are not well again is known
		a.judge(t, p.hypothesis.After, parts["after"], "after the fault")
	}
	lacking, err := x.unread()
	spec.Check(t, err)
	if len(lacking) > 0 {
		a.unmet("documents that users were told are kept, and that are not: %v", lacking)
	}
	after, err := fingerprint(ctx, env, s)
	spec.Check(t, err)
	pods, err := podsOf(ctx, env, o.GetUID())
	spec.Check(t, err)
	a.Left = append(found.difference(after), pods...)
	if len(a.Left) > 0 {
		a.unmet("what is left of the fault: %v", a.Left)
	}
	return a
}

// steady waits for as many requests as a hypothesis asks for, the last of which are as
// it says, and gives these: an application that just started is slow. The error says
// what they lack when they never come to be so.
func (x *trial) steady(want steady) (probe.Outcomes, error) {
	ctx, cancel := context.WithTimeout(x.ctx, steadyTimeout.D)
	defer cancel()
	for n := want.Samples; ; n += 10 {
		awaited := x.users.Await(ctx, n)
		last := x.last(want.Samples)
		if err := want.judge(last); err == nil || awaited != nil {
			return last, err
		}
	}
}

// last are the outcomes of the last n requests.
func (x *trial) last(n int) probe.Outcomes {
	o := x.users.Outcomes()
	o.Sent = o.Sent[max(0, len(o.Sent)-n):]
	return o
}

// run has Litmus carry the experiment out, and waits for its end.
func (x *trial) run(o *unstructured.Unstructured, a *account) {
	spec.Check(x.t, aimed(o, x.stage.ns, x.variables))
	if x.plan.label != "" {
		spec.Check(x.t, unstructured.SetNestedField(o.Object, x.plan.label, "spec", "appinfo", "applabel"))
	}
	var err error
	a.Engine = o.GetName()
	a.Targets, err = preview(x.ctx, x.env, o)
	spec.Check(x.t, err)
	if len(a.Targets) == 0 {
		x.t.Inconclusive("no targets", "%s is aimed at no pod of %s", o.GetName(), x.stage.ns)
	}
	h, err := hit(o, a.Targets)
	spec.Check(x.t, err)
	if err := x.env.Profile.BlastRadius.Allows(h); err != nil {
		x.t.Inconclusive(journal.OutsideRadius, "%v", err)
	}
	x.t.Logf("%s is aimed at some of %v", a.Experiment, a.Targets)
	told, err := resultFor(o, x.plan.idle)
	spec.Check(x.t, err)
	spec.Check(x.t, x.t.Scope().Create(x.ctx, told))
	x.begun = time.Now()
	if x.plan.idle {
		a.Litmus, err = resultOf(x.ctx, x.env, told)
		spec.Check(x.t, err)
		return
	}
	// Litmus writes the result anew when its pods end before it: they are to be gone first.
	own := x.t.Scope().Child("engine")
	own.WaitGone = true
	spec.Check(x.t, own.Create(x.ctx, o))
	accounts.made(o)
	guarded, cancel := context.WithCancel(x.ctx)
	spent := x.guard(guarded, o)
	ended, err := wait.On(x.env.Config).Until(x.ctx, engineTimeout, targetOf(o), engineEnded())
	a.Ended = time.Now()
	cancel()
	spec.Check(x.t, err)
	a.End = endOf(ended[0])
	if early, is := <-spent; is {
		a.Aborted = &early
	}
	a.Litmus, err = resultOf(x.ctx, x.env, told)
	spec.Check(x.t, err)
}

// followed says whether some of an experiment's targets are among the pods that its
// fault is looked for in.
func (x *trial) followed(targets []string) bool {
	lives, err := x.pods.soFar()
	spec.Check(x.t, err)
	return slices.ContainsFunc(lives, func(l life) bool { return slices.Contains(targets, l.pod.Name) })
}

// firstFailed is when the first request was due that failed once the experiment had
// begun; zero for none.
func (x *trial) firstFailed() (first time.Time) {
	for _, sent := range x.users.Outcomes().Between(x.begun, time.Now()).Failed() {
		if first.IsZero() || sent.Due.Before(first) {
			first = sent.Due
		}
	}
	return first
}

func (a *account) String() string {
	of := func(name string) string {
		w := a.Users[name]
		return fmt.Sprintf("%s %d requests, %.2f %% failed, p95 %.0f ms", name, w.Samples, 100*w.Errors, w.P95)
	}
	return fmt.Sprintf("%s (%s s of the %s s that the platform states): %s, in %.1f s; users: %s; %s; %s; as before %.1f s after its end; every acknowledged document is there, and nothing of the fault is left; Litmus says %s",
		a.Experiment, a.Lasts, a.Stated, a.Seen, a.To.Sub(a.From).Seconds(), of("before"), of("during"), of("after"), a.Recovery, a.Litmus.Verdict)
}
