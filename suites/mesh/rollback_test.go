package mesh

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/probe"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// illness is what a new version has, and how it is told that it was that.
type illness struct {
	settings map[string]string
	flagger  *regexp.Regexp       // its reason of a failed check
	shows    func(f figures) bool // in Prometheus' own figures
}

var (
	errorProne = illness{
		map[string]string{"FAULT_ERROR_RATE": "0.5"},
		regexp.MustCompile(`advancement success rate \d+\.\d+% < 99%$`),
		func(f figures) bool { return f.Success < minSuccess },
	}
	sluggish = illness{
		map[string]string{"FAULT_LATENCY": "800ms"},
		regexp.MustCompile(`advancement request duration \S+ > 500ms$`),
		func(f figures) bool { return f.P99 > maxDuration && f.Success >= minSuccess },
	}
	nothing = map[string]string{} // what a good image has
)

// TestCanaryRollbackOnErrors proves that a version of which half of the answers
// are errors is taken back, and that few users met it.
func TestCanaryRollbackOnErrors(t *testing.T) {
	r := takenBack.with(t, newRollout(t, "errors"))
	r.leads(t)
	ill := errorProne
	spec.Run(t, spec.Specification{
		ID:      "MSH-011",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			w := r.begin(ctx, t, env, ill.settings)
			begun := w.alerts()
			saw := w.rolledBack(ill, func() { w.bounded(w.users.Outcomes()) })
			saw.begun, saw.ended = begun, w.alerts()
			r.seen = &saw
			users := w.finish()
			met := w.bounded(users)
			spec.Check(w.t, users.Numbered(saw.last+1, math.MaxInt).Check(minUsers, probe.LostNone()))
			t.Observe(saw.text+"; "+met, map[string]any{"flagger": saw.halts, "prometheus": saw.figures})
		},
		CounterProofs: []spec.Sabotage{
			r.healthyInstead(&ill),
			r.fault("no metric is checked", wentOn, []any{}, "spec", "analysis", "metrics"),
			r.fault("threshold range removed", wentOn, []any{map[string]any{"name": "request-success-rate", "interval": interval.String()}}, "spec", "analysis", "metrics"),
			r.fault("success rate 10 % suffices", wentOn, []any{metric("request-success-rate", map[string]any{"min": int64(10)})}, "spec", "analysis", "metrics"),
			r.fault("threshold 3", `should have 5 item\(s\), but has 3`, int64(3), "spec", "analysis", "threshold"),
			r.fault("step weight 50", `at most \d+ of \d+ requests`, int64(maxWeight), "spec", "analysis", "stepWeight"),
			r.noLoad(wantOfMetrics),
			r.harmless(),
		},
	})
}

// TestCanaryRollbackOnLatency proves the same of a version that answers well, but
// late.
func TestCanaryRollbackOnLatency(t *testing.T) {
	r := newRollout(t, "latency")
	ill := sluggish
	spec.Run(t, spec.Specification{
		ID:      "MSH-012",
		Risk:    spec.Namespaced,
		Needs:   []spec.Need{istio, gateway, flagger, r},
		Timeout: proofLimit,
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			w := r.begin(ctx, t, env, ill.settings)
			saw := w.rolledBack(ill, func() {})
			users := w.finish()
			before, after := users.Numbered(1, w.before), users.Numbered(saw.last+1, math.MaxInt)
			spec.Check(w.t, after.Check(minUsers, probe.LostNone()))
			t.Observe(fmt.Sprintf("%s; nine in ten requests of users took %s at most before the new version, %s while it was tried and %s afterwards",
				saw.text, before.Percentile(90), users.Numbered(w.before+1, saw.last).Percentile(90), after.Percentile(90)), map[string]any{"flagger": saw.halts, "prometheus": saw.figures})
		},
		CounterProofs: []spec.Sabotage{
			r.healthyInstead(&ill),
			r.fault("no metric is checked", wentOn, []any{}, "spec", "analysis", "metrics"),
			// Without the range itself Flagger takes 0 s for the most, and halts.
			r.fault("a threshold range without bounds", wentOn, []any{metric("request-duration", map[string]any{})}, "spec", "analysis", "metrics"),
			r.fault("5 s suffice", wentOn, []any{metric("request-duration", map[string]any{"max": int64(5000)})}, "spec", "analysis", "metrics"),
			r.noLoad(wantOfMetrics),
			r.harmless(),
		},
	})
}

const (
	wentOn  = `Flagger went on with it`
	noFault = `nothing is wrong with the new version`
)

// healthyInstead has the proof release a good image where a bad one is meant.
func (r *rollout) healthyInstead(ill *illness) spec.Sabotage {
	f := spec.Swapped("a good image where the bad one was meant", noFault, &ill.settings, nothing)
	f.Restored = r.calm
	return f
}

