package loadtest

import (
	"fmt"
	"slices"

	"golang.org/x/perf/benchmath"
)

const (
	fewest = 6    // repeats from which something can be said
	alpha  = 0.01 // chance that two runs of the same platform are told apart
)

// Change is how a figure, of which less is better, has changed since an accepted run.
type Change struct {
	Before float64 `json:"before"` // median of the accepted run's repeats
	After  float64 `json:"after"`
	Noise  float64 `json:"noise"` // share by which the accepted run's middle repeats lie apart
	P      float64 `json:"p"`     // chance of this difference where nothing has changed (Mann-Whitney U)
}

// Compare holds the repeats of a run against those of an accepted one.
func Compare(accepted, now []float64) (Change, error) {
	if len(accepted) < fewest || len(now) < fewest {
		return Change{}, fmt.Errorf("%w: %d repeats against %d accepted ones, want %d of each", ErrNoSamples, len(now), len(accepted), fewest)
	}
	thresholds := &benchmath.Thresholds{CompareAlpha: alpha}
	before, after := benchmath.NewSample(slices.Clone(accepted), thresholds), benchmath.NewSample(slices.Clone(now), thresholds) // it sorts its own
	c := Change{Before: Percentile(accepted, 50), After: Percentile(now, 50), P: benchmath.AssumeNothing.Compare(before, after).P}
	if c.Before <= 0 {
		return c, fmt.Errorf("the accepted run's median is %g: want one above 0", c.Before)
	}
	c.Noise = (Percentile(accepted, 75) - Percentile(accepted, 25)) / c.Before
	return c, nil
}

// Ratio is how much of the accepted figure there is now: 1.2 is a fifth more.
func (c Change) Ratio() float64 { return c.After / c.Before }

// Worse says whether the figure has grown, by more than the noise and not by chance.
func (c Change) Worse() bool { return c.P < alpha && c.Ratio() > 1+c.Noise }
