// Package spec is the heart of the house: a specification is one clause of the
// catalogue as a Go test, with a proof and its counter-proofs, the seeded
// faults under which the same proof must fail. It proves the untouched platform
// first, then every fault, then the platform again, and writes all of it into
// the journal. It knows no component.
package spec

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/redact"
)

// The risks of a specification, so that suites need not import environment for
// them alone.
const (
	ReadOnly    = environment.ReadOnly
	Namespaced  = environment.Namespaced
	Disruptive  = environment.Disruptive
	Destructive = environment.Destructive
)

// T is what a proof gets: what testify asks for, and a little more. One proof
// serves both ways, once expected to hold and once expected to fail, which a
// *testing.T cannot do. What is called after the proof ended counts no more.
type T interface {
	// Errorf records a failed assertion; the proof goes on.
	Errorf(format string, args ...any)
	// FailNow stops the proof. Without an Errorf before it, the proof counts as
	// broken, for nobody could tell which assertion failed.
	FailNow()
	Helper()
	Logf(format string, args ...any)
	// Context is the one that Prove was given.
	Context() context.Context
	// Name is that of the Go test.
	Name() string
	// Observe writes what was seen to the journal; data is kept as JSON when it
	// is not nil. A proof that holds without an observation proves nothing.
	Observe(text string, data any)
	// Inconclusive stops the proof because the clause could not be measured: no
	// samples, no targets. reason is a type of reason, the same each time; the
	// rest says more.
	Inconclusive(reason, format string, args ...any)
	// Broken stops the proof because of an error on the way that says nothing of
	// the clause. The baseline is then inconclusive, and a counter-proof void.
	Broken(err error)
	// Scope undoes what the proof does to the cluster; it belongs to this one
	// execution of the proof, and the harness closes it afterwards.
	Scope() *environment.Scope
}

// Need is something that must stand before the proof: a component or the sample
// application. Ensure returns when it is ready, at once if it is so already; it
// is called under the lease of the cluster, and may take twenty minutes.
type Need interface {
	Name() string
	Ensure(ctx context.Context, env *environment.Environment) error
}

// standing is a Need that can tell, when all is proved, whether it is still what Ensure left.
type standing interface {
	Stands(ctx context.Context, env *environment.Environment) error
}

// Specification is one clause of the catalogue with its proof.
type Specification struct {
	ID    string // of the catalogue, such as POL-007
	Risk  environment.Risk
	Needs []Need // ensured in this order

	// Keys name the things for the whole cluster that the proof depends on and
	// that its faults change, such as "constraint/pod-must-have-labels".
	// Specifications that share a key do not disturb each other. With Keys,
	// faults are at least Disruptive and keep every other process out.
	Keys []string

	// Ours says that the clause is of a cluster which the run makes, and which it states or may
	// lose as a whole: on a given one it is not tried.
	Ours bool

	// Alone says that the proof measures: its figures are those of a machine with nothing else
	// to do, so nobody else goes on beside it. That disturbs nobody and raises no risk.
	Alone bool

	// Timeout bounds one execution of the proof; 0 means DefaultTimeout.
	Timeout time.Duration

	// Prove asserts the clause on the platform as it is. ctx ends when Timeout is
	// over or the run is cut short; a proof that fails after that has not measured
	// anything, so the waits in it must be shorter than Timeout.
	Prove func(ctx context.Context, t T, env *environment.Environment)

	// Look, when not nil, is the proof where the profile's ceiling is below Risk: what the
	// platform's own users and metrics show takes the place of what Prove injects. It makes
	// nothing and changes nothing, so nothing of Needs is ensured for it. That the proof can
	// fail is shown where faults may be seeded: there Prove asserts by the same functions.
	Look func(ctx context.Context, t T, env *environment.Environment)

	// After are specifications of the same suite that come to their verdict first,
	// faults and all: it goes by their evidence. So it is tried with counter-proofs
	// on only. Those that were not selected are not waited for.
	After []string

	// CounterProofs are tried in this order, but those that are Swapped first and
	// those that are Alone last. At least one of them must be harmless, and one must not.
	CounterProofs []Sabotage
}

// DefaultTimeout bounds one execution of a proof.
const DefaultTimeout = 2 * time.Minute

