package spec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// ending is how one execution of a proof came out.
type ending struct {
	how     how
	text    string   // failed: the assertions; broken, unmeasured, late: what happened
	reason  string   // unmeasured: the typed reason
	failed  []string // messages of failed assertions, whatever the ending
	seen    int      // observations
	elapsed time.Duration
}

type how int

const (
	held       how = iota + 1
	failed         // by an assertion
	broken         // by an error on the way
	unmeasured     // T.Inconclusive
	late           // its context ended first
)

// proof is the T of one execution. All that reaches the journal or the log goes
// through it under its mutex, so that nothing of a proof that was left behind
// is heard after end.
type proof struct {
	name    string
	ctx     context.Context
	scope   *environment.Scope
	log     func(format string, args ...any)
	observe func(text string, data json.RawMessage)

	mu       sync.Mutex
	over     bool
	failures []string
	seen     int
	stopped  how // broken or unmeasured, when the proof said so itself
	reason   string
	text     string
}

// execute runs a proof to its end.
func (p *proof) execute(grace time.Duration, prove func(context.Context, T, *environment.Environment), env *environment.Environment) ending {
	start := time.Now()
	err := guarded(p.ctx, grace, func(ctx context.Context) error {
		prove(ctx, p, env)
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	e := p.ending(err)
	e.failed, e.seen, e.elapsed = p.failures, p.seen, time.Since(start)
	return e
}

// ending tells how it came out. Only an assertion that failed while there was
// still time refutes; with anything else on the way it is not known what
// failed.
func (p *proof) ending(err error) ending {
	all := strings.Join(p.failures, "\n")
	with := func(text string) string {
		if all == "" {
			return text
		}
		return text + "; it had failed before by: " + all
	}
	var panicked *panicked
	switch {
	case errors.As(err, &panicked):
		p.log("%v\n%s", panicked, panicked.stack)
		return ending{how: broken, text: with(panicked.Error())}
	case err == nil && p.stopped == 0 && len(p.failures) == 0 && p.ctx.Err() == nil:
		return ending{how: held}
	case p.ctx.Err() != nil: // even when it returned in peace: it may not have looked
		text := context.Cause(p.ctx).Error()
		if errors.Is(err, errDeaf) {
			text = err.Error()
		}
		return ending{how: late, text: with(strings.TrimSuffix(text+"; "+p.text, "; "))}
	case p.stopped != 0:
		return ending{how: p.stopped, reason: p.reason, text: with(p.text)}
	case len(p.failures) > 0:
		return ending{how: failed, text: all}
	}
	return ending{how: broken, text: "it was stopped without the message of an assertion"}
}

func (p *proof) Errorf(format string, args ...any) {
	message := plain(fmt.Sprintf(format, args...))
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.failures = append(p.failures, message)
	}
}

func (p *proof) FailNow() { runtime.Goexit() }

func (p *proof) Helper() {}

func (p *proof) Logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.log(format, args...)
	}
}

func (p *proof) Context() context.Context { return p.ctx }

func (p *proof) Name() string { return p.name }

func (p *proof) Scope() *environment.Scope { return p.scope }

func (p *proof) Observe(text string, data any) {
	var raw json.RawMessage
	if data != nil {
		var err error
		if raw, err = json.Marshal(data); err != nil {
			text += fmt.Sprintf(" (data left out: %v)", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.seen++
		p.observe(text, raw)
	}
}

func (p *proof) Inconclusive(reason, format string, args ...any) {
	p.stop(unmeasured, reason, fmt.Sprintf(format, args...))
}

func (p *proof) Broken(err error) { p.stop(broken, "", fmt.Sprint(err)) }

// stop keeps the first reason: what comes after it may follow from it.
func (p *proof) stop(as how, reason, text string) {
	p.mu.Lock()
	if p.stopped == 0 {
		p.stopped, p.reason, p.text = as, reason, text
	}
	p.mu.Unlock()
	runtime.Goexit()
}
