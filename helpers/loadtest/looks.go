package loadtest

import (
	"context"
	"fmt"
	"time"
)

// missedMost is how many looks in a row may fail: under load one does now and then, which says
// nothing of the next.
const missedMost = 4

// Looks looks at once and then each so often, until ctx ends. It is an error when more than
// four looks in a row failed, or all of them: then it is the last one's.
func Looks(ctx context.Context, every time.Duration, look func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	seen, missed := false, 0
	for {
		switch err := look(ctx); {
		case err == nil:
			seen, missed = true, 0
		case ctx.Err() == nil: // else it was cut short, and says nothing
			last = err
			if missed++; missed > missedMost {
				return fmt.Errorf("%d looks in a row failed: %w", missed, err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !seen && last != nil {
				return fmt.Errorf("not one look succeeded: %w", last)
			}
			return nil
		}
	}
}
