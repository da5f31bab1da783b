package perf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// noTime is why nothing can be said of a platform whose machine had no time for it.
const noTime = "the machine is at its end"

// judge holds the samples of a run against what is promised, and k6's own judgement
// against ours.
func judge(t spec.T, sc loadtest.Scenario, out *ran, took taken) (figures []string) {
	all, err := out.samples.Judge(out.judged)
	spec.Check(t, err)
	if reason, why := firstUnsettled(all); reason != "" {
		t.Inconclusive(reason, "%s", why)
	}
	for metric, texts := range sc.Keeps {
		for _, text := range texts {
			require.Contains(t, out.judged[metric], text, "thresholds that k6 was told of for %s", metric)
		}
	}
	reached := out.samples.MostRate("http_reqs")
	var broken []string // all of them are told: one cause breaks several
	for _, v := range all {
		what := fmt.Sprintf("%s: it is %.4g", v.Name(), v.Value)
		switch {
		case v.Kept:
		case sc.Rate > 0: // this one is to break it
			at, err := out.samples.BrokeAt(v)
			spec.Check(t, err)
			if at < sc.Rate {
				broken = append(broken, fmt.Sprintf("%s, and the requests a second at which the platform broke are %.0f, want %.0f", what, at, sc.Rate))
			}
			figures = append(figures, fmt.Sprintf("it broke at %.0f requests a second", at))
		default:
			broken = append(broken, what)
		}
		figures = append(figures, fmt.Sprintf("%s: %.4g", v.Name(), v.Value))
	}
	if sc.Rate > 0 && !slices.ContainsFunc(all, func(v loadtest.Judgement) bool { return !v.Kept }) {
		figures = append(figures, fmt.Sprintf("nothing broke up to %.0f requests a second", reached))
	}
	what := fmt.Sprintf("%s; with up to %.0f requests a second; %s", strings.Join(broken, ", "), reached, took.scarcest)
	if len(broken) > 0 && took.noTime {
		waiting, err := out.samples.ByWaiting(all, sc.Rate > 0)
		spec.Check(t, err)
		if waiting {
			t.Inconclusive(noTime, "not kept, though the quickest tenth of all answers came in time: %s", what)
		}
	}
	require.Empty(t, broken, "thresholds that are not kept: %s", what)
	return figures
}

// firstUnsettled is why nothing can be said of the first threshold of which that is so.
func firstUnsettled(all []loadtest.Judgement) (reason, why string) {
	for _, j := range all {
		if reason, why := j.Unsettled(); reason != "" {
			return reason, why
		}
	}
	return "", ""
}

// sameThroughout asserts that the latency at a run's end is what it was at its begin.
func sameThroughout(t spec.T, out *ran, took taken) (figure string) {
	d, err := out.samples.Drift()
	if errors.Is(err, loadtest.ErrNoSamples) {
		t.Inconclusive("no samples", "%v", err)
	}
	spec.Check(t, err)
	figure = fmt.Sprintf("median of the first third %.1f ms, of the last one %.1f ms", d.First, d.Last)
	if d.Grown() && took.noTime && d.ByWaiting() {
		t.Inconclusive(noTime, "%s, of which the quickest tenth came as soon as before; %s", figure, took.scarcest)
	}
	require.False(t, d.Grown(), "latency grew while it lasted: %s, want %.1f ms at most; %s", figure, d.Most(), took.scarcest)
	return figure
}
