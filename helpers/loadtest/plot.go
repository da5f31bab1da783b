package loadtest

import (
	"slices"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

const bins = 60 // of a plot, over the whole run

// Plot draws a run: percentiles of the latency, the rate of requests and of failed ones,
// and the users that were there.
func (s *Samples) Plot(title string) journal.Plot {
	from, to := s.Span()
	width := max(to.Sub(from)/bins, time.Millisecond)
	binned := map[string]*[bins][]float64{} // the values of each metric, in one pass
	for _, one := range s.All {
		all := binned[one.Metric]
		if all == nil {
			all = &[bins][]float64{}
			binned[one.Metric] = all
		}
		at := min(int(one.At.Sub(from)/width), bins-1)
		all[at] = append(all[at], one.Value)
	}
	plot := journal.Plot{Title: title}
	for _, c := range []struct {
		metric, name, unit string
		steps              bool
		of                 func([]float64) float64
	}{
		{"http_req_duration", "p50", "ms", false, func(v []float64) float64 { return Percentile(v, 50) }},
		{"http_req_duration", "p95", "ms", false, func(v []float64) float64 { return Percentile(v, 95) }},
		{"http_req_duration", "p99", "ms", false, func(v []float64) float64 { return Percentile(v, 99) }},
		{"http_reqs", "requests", "requests/s", false, func(v []float64) float64 { return float64(len(v)) / width.Seconds() }},
		{"http_req_failed", "failed", "requests/s", false, func(v []float64) float64 { return sum(v) / width.Seconds() }},
		{"vus", "users", "users", true, slices.Max[[]float64]},
	} {
		values := binned[c.metric]
		if values == nil {
			continue
		}
		curve := journal.Curve{Name: c.name, Unit: c.unit, Steps: c.steps}
		for i, v := range values {
			if len(v) > 0 { // else nothing was measured then, which is not nought
				curve.Points = append(curve.Points, [2]float64{(time.Duration(i) * width).Seconds(), c.of(v)})
			}
		}
		plot.Curves = append(plot.Curves, curve)
	}
	return plot
}

func sum(values []float64) (all float64) {
	for _, v := range values {
		all += v
	}
	return all
}
