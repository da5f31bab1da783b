package spec

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// wholeCluster is the key that everyone shares, and that is held exclusively by
// what disturbs everyone, and by what everyone would disturb.
const wholeCluster = "cluster"

// demand is what must be held for a stretch of a specification: keys within the
// process, and the lease of the cluster among processes.
type demand struct {
	mode      environment.LeaseMode
	shared    []string
	exclusive []string
}

var (
	// theCluster is for who has it alone.
	theCluster = demand{mode: environment.Exclusive, exclusive: []string{wholeCluster}}
	// besideOthers is for who changes nothing that others go by.
	besideOthers = demand{mode: environment.Shared, shared: []string{wholeCluster}}
)

// baselineDemand lets specifications run together unless they disturb others.
// The exclusive lease is shared within a process, so what is Disruptive holds
// its keys alone, or the whole cluster when it does not say what it changes.
func (s *Specification) baselineDemand() demand {
	switch {
	case s.Alone:
		return theCluster
	case s.Risk >= environment.Disruptive:
		return s.disturbing()
	}
	return demand{mode: environment.Shared, shared: append([]string{wholeCluster}, s.Keys...)}
}

// installDemand is for its needs. Whatever the proof disturbs, to make those ready disturbs
// nobody, and may take longer than the proof.
func (s *Specification) installDemand() demand {
	d := s.baselineDemand()
	if d.mode == environment.Shared || len(s.Needs) == 0 {
		return d
	}
	return besideOthers
}

func (s *Specification) faultDemand(alone bool) demand {
	switch {
	case alone, s.Alone:
		return theCluster
	case s.Risk >= environment.Disruptive, len(s.Keys) > 0:
		return s.disturbing()
	}
	return s.baselineDemand()
}

func (s *Specification) disturbing() demand {
	if len(s.Keys) == 0 {
		return theCluster
	}
	return demand{mode: environment.Exclusive, shared: []string{wholeCluster}, exclusive: s.Keys}
}

// faultRisk is what a profile must allow for a fault to be seeded: even the
// fault of a specification that only looks changes something.
func (s *Specification) faultRisk(f *Sabotage) environment.Risk {
	if !f.swaps && (f.Alone || len(s.Keys) > 0) {
		return max(s.Risk, environment.Disruptive)
	}
	return max(s.Risk, environment.Namespaced)
}

// lockSet holds the keys of a process. A claim gets all its keys at once, so
// nobody waits with half of them in hand, and no claim is overtaken by a later
// one that it is in conflict with, so nobody starves. With aloneLast a claim of the whole
// cluster is, by all that want less: it gets its turn all the same, for their number is finite.
//
// Keys are claimed before the lease, never under it: who holds the lease has
// all its keys and ends without waiting for anyone.
type lockSet struct {
	aloneLast bool // set before first use

	mu            sync.Mutex
	held, waiting []*claim
}

type claim struct {
	who string
	demand
	granted chan struct{}
}

// acquire waits until the keys are free; onWait is told once who has them, if
// they are not to be had at once. What instead holds, which may be nil, is given back in the same
// instant: nobody who is to come later gets in between. The claim is given back by drop.
func (l *lockSet) acquire(ctx context.Context, who string, d demand, instead *claim, onWait func(holders string)) (*claim, error) {
	c := &claim{who: who, demand: d, granted: make(chan struct{})}
	l.mu.Lock()
	l.remove(instead)
	at := l.place(c)
	blockers := c.waitsFor(slices.Concat(l.held, l.waiting[:at]))
	l.waiting = slices.Insert(l.waiting, at, c)
	l.grant()
	l.mu.Unlock()
	if len(blockers) > 0 {
		onWait(strings.Join(blockers, ", "))
	}
	select {
	case <-c.granted:
		return c, nil
	case <-ctx.Done():
		l.drop(c)
		return nil, context.Cause(ctx)
	}
}

// place is where among those who wait a new claim stands.
func (l *lockSet) place(c *claim) int {
	if l.aloneLast && !c.alone() {
		if first := slices.IndexFunc(l.waiting, (*claim).alone); first >= 0 {
			return first
		}
	}
	return len(l.waiting)
}

// waitsFor names those of others that a new claim has to wait for.
func (c *claim) waitsFor(others []*claim) (blockers []string) {
	for _, other := range others {
		if c.conflicts(other) {
			blockers = append(blockers, other.who)
		}
	}
	return blockers
}

// drop gives a claim back; once more does nothing.
func (l *lockSet) drop(c *claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(c)
	l.grant()
}

func (l *lockSet) remove(c *claim) {
	isIt := func(other *claim) bool { return other == c }
	l.held = slices.DeleteFunc(l.held, isIt)
	l.waiting = slices.DeleteFunc(l.waiting, isIt)
}

func (l *lockSet) grant() {
	var still []*claim
	for _, c := range l.waiting {
		if slices.ContainsFunc(l.held, c.conflicts) || slices.ContainsFunc(still, c.conflicts) {
			still = append(still, c)
			continue
		}
		l.held = append(l.held, c)
		close(c.granted)
	}
	l.waiting = still
}

// alone says that it is of the whole cluster.
func (c *claim) alone() bool { return slices.Contains(c.exclusive, wholeCluster) }

// conflicts: everyone holds wholeCluster at least shared, so who has it alone is
// alone.
func (c *claim) conflicts(other *claim) bool {
	return meet(c.exclusive, other.exclusive) || meet(c.exclusive, other.shared) || meet(c.shared, other.exclusive)
}

func meet(a, b []string) bool {
	return slices.ContainsFunc(a, func(key string) bool { return slices.Contains(b, key) })
}
