package spec

import (
	"context"
	"fmt"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// heeding brings an environment up on which nothing begins while the switch that stops
// everything is thrown, and on which the run is cut short when it is, or when it can no
// longer be seen. done ends the heeding: what is over is not cut short.
func (h *harness) heeding(up Up, cut context.CancelCauseFunc) (heeded Up, done func()) {
	watching, done := context.WithCancel(h.ctx)
	return func(ctx context.Context, p *environment.Profile, progress func(string)) (*environment.Environment, Describe, error) {
		env, describe, err := up(ctx, p, progress)
		if err != nil || env == nil {
			return env, describe, err
		}
		if err := env.MayRun(ctx); err != nil {
			return env, describe, err
		}
		go func() {
			why, err := env.AwaitStop(watching)
			switch {
			case watching.Err() != nil:
			case err != nil:
				h.cutShort(cut, err)
			default:
				h.cutShort(cut, fmt.Errorf("the switch: %s", why))
			}
		}()
		return env, describe, nil
	}, done
}
