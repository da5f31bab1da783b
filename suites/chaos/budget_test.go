package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// abort is the end of an experiment before its time, for users bore more than their
// budget.
type abort struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
}

// guard stops an engine's experiment when more requests have failed than the budget
// allows, and says so. It ends with ctx, or with the traffic.
func (x *trial) guard(ctx context.Context, e *unstructured.Unstructured) <-chan abort {
	spent := make(chan abort, 1)
	from := x.users.Last()
	go func() {
		defer close(spent)
		failed := 0
		last, err := x.users.AwaitOne(ctx, from, "more failures than the budget allows", func(s probe.Sent) bool {
			if !s.OK() {
				failed++
			}
			return failed > x.plan.hypothesis.Budget
		})
		if err != nil {
			return // the traffic is over, or the experiment
		}
		a := abort{time.Now(), fmt.Sprintf("%d requests had failed, %d may; the last of them %s", failed, x.plan.hypothesis.Budget, last)}
		end := stop
		if x.plan.stop != nil {
			end = x.plan.stop
		}
		if err := end(ctx, x, e); err != nil {
			a.Cause += "; the experiment could not be stopped: " + err.Error()
		}
		spent <- a
	}()
	return spent
}

// TestErrorBudget proves that an experiment which costs users more than their budget
// is stopped, its fault reverted, and the platform back; and that a fault whose run is
// killed does not outlast it. The fault is latency, for it leaves something that only its
// helper takes away. A single pod that answers late is soon not ready, and users have
// nobody else.
func TestErrorBudget(t *testing.T) {
	s := newStage(t, "budget", map[string]any{"backend": map[string]any{"replicas": 1}})
	s.adjust = func(ctx context.Context, env *environment.Environment, s *stage) error {
		if err := outOfMesh(ctx, env, s); err != nil {
			return err
		}
		return s.edit(ctx, env, func(d *appsv1.Deployment) { // or the kubelet ends who is late for long, again and again
			d.Spec.Template.Spec.Containers[0].LivenessProbe = nil
		})
	}
	p := plan{hypothesis: hypothesis{
		Before: steady{Samples: 50, P95: second(2)}, After: steady{Samples: 50, P95: second(2)}, Recovery: second(30), Budget: 5,
	}}
	short := map[string]string{lasts: "12"} // users fail after seven, and Litmus takes some 25 to look back on it
	more := plan{hypothesis: p.hypothesis, variables: short}
	more.hypothesis.Budget = 1_000_000
	var after aftermath
	const planned = 60 * time.Second
	abrupt := spec.Swapped("helpers are killed before they can revert anything", `replicas after the fault`, &p, plan{hypothesis: p.hypothesis, stop: killHelpers})
	abrupt.Restored = s.restart // what the pod's network was left with ends with the pod
	spec.Run(t, spec.Specification{
		ID: "CHS-009", Risk: spec.Namespaced, Needs: []spec.Need{istio, gateway, litmus, s}, Timeout: 8 * time.Minute,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			e, err := latency(ctx, env, s)
			spec.Check(t, err)
			e.env = map[string]string{lasts: fmt.Sprint(planned.Seconds())}
			e.happened = func(x *trial) (string, time.Time, time.Time, error) { return x.answeredLate(2*time.Second, 0) }
			o, err := engine(env.Root, e.name)
			spec.Check(t, err)
			a := s.endure(ctx, t, env, e, o, p)
			require.NotNil(t, a.Aborted, "the experiment went on to its end, over the budget")
			over := later(a.To, a.Ended).Sub(a.Aborted.At)
			require.Less(t, over, abortLimit, "from the last failure that the budget allows to the end of the experiment, and of all that answered late")
			require.Equal(t, "stopped", a.End, "the experiment came to its end by itself, and was to be stopped")
			a.hold(t)
			t.Observe(fmt.Sprintf("%s, planned for %s, was stopped %.1f s after its begin: %s; %.1f s later it was over. %s: %.1f s after the last that was late users found all as before, and nothing of it is left",
				e.name, planned, a.Aborted.At.Sub(a.From).Seconds(), a.Aborted.Cause, over.Seconds(), a.Seen, a.Recovery), a)
			s.proveKilled(ctx, t, env, after)
		},
		CounterProofs: []spec.Sabotage{
			spec.Swapped("a budget that is never spent", `went on to its end`, &p, more),
			spec.Swapped("nobody hears that it is to be stopped", `from the last failure that the budget allows`, &p, plan{hypothesis: p.hypothesis, stop: unheard}),
			spec.Swapped("nobody hears, and it ends by itself soon enough", `came to its end by itself`, &p, plan{hypothesis: p.hypothesis, variables: short, stop: unheard}),
			abrupt,
			spec.Swapped("a rule is left behind", `what is left of the fault: \[has pods: iptables`, &p, plan{hypothesis: p.hypothesis, later: (*trial).leave}),
			spec.Swapped("a rule of a killed run's fault is left behind", `what is left of the killed run's fault`, &after, aftermath{leaves: true}),
			spec.Swapped("what a killed run made is not noted", `that the next start gave back`, &after, aftermath{forgotten: true}),
			unsettled("a user of one request", `no samples`, &p, plan{hypothesis: p.hypothesis, requests: 1}),
			s.note(),
		},
	})
}

// abortLimit is for the operator to end an experiment that is stopped: its pods have
// 30 s to revert their fault.
const abortLimit = 45 * time.Second