// rollback is what was seen of one.
type rollback struct {
	halts   []string  // Flagger's reasons
	figures []figures // Prometheus' at the same times
	last    int       // request of users when it was over
	text    string

	begun, ended []probe.Received // alerts that had come when Flagger had begun, and when it was over
}

// leads says that the test's rollback is one that others on the same stage may go by.
func (r *rollout) leads(t *testing.T) {
	r.led = make(chan struct{})
	t.Cleanup(func() { close(r.led) })
}

// followed is the rollback of the test that leads, once that has ended; nil where none does,
// or where its rollback was not as it should be.
func (r *rollout) followed(ctx context.Context, t spec.T, env *environment.Environment) *rollback {
	t.Helper()
	if r.led == nil {
		return nil
	}
	select {
	case <-r.led:
	case <-ctx.Done():
		t.Broken(fmt.Errorf("waiting for the rollback of another proof: %w", context.Cause(ctx)))
	}
	if r.seen == nil {
		spec.Check(t, r.calm(ctx, env)) // it may have left Flagger on its way
	}
	return r.seen
}

// rolledBack follows Flagger until it has rolled the version back, and makes sure
// that it did so for the illness: not because there was nothing to judge by.
// each is called after each failed check.
func (w *walk) rolledBack(ill illness, each func()) (saw rollback) {
	var first time.Time
	early := false
	for !w.at.atRest() {
		before := w.at
		w.move()
		if first.IsZero() && w.at.Weight > 0 {
			first = time.Now()
		}
		failed := w.at.FailedChecks > before.FailedChecks
		on := w.at.Weight > before.Weight && before.Weight > 0 || w.at.Phase == "Promoting" || w.at.Phase == "Succeeded"
		if !failed && !on {
			continue
		}
		if failed {
			halt, absent := w.lastHalt()
			if absent {
				continue
			}
			require.Regexp(w.t, ill.flagger, halt, "Flagger's reason of the failed check")
			saw.halts = append(saw.halts, halt)
		}
		f, err := w.measure(w.ctx, w.env)
		spec.Check(w.t, err)
		if on && !early {
			early = true // Flagger may have asked before the new pods' figures were there, and this process after
			continue
		}
		if f.Requests == 0 {
			w.t.Inconclusive("no samples", "Prometheus has no request of the new version's, while Flagger is at %+v", w.at)
		}
		require.True(w.t, ill.shows(f), "%s: Prometheus has %+v", noFault, f)
		require.False(w.t, on, "%s: to %+v, while Prometheus has %+v", wentOn, w.at, f)
		saw.figures = append(saw.figures, f)
		each()
	}
	require.Equal(w.t, "Failed", w.at.Phase, "how the rollout of a bad version ended")
	intervals := 1 + threshold
	if early {
		intervals++
	}
	pace := moved(w.t, first, intervals, "from 10 % to the rollback")
	events, err := w.events(w.ctx, w.told)
	spec.Check(w.t, err)
	require.Len(w.t, halts(events), threshold, "failed checks")
	require.Contains(w.t, events, fmt.Sprintf("Rolling back backend.%s failed checks threshold reached %d", w.ns, threshold))
	require.EqualValues(w.t, 0, w.share(0), "the canary's share after the rollback, at the frontend's proxy")
	saw.last = w.users.Last()
	kept, err := w.primary(w.ctx, w.env)
	spec.Check(w.t, err)
	require.Equal(w.t, w.old, kept, "the primary's version")
	spec.Check(w.t, w.answeredBy(w.ctx, w.old))
	saw.text = fmt.Sprintf("version %s rolled back after %d failed checks, %d of them by its figures, the last: %q, for which Prometheus has %+v; %s; version %s kept, the frontend's proxy has the canary at 0 %% (%s)",
		w.version, threshold, len(saw.halts), saw.halts[len(saw.halts)-1], saw.figures[len(saw.figures)-1], pace, w.old, timeScale)
	return saw
}

// bounded makes sure that users met no more errors than the canary's share of
// requests can have brought them, from the first error to the last.
func (w *walk) bounded(users probe.Outcomes) string {
	failed := users.Failed()
	if len(failed) > 0 && failed[0].N <= w.before {
		w.t.Broken(fmt.Errorf("users met errors before there was a new version: %s", failed[0]))
	}
	require.NotEmpty(w.t, failed, "errors that users met of a version that gives some")
	while := users.Numbered(failed[0].N, failed[len(failed)-1].N)
	_, most := binomialBound(len(while.Sent), stepWeight/100., 0.002) // a thousandth on either side
	require.LessOrEqual(w.t, len(failed), most, "users meet errors: at most %d of %d requests, of %d %%, the canary's share, with 99.9 %% certainty; results %v, statuses %v, the first: %s",
		most, len(while.Sent), stepWeight, while.Results(), while.Statuses(), failed[0])
	return fmt.Sprintf("users met %d errors in %d requests (%.1f %%; the canary's share of 10 %% allows %d)",
		len(failed), len(while.Sent), 100*float64(len(failed))/float64(len(while.Sent)), most)
}
