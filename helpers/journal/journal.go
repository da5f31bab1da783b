// Package journal is the append-only record of a run: one JSON object a line,
// one file a suite process, written before and after everything that matters,
// so that even a killed run can be read. helpers/spec writes it,
// helpers/report makes everything from it, and nothing here knows a cluster.
package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Kind says what an Entry records.
type Kind string

// The kinds of entry, in the order in which a run meets them.
const (
	RunStart     Kind = "run-start"     // Start is set: how a process was started
	Planned      Kind = "planned"       // Plan is set: a specification registered for this run
	Environment  Kind = "environment"   // Platform is set: where the run happens, image by image; of a given cluster once more at the end
	PhaseStart   Kind = "phase-start"   // Phase is set: lease, install, baseline, counter-proof, restore
	PhaseEnd     Kind = "phase-end"     // Phase is set, with Seconds
	Observation  Kind = "observation"   // Text, and Data when there is more to keep
	CounterProof Kind = "counter-proof" // Trial is set: the outcome of one seeded fault or harmless change
	Verdict      Kind = "verdict"       // Result is set
	RunEnd       Kind = "run-end"       // Text says why when the run was cut short
)

// Outcome of one specification.
type Outcome string

// The four verdicts; see docs/architecture.md.
const (
	Proved       Outcome = "proved"
	Refuted      Outcome = "refuted"
	Inconclusive Outcome = "inconclusive"
	Void         Outcome = "void"
)

// TrialOutcome is what became of a counter-proof.
type TrialOutcome string

// A seeded fault is Killed when the named specification failed by its own
// assertion, Survived when the proof held all the same. VoidTrial means that
// the fault could not be shown to be applied, or that the proof broke by an
// error instead of an assertion. A harmless change is Spared when the proof
// held, FalseAlarm when it failed.
const (
	Killed     TrialOutcome = "killed"
	Survived   TrialOutcome = "survived"
	VoidTrial  TrialOutcome = "void"
	Spared     TrialOutcome = "spared"
	FalseAlarm TrialOutcome = "false-alarm"
)

