//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// experiment is one of Litmus', and how it is known to have happened.
type experiment struct {
	name string            // of its file in fixtures/chaos
	env  map[string]string // durations as they are compressed
	// begin, when not nil, has what shows it looked at from before its begin.
	begin func(x *trial) error
	// happened says what was seen of the fault and from when to when, or an error
	// when it was not seen; it is asked when the experiment is over.
	happened func(x *trial) (seen string, from, to time.Time, err error)
}

// plan is what a specification tries; faults change it for their time.
type plan struct {
	hypothesis hypothesis
	env        map[string]string // over that of the experiment
	label      string            // of the targets, in the place of the engine's
	silent     bool              // users send nothing
	idle       bool              // the experiment is not run at all
	leaves     bool              // something of the fault stays
}

// trial is one experiment under the users' eyes.
type trial struct {
	ctx    context.Context
	t      spec.T
	env    *environment.Environment
	stage  *stage
	plan   plan
	pods   *podLog
	n      int // of the pods at the start
	gauges *gauges
	users  *probe.Record
	round  int
}

var (
	steadyTimeout  = wait.Timeout{Name: "replicasReady", D: 60 * time.Second}
	targets        = client.MatchingLabels{"app": "backend"}
	errNotHappened = errors.New("nothing of it was seen")
)

// account is what one trial showed, for the journal.
type account struct {
	Experiment string            `json:"experiment"`
	Engine     string            `json:"engine"`
	Targets    []string          `json:"targets"`
	Seen       string            `json:"seen"`
	From       time.Time         `json:"from"` // the fault's begin
	To         time.Time         `json:"to"`
	Recovery   float64           `json:"recoverySeconds"`
	Aborted    *abort            `json:"aborted,omitempty"`
	Ended      time.Time         `json:"ended"` // the experiment, by Litmus
	Litmus     result            `json:"litmus"`
	Users      map[string]window `json:"users"` // before, during, after
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
		w.Errors, w.P95 = o.ErrorShare(), float64(o.Percentile(95).Milliseconds())
	}
	return w
}

// endure runs an experiment and asserts that users found what they are promised
// before, during and after it, that it happened, and that nothing of it is left.
func (s *stage) endure(ctx context.Context, t spec.T, env *environment.Environment, e experiment, p plan) account {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what looks at it ends with it
	x := &trial{ctx: ctx, t: t, env: env, stage: s, plan: p}
	var err error
	x.pods, err = followPods(ctx, env, s.ns, targets)
	spec.Check(t, err)
	x.n = read(x.pods, func(all []*life) int { return len(all) })
	before, err := fingerprint(ctx, env, s)
	spec.Check(t, err)
	if !p.silent {
		x.users, x.round, err = s.traffic(ctx)
		spec.Check(t, err)
		spec.Check(t, x.users.Await(ctx, p.hypothesis.Before.Samples))
	}
	if e.begin != nil {
		spec.Check(t, e.begin(x))
	}
	a := account{Experiment: e.name}
	began := time.Now()
	x.run(e, &a)
	a.Seen, a.From, a.To, err = e.happened(x)
	if errors.Is(err, errNotHappened) {
		t.Inconclusive("the fault did not happen", "%s of %s: %v; Litmus says %s", e.name, s.ns, err, a.Litmus.Verdict)
	}
	spec.Check(t, err)
	if p.leaves {
		spec.Check(t, x.leave())
	}
	if x.users == nil {
		t.Inconclusive("no samples", "no user asked anything while %s went on", e.name)
	}
	recovered := x.recovered(a.To)
	a.Recovery = recovered.Sub(a.To).Seconds()
	spec.Check(t, x.users.Await(ctx, len(x.users.Outcomes().Sent)+p.hypothesis.After.Samples))
	spec.Check(t, x.users.Stop(ctx))

	all := x.users.Outcomes()
	parts := map[string]probe.Outcomes{"before": all.Between(time.Time{}, began), "during": all.Between(a.From, a.To), "after": all.Between(recovered, time.Now())}
	a.Users = map[string]window{}
	for name, part := range parts {
		a.Users[name] = windowOf(part)
	}
	require.NoError(t, p.hypothesis.Before.judge(parts["before"]), "users before the fault")
	if p.hypothesis.During.Samples > 0 { // else the budget alone says what they are to bear
		require.Nil(t, a.Aborted, "the experiment was stopped, for users bore too much")
		require.NoError(t, p.hypothesis.During.judge(parts["during"]), "users during the fault")
	}
	require.NoError(t, p.hypothesis.After.judge(parts["after"]), "users after the fault")
	require.LessOrEqual(t, a.Recovery, p.hypothesis.Recovery.Seconds(), "seconds until users found it as before")
	lacking, err := x.unread()
	spec.Check(t, err)
	require.Empty(t, lacking, "documents that users were told are kept, and that are not")
	after, err := fingerprint(ctx, env, s)
	spec.Check(t, err)
	require.Empty(t, before.difference(after), "what is left of the fault")
	return a
}

