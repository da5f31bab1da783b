package loadtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Sample is one value of a metric: a Point of k6's JSON output. Times are in
// milliseconds, as k6 has them.
type Sample struct {
	Metric string
	At     time.Time
	Value  float64
	Tags   map[string]string
}

// Samples are those of a run.
type Samples struct {
	All   []Sample
	Kinds map[string]string // of each metric: counter, gauge, rate or trend
}

const longestLine = 1 << 20

// Read reads k6's output of --out json, whole.
func Read(from io.Reader) (*Samples, error) {
	s := &Samples{Kinds: map[string]string{}}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, longestLine)
	for n := 1; lines.Scan(); n++ {
		var line struct {
			Type, Metric string
			Data         struct {
				Type       string
				Submetrics []struct{ Name string }
				Time       time.Time
				Value      float64
				Tags       map[string]string
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("k6's samples, line %d: %w", n, err)
		}
		switch line.Type {
		case "Metric":
			s.Kinds[line.Metric] = line.Data.Type
		case "Point":
			s.All = append(s.All, Sample{line.Metric, line.Data.Time, line.Data.Value, line.Data.Tags})
		default:
			return nil, fmt.Errorf("k6's samples, line %d: type %q is neither Metric nor Point", n, line.Type)
		}
	}
	return s, lines.Err()
}

// Of are the samples of a metric or of a part of it, as k6 names them:
// http_req_duration, or http_req_duration{name:read}.
func (s *Samples) Of(name string) (of []Sample, err error) {
	metric, want, err := selector(name)
	if err != nil {
		return nil, err
	}
	for _, one := range s.All {
		if one.Metric == metric && !slices.ContainsFunc(want, func(t [2]string) bool { return one.Tags[t[0]] != t[1] }) {
			of = append(of, one)
		}
	}
	return of, nil
}

// Kind is that of a metric or of a part of it.
func (s *Samples) Kind(name string) string {
	metric, _, _ := strings.Cut(name, "{")
	return s.Kinds[metric]
}

// Span is when the first sample was taken, and the last one.
func (s *Samples) Span() (from, to time.Time) {
	for _, one := range s.All {
		if from.IsZero() || one.At.Before(from) {
			from = one.At
		}
		if one.At.After(to) {
			to = one.At
		}
	}
	return from, to
}

// MostRate is the highest rate of a metric's samples, per second: of the seconds from the
// first sample on, the one with the most.
func (s *Samples) MostRate(metric string) (most float64) {
	from, _ := s.Span()
	seconds := map[time.Duration]float64{}
	for _, one := range s.All {
		if one.Metric == metric {
			second := one.At.Sub(from).Truncate(time.Second)
			seconds[second]++
			most = max(most, seconds[second])
		}
	}
	return most
}

// Before are the samples that were taken before a moment.
func (s *Samples) Before(end time.Time) *Samples {
	return s.filtered(func(one Sample) bool { return one.At.Before(end) })
}

// Only are the samples of some metrics.
func (s *Samples) Only(metrics ...string) *Samples {
	return s.filtered(func(one Sample) bool { return slices.Contains(metrics, one.Metric) })
}

func (s *Samples) filtered(keep func(Sample) bool) *Samples {
	some := &Samples{Kinds: s.Kinds}
	for _, one := range s.All {
		if keep(one) {
			some.All = append(some.All, one)
		}
	}
	return some
}

// Values are those of some samples.
func Values(of []Sample) []float64 {
	values := make([]float64, len(of))
	for i, one := range of {
		values[i] = one.Value
	}
	return values
}

func selector(name string) (metric string, tags [][2]string, err error) {
	metric, rest, has := strings.Cut(name, "{")
	if !has {
		return metric, nil, nil
	}
	rest, closed := strings.CutSuffix(rest, "}")
	if !closed {
		return "", nil, fmt.Errorf("%s: no } at its end", name)
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, is := strings.Cut(pair, ":")
		if !is {
			return "", nil, fmt.Errorf("%s: %q is no tag:value", name, pair)
		}
		tags = append(tags, [2]string{strings.TrimSpace(key), strings.Trim(strings.TrimSpace(value), `"'`)})
	}
	return metric, tags, nil
}
