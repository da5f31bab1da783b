package spec

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/proving-ground/proving-ground/helpers/journal"
)

// record writes the journal. A run whose journal could not be written is no
// evidence: the first error is kept, and fails the suite in the end.
type record struct {
	append func(journal.Entry) error

	mu  sync.Mutex
	err error
}

func (r *record) add(e journal.Entry) {
	if err := r.append(e); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.err == nil {
			r.err = err
		}
	}
}

func (r *record) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// phase opens a span of the timeline; a clause's phases follow each other. wait
// names what the span waits for, when it does nothing else. The span ends once,
// however often end is called.
func (r *record) phase(id, name, wait string) (end func()) {
	start := time.Now()
	r.add(journal.Entry{Kind: journal.PhaseStart, ID: id, Phase: &journal.Phase{Name: name, Wait: wait}})
	return sync.OnceFunc(func() {
		r.add(journal.Entry{Kind: journal.PhaseEnd, ID: id, Phase: &journal.Phase{
			Name: name, Wait: wait, Seconds: time.Since(start).Seconds(),
		}})
	})
}

func (r *record) observation(id, text string, data json.RawMessage) {
	r.add(journal.Entry{Kind: journal.Observation, ID: id, Text: text, Data: data})
}
