package spec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// ground is what the harness itself needs of an environment; proofs and faults
// get the environment.
type ground interface {
	Lease(ctx context.Context, mode environment.LeaseMode, why string, onWait func(holder string)) (release func(), err error)
	Scope(name string) *environment.Scope
	Dump(ctx context.Context, dir string, namespaces ...string) error
}

// limits bound what a suite's own code may take.
type limits struct {
	proof   time.Duration // one execution of a proof, unless its specification says otherwise
	ensure  time.Duration // one need, with the time that another process takes to install it
	fault   time.Duration // each of Apply, Applied and Restored
	closing time.Duration // a scope, on a context that outlives the run's
	grace   time.Duration // for code whose context has ended, before it is left behind
}

var defaultLimits = limits{
	proof:   DefaultTimeout,
	ensure:  20 * time.Minute,
	fault:   2 * time.Minute,
	closing: 8 * time.Minute, // backups and restores are deleted one after the other
	grace:   10 * time.Second,
}

// harness carries out the specifications of one suite process. It knows no
// *testing.T, and of the cluster only what ground has.
type harness struct {
	suite         string
	profile       *environment.Profile
	catalogue     catalogue.Catalogue
	counterProofs bool
	benchmarks    bool   // they judge nothing: that no specification was selected is meant
	dumps         string // directory
	limits        limits
	record        record
	locks         lockSet
	ctx           context.Context // ends when the run is cut short, with the cause
	open          func() (ground, *environment.Environment, error)
	began         string        // commit that was checked out
	commit        func() string // that is now

	mu       sync.Mutex
	tests    map[string]string    // ID to the Go test that it is registered under
	progress map[string]*progress // by ID, of those that were selected
	settled  []string             // a line for each verdict
	failed   bool                 // a verdict failed its test
}

// running is the harness of this process, once Main has made it.
var running atomic.Pointer[harness]

func current(t testing.TB) *harness {
	t.Helper()
	h := running.Load()
	if h == nil {
		t.Fatal("spec: this suite has no TestMain that calls spec.Main")
	}
	return h
}

// plan checks a specification and writes it down before anything runs. One that
// is not valid is journalled too, as void, so that no report looks complete
// without it.
func (h *harness) plan(s *Specification, test string) error {
	clause, err := h.register(s.ID, test, len(s.After) > 0)
	err = errors.Join(err, s.check())
	p := journal.Plan{Clause: clause.Text, Test: test}
	if s.Risk != 0 {
		p.Risk = s.Risk.String()
	}
	for _, n := range s.Needs {
		if n != nil {
			p.Needs = append(p.Needs, n.Name())
		}
	}
	for _, f := range s.CounterProofs {
		p.CounterProofs = append(p.CounterProofs, f.Name)
	}
	return h.announce(cmp.Or(s.ID, test), p, err)
}

// planPromise is plan for a clause without a specification.
func (h *harness) planPromise(id, test string) error {
	clause, err := h.register(id, test, false)
	return h.announce(id, journal.Plan{Clause: clause.Text, Test: test}, err)
}

func (h *harness) announce(id string, p journal.Plan, err error) error {
	h.record.add(journal.Entry{Kind: journal.Planned, ID: id, Plan: &p})
	if err != nil {
		h.settle(id, journal.Result{Outcome: journal.Void, Reason: reasonInvalid, Detail: err.Error()})
		return fmt.Errorf("specification %s: %w", id, err)
	}
	return nil
}

// register finds the clause of an ID, and keeps the ID for one test. The same
// test comes again with -count. waits says that it goes by others' evidence.
func (h *harness) register(id, test string, waits bool) (catalogue.Clause, error) {
	clause, err := h.catalogue.Lookup(id)
	if err != nil {
		return clause, err
	}
	// The pipeline is the whole project's, so any suite may prove its clauses.
	if clause.Area != h.suite && clause.Area != "pipeline" {
		return clause, fmt.Errorf("%s is of the suite %s, not of %s", id, clause.Area, h.suite)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if first, taken := h.tests[id]; taken && first != test {
		return clause, fmt.Errorf("%s is registered twice: by %s and by %s", id, first, test)
	}
	h.tests[id] = test
	if h.progress[id] == nil {
		h.progress[id] = &progress{waits: waits, ended: make(chan struct{})}
	}
	return clause, nil
}

// settle writes a verdict down and keeps a line of it for the end.
func (h *harness) settle(id string, r journal.Result) journal.Result {
	h.record.add(journal.Entry{Kind: journal.Verdict, ID: id, Result: &r})
	line := fmt.Sprintf("%-12s  %-7s  %7.1f s", r.Outcome, id, r.Seconds)
	if r.Reason != "" {
		line += "  " + headline(r.Reason)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settled = append(h.settled, line)
	h.failed = h.failed || !passes(r)
	if s := h.progress[id]; s != nil {
		s.end()
	}
	return r
}

// alarmed says whether a verdict failed its test.
func (h *harness) alarmed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// verdicts are the lines of settle, by ID.
func (h *harness) verdicts() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := slices.Clone(h.settled)
	slices.SortStableFunc(lines, func(a, b string) int {
		return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1])
	})
	return lines
}

// check says all that is wrong with a specification at once.
func (s *Specification) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Risk < environment.ReadOnly || s.Risk > environment.Destructive {
		wrong("it has no Risk")
	}
	if s.Prove == nil {
		wrong("it has no Prove")
	}
	if s.Timeout < 0 {
		wrong("its Timeout is below 0")
	}
	if slices.Contains(s.After, s.ID) {
		wrong("it is to come after itself")
	}
	if slices.Contains(s.Needs, nil) {
		wrong("one of its Needs is nil")
	}
	if slices.Contains(s.Keys, wholeCluster) || slices.Contains(s.Keys, "") {
		wrong("a key may be neither empty nor %q; a fault that disturbs everyone is Alone", wholeCluster)
	}
	faults, names := 0, map[string]bool{}
	for i, f := range s.CounterProofs {
		if err := f.check(); err != nil {
			wrong("counter-proof %d %q: %w", i+1, f.Name, err)
		}
		if names[f.Name] {
			wrong("two counter-proofs are named %q", f.Name)
		}
		names[f.Name] = true
		if !f.Harmless {
			faults++
		}
	}
	if faults == 0 {
		wrong("it has no counter-proof that must fail: a specification that cannot fail proves nothing")
	}
	if faults == len(s.CounterProofs) {
		wrong("it has no harmless change: one that fails whatever is changed would look as able to fail as one that tells faults from changes")
	}
	return errors.Join(errs...)
}

func (f *Sabotage) check() error {
	var errs []error
	if f.Name == "" {
		errs = append(errs, errors.New("it has no Name"))
	}
	if f.Apply == nil {
		errs = append(errs, errors.New("it has no Apply"))
	}
	if f.Timeout < 0 {
		errs = append(errs, errors.New("its Timeout is below 0"))
	}
	if f.Applied == nil {
		errs = append(errs, errors.New("it has no Applied: a fault that is not shown to be in force proves nothing"))
	}
	if f.Harmless && f.Kills != "" {
		errs = append(errs, errors.New("a harmless change kills nothing, so it has no Kills"))
	}
	if f.Unsettles != "" && (f.Harmless || f.Kills != "") {
		errs = append(errs, errors.New("what Unsettles is neither Harmless nor Kills"))
	}
	for field, pattern := range map[string]string{"Kills": f.Kills, "Unsettles": f.Unsettles} {
		if _, err := regexp.Compile(pattern); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	return errors.Join(errs...)
}
