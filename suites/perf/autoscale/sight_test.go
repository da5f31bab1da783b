package autoscale

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/wait"
)

var (
	errBusy = errors.New("the emulator is busy")
	limit   = wait.Timeout{Name: "limit", D: time.Hour}
)

// looks tells one after the other, and the last one from then on: what fails is nil.
func looks(all ...*Seen) func(context.Context) (Seen, error) {
	n := 0
	return func(context.Context) (Seen, error) {
		now := all[min(n, len(all)-1)]
		n++
		if now == nil {
			return Seen{}, errBusy
		}
		return *now, nil
	}
}

func none(s Seen) bool { return s.Left() == 0 }

func TestSight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Watch(t.Context(), looks(&Seen{Waiting: 20, Workers: 1}, &Seen{Waiting: 8, UnderWay: 10, Workers: 11}, &Seen{Workers: 11}))
		start := time.Now()
		require.NoError(t, s.Until(t.Context(), limit, "ten workers, and jobs that wait", func(s Seen) bool { return s.Workers >= 10 && s.Waiting > 0 }))
		require.Equal(t, 2*time.Second, time.Since(start))
		require.NoError(t, s.Until(t.Context(), limit, "an empty queue", none))
		plot := s.Plot("a burst")
		require.Equal(t, [][2]float64{{0, 20}, {2, 18}, {4, 0}}, plot.Curves[0].Points)
		require.Equal(t, [][2]float64{{0, 1}, {2, 11}, {4, 11}}, plot.Curves[1].Points)
	})
}

func TestSightSurvivesFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Watch(t.Context(), looks(&Seen{Waiting: 20}, nil, nil, nil, nil, &Seen{Waiting: 10}, nil, nil, nil, nil, &Seen{}))
		require.NoError(t, s.Until(t.Context(), limit, "an empty queue", none))
		require.Equal(t, [][2]float64{{0, 20}, {10, 10}, {20, 0}}, s.Plot("").Curves[0].Points, "what failed is left out")
	})
}

// A queue that cannot be seen is not one that is empty.
func TestSightEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := Watch(t.Context(), looks(&Seen{Waiting: 20}, nil))
		err := s.Until(t.Context(), limit, "an empty queue", none)
		require.ErrorIs(t, err, errBusy)
		require.NotErrorIs(t, err, ErrOver)
		require.ErrorContains(t, err, "awaiting an empty queue: 5 looks at the queue failed in a row")
		require.Equal(t, 10*time.Second, time.Since(start))
		s.Plot("")

		s = Watch(t.Context(), looks(&Seen{Waiting: 3, UnderWay: 2, Workers: 1}))
		err = s.Until(t.Context(), wait.Timeout{Name: "allDone", D: time.Minute}, "an empty queue", none)
		require.ErrorIs(t, err, ErrOver)
		require.ErrorContains(t, err, "allDone: awaiting an empty queue for 1m0s: 3 jobs wait, 2 are under way, 1 workers are ready")
		s.Plot("")

		ctx, cut := context.WithCancelCause(t.Context())
		s = Watch(ctx, looks(&Seen{Waiting: 20}))
		cut(errors.New("cut short"))
		err = s.Until(t.Context(), limit, "an empty queue", none)
		require.ErrorContains(t, err, "cut short")
	})
}

// One look that hangs is one that failed.
func TestSightDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := Watch(t.Context(), func(ctx context.Context) (Seen, error) {
			if n++; n == 1 {
				<-ctx.Done()
				return Seen{}, context.Cause(ctx)
			}
			return Seen{}, nil
		})
		require.NoError(t, s.Until(t.Context(), wait.Timeout{Name: "soon", D: 15 * time.Second}, "an empty queue", none))
		s.Plot("")
	})
}
