package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
		err := want.judge(after)
		if err == nil || errors.Is(err, errCameLate) || at.Sub(ended) > x.plan.hypothesis.Recovery.Duration {
			return at
		}
		for _, sent := range after.Sent {
			if end := sent.Ended(); (!sent.OK() || end.Sub(sent.At) > want.P95.Duration) && end.After(at) {
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

// sentLate are outcomes as those of a sender that was so much behind.
func sentLate(o probe.Outcomes, by time.Duration) probe.Outcomes {
	o.Sent = slices.Clone(o.Sent)
	for i := range o.Sent {
		o.Sent[i].Due = o.Sent[i].Due.Add(-by)
	}
	return o
}

// relapse has all targets lost at once, and waits until users are well again.
func (x *trial) relapse() error {
	at := time.Now()
	if err := x.env.Client().DeleteAllOf(x.ctx, &corev1.Pod{}, client.InNamespace(x.stage.ns), targets, client.GracePeriodSeconds(0)); err != nil {
		return err
	}
	x.after(at, x.plan.hypothesis.After.Samples)
	if err := whole(x.ctx, wait.On(x.env.Config), x.stage.ns, x.n); err != nil {
		return err
	}
	_, err := x.steady(x.plan.hypothesis.Before)
	return err
}

// forget has the database lose a document that a user was told is kept.
func (x *trial) forget() error {
	for _, s := range x.users.Outcomes().Sent {
		if !s.OK() {
			continue
		}
		var lost bytes.Buffer
		err := x.env.Exec(x.ctx, x.stage.ns, "postgresql-0", "postgresql", nil, &lost, "psql", "-U", "docuthinker", "-d", "docuthinker", "-v", "ON_ERROR_STOP=1",
			"-qAtc", fmt.Sprintf("delete from documents where number = %d%d returning number", x.round, s.N))
		if err == nil && lost.Len() == 0 {
			err = fmt.Errorf("document %d%d is not there", x.round, s.N)
		}
		return err
	}
	return errors.New("no user was told that a document is kept")
}
