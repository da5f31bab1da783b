package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	utilrand "k8s.io/apimachinery/pkg/util/rand"
)

// Plan is traffic to be sent from a pod: requests at a constant rate, each when
// it is due, whether or not those before it were answered.
type Plan struct {
	Request Request       // its Timeout is 5 s when it has none; {n} in its path and body is the request's number
	Rate    float64       // requests a second, at most 500; with the timeout, at most 500 may be under way
	For     time.Duration // at most 30 minutes
	Count   int           // at most; none: as many as Rate and For give, 100 000 at most
	// KeepAlive lets requests share connections. Else each has one of its own.
	KeepAlive bool
}

// wire is the plan as the probe reads it.
func (p Plan) wire(prefix string) ([]byte, error) {
	if p.Request.Timeout == 0 {
		p.Request.Timeout = answerTimeout
	}
	return json.Marshal(map[string]any{
		"request": p.Request, "rate": p.Rate, "for": p.For.String(), "count": p.Count, "keepAlive": p.KeepAlive, "prefix": prefix,
	})
}

// Record is traffic that runs, or ran, and what came of it so far. It is safe
// for concurrent use.
type Record struct {
	// Prefix of the numbers, which servers see as header X-Request-Number:
	// prefix-n, n from 1.
	Prefix string

	of     string
	stdin  io.Writer // a byte is the probe's sign to stop
	cancel context.CancelFunc

	mu       sync.Mutex
	outcomes []Sent        // as they came
	started  bool          // the probe took the plan
	ended    bool          // nothing more comes
	err      error         // why nothing more comes, when that is not as planned
	changed  chan struct{} // closed at each change
}

// Traffic starts traffic and returns when the pod sends. It goes on in the
// background until the plan ends, Stop is called or ctx ends; ctx is that of the
// traffic, not of the start.
func (p *Pod) Traffic(ctx context.Context, plan Plan) (*Record, error) {
	r := &Record{Prefix: utilrand.String(8), changed: make(chan struct{})}
	r.of = fmt.Sprintf("traffic %s from %s/%s", r.Prefix, p.Namespace, p.Name)
	wire, err := plan.wire(r.Prefix)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.of, err)
	}
	ctx, r.cancel = context.WithCancel(ctx)
	talk := p.talk(ctx, wire, "traffic")
	r.stdin = talk.stdin
	go func() {
		defer r.cancel()
		defer talk.hangUp()
		r.end(r.read(talk.lines))
	}()
	if err := r.await(ctx, "its start", func() bool { return r.started }); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// read takes in what the probe tells until it tells no more.
func (r *Record) read(lines io.Reader) error {
	numbers := map[int]bool{}
	for d := json.NewDecoder(lines); ; {
		var line struct {
			Event string `json:"event"`
			Total int    `json:"total"`
			Sent
		}
		if err := d.Decode(&line); err != nil {
			return fmt.Errorf("it broke off after %d outcomes: %w", len(numbers), err)
		}
		switch line.Event {
		case "started":
			r.change(func() { r.started = true })
		case "outcome":
			if numbers[line.N] {
				return fmt.Errorf("request %d has two outcomes", line.N)
			}
			numbers[line.N] = true
			r.change(func() { r.outcomes = append(r.outcomes, line.Sent) })
		case "ended":
			for n := range line.Total {
				if !numbers[n+1] {
					return fmt.Errorf("%d were sent, request %d has no outcome", line.Total, n+1)
				}
			}
			if len(numbers) != line.Total {
				return fmt.Errorf("%d were sent, and %d have an outcome", line.Total, len(numbers))
			}
			return nil
		default:
			return fmt.Errorf("event %q is none that a probe tells", line.Event)
		}
	}
}

func (r *Record) end(err error) {
	r.change(func() { r.ended, r.err = true, err })
}

func (r *Record) change(what func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what()
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until is, which is called with the lock held, at each change.
func (r *Record) await(ctx context.Context, what string, is func() bool) error {
	for {
		r.mu.Lock()
		done, ended, err, n, changed := is(), r.ended, r.err, len(r.outcomes), r.changed
		r.mu.Unlock()
		switch {
		case done:
			return nil
		case ended && err != nil:
			return fmt.Errorf("%s: awaiting %s: %w", r.of, what, err)
		case ended:
			return fmt.Errorf("%s: ended with %d outcomes while %s was awaited", r.of, n, what)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: awaiting %s, %d outcomes so far: %w", r.of, what, n, context.Cause(ctx))
		}
	}
}

// Await waits until n outcomes are in.
func (r *Record) Await(ctx context.Context, n int) error {
	return r.await(ctx, fmt.Sprintf("%d outcomes", n), func() bool { return len(r.outcomes) >= n })
}

// AwaitOne waits for an outcome that matches, of a request with a number above
// after, and gives it. what stands in errors.
func (r *Record) AwaitOne(ctx context.Context, after int, what string, match func(Sent) bool) (found Sent, err error) {
	seen := 0
	err = r.await(ctx, what, func() bool {
		for ; seen < len(r.outcomes); seen++ {
			if o := r.outcomes[seen]; o.N > after && match(o) {
				found = o
				return true
			}
		}
		return false
	})
	return found, err
}

// Wait waits until the plan has come to its end and all outcomes are in. An
// error says that the record is not whole.
func (r *Record) Wait(ctx context.Context) error {
	if err := r.await(ctx, "its end", func() bool { return r.ended }); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return fmt.Errorf("%s: %w", r.of, r.err)
	}
	return nil
}

// Stop sends no more, and waits until all outcomes of what was sent are in. An
// error says that the record is not whole. Stopping twice is no error.
func (r *Record) Stop(ctx context.Context) error {
	if _, err := r.stdin.Write([]byte("\n")); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("%s: %w", r.of, err)
	}
	if err := r.Wait(ctx); err != nil {
		r.cancel() // where the probe does not hear, the connection's end does
		return err
	}
	return nil
}

// Last is the highest number whose outcome is in; 0 for none.
func (r *Record) Last() int {
	last := 0
	for _, o := range r.Outcomes().Sent {
		last = max(last, o.N)
	}
	return last
}

// Outcomes are those that are in, by their numbers.
func (r *Record) Outcomes() Outcomes {
	r.mu.Lock()
	all := slices.Clone(r.outcomes)
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b Sent) int { return a.N - b.N })
	return Outcomes{of: r.of, Sent: all}
}
