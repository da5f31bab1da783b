package loadtest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Judgement is ours of one threshold, beside k6's.
type Judgement struct {
	Metric, Text string
	Value        float64
	Kept, Said   bool // by the samples, and by k6
	None         bool // there are no samples
}

// Name is that of the threshold, as k6 has it.
func (j Judgement) Name() string { return j.Metric + " " + j.Text }

// Unsettled is why nothing can be said of the threshold; no reason where something can.
func (j Judgement) Unsettled() (reason, why string) {
	switch {
	case j.None:
		return "no samples", fmt.Sprintf("%s: k6 says %t of it, and has measured nothing", j.Name(), j.Said)
	case j.Kept != j.Said:
		return "two judgements", fmt.Sprintf("%s: %g by its samples, which k6 calls kept: %t", j.Name(), j.Value, j.Said)
	}
	return "", ""
}

// Judge judges by the samples all thresholds that k6 was told of: said has what it says of
// each, by metric and expression. An error is of what is no threshold, or one of another kind
// of metric.
func (s *Samples) Judge(said map[string]map[string]bool) (all []Judgement, err error) {
	for _, metric := range slices.Sorted(maps.Keys(said)) {
		for _, text := range slices.Sorted(maps.Keys(said[metric])) {
			j := Judgement{Metric: metric, Text: text, Said: said[metric][text]}
			if err := s.judge(&j); err != nil {
				return nil, err
			}
			all = append(all, j)
		}
	}
	return all, nil
}

func (s *Samples) judge(j *Judgement) error {
	threshold, err := ParseThreshold(j.Text)
	if err != nil {
		return err
	}
	of, err := s.Of(j.Metric)
	if err != nil {
		return err
	}
	from, to := s.Span()
	j.Value, j.Kept, err = threshold.Judge(s.Kind(j.Metric), Values(of), to.Sub(from))
	if j.None = errors.Is(err, ErrNoSamples); err != nil && !j.None {
		return fmt.Errorf("%s: %w", j.Name(), err)
	}
	return nil
}

// BrokeAt is the highest rate of requests up to the moment from which on a threshold was
// not kept any more, to a second or a sixtieth of the run. k6 looks every two seconds, and
// sends more meanwhile.
func (s *Samples) BrokeAt(j Judgement) (rate float64, err error) {
	from, to := s.Span()
	step := max(time.Second, to.Sub(from)/60)
	metric, _, _ := strings.Cut(j.Metric, "{")
	of := s.Only(metric, "http_reqs")
	for end := step; end <= to.Sub(from); end += step {
		early := of.Before(from.Add(end))
		if err := early.judge(&j); err != nil {
			return 0, err
		}
		if j.Kept {
			rate = early.MostRate("http_reqs")
		}
	}
	return rate, nil
}

// quickest is the share of answers, in per cent, that a machine without time leaves as soon as
// they are: with more to do than it can, some wait longer than others, and what is late by
// itself is late each time.
const quickest = 10

// ByWaiting says whether judgements, some of which are not kept, are what a machine makes of them that
// has no time for what it is asked: a latency is not kept though the quickest tenth of its
// answers keep it, and whatever else is not kept may follow from it. Where the load
// grows (ramps), what went before any latency did does not.
func (s *Samples) ByWaiting(all []Judgement, ramps bool) (bool, error) {
	late, first := false, math.Inf(1) // the rate at which the first of the latencies went
	for _, j := range all {
		if j.Kept || s.Kind(j.Metric) != "trend" {
			continue
		}
		late = true
		threshold, err := ParseThreshold(j.Text)
		if err != nil {
			return false, err
		}
		of, err := s.Of(j.Metric)
		if err != nil {
			return false, err
		}
		if len(of) == 0 || !threshold.keeps(Percentile(Values(of), quickest)) {
			return false, nil
		}
		at, err := s.BrokeAt(j)
		if err != nil {
			return false, err
		}
		first = min(first, at)
	}
	for _, j := range all {
		if !ramps || j.Kept || s.Kind(j.Metric) == "trend" {
			continue
		}
		if at, err := s.BrokeAt(j); err != nil || at < first {
			return false, err
		}
	}
	return late, nil
}
