package wait

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Time is the bubble's, so every duration is exact.
func TestAnswersAsksAtGrowingIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var asked []int64
		err := Answers(t.Context(), limit, "it", func(context.Context) (string, error) {
			asked = append(asked, time.Since(start).Milliseconds())
			if len(asked) == 8 {
				return "", nil
			}
			return "not yet", nil
		})
		require.NoError(t, err)
		assert.Equal(t, []int64{0, 10, 30, 70, 150, 310, 470, 630}, asked, "at once, then 10 to 160 ms")
	})
}

func TestAnswersEnds(t *testing.T) {
	refused := errors.New("refused")
	called := errors.New("called off")
	for name, c := range map[string]struct {
		ask   func(n int, ctx context.Context) (string, error)
		says  string
		is    error
		after time.Duration
	}{
		"when time is over, with what was seen last": {
			func(n int, _ context.Context) (string, error) { return "answer " + string(rune('a'+min(n, 25))), nil },
			"waited 1m0s of at most 1m0s (testLimit) for the node to follow: answer z: time is over", errOver, time.Minute,
		},
		"at once by an error of what is asked": {
			func(int, context.Context) (string, error) { return "ignored", refused },
			"waiting for the node to follow: refused", refused, 0,
		},
		"by an error that comes later": {
			func(n int, _ context.Context) (string, error) {
				if n < 2 {
					return "not yet", nil
				}
				return "", refused
			},
			"waiting for the node to follow: refused", refused, 30 * time.Millisecond,
		},
		"by the caller's context, with its cause": {
			func(n int, _ context.Context) (string, error) { return "not yet", nil },
			"waited 1s of at most 1m0s (testLimit) for the node to follow: not yet: called off", called, time.Second,
		},
		// A question that the limit itself cut short is no error of what is asked.
		"while a question is under way": {
			func(n int, ctx context.Context) (string, error) {
				if n == 0 {
					return "seen before", nil
				}
				<-ctx.Done()
				return "", ctx.Err()
			},
			"for the node to follow: seen before: time is over", errOver, time.Minute,
		},
		// The client knows before the end that it may not ask again in time.
		"with no question left": {
			func(n int, _ context.Context) (string, error) {
				if n == 0 {
					return "seen before", nil
				}
				return "", errors.New("client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline")
			},
			"for the node to follow: seen before: time is over", errOver, time.Minute,
		},
		"before anything was seen": {
			func(_ int, ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			},
			"for the node to follow: nothing was seen: time is over", errOver, time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if errors.Is(c.is, called) {
					time.AfterFunc(c.after, func() { cancel(called) })
				}
				start, n := time.Now(), -1
				err := Answers(ctx, limit, "the node to follow", func(ctx context.Context) (string, error) {
					n++
					return c.ask(n, ctx)
				})
				require.ErrorContains(t, err, c.says)
				require.ErrorIs(t, err, c.is)
				assert.Equal(t, c.after, time.Since(start))
			})
		})
	}
}

func TestAnswersTakesAnAnswerThatCameInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := Answers(t.Context(), limit, "it", func(ctx context.Context) (string, error) {
			deadline, ok := ctx.Deadline()
			require.True(t, ok, "a question ends with the limit")
			require.Equal(t, limit.D, time.Until(deadline))
			return "", nil
		})
		require.NoError(t, err)
	})
}

// TestAnswersKeepsWhatWasSeen has a last question that the end cuts short.
func TestAnswersKeepsWhatWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := Answers(t.Context(), Timeout{"cut", 50 * time.Millisecond}, "an answer", func(ctx context.Context) (string, error) {
			if asked++; asked == 1 {
				return "EOF", nil
			}
			<-ctx.Done()
			return "time is over", nil
		})
		require.ErrorContains(t, err, "an answer: EOF: ")
	})
}
