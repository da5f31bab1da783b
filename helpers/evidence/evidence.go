// Package evidence makes of a run what others decide by: one bundle of its journals, its
// report and the bill of materials, and a signed statement over it, chained to the
// statement of the run before. It is made from files alone, and checked without the
// platform or a network. docs/gate.md describes the form.
package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/report"
)

// PredicateType is in-toto's for results of tests:
// https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md.
const PredicateType = "https://in-toto.io/attestation/test-result/v0.1"

// Evidence is a run with the files that speak for it.
type Evidence struct {
	Run    Run
	Report *report.Report
	files  map[string][]byte // by name in the bundle
	images []journal.Image   // that ran
}

// Run is what the statement says of the run, beyond what in-toto's predicate does.
type Run struct {
	ID            string          `json:"run"`
	Commit        string          `json:"commit"`
	Profile       string          `json:"profile"`
	TimeScale     float64         `json:"timeScale"` // 1 = the platform's own times; 60 = sixty times faster
	StartedAt     time.Time       `json:"startedAt"`
	EndedAt       time.Time       `json:"endedAt"`
	Verdict       journal.Outcome `json:"verdict"`
	KillScore     *float64        `json:"killScore"` // nil where no fault was seeded
	CounterProofs bool            `json:"counterProofs"`
	Clusters      []Cluster       `json:"clusters"`
	Previous      *Link           `json:"previous"` // nil for the first of a chain
}

// Cluster is one that the run stood on.
type Cluster struct {
	Name        string `json:"name"`
	UID         string `json:"uid,omitempty"`  // of its namespace kube-system; empty where the run did not know it
	Made        bool   `json:"made,omitempty"` // by this project, of what it pins; else it was given
	Fingerprint string `json:"fingerprint"`    // of its configuration and images
	Kubernetes  string `json:"kubernetes"`
	Nodes       int    `json:"nodes"`
}

// Link is the statement of the run before, by the SHA-256 of its file.
type Link struct {
	Run     string    `json:"run"`
	SHA256  string    `json:"sha256"`
	EndedAt time.Time `json:"endedAt,omitzero"` // of that run; statements of earlier versions do not say it
}

// Gather makes the evidence of the run whose journals are in dir, with the catalogue and
// images.lock of the project in root. Suites that were started in different ways, and a
// journal of several runs, are errors: nobody could say what was proved.
func Gather(root, dir string) (*Evidence, error) {
	files := map[string][]byte{}
	journals, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	if len(journals) == 0 {
		return nil, fmt.Errorf("evidence: no *.jsonl in %s: is it the directory of a run?", dir)
	}
	for _, name := range append(journals, filepath.Join(root, image.LockFile), filepath.Join(root, filepath.FromSlash(catalogue.File))) {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("evidence: %w", err)
		}
		files[filepath.Base(name)] = data
	}
	return read(files)
}

// read makes the evidence of a bundle's files: of those that count, the journals, the
// catalogue and the lock. The report is made anew, and never believed.
func read(files map[string][]byte) (*Evidence, error) {
	journals := map[string][]byte{}
	for name, data := range files {
		if strings.HasSuffix(name, ".jsonl") {
			journals[name] = data
		}
	}
	if len(journals) == 0 {
		return nil, errors.New("evidence: the bundle has no journal")
	}
	entries, torn, err := journal.Parse(journals)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	clauses, err := catalogue.Parse(files[filepath.Base(catalogue.File)])
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	e := &Evidence{Report: report.Build(entries, torn, clauses), files: files}
	if e.Run, err = runOf(entries, e.Report); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	for _, environment := range e.Report.Environments {
		e.Run.Clusters = append(e.Run.Clusters, Cluster{environment.Cluster, environment.ClusterUID, environment.Made, environment.Hash, environment.Kubernetes, len(environment.Nodes)})
		for _, i := range environment.Images {
			if !slices.Contains(e.images, i) {
				e.images = append(e.images, i)
			}
		}
	}
	made, err := json.MarshalIndent(e.Report, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	files[report.JSONFile] = append(made, '\n')
	return e, nil
}

// runOf is how the suites of a run were started; they must agree.
func runOf(entries []journal.Entry, r *report.Report) (Run, error) {
	made := Run{ID: r.Run, StartedAt: r.Started, EndedAt: r.Ended, Verdict: r.Verdict, KillScore: r.Totals.KillScore}
	for _, e := range entries {
		if e.Run != r.Run {
			return made, fmt.Errorf("the journals are of two runs, %s and %s", r.Run, e.Run)
		}
	}
	for _, s := range r.Suites {
		if s.Start == nil {
			return made, fmt.Errorf("the suite %s did not record how it was started", s.Name)
		}
	}
	first := ""
	for _, e := range entries { // of each process: a suite may have had several
		s := e.Start
		if s == nil {
			continue
		}
		if first != "" && (made.Commit != s.Commit || made.Profile != s.Profile || made.TimeScale != s.TimeScale || made.CounterProofs != s.CounterProofs) {
			return made, fmt.Errorf("processes of the suites %s and %s were started in different ways", first, e.Suite)
		}
		first = cmp.Or(first, e.Suite)
		made.Commit, made.Profile, made.TimeScale, made.CounterProofs = s.Commit, s.Profile, s.TimeScale, s.CounterProofs
	}
	if len(r.Suites) == 0 {
		return made, errors.New("no suite recorded anything")
	}
	return made, nil
}

// Images are those that the run recorded; one whose tag moved is there with each digest.
func (e *Evidence) Images() []journal.Image { return e.images }

// subjects are the things that were tested.
func (e *Evidence) subjects() []attestation.Subject {
	all := []attestation.Subject{{Name: image.LockFile, SHA256: sum(e.files[image.LockFile])}}
	for _, i := range e.images {
		all = append(all, attestation.Subject{Name: i.Name, SHA256: strings.TrimPrefix(i.Digest, "sha256:")})
	}
	return all
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
