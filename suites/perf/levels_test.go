package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/platform"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

const (
	metricsPort = "9090" // the application's second port: its metrics, and its faults from within the pod
	pagerduty   = "pagerduty"
	slack       = "slack"
)

// levels is the application without a mesh, users of it, and who is told of alerts:
// receivers that take what PagerDuty and Slack would.
type levels struct {
	*spec.Stage
	values map[string]any                                                            // over the chart's
	before func(context.Context, *environment.Environment, *environment.Scope) error // the application; nil for nothing
	ns     string
	pods   map[string]*probe.Pod
}

func newLevels(t *testing.T, name string, values map[string]any) *levels {
	t.Helper()
	l := &levels{values: values, pods: map[string]*probe.Pod{}}
	l.Stage = spec.NewStage(t, "stage "+name, func(ctx context.Context, env *environment.Environment, scope *environment.Scope) (err error) {
		if l.ns, err = scope.Namespace(ctx, "perf-"+name, nil); err != nil {
			return err
		}
		if l.before != nil {
			if err := l.before(ctx, env, scope); err != nil {
				return err
			}
		}
		if err := platform.Deploy(ctx, env, scope, docuthinker, l.ns, platform.Merged(map[string]any{"networkPolicies": false}, l.values)); err != nil {
			return err
		}
		names := []string{"users", pagerduty, slack}
		var specs []probe.Spec
		for _, name := range names {
			s := probe.Spec{Namespace: l.ns, Name: name}
			if name != "users" {
				s.Upstream = &probe.Upstream{}
			}
			specs = append(specs, s)
		}
		pods, err := probe.Start(ctx, env, scope, specs...)
		if err != nil {
			return err
		}
		for i, name := range names {
			l.pods[name] = pods[i]
		}
		return nil
	})
	return l
}

// traffic has users ask, at a rate, until it is stopped or that long.
func (l *levels) traffic(ctx context.Context, rate float64, d time.Duration) (*probe.Record, error) {
	patience := min(5*time.Second, time.Duration(500_000/rate)*time.Millisecond) // a plan may have 500 requests under way
	return l.pods["users"].Traffic(ctx, probe.Plan{
		Request: probe.Request{URL: "http://frontend." + l.ns + ":8080/api/echo", Timeout: patience}, Rate: rate, For: d, KeepAlive: true,
	})
}

// answered makes requests for a time, and says how many there were, and how many were
// answered by an error. Traffic of which a request got no answer is not known traffic.
func (l *levels) answered(ctx context.Context, t spec.T, rate float64, d time.Duration) (all, errs int) {
	t.Helper()
	record, err := l.traffic(ctx, rate, d)
	spec.Check(t, err)
	spec.Check(t, record.Wait(ctx))
	for _, one := range record.Outcomes().Sent {
		switch {
		case one.Status == 0:
			t.Inconclusive("the traffic is not known", "request %d got no answer: %s %s", one.N, one.Result, one.Detail)
		case one.Status >= http.StatusInternalServerError:
			errs++
		}
		all++
	}
	if all == 0 {
		t.Inconclusive("no samples", "no request was sent")
	}
	return all, errs
}

// fault has the frontend meet its users with one, until the scope ends at the latest.
// Errors are exact by counting.
func (l *levels) fault(ctx context.Context, env *environment.Environment, scope *environment.Scope, plan map[string]any) error {
	pod, err := env.OnlyPod(ctx, l.ns, "frontend") // for errors are counted in each
	if err != nil {
		return err
	}
	set := func(ctx context.Context, plan map[string]any) error {
		body, err := json.Marshal(plan)
		if err != nil {
			return err
		}
		_, err = env.Ask(ctx, l.ns, pod, metricsPort, http.MethodPut, "fault", bytes.NewReader(body))
		return err
	}
	return errors.Join(
		scope.Defer("the frontend's faults", func(ctx context.Context) error { return set(ctx, map[string]any{}) }),
		set(ctx, plan),
	)
}
