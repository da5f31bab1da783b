// Package certificate says of a run what an outsider may rely on: that the
// clauses of disaster recovery were proved, with the figures, for a quarter. It
// is made from the journal and images.lock alone, signed, and checked without
// the platform or a network. docs/certificate.md describes the form.
package certificate

import (
	"fmt"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

// PredicateType is the form of the predicate; the number rises when a field is
// added, changed or taken away, for a reader refuses what it does not know.
const PredicateType = "https://github.com/proving-ground/proving-ground/certificate/disaster-recovery/v1"

// required are the clauses that a certificate stands on. DR-009 is the
// certificate itself.
var required = []string{"DR-001", "DR-002", "DR-003", "DR-004", "DR-005", "DR-006", "DR-007", "DR-008"}

// Certificate is what is certified, and of what.
type Certificate struct {
	Subjects  []attestation.Subject // the backup, the file images.lock, and each image that the run recorded
	Predicate Predicate
}

// backupSubject is the name of a backup among subjects.
func backupSubject(name string) string { return "backup/" + name }

// lockSubject is the name of the bill of materials among subjects, so that a
// tool that asks for an artefact can be given that file.
const lockSubject = "images.lock"

// Predicate is what is said of the subjects. Times are UTC in whole seconds.
type Predicate struct {
	Run          string            `json:"run"`
	Commit       string            `json:"commit"`
	Profile      string            `json:"profile"`
	TimeScale    float64           `json:"timeScale"` // 1 = the platform's own times; 60 = sixty times faster
	StartedAt    time.Time         `json:"startedAt"` // of the run
	EndedAt      time.Time         `json:"endedAt"`   // of the run; what expires counts from here
	IssuedAt     time.Time         `json:"issuedAt"`
	ExpiresAt    time.Time         `json:"expiresAt"`
	Key          attestation.Whose `json:"key"`
	Environments []Environment     `json:"environments"`
	Backup       journal.Backup    `json:"backup"`
	RTO          Figure            `json:"rto"`
	RPO          Figure            `json:"rpo"`
	Rows         journal.Rows      `json:"rows"`
	Clauses      []CertifiedClause `json:"clauses"`
}

// Environment is the fingerprint of a cluster that the run stood on.
type Environment struct {
	Cluster     string `json:"cluster"`
	Fingerprint string `json:"fingerprint"` // of its configuration and images
	Kubernetes  string `json:"kubernetes"`
	Nodes       int    `json:"nodes"`
}

// Figure is an objective with what its runs come to.
type Figure struct {
	journal.Objective
	Median float64 `json:"medianSeconds"`
	Worst  float64 `json:"worstSeconds"`
}

func figure(o journal.Objective) Figure {
	return Figure{Objective: o, Median: o.Median(), Worst: o.Worst()}
}

// CertifiedClause is one clause with its evidence.
type CertifiedClause struct {
	ID      string          `json:"id"`
	Text    string          `json:"clause"`
	Suite   string          `json:"suite"`
	Test    string          `json:"test"`
	Verdict journal.Outcome `json:"verdict"`
	Killed  int             `json:"killed"` // seeded faults under which the proof failed
	Faults  int             `json:"faults"` // that were seeded
	Spared  int             `json:"spared"` // harmless changes under which it held
}

// Refused says why there is no certificate, or why one does not hold: each
// reason in a line of its own.
type Refused struct {
	Reasons []string
}

func (r *Refused) Error() string {
	return "certificate refused: " + strings.Join(r.Reasons, "\n  and: ")
}

// refuse is an error when there is a reason.
func refuse(reasons ...string) error {
	if len(reasons) == 0 {
		return nil
	}
	return &Refused{Reasons: reasons}
}

func refusef(format string, args ...any) error { return refuse(fmt.Sprintf(format, args...)) }

// quarter is three calendar months later, on the last day of the month where it
// has no such day: 30 November gives 28 February.
func quarter(t time.Time) time.Time {
	later := t.AddDate(0, 3, 0)
	if later.Day() != t.Day() { // it ran over into the next month
		later = later.AddDate(0, 0, -later.Day())
	}
	return later
}
