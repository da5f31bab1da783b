package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// progress tells how far the suites are, from their journals: go test itself
// keeps what a package prints until it has ended.
type progress struct {
	say     func(string)
	faults  bool
	planned int // clauses, and with faults on their counter-proofs
	done    int
	trials  map[string]int // of a clause on its way: planned trials that are still to come
	first   time.Time      // when the first ended: what is built and installed before tells nothing of the pace
	before  int            // that had ended by then
}

func newProgress(say func(string), faults bool) *progress {
	return &progress{say: say, faults: faults, trials: map[string]int{}}
}

func (p *progress) tell(e journal.Entry) {
	switch e.Kind {
	case journal.Planned:
		p.planned++
		if p.faults {
			p.trials[e.ID] = len(e.Plan.CounterProofs)
			p.planned += p.trials[e.ID]
		}
	case journal.CounterProof:
		p.done++
		p.trials[e.ID]--
		if e.Trial.Outcome != journal.Killed && e.Trial.Outcome != journal.Spared {
			p.say(fmt.Sprintf("%s: counter-proof %q: %s", e.ID, e.Trial.Name, e.Trial.Outcome))
		}
	case journal.Verdict:
		p.done += 1 + p.trials[e.ID] // what was not tried will not be
		delete(p.trials, e.ID)
		if e.Result.Reason == journal.NotBuiltYet { // said once, by the report
			return
		}
		line := []string{fmt.Sprintf("%s %s", e.ID, e.Result.Outcome)}
		if e.Result.Reason != "" {
			line = append(line, e.Result.Reason)
		}
		p.say(strings.Join(append(line, p.where()), "; "))
	}
}

// where is how far it is, and how long still at the pace so far, once a twentieth is done.
func (p *progress) where() string {
	far := fmt.Sprintf("%d of %d proofs and counter-proofs", p.done, p.planned)
	if p.first.IsZero() {
		p.first, p.before = time.Now(), p.done
	}
	since := p.done - p.before
	if since == 0 || since*20 < p.planned {
		return far
	}
	left := time.Since(p.first) / time.Duration(since) * time.Duration(p.planned-p.done)
	return fmt.Sprintf("%s, about %s left", far, left.Round(time.Second))
}
