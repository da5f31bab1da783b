package wait

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Intervals between two questions of Answers: they double from the first to the
// last.
const (
	firstInterval = 10 * time.Millisecond
	lastInterval  = 160 * time.Millisecond
)

// unasked is how the API's client says that its own rate leaves no time for another
// question: it says so before the time is over (golang.org/x/time/rate has no error of its
// own for it).
const unasked = "would exceed context deadline"

// Answers asks again until ask says that nothing is missing: for what no watch
// tells, such as whether the API server has taken up a webhook's configuration,
// or a node's firewall a policy. Use a Waiter for all that has a watch. It asks
// at once, then at growing intervals of 10 to 160 ms. An error of ask ends it.
func Answers(ctx context.Context, limit Timeout, what string, ask func(context.Context) (missing string, err error)) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit.D, errOver)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	const nothing = "nothing was seen"
	last := nothing
	for interval := firstInterval; ; interval = min(2*interval, lastInterval) {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %s of at most %s (%s) for %s: %s: %w",
				time.Since(start).Round(time.Millisecond), limit.D, limit.Name, what, last, context.Cause(ctx))
		}
		missing, err := ask(ctx)
		switch {
		case err != nil && strings.Contains(err.Error(), unasked):
			<-ctx.Done()
			continue
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("waiting for %s: %w", what, err)
		case err == nil && missing == "":
			return nil
		case err == nil && (ctx.Err() == nil || last == nothing): // a question that was cut short hides no answer before it
			last = missing
		}
		timer.Reset(interval)
	}
}
