package loadtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDrift(t *testing.T) {
	const n = 900
	for _, c := range []struct {
		name           string
		of             func(i int) float64
		grown, waiting bool // waiting: of one that has grown
	}{
		{"the same throughout", func(i int) float64 { return 10 + float64(i%7) }, false, false},
		{"ten times as long, and still soon", func(i int) float64 { return map[bool]float64{true: 5, false: 50}[i < n/2] }, false, false},
		{"200 ms more from the half on", func(i int) float64 { return map[bool]float64{true: 10, false: 210}[i < n/2] + float64(i%7) }, true, false},
		{"later each time", func(i int) float64 { return float64(i) / 3 }, true, false},
		{"a fifth more", func(i int) float64 { return map[bool]float64{true: 300, false: 360}[i < n/2] }, false, false},
		{"one stall of three seconds at its end", func(i int) float64 { return map[bool]float64{true: 10, false: 3000}[i < n-90] }, false, false},
		{"most of the last third late", func(i int) float64 { return map[bool]float64{true: 10, false: 400}[i < n*2/3 || i%5 == 0] }, true, true},
		{"sooner", func(i int) float64 { return map[bool]float64{true: 400, false: 10}[i < n/2] }, false, false},
	} {
		s := answers(30*time.Millisecond, n, func(i int) (float64, bool) { return c.of(i), false })
		d, err := s.Drift()
		require.NoError(t, err, c.name)
		assert.Equal(t, c.grown, d.Grown(), "%s: %+v", c.name, d)
		if c.grown {
			assert.Equal(t, c.waiting, d.ByWaiting(), "%s: %+v", c.name, d)
		}
	}
	_, err := answers(time.Second, 57, func(int) (float64, bool) { return 1, false }).Drift()
	require.ErrorIs(t, err, ErrNoSamples)
	_, err = (&Samples{}).Drift()
	require.ErrorIs(t, err, ErrNoSamples)
}
