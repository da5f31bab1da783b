// Package loadtest reads what k6 measured and judges it anew from the samples. k6 calls
// a threshold without samples kept (grafana/k6#4283), and a failed check no failure.
package loadtest

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// ErrNoSamples is of a threshold of which nothing can be said.
var ErrNoSamples = errors.New("no samples")

// Threshold is an expression of k6's, such as p(95)<500.
type Threshold struct {
	aggregate string // avg, min, max, med, count, rate, value or p
	percent   float64
	operator  string
	limit     float64
}

var expression = regexp.MustCompile(`^\s*(avg|min|max|med|count|rate|value|p\(\s*([0-9.]+)\s*\))\s*(<=|>=|===?|!=|<|>)\s*([0-9.eE+-]+)\s*$`)

// ParseThreshold reads one, as k6 does: an aggregate, an operator, a number.
func ParseThreshold(text string) (Threshold, error) {
	m := expression.FindStringSubmatch(text)
	if m == nil {
		return Threshold{}, fmt.Errorf("threshold %q: want an aggregate, such as p(95) or rate, an operator and a number", text)
	}
	t := Threshold{aggregate: m[1], operator: m[3]}
	var err error
	if m[2] != "" {
		t.aggregate = "p"
		if t.percent, err = strconv.ParseFloat(m[2], 64); err != nil || t.percent > 100 {
			return Threshold{}, fmt.Errorf("threshold %q: want a percentile from 0 to 100", text)
		}
	}
	if t.limit, err = strconv.ParseFloat(m[4], 64); err != nil {
		return Threshold{}, fmt.Errorf("threshold %q: %w", text, err)
	}
	return t, nil
}

// Judge computes from the values of a metric of a kind (counter, gauge, rate or trend)
// what k6 judges, and says whether it is kept. took is how long the run was, for the
// rate of a counter. Without values it is ErrNoSamples.
func (t Threshold) Judge(kind string, values []float64, took time.Duration) (value float64, kept bool, err error) {
	if len(values) == 0 {
		return 0, false, ErrNoSamples
	}
	if value, err = t.value(kind, values, took); err != nil {
		return 0, false, err
	}
	return value, t.keeps(value), nil
}

func (t Threshold) keeps(value float64) bool {
	switch t.operator {
	case "<":
		return value < t.limit
	case "<=":
		return value <= t.limit
	case ">":
		return value > t.limit
	case ">=":
		return value >= t.limit
	case "!=":
		return value != t.limit
	}
	return value == t.limit
}

func (t Threshold) value(kind string, values []float64, took time.Duration) (float64, error) {
	n := float64(len(values))
	switch kind + " " + t.aggregate {
	case "rate rate":
		nonZero := 0
		for _, v := range values {
			if v != 0 {
				nonZero++
			}
		}
		return float64(nonZero) / n, nil
	case "counter count":
		return sum(values), nil
	case "counter rate":
		return sum(values) / took.Seconds(), nil
	case "gauge value":
		return values[len(values)-1], nil
	case "trend avg":
		return Mean(values), nil
	case "trend min":
		return slices.Min(values), nil
	case "trend max":
		return slices.Max(values), nil
	case "trend med":
		return Percentile(values, 50), nil
	case "trend p":
		return Percentile(values, t.percent), nil
	}
	return 0, fmt.Errorf("a %s has no %s", kind, t.aggregate)
}

// Mean is that of values; NaN without any.
func Mean(values []float64) float64 { return sum(values) / float64(len(values)) }

// Percentile is that of values, of 0 to 100 per cent, interpolated between the two next to
// it as k6's trends do (helpers/probe takes the nearest instead). It panics without values.
func Percentile(values []float64, percent float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := percent / 100 * float64(len(sorted)-1)
	low := math.Floor(at)
	i := int(low)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (sorted[i+1]-sorted[i])*(at-low)
}