// Sabotage is a seeded fault under which the proof must fail by its assertion,
// or a harmless change under which it must hold.
type Sabotage struct {
	Name     string
	Harmless bool

	// Alone says that the fault disturbs everyone: it runs with the exclusive
	// lease and with no other specification of this process.
	Alone bool

	// Apply puts the fault in place through the scope, so that it is undone even
	// when this process is killed.
	Apply func(ctx context.Context, env *environment.Environment, s *environment.Scope) error

	// Applied waits until the fault is shown to be in force. An error makes the
	// counter-proof void.
	Applied func(ctx context.Context, env *environment.Environment) error

	// Restored, when not nil, waits until the platform is back as it was, after
	// the scope of Apply and that of the proof were closed. Without it the
	// baseline is proved again after this fault at once; with it only after the
	// last one.
	Restored func(ctx context.Context, env *environment.Environment) error

	// Kills, when not empty, is a regular expression that the message of a failed
	// assertion must match; else the proof failed for another reason, which is
	// void.
	Kills string

	// Unsettles, in the place of Kills, is for a fault that takes away what the
	// proof goes by, such as samples or targets: the proof must come out
	// Inconclusive, for a reason that matches this regular expression. One that
	// holds without evidence has let the fault survive.
	Unsettles string

	// Timeout bounds each of Apply, Applied and Restored; 0 means two minutes.
	Timeout time.Duration

	swaps bool // it is Swapped: the platform itself stays as it is
}

// Up brings an environment up under a profile, or finds it, and gives what tells what it is
// made of. It is called once a process, when a specification first needs it.
// progress is told what is going on, a line each time. An environment returned
// with an error is closed all the same.
type Up func(ctx context.Context, p *environment.Profile, progress func(string)) (*environment.Environment, Describe, error)

// Describe says what an environment is made of now. Of a cluster that others made it is asked
// at the suite's end as well as at its start: they may have deployed something in between.
type Describe = func(ctx context.Context) (journal.Platform, error)

// Run proves a specification. It makes the test parallel, so it is called once
// in a test or sub-test. The test passes when the clause is proved, and with
// counter-proofs on only when every fault made the proof fail and every
// harmless change did not. It is skipped when the clause is inconclusive for a
// reason known before the run: risk ceiling, waiver, a given cluster, a limit of the machine.
// Anything else fails it. One that waits for its turn (After, First, Last) goes on in a
// sub-test "after", and it is that one which is skipped then.
func Run(t *testing.T, s Specification) {
	t.Helper()
	h := current(t)
	if err := h.plan(&s, t.Name()); err != nil {
		t.Fatal(err)
	}
	t.Parallel()
	name := t.Name()
	h.lineUp(t, h.before(&s), func(t *testing.T) {
		h.begin(s.ID)
		conclude(t, s.ID, h.carryOut(&s, name, func(format string, args ...any) { t.Logf("%s", redact.Text(fmt.Sprintf(format, args...))) }))
	})
}

// NotBuiltYet plans clauses that have no specification yet, each in a sub-test
// that is skipped: inconclusive, never forgotten.
func NotBuiltYet(t *testing.T, ids ...string) {
	t.Helper()
	h := current(t)
	for _, id := range ids {
		t.Run(id, func(t *testing.T) {
			if err := h.planPromise(id, t.Name()); err != nil {
				t.Fatal(err)
			}
			conclude(t, id, h.settle(id, inconclusive(journal.NotBuiltYet, "")))
		})
	}
}

// SeedsFaults says whether this run tries the counter-proofs. Without them no specification
// disturbs another that has no key in common with it, so that both may prove on one Stage.
func SeedsFaults(t testing.TB) bool {
	t.Helper()
	return current(t).counterProofs
}

// Parallel says how many specifications of a suite go on at once, instead of 16, when
// -parallel is not given, before Main is called: fewer than usual where each has much to start,
// and what it measures is wrong on a machine that has no time for it.
func Parallel(n int) { parallelism = n }

// AloneLast has those who want the whole cluster (Alone, and what is Disruptive without Keys) wait
// until nobody else of the suite wants less, before Main is called: then they follow each other at
// its end, and the others are not stopped for each of them. It is for suites where all have a place
// (Parallel): who waits keeps one.
func AloneLast() { aloneLast = true }

// Main is the whole of a suite's TestMain: it reads the flags, keeps the
// journal, brings the environment up when it is first needed, cleans up when
// the run is cut short, and exits. suite is the suite's area in the catalogue,
// such as "policy". Besides the flags of go test there are
//
//	-profile NAME   of fixtures/environments; $GROUND_PROFILE, else kind
//	-counterproof   seed faults too; $GROUND_COUNTERPROOF, else off; -short
//	                turns them off unless this flag is given
//	-timescale      run so many times faster than the platform's own times; as
//	                the profile says without it
//
// The exit code is 2, and nothing is touched, when the profile or the catalogue
// cannot be read. It is not 0 either when no specification was selected, when
// the run was cut short, or when the journal could not be written.
func Main(m *testing.M, suite string, up Up) {
	os.Exit(runSuite(m, suite, up))
}
