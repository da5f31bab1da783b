package perf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/loadtest"
	"github.com/proving-ground/proving-ground/helpers/spec"
)

// judge holds the samples of a run against what is promised, and k6's own judgement
// against ours.
func judge(t spec.T, sc scenario, out *ran, scarcest string) (figures []string) {
	all, err := judgeAnew(out)
	spec.Check(t, err)
	if reason, why := firstUnsettled(all); reason != "" {
		t.Inconclusive(reason, "%s", why)
	}
	for metric, texts := range sc.keeps {
		for _, text := range texts {
			require.Contains(t, out.judged[metric], text, "thresholds that k6 was told of for %s", metric)
		}
	}
	reached := out.samples.MostRate("http_reqs")
	var broken []string // all of them are told: one cause breaks several
	for _, v := range all {
		switch {
		case v.kept:
		case sc.rate > 0: // this one is to break it
			at, err := brokeAt(out, v)
			spec.Check(t, err)
			require.GreaterOrEqual(t, at, sc.rate, "requests a second at which the platform broke (%s: it is %.4g, at %.0f requests a second); %s", v.name(), v.value, reached, scarcest)
			figures = append(figures, fmt.Sprintf("it broke at %.0f requests a second", at))
		default:
			broken = append(broken, fmt.Sprintf("%s: it is %.4g", v.name(), v.value))
		}
		figures = append(figures, fmt.Sprintf("%s: %.4g", v.name(), v.value))
	}
	if sc.rate > 0 && !slices.ContainsFunc(all, func(v judgement) bool { return !v.kept }) {
		figures = append(figures, fmt.Sprintf("nothing broke up to %.0f requests a second", reached))
	}
	require.Empty(t, broken, "thresholds that are not kept: %s; with up to %.0f requests a second; %s", strings.Join(broken, ", "), reached, scarcest)
	return figures
}

// judgement is ours of one threshold, beside k6's.
type judgement struct {
	metric, text string
	value        float64
	kept, said   bool // by the samples, and by k6
	none         bool // there are no samples
}

func (j judgement) name() string { return j.metric + " " + j.text }

// firstUnsettled is why nothing can be said of the first threshold of which that is so.
func firstUnsettled(all []judgement) (reason, why string) {
	for _, j := range all {
		if reason, why := j.unsettled(); reason != "" {
			return reason, why
		}
	}
	return "", ""
}

// unsettled is why nothing can be said of the threshold; no reason where something can.
func (j judgement) unsettled() (reason, why string) {
	switch {
	case j.none:
		return "no samples", fmt.Sprintf("%s: k6 says %t of it, and has measured nothing", j.name(), j.said)
	case j.kept != j.said:
		return "two judgements", fmt.Sprintf("%s: %g by its samples, which k6 calls kept: %t", j.name(), j.value, j.said)
	}
	return "", ""
}

// judgeAnew judges all thresholds that k6 was told of by the samples.
func judgeAnew(out *ran) (all []judgement, err error) {
	for _, metric := range slices.Sorted(maps.Keys(out.judged)) {
		for _, text := range slices.Sorted(maps.Keys(out.judged[metric])) {
			j := judgement{metric: metric, text: text, said: out.judged[metric][text]}
			if err := j.judge(out.samples); err != nil {
				return nil, err
			}
			all = append(all, j)
		}
	}
	return all, nil
}

// judge judges the threshold by samples.
func (j *judgement) judge(by *loadtest.Samples) error {
	threshold, err := loadtest.ParseThreshold(j.text)
	if err != nil {
		return err
	}
	of, err := by.Of(j.metric)
	if err != nil {
		return err
	}
	from, to := by.Span()
	j.value, j.kept, err = threshold.Judge(by.Kind(j.metric), loadtest.Values(of), to.Sub(from))
	if j.none = errors.Is(err, loadtest.ErrNoSamples); err != nil && !j.none {
		return fmt.Errorf("%s: %w", j.name(), err)
	}
	return nil
}

// brokeAt is the highest rate of requests up to the moment from which on a threshold was
// not kept any more, to a second or a sixtieth of the run. k6 looks every two seconds, and
// sends more meanwhile.
func brokeAt(out *ran, broken judgement) (rate float64, err error) {
	from, to := out.samples.Span()
	step := max(time.Second, to.Sub(from)/60)
	metric, _, _ := strings.Cut(broken.metric, "{")
	of := out.samples.Only(metric, "http_reqs")
	for end := step; end <= to.Sub(from); end += step {
		early := of.Before(from.Add(end))
		if err := broken.judge(early); err != nil {
			return 0, err
		}
		if broken.kept {
			rate = early.MostRate("http_reqs")
		}
	}
	return rate, nil
}
