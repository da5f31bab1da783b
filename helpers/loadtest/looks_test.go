package loadtest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLooks(t *testing.T) {
	for _, c := range []struct {
		name, looks, wrong string // looks: one of the first ten, each "." or "x", "x" once they are over
		want               int    // looks that were taken
	}{
		{"all succeed", "..........", "", 10},
		{"one fails", "....x.....", "", 10},
		{"the first one fails", "x.........", "", 10},
		{"four in a row fail", ".xxxx.xxxx", "", 10},
		{"five in a row fail", "..xxxxx...", "5 looks in a row failed: the kubelet is away", 7},
		{"it ends before there were five", "xxx", "not one look succeeded: the kubelet is away", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(time.Duration(len(c.looks))*2*time.Second-time.Second, cancel)
				n := 0
				err := Looks(ctx, 2*time.Second, func(context.Context) error {
					n++
					if c.looks[n-1] == 'x' {
						return errors.New("the kubelet is away")
					}
					return nil
				})
				if c.wrong == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, c.wrong)
				}
				require.Equal(t, c.want, n)
			})
		})
	}
	t.Run("the last look is cut short", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.NoError(t, Looks(ctx, 2*time.Second, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			}), "it says nothing of what was looked at")
		})
	})
}