// Entry is one line of a journal. Time is UTC; ID is a catalogue ID or empty.
type Entry struct {
	Time     time.Time       `json:"time"`
	Run      string          `json:"run"`
	Suite    string          `json:"suite"`
	Kind     Kind            `json:"kind"`
	ID       string          `json:"id,omitempty"`
	Start    *Run            `json:"start,omitempty"`
	Plan     *Plan           `json:"plan,omitempty"`
	Platform *Platform       `json:"platform,omitempty"`
	Phase    *Phase          `json:"phase,omitempty"`
	Trial    *Trial          `json:"trial,omitempty"`
	Result   *Result         `json:"result,omitempty"`
	Text     string          `json:"text,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Run describes the process that writes the journal.
type Run struct {
	Profile       string   `json:"profile"`
	RiskCeiling   string   `json:"riskCeiling"`
	TimeScale     float64  `json:"timeScale"` // 1 = the platform's own times; 60 = sixty times faster
	CounterProofs bool     `json:"counterProofs"`
	Commit        string   `json:"commit,omitempty"`
	Args          []string `json:"args,omitempty"`
	Go            string   `json:"go"`
	PID           int      `json:"pid"`
}

// Plan is a specification as declared, written before anything runs.
type Plan struct {
	Clause        string   `json:"clause"`
	Risk          string   `json:"risk"`
	Test          string   `json:"test"`
	Needs         []string `json:"needs,omitempty"`
	CounterProofs []string `json:"counterProofs,omitempty"`
}

// Platform is the fingerprint of the environment.
type Platform struct {
	Cluster    string  `json:"cluster"`
	ClusterUID string  `json:"clusterUID,omitempty"` // of its namespace kube-system: a given cluster's name is the profile's; empty where it may not be read
	Made       bool    `json:"made,omitempty"`       // by this project, of what it pins; else it was given
	Hash       string  `json:"hash"`
	Kubernetes string  `json:"kubernetes"`
	Nodes      []Node  `json:"nodes,omitempty"`
	Images     []Image `json:"images,omitempty"`
}

// Node is one node of the cluster.
type Node struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Zone    string `json:"zone,omitempty"`
}

// Image is one image of the platform; Source is "built", "pulled", or
// "observed" on a cluster that others made.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Source string `json:"source"`
	Pin    string `json:"pin,omitempty"` // module@version, package list or artefact checksum
}

// Phase is a span of the timeline. Wait names what the span waited for, when
// it did nothing but wait (a lease, a component, a build).
type Phase struct {
	Name    string  `json:"name"`
	Wait    string  `json:"wait,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// Trial is the record of one counter-proof.
type Trial struct {
	Name     string       `json:"name"`
	Harmless bool         `json:"harmless,omitempty"`
	Outcome  TrialOutcome `json:"outcome"`
	Why      string       `json:"why,omitempty"` // the assertion that killed it, or why it is void
	Seconds  float64      `json:"seconds"`
}

// Reasons of verdicts by which more than one room goes.
const (
	NotBuiltYet      = "not built yet"
	NoFalcoEngine    = "no Falco engine"
	GivenCluster     = "the cluster is given" // and the clause is of one that the run makes
	AboveCeiling     = "above the risk ceiling"
	OutsideRadius    = "outside the blast radius" // of the profile: what others use, or more of it than may be hit
	Waived           = "waived until "            // and the date, and the profile's reason
	CounterProofsOff = "counter-proofs are off"
)

// Result is the verdict of one specification. Reason is typed for inconclusive
// and void (NotBuiltYet and its like begin it), free for refuted.
type Result struct {
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	Detail  string  `json:"detail,omitempty"`
	Seconds float64 `json:"seconds"`
}

// NotWhole begins the text of a RunEnd whose journal does not tell all that happened.
const NotWhole = "not whole: "

// Writer appends entries to one file; it is safe for concurrent use.
type Writer struct {
	mu         sync.Mutex
	file       *os.File
	run, suite string
	redact     func([]byte) []byte
}

// Create opens dir/<suite>.jsonl for appending. redact, when not nil, is given
// every line before it is written, so that no secret reaches the disk.
func Create(dir, run, suite string, redact func([]byte) []byte) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, suite+".jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &Writer{file: f, run: run, suite: suite, redact: redact}, nil
}

// Append writes one entry in a single write call, stamping time, run and suite.
func (w *Writer) Append(e Entry) error {
	e.Time, e.Run, e.Suite = time.Now().UTC(), w.run, w.suite
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if w.redact != nil {
		line = w.redact(line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	end, err := w.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if _, err := w.file.Write(append(line, '\n')); err != nil {
		_ = w.file.Truncate(end) // a full disk takes a part: the next line would be joined to it
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// Close closes the file. Entries appended before are on disk already.
func (w *Writer) Close() error { return w.file.Close() }

// Read returns the entries of every *.jsonl below dir in order of time. A last
// line cut short by a kill is left out and counted in torn; any other line
// that does not parse is an error.
func Read(dir string) (entries []Entry, torn int, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, 0, fmt.Errorf("journal: %w", err)
	}
	if len(names) == 0 {
		return nil, 0, fmt.Errorf("journal: no *.jsonl in %s: is it the directory of a run?", dir)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = os.ReadFile(name); err != nil {
			return nil, 0, fmt.Errorf("journal: %w", err)
		}
	}
	return Parse(files)
}

// Parse is Read of files that are not on a disk, by name.
func Parse(files map[string][]byte) (entries []Entry, torn int, err error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		number := 0
		for line := range bytes.Lines(files[name]) {
			number++
			if !bytes.HasSuffix(line, []byte("\n")) {
				torn++
				continue
			}
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				return nil, 0, fmt.Errorf("journal: %s line %d: %w", name, number, err)
			}
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	return entries, torn, nil
}
