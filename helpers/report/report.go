// Package report makes everything that people and machines read of a run from
// its journal alone: console, JUnit, JSON and one HTML page. All of it is pure
// functions of the entries and the catalogue: nothing here knows a cluster, the
// clock or the verdict of anything that the journal does not record.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// Schema is the version of the JSON form. It rises when a field changes its
// meaning or goes away, not when one is added.
const Schema = 1

// Report is a run as its journal tells it.
type Report struct {
	Schema       int             `json:"schema"`
	Run          string          `json:"run"`
	Verdict      journal.Outcome `json:"verdict"`  // of the run: proved, refuted or inconclusive
	Exit         int             `json:"exitCode"` // what ExitCode returns
	Headline     string          `json:"headline"` // the verdict in one sentence, with its causes
	Started      time.Time       `json:"started"`  // of the first entry, UTC
	Ended        time.Time       `json:"ended"`    // of the last entry, UTC
	Seconds      float64         `json:"seconds"`  // between the two
	Torn         int             `json:"tornLines"`
	Notices      []string        `json:"notices,omitempty"` // what is odd about the journal itself
	Totals       Totals          `json:"totals"`
	Environments []Environment   `json:"environments,omitempty"`
	Suites       []Suite         `json:"suites"`
	Trace        Trace           `json:"traceability"`
}

// Totals counts clauses by verdict and trials by outcome.
type Totals struct {
	Planned      int `json:"planned"` // clauses that were registered, not times
	Proved       int `json:"proved"`
	Refuted      int `json:"refuted"`
	Inconclusive int `json:"inconclusive"`
	Void         int `json:"void"`
	Accepted     int `json:"accepted"`         // of the inconclusive ones: for a reason that does not change the exit code
	Waived       int `json:"waived,omitempty"` // of the accepted ones: by the profile
	Unchallenged int `json:"unchallenged"`     // of the proved ones: no seeded fault was killed in this run
	Killed       int `json:"killed"`
	Survived     int `json:"survived"`
	VoidFaults   int `json:"voidFaults"`
	Spared       int `json:"spared"`
	FalseAlarms  int `json:"falseAlarms"`
	VoidHarmless int `json:"voidHarmless"`
	// KillScore is killed / (killed + survived + void faults), between 0 and
	// 1; nil when no fault was seeded, which is not the same as 0.
	KillScore *float64 `json:"killScore"`
}

// Environment is where suites ran, with the names of those suites.
type Environment struct {
	journal.Platform
	Suites []string `json:"suites"`
}

// Suite is what one suite's processes recorded.
type Suite struct {
	Name    string       `json:"name"`
	Start   *journal.Run `json:"start,omitempty"`  // of the last process, when there were several
	Starts  int          `json:"starts"`           // processes that wrote to this suite's file
	Ended   bool         `json:"ended"`            // the last process wrote its end
	Cut     string       `json:"cut,omitempty"`    // why the run was cut short, or that it never ended
	Seconds float64      `json:"seconds"`          // from the suite's first entry to its last
	Totals  Totals       `json:"totals"`           // of this suite
	Clauses []Clause     `json:"clauses"`          // by ID
	Phases  []Span       `json:"phases,omitempty"` // of the suite itself, by start
	Notes   []Note       `json:"notes,omitempty"`  // observations that belong to no clause

	started, stopped time.Time // of the first and last entry
}

// Clause is one specification of one suite with its verdict and what led to it.
type Clause struct {
	ID           string          `json:"id"`
	Suite        string          `json:"suite"`
	Text         string          `json:"clause"`              // as the specification states it
	Catalogue    string          `json:"catalogue,omitempty"` // as the catalogue states it, when that differs
	Test         string          `json:"test,omitempty"`
	Risk         string          `json:"risk,omitempty"`
	Needs        []string        `json:"needs,omitempty"`
	Outcome      journal.Outcome `json:"verdict"`
	Reason       string          `json:"reason,omitempty"`
	Detail       string          `json:"detail,omitempty"`
	Remedy       string          `json:"remedy,omitempty"`       // what to do about a clause that is not proved
	Accepted     bool            `json:"accepted,omitempty"`     // inconclusive for a reason that does not change the exit code
	Unchallenged bool            `json:"unchallenged,omitempty"` // proved, but no seeded fault was killed in this run
	Seconds      float64         `json:"seconds"`                // over all its verdicts
	Verdicts     int             `json:"verdicts"`               // how many were recorded; the worst one counts
	Trials       []journal.Trial `json:"trials,omitempty"`
	Untried      []string        `json:"untried,omitempty"` // declared counter-proofs without a trial, in a run with counter-proofs
	Observations []Note          `json:"observations,omitempty"`
	Phases       []Span          `json:"phases,omitempty"` // by start
	planned      bool            // the journal has a plan of it
}

// Note is one observation.
type Note struct {
	Time time.Time       `json:"time"`
	Text string          `json:"text"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Span is one phase on the timeline.
type Span struct {
	Name    string    `json:"name"`
	Wait    string    `json:"wait,omitempty"` // what it waited for, when it only waited
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
	Open    bool      `json:"open,omitempty"` // it has no end: drawn up to the suite's last entry
}

// Load reads the journal in dir and folds it, with the catalogue of the
// repository that holds dir or, failing that, the working directory. Without
// one the report says so in place of its traceability.
func Load(dir string) (*Report, error) {
	entries, torn, err := journal.Read(dir)
	if err != nil {
		return nil, err
	}
	clauses, err := catalogue.Find(dir)
	if errors.Is(err, catalogue.ErrNotFound) {
		clauses, err = catalogue.Find(".")
	}
	if err != nil && !errors.Is(err, catalogue.ErrNotFound) {
		return nil, fmt.Errorf("report: %w", err)
	}
	return Build(entries, torn, clauses), nil
}

// Build folds the entries of all suites of a run. torn is the number of lines
// that a kill cut short; a nil catalogue means that there is none to trace to.
func Build(entries []journal.Entry, torn int, clauses []catalogue.Clause) *Report {
	r := &Report{Schema: Schema, Torn: torn, Suites: []Suite{}}
	fold(r, entries)
	r.Trace = trace(r.Suites, clauses)
	judge(r)
	return r
}

// ExitCode is the run's verdict for a shell or a pipeline.
//
//	0  at least one clause proved and nothing below; clauses inconclusive for
//	   an accepted reason do not count against it
//	1  a clause refuted, a seeded fault survived, or a harmless change raised
//	   a false alarm
//	2  not settled: nothing planned or proved, a clause or trial void, a clause
//	   inconclusive, a suite cut short, a torn line in the journal
func (r *Report) ExitCode() int { return r.Exit }
