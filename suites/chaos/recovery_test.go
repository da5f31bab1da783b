package chaos

import (
	"time"

	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// recovered waits until all replicas are ready and users are served as before, and says
// since when: not before the fault's end. When that takes longer than is promised, it
// says how far it had come.
func (x *trial) recovered(ended time.Time) time.Time {
	err := whole(x.ctx, wait.On(x.env.Config), x.stage.ns, x.n)
	spec.InTime(x.t, err, "replicas after the fault")
	at := ended
	if since := x.pods.wholeSince(); since.After(at) {
		at = since
	}
	want := x.plan.hypothesis.After
	for {
		after := x.after(at, want.Samples)
		if want.judge(after) == nil || at.Sub(ended) > x.plan.hypothesis.Recovery.Duration {
			return at
		}
		for _, sent := range after.Sent {
			if end := sent.Ended(); (!sent.OK() || end.Sub(sent.Due) > want.P95.Duration) && end.After(at) {
				at = end
			}
		}
	}
}

// after waits for n outcomes of requests that were due after a moment, and gives the
// first of them.
func (x *trial) after(moment time.Time, n int) probe.Outcomes {
	for {
		o := x.users.Outcomes()
		some := o.Between(moment, time.Now().Add(time.Hour))
		if len(some.Sent) >= n {
			some.Sent = some.Sent[:n]
			return some
		}
		spec.Check(x.t, x.users.Await(x.ctx, len(o.Sent)+n-len(some.Sent)))
	}
}
