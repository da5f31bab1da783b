package spec

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/redact"
)

const (
	profileVariable      = "GROUND_PROFILE"
	counterProofVariable = "GROUND_COUNTERPROOF"

	// cleanUpMargin before -timeout, or a quarter of it when that is less, the
	// run is cut short, for the testing package panics without cleaning up.
	cleanUpMargin = 3 * time.Minute

	reapingTimeout    = 5 * time.Minute // all that dead runs left
	describingTimeout = time.Minute     // nodes and pods, listed once

	exitFailed = 1
	exitUsage  = 2 // nothing was touched
	exitSignal = 128
)

// parallelism is how many specifications of a suite go on at once when -parallel
// is not given: most of their time they wait for the cluster.
var parallelism = 16

// aloneLast is what AloneLast says.
var aloneLast bool

// options are the flags of go test and of Main, and what they lead to.
type options struct {
	root, cache   string
	profile       *environment.Profile
	catalogue     catalogue.Catalogue
	counterProofs bool
	timeout       time.Duration // 0 means none
	list          bool
	benchmarks    bool
}

func runSuite(m *testing.M, suite string, up Up) int {
	o, err := parse(suite)
	if err != nil {
		fmt.Fprintln(os.Stderr, "spec:", err)
		return exitUsage
	}
	if o.list {
		return m.Run()
	}
	run := environment.RunID()
	dir := environment.RunDir(o.root, run)
	w, err := journal.Create(dir, run, suite, redact.JSON)
	if err != nil {
		fmt.Fprintln(os.Stderr, "spec:", err)
		return exitFailed
	}
	ctx, cut := context.WithCancelCause(context.Background())
	defer cut(nil)
	h := &harness{
		suite: suite, profile: o.profile, catalogue: o.catalogue, counterProofs: o.counterProofs, benchmarks: o.benchmarks,
		dumps: filepath.Join(dir, "dumps"), limits: defaultLimits, ctx: ctx, tests: map[string]string{}, progress: map[string]*progress{},
		locks: lockSet{aloneLast: aloneLast},
	}
	h.record.append = w.Append
	up, stopHeeding := h.heeding(up, cut)
	s := &site{harness: h, up: up, cache: o.cache}
	h.open = s.once
	start := o.describe()
	h.began, h.commit = start.Commit, func() string { return environment.Commit(o.root) }
	h.record.add(journal.Entry{Kind: journal.RunStart, Start: start})
	running.Store(h)

	stopListening := h.listen(cut)
	alarm := h.alarm(o.timeout, cut)
	code := m.Run()
	stopListening()
	stopHeeding()
	alarm()
	return h.finish(code, s.close(), w.Close)
}

// parse reads flags, profile and catalogue; it touches nothing.
func parse(suite string) (*options, error) {
	byDefault := false
	if v := os.Getenv(counterProofVariable); v != "" {
		var err error
		if byDefault, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("$%s is %q, want true or false", counterProofVariable, v)
		}
	}
	name := flag.String("profile", cmp.Or(os.Getenv(profileVariable), "kind"), "`name` of a profile in fixtures/environments")
	scale := flag.Float64("timescale", 0, "run so many times faster than the platform's own times: 1 for these; as the profile says without it")
	faults := flag.Bool("counterproof", byDefault, "seed faults too, under which the proofs must fail")
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["test.parallel"] {
		if err := flag.Set("test.parallel", strconv.Itoa(parallelism)); err != nil {
			return nil, err
		}
	}
	o := &options{
		counterProofs: *faults && (!testing.Short() || given["counterproof"]),
		timeout:       flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration),
		list:          flag.Lookup("test.list").Value.String() != "",
		benchmarks:    flag.Lookup("test.bench").Value.String() != "",
	}
	var err error
	if o.root, err = environment.ProjectRoot(); err != nil {
		return nil, err
	}
	if o.cache, err = environment.CacheDir(); err != nil {
		return nil, err
	}
	if o.profile, err = environment.LoadProfile(o.root, *name); err != nil {
		return nil, err
	}
	if given["timescale"] {
		if o.profile, err = o.profile.WithTimeScale(*scale); err != nil {
			return nil, fmt.Errorf("-timescale: %w", err)
		}
	}
	clauses, err := catalogue.Find(o.root)
	if err != nil {
		return nil, err
	}
	o.catalogue = clauses
	if !slices.ContainsFunc(clauses, func(c catalogue.Clause) bool { return c.Area == suite }) {
		return nil, fmt.Errorf("the catalogue has no clause of a suite %q", suite)
	}
	for _, id := range slices.Concat(turns.first, turns.last) {
		if _, err := o.catalogue.Lookup(id); err != nil {
			return nil, fmt.Errorf("spec.First and spec.Last of suite %s: %w", suite, err)
		}
	}
	return o, nil
}

func (o *options) describe() *journal.Run {
	return &journal.Run{
		Profile: o.profile.Name, RiskCeiling: o.profile.RiskCeiling.String(), TimeScale: o.profile.TimeScale,
		CounterProofs: o.counterProofs, Commit: environment.Commit(o.root), Args: os.Args[1:], Go: runtime.Version(), PID: os.Getpid(),
	}
}

