package loadtest

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompare(t *testing.T) {
	accepted := []float64{2.00, 2.04, 1.98, 2.02, 1.96, 2.01, 2.05, 1.99}
	times := func(by float64) (out []float64) {
		for i, v := range accepted {
			out = append(out, by*(v+0.01*float64(i%3)))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		now   []float64
		worse bool
	}{
		{"the same again", times(1), false},
		{"a fifth slower", times(1.2), true},
		{"a fifth faster", times(0.8), false},
		{"one repeat disturbed", append(times(1)[:7:7], 9), false},
		{"within the noise", times(1.01), false},
	} {
		got, err := Compare(accepted, c.now)
		require.NoError(t, err, c.name)
		assert.Equal(t, c.worse, got.Worse(), "%s: %+v", c.name, got)
	}
	var wide, more []float64 // 90 to 110, and five more of each: no chance, and within the noise
	for i := range 101 {
		wide, more = append(wide, 90+float64(i)/5), append(more, 95+float64(i)/5)
	}
	got, err := Compare(wide, more)
	require.NoError(t, err)
	assert.InDelta(t, 0.10, got.Noise, 1e-9)
	assert.InDelta(t, 1.05, got.Ratio(), 1e-9)
	assert.Less(t, got.P, alpha)
	assert.False(t, got.Worse(), "%+v", got)
	_, err = Compare(make([]float64, fewest), wide)
	require.ErrorContains(t, err, "want one above 0")
	assert.Equal(t, 2.00, accepted[0], "what is compared stays as it was")
	for _, few := range [][]float64{nil, {2, 2, 2}} {
		_, err := Compare(accepted, few)
		require.ErrorIs(t, err, ErrNoSamples)
		_, err = Compare(few, accepted)
		require.ErrorIs(t, err, ErrNoSamples)
	}
}