// run has Litmus carry the experiment out, and waits for its end.
func (x *trial) run(e experiment, a *account) {
	variables := map[string]string{}
	for _, more := range []map[string]string{e.env, x.plan.env} {
		for k, v := range more {
			variables[k] = v
		}
	}
	o, err := engine(x.env.Root, e.name, x.stage.ns, variables)
	spec.Check(x.t, err)
	if x.plan.label != "" {
		spec.Check(x.t, unstructured.SetNestedField(o.Object, x.plan.label, "spec", "appinfo", "applabel"))
	}
	a.Engine = o.GetName()
	a.Targets, err = preview(x.ctx, x.env, o)
	spec.Check(x.t, err)
	if len(a.Targets) == 0 {
		x.t.Inconclusive("no targets", "%s is aimed at no pod of %s", o.GetName(), x.stage.ns)
	}
	x.t.Logf("%s is aimed at some of %v", e.name, a.Targets)
	if x.plan.idle {
		return
	}
	told := ofLitmus("ChaosResult", o.GetNamespace(), o.GetName()+"-"+experimentOf(o))
	spec.Check(x.t, x.t.Scope().Defer("what Litmus says of "+o.GetName(), func(ctx context.Context) error {
		return client.IgnoreNotFound(x.env.Client().Delete(ctx, told))
	}))
	spec.Check(x.t, x.t.Scope().Create(x.ctx, o))
	w, err := wait.On(x.env.Config)
	spec.Check(x.t, err)
	guarded, cancel := context.WithCancel(x.ctx)
	var spent <-chan abort
	if x.users != nil {
		spent = x.guard(guarded, o)
	}
	_, err = w.Until(x.ctx, engineTimeout, targetOf(o), engineEnded())
	a.Ended = time.Now()
	cancel()
	spec.Check(x.t, err)
	if spent != nil {
		if early, is := <-spent; is {
			a.Aborted = &early
		}
	}
	a.Litmus, err = resultOf(x.ctx, x.env, o)
	spec.Check(x.t, err)
}

// recovered waits until all replicas are ready and users are served as before, and
// says since when.
func (x *trial) recovered(ended time.Time) time.Time {
	ctx, cancel := context.WithTimeoutCause(x.ctx, steadyTimeout.D, fmt.Errorf("%s of %s", steadyTimeout.Name, steadyTimeout.D))
	defer cancel()
	spec.Check(x.t, x.pods.until(ctx, "all replicas", func(all []*life) string {
		if n := count(all, (*life).ready); n != x.n {
			return fmt.Sprintf("%d of %d are ready", n, x.n)
		}
		return ""
	}))
	// The last failure after the fault's end, if there was one.
	at := ended
	for _, sent := range x.users.Outcomes().Between(ended, time.Now()).Failed() {
		at = sent.At.Add(time.Duration(sent.Millis * float64(time.Millisecond)))
	}
	return at
}

func (a account) String() string {
	of := func(name string) string {
		w := a.Users[name]
		return fmt.Sprintf("%s %d requests, %.2f %% failed, p95 %.0f ms", name, w.Samples, 100*w.Errors, w.P95)
	}
	return fmt.Sprintf("%s: %s, in %.1f s; users: %s; %s; %s; as before %.1f s after its end; every acknowledged document is there, and nothing of the fault is left; Litmus says %s",
		a.Experiment, a.Seen, a.To.Sub(a.From).Seconds(), of("before"), of("during"), of("after"), a.Recovery, a.Litmus.Verdict)
}
