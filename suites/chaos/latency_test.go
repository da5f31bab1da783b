package chaos

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// TestLatency proves that users are served when half of the backend's pods answer two
// seconds late: the mesh asks another one.
func TestLatency(t *testing.T) {
	s := newStage(t, "latency", nil)
	s.adjust = outOfMesh
	survives(t, "CHS-002", s, latency, func(s *stage, p *plan) []spec.Sabotage {
		return []spec.Sabotage{
			s.onePod(),
			unsettled("a quarter of the pods", `the fault did not happen: [a-z-]+, on half of the pods$`, p, plan{variables: map[string]string{"PODS_AFFECTED_PERC": "25"}}),
			spec.Swapped("its file says 200 ms", `LATENCY of pod-(http|network)-latency, in its file`, p, plan{file: map[string]string{"LATENCY": "200", "NETWORK_LATENCY": "200"}}),
		}
	})
}

// latency is the experiment that the kernel of the nodes has what it takes for.
func latency(ctx context.Context, env *environment.Environment, s *stage) (experiment, error) {
	e := experiment{
		name: "pod-network-latency", env: map[string]string{"TOTAL_CHAOS_DURATION": "20"}, begin: askDirectly,
		happened: func(x *trial) (string, time.Time, time.Time, error) { return x.answeredLate(2*time.Second, mostly) },
	}
	has, err := s.netem(ctx, env)
	if !has {
		e.name = "pod-http-latency"
	}
	return e, err
}

// netem says whether the kernel can delay packets. It tries in the network of a pod
// of the run's.
func (s *stage) netem(ctx context.Context, env *environment.Environment) (bool, error) {
	node, err := s.aside(ctx, env)
	if err != nil {
		return false, err
	}
	const try = `if said=$(tc qdisc add dev lo root netem delay 1ms 2>&1); then tc qdisc del dev lo root; echo has; else echo "$said"; fi`
	said, err := s.look(ctx, env, node, try)
	switch text := strings.Join(said, " "); {
	case err != nil:
		return false, err
	case text == "has":
		return true, nil
	case strings.Contains(text, "qdisc kind is unknown"):
		return false, nil
	default:
		return false, fmt.Errorf("whether node %s has sch_netem: %q", node, text)
	}
}

// askDirectly begins to ask each pod that may be hit, past the mesh and its retries.
func askDirectly(x *trial) error {
	x.direct = map[string]*probe.Record{}
	pods, err := x.backends()
	if err != nil {
		return err
	}
	for _, p := range pods {
		record, err := x.stage.users.Traffic(x.ctx, probe.Plan{
			Rate: directRate, For: userLimit, // each by a connection of its own: one that is open is not redirected
			Request: probe.Request{URL: fmt.Sprintf("http://%s:8080/api/documents?limit=1", p.Status.PodIP), Timeout: userTimeout},
		})
		if err != nil {
			return err
		}
		if err := record.Await(x.ctx, 1); err != nil {
			return err
		}
		x.direct[p.Name] = record
	}
	return nil
}

const directRate = 4 // requests a second to each pod: when it began is known to a quarter of one

// answeredLate says that at least half of the pods took that long to answer for a share of
// the time that they were to, and others did not.
func (x *trial) answeredLate(limit time.Duration, share float64) (seen string, from, to time.Time, err error) {
	most := 0.
	var pods []stretch
	for pod, record := range x.direct {
		sent := record.Outcomes().Sent
		if len(sent) == 0 {
			return "", from, to, fmt.Errorf("pod %s was never asked", pod)
		}
		var late stretch
		for _, r := range sent { // by their numbers, and so by when they were due
			most = max(most, r.Millis)
			late.see(r.Due, r.Ended(), r.Ended().Sub(r.At) >= limit)
		}
		pods = append(pods, late)
	}
	n, from, to, err := x.halfOf(pods, share)
	if err != nil {
		return "", from, to, fmt.Errorf("pods that answered %s late: %w; the longest took %.0f ms", limit, err, most)
	}
	if n == x.n && n > 1 {
		return "", from, to, fmt.Errorf("%w: all %d pods answered %s late, and half of them were to: that is something else's doing", errNotHappened, n, limit)
	}
	return fmt.Sprintf("%d of %d pods took %s or more to answer, asked directly, at most %.2f s", n, x.n, limit, most/1000), from, to, nil
}
