package spec

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// errDeaf is of a call that went on after its context had ended; it is left
// behind, and whatever it still says is not heard.
var errDeaf = errors.New("it did not heed the end of its context and was left behind")

// errGoexit is of a call that ended its goroutine instead of returning.
var errGoexit = errors.New("it ended its goroutine instead of returning")

type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// guarded calls what a suite wrote in a goroutine of its own, so that neither a
// panic nor runtime.Goexit nor a call that never returns takes the harness
// along. After the end of ctx it waits for grace at most.
func guarded(ctx context.Context, grace time.Duration, call func(context.Context) error) error {
	done := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() {
			if r := recover(); r != nil {
				err = &panicked{r, debug.Stack()}
			}
			done <- err
		}()
		err = call(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		return fmt.Errorf("%w: %w", errDeaf, context.Cause(ctx))
	}
}
