package journal

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestObjective(t *testing.T) {
	for name, c := range map[string]struct {
		runs          []float64
		median, worst float64
	}{
		"none":  {nil, 0, 0},
		"one":   {[]float64{4}, 4, 4},
		"odd":   {[]float64{9, 1, 5}, 5, 9},
		"even":  {[]float64{8, 2, 4, 6}, 5, 8},
		"equal": {[]float64{3, 3}, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			o := Objective{Runs: c.runs}
			assert.Equal(t, c.median, o.Median())
			assert.Equal(t, c.worst, o.Worst())
			assert.Equal(t, c.runs, o.Runs, "the order of the runs stays")
		})
	}
}