// listen cuts the run short at the first signal, and ends the process at the
// second: what is left undone then stands in the ledger, for the next run.
func (h *harness) listen(cut context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case s := <-signals:
				if n == 1 {
					h.cutShort(cut, fmt.Errorf("signal %s", s))
					continue
				}
				h.record.add(journal.Entry{Kind: journal.RunEnd, Text: fmt.Sprintf("ended at once by a second signal, %s; the next run undoes what is left", s)})
				code := exitFailed
				if number, ok := s.(syscall.Signal); ok {
					code = exitSignal + int(number)
				}
				os.Exit(code)
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// alarm cuts the run short while there is time to clean up.
func (h *harness) alarm(timeout time.Duration, cut context.CancelCauseFunc) (stop func()) {
	if timeout <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(timeout-min(cleanUpMargin, timeout/4), func() {
		h.cutShort(cut, fmt.Errorf("the -timeout of %s is near", timeout))
	})
	return func() { timer.Stop() }
}

func (h *harness) cutShort(cut context.CancelCauseFunc, why error) {
	h.record.observation("", "the run is cut short: "+why.Error(), nil)
	fmt.Fprintf(os.Stderr, "%s: cut short by %v: undoing what was done; a second signal ends it at once\n", h.suite, why)
	cut(why)
}

// moved is an error when what is checked out is no longer what the run began with: fixtures
// are read as they are needed.
func (h *harness) moved() error {
	if now := h.commit(); now != h.began {
		return fmt.Errorf("the checkout changed while it ran: %q at its start, %q at its end", h.began, now)
	}
	return nil
}

// finish writes the end of the journal and gives the exit code.
func (h *harness) finish(code int, closing error, closeJournal func() error) int {
	lines := h.verdicts()
	for _, line := range lines {
		fmt.Println(redact.Text(line))
	}
	why := ""
	switch {
	case h.ctx.Err() != nil:
		why = "cut short: " + context.Cause(h.ctx).Error()
	case len(lines) == 0 && !h.benchmarks:
		why = "no specification was selected"
	default: // what could not be written, or undone, is no clean end
		if err := errors.Join(closing, h.record.failure(), h.moved()); err != nil {
			why = journal.NotWhole + err.Error()
		} else if code != 0 && !h.alarmed() { // such as a test that ended before its specification ran, or a data race
			why = journal.NotWhole + fmt.Sprintf("go test ended with code %d, and no verdict says why", code)
		}
	}
	h.record.add(journal.Entry{Kind: journal.RunEnd, Text: why})
	err := errors.Join(closing, h.record.failure(), closeJournal())
	if why != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", h.suite, redact.Text(why))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", h.suite, redact.Text(err.Error()))
	}
	if code == 0 && (why != "" || err != nil) {
		return exitFailed
	}
	return code
}

// site is where the suite runs, from the first specification that needs it.
type site struct {
	*harness
	up    Up
	cache string

	opening sync.Once
	ground  ground                   // nil with opened
	ready   *environment.Environment // likewise
	opened  error

	mu       sync.Mutex
	env      *environment.Environment
	describe Describe // nil where it was not opened
}

// once opens the environment for the first specification that asks, and gives
// the others what came of it.
func (s *site) once() (ground, *environment.Environment, error) {
	s.opening.Do(func() {
		env, err := s.open()
		if s.opened = err; err == nil {
			s.ground, s.ready = env, env
		}
	})
	return s.ground, s.ready, s.opened
}

// open undoes what dead runs left and brings the environment up.
func (s *site) open() (*environment.Environment, error) {
	defer s.record.phase("", "install environment", "")()
	left := s.reap()
	var describe Describe
	var platform journal.Platform
	err := guarded(s.ctx, s.limits.grace, func(ctx context.Context) error {
		env, d, err := s.up(ctx, s.profile, s.progress)
		s.mu.Lock()
		s.env = env
		s.mu.Unlock()
		if err == nil && env == nil {
			err = errors.New("bringing it up gave neither an environment nor an error")
		}
		if err == nil {
			describe = d
			platform, err = d(ctx)
		}
		return err
	})
	if err != nil {
		s.progress("no environment: " + err.Error())
		return nil, err
	}
	if errors.Is(left, environment.ErrUnreachable) { // now it does
		_ = s.reap()
	}
	s.record.add(journal.Entry{Kind: journal.Environment, Platform: &platform})
	s.mu.Lock()
	s.describe = describe
	s.mu.Unlock()
	return s.env, nil
}

// reap never stops a run: what could not be undone now, or may not be by a profile
// that only looks, is tried again next time, and stands in the journal.
func (s *site) reap() error {
	ctx, cancel := context.WithTimeout(s.ctx, reapingTimeout)
	defer cancel()
	_, err := environment.Reap(ctx, s.profile, s.cache, s.progress)
	if err != nil {
		s.record.observation("", "what dead runs left could not all be undone: "+err.Error(), nil)
		s.progress(err.Error())
	}
	return err
}

func (s *site) progress(line string) { fmt.Fprintf(os.Stderr, "%s: %s\n", s.suite, redact.Text(line)) }

func (s *site) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.env == nil {
		return nil
	}
	return errors.Join(s.env.Close(), s.again())
}

// again writes down what the environment is made of at the end, where others may deploy to it:
// who decides by this run holds both against what is to be released. What we made ourselves is
// looked at by each proof's needs. A run that was cut short settles nothing, so nobody asks.
func (s *site) again() error {
	if s.describe == nil || s.env.Made() || s.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), describingTimeout)
	defer cancel()
	platform, err := s.describe(ctx)
	if err != nil {
		return fmt.Errorf("what ran at the end is not known: %w", err)
	}
	s.record.add(journal.Entry{Kind: journal.Environment, Platform: &platform})
	return nil
}
