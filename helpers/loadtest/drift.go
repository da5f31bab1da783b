package loadtest

import (
	"fmt"
	"time"
)

const (
	driftFewest = 20  // answers in a third of which something can be said
	driftTimes  = 1.5 // the first third's median is what the last one's may be, or
	driftMillis = 50  // so much more: a tenth of what the 95th percentile may be
)

// Drift is how the latency of a run's last third is to that of its first one. Both are
// medians, in milliseconds, which what disturbs a machine for a while leaves alone.
type Drift struct {
	First    float64 `json:"firstMillis"`
	Last     float64 `json:"lastMillis"`
	quickest float64 // a tenth of the last third came sooner
}

// Drift compares them. Fewer than twenty answers in one of the thirds are ErrNoSamples.
func (s *Samples) Drift() (d Drift, err error) {
	from, to := s.Span()
	third := to.Sub(from) / 3
	var first, last []float64
	for _, one := range s.All {
		switch {
		case one.Metric != "http_req_duration":
		case one.At.Before(from.Add(third)):
			first = append(first, one.Value)
		case one.At.After(to.Add(-third)):
			last = append(last, one.Value)
		}
	}
	if len(first) < driftFewest || len(last) < driftFewest {
		return d, fmt.Errorf("%w: %d answers in the first %s and %d in the last, want %d of each", ErrNoSamples, len(first), third.Round(time.Second), len(last), driftFewest)
	}
	return Drift{Percentile(first, 50), Percentile(last, 50), Percentile(last, quickest)}, nil
}

// Most is what the last third's median may be: half as much again as the first one's, or
// 50 ms more, whichever is more.
func (d Drift) Most() float64 { return max(driftTimes*d.First, d.First+driftMillis) }

// Grown says that it is more.
func (d Drift) Grown() bool { return d.Last > d.Most() }

// ByWaiting says of one that has grown whether a machine without time can have made it: the
// quickest tenth of the last third's answers came as soon as before.
func (d Drift) ByWaiting() bool { return d.quickest <= d.Most() }
