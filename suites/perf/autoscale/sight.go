package autoscale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

const (
	every    = 2 * time.Second  // which is what a plot can show
	oneLook  = 10 * time.Second // what one may take: the emulator is one process, and fifty workers ask it
	inARow   = 5                // looks that fail one after the other: it is gone, and not busy
	jobsUnit = "jobs that wait or are under way"
)

// Seen is what there is of a queue and its workers at a moment.
type Seen struct {
	Waiting  int // jobs that no worker has
	UnderWay int // jobs that a worker has
	Workers  int // that are ready
}

// Left are the jobs that are not done.
func (s Seen) Left() int { return s.Waiting + s.UnderWay }

// Sight is a queue and its workers over time.
type Sight struct {
	stop          func()
	ended         chan struct{}
	seen          chan Seen // for who listens
	jobs, workers journal.Curve
	err           error // why nothing more comes
}

// Watch looks every other second, for what tells nobody: SQS has no watch. A look that
// fails is left out; only several in a row end it.
func Watch(ctx context.Context, look func(context.Context) (Seen, error)) *Sight {
	ctx, stop := context.WithCancel(ctx)
	s := &Sight{
		stop: stop, ended: make(chan struct{}), seen: make(chan Seen),
		jobs:    journal.Curve{Name: "jobs", Unit: jobsUnit, Steps: true},
		workers: journal.Curve{Name: "workers", Unit: "workers", Steps: true},
	}
	start := time.Now()
	go func() {
		defer close(s.ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for failed := 0; ; {
			limited, over := context.WithTimeoutCause(ctx, oneLook, fmt.Errorf("no answer in %s", oneLook))
			now, err := look(limited)
			over()
			listener := s.seen
			if err != nil {
				if failed++; failed == inARow {
					s.err = fmt.Errorf("%d looks at the queue failed in a row, the last one: %w", inARow, err)
					return
				}
				listener = nil // there is nothing to tell
			} else {
				failed = 0
				at := time.Since(start).Seconds()
				s.jobs.Points = append(s.jobs.Points, [2]float64{at, float64(now.Left())})
				s.workers.Points = append(s.workers.Points, [2]float64{at, float64(now.Workers)})
			}
			for waiting := true; waiting; {
				select {
				case listener <- now:
					listener = nil // once
				case <-tick.C:
					waiting = false
				case <-ctx.Done():
					s.err = context.Cause(ctx)
					return
				}
			}
		}
	}()
	return s
}

// ErrOver is the error of what was not seen in time.
var ErrOver = errors.New("time is over")

// Until waits until what is seen is so. what completes "awaiting …" in an error, which is
// ErrOver when it was not seen to be so for all of the time.
func (s *Sight) Until(ctx context.Context, limit wait.Timeout, what string, is func(Seen) bool) error {
	ctx, over := context.WithTimeoutCause(ctx, limit.D, ErrOver)
	defer over()
	for last := (Seen{}); ; {
		select {
		case last = <-s.seen:
			if is(last) {
				return nil
			}
		case <-s.ended:
			return fmt.Errorf("awaiting %s: %w", what, s.err)
		case <-ctx.Done():
			return fmt.Errorf("%s: awaiting %s for %s: %d jobs wait, %d are under way, %d workers are ready: %w",
				limit.Name, what, limit.D, last.Waiting, last.UnderWay, last.Workers, context.Cause(ctx))
		}
	}
}

// Plot ends the watching, and draws what was seen.
func (s *Sight) Plot(title string) journal.Plot {
	s.stop()
	<-s.ended
	return journal.Plot{Title: title, Curves: []journal.Curve{s.jobs, s.workers}}
}
