package certificate

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/journal"
)

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// faults are what is wrong with a certificate whoever signed it: who issues one
// and who checks one ask the same.
func (c *Certificate) faults() (reasons []string) {
	p := &c.Predicate
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	for _, field := range []struct{ name, value string }{
		{"run", p.Run}, {"commit", p.Commit}, {"profile", p.Profile}, {"backup.name", p.Backup.Name},
	} {
		if field.value == "" {
			add("%s is empty", field.name)
		}
	}
	if p.Key != attestation.Given && p.Key != attestation.Ephemeral {
		add("key is %q, want %s or %s", p.Key, attestation.Given, attestation.Ephemeral)
	}
	if !(p.TimeScale >= 1) {
		add("timeScale is %g, want 1 or more", p.TimeScale)
	}
	if len(p.Environments) == 0 {
		add("there is no environment")
	}
	for _, e := range p.Environments {
		if e.Fingerprint == "" || e.Cluster == "" {
			add("an environment has no name or no fingerprint")
		}
	}
	reasons = append(reasons, p.RTO.faults("RTO", p.TimeScale)...)
	reasons = append(reasons, p.RPO.faults("RPO", p.TimeScale)...)
	reasons = append(reasons, rowFaults(p.Rows)...)
	reasons = append(reasons, clauseFaults(p.Clauses)...)
	if !digest.MatchString(p.Backup.Digest) {
		add("the digest of the backup is %q, want sha256: and 64 hexadecimal digits", p.Backup.Digest)
	}
	if p.StartedAt.IsZero() || p.EndedAt.Before(p.StartedAt) || p.IssuedAt.Before(p.EndedAt) {
		add("it was issued at %s, of a run from %s to %s: want them in order", stamp(p.IssuedAt), stamp(p.StartedAt), stamp(p.EndedAt))
	}
	if !p.ExpiresAt.Equal(quarter(p.EndedAt)) {
		add("it expires at %s, want a quarter after the run ended: %s", stamp(p.ExpiresAt), stamp(quarter(p.EndedAt)))
	}
	return append(reasons, c.subjectFaults()...)
}

func (f Figure) faults(name string, runScale float64) (reasons []string) {
	add := func(format string, args ...any) { reasons = append(reasons, name+": "+fmt.Sprintf(format, args...)) }
	if len(f.Runs) == 0 {
		add("no run measured it")
		return reasons
	}
	for _, s := range f.Runs {
		if s < 0 || math.IsNaN(s) || math.IsInf(s, 0) {
			add("a run took %g s", s)
		}
	}
	if f.TimeScale != 1 && f.TimeScale != runScale {
		add("its clock is compressed ×%g, want ×1 or ×%g, as the run's", f.TimeScale, runScale)
	}
	if f.Median != f.Objective.Median() || f.Worst != f.Objective.Worst() {
		add("median %g s and worst %g s are not those of its runs, %g s and %g s", f.Median, f.Worst, f.Objective.Median(), f.Objective.Worst())
	}
	switch {
	case !(f.Target > 0):
		add("the target is %g s, want more than 0", f.Target)
	case f.Objective.Worst() > f.Target:
		add("the worst of %d runs took %g s, and the target is %g s", len(f.Runs), f.Objective.Worst(), f.Target)
	}
	return reasons
}

func rowFaults(r journal.Rows) (reasons []string) {
	switch {
	case r.Recovered <= 0 || r.After < 0:
		return []string{fmt.Sprintf("rows: %d recovered, %d newer: nothing was read back", r.Recovered, r.After)}
	case r.Recovered+r.After != r.Acknowledged:
		return []string{fmt.Sprintf("rows: %d acknowledged, but %d recovered and %d newer than the last recovered one: %d are lost or were never acknowledged",
			r.Acknowledged, r.Recovered, r.After, r.Acknowledged-r.Recovered-r.After)}
	}
	return nil
}

func clauseFaults(clauses []CertifiedClause) (reasons []string) {
	seen := map[string]bool{}
	for _, c := range clauses {
		if seen[c.ID] {
			reasons = append(reasons, c.ID+": it stands there twice")
		}
		seen[c.ID] = true
		if c.Verdict != journal.Proved {
			reasons = append(reasons, fmt.Sprintf("%s: %s, want %s", c.ID, c.Verdict, journal.Proved))
		}
		if c.Killed <= 0 || c.Killed != c.Faults {
			reasons = append(reasons, fmt.Sprintf("%s: %d of %d counter-proofs killed, want all and at least one", c.ID, c.Killed, c.Faults))
		}
	}
	for _, id := range required {
		if !seen[id] {
			reasons = append(reasons, id+": it is missing")
		}
	}
	return reasons
}

func (c *Certificate) subjectFaults() (reasons []string) {
	digests := map[string]string{}
	for _, s := range c.Subjects {
		if _, twice := digests[s.Name]; twice || s.Name == "" || !digest.MatchString("sha256:"+s.SHA256) {
			reasons = append(reasons, fmt.Sprintf("the subject %q has no name of its own, or no SHA-256", s.Name))
		}
		digests[s.Name] = s.SHA256
	}
	if digests[backupSubject(c.Predicate.Backup.Name)] != strings.TrimPrefix(c.Predicate.Backup.Digest, "sha256:") {
		reasons = append(reasons, "the backup is not among the subjects")
	}
	if digests[lockSubject] == "" || len(digests) < 3 { // backup, lock, and an image
		reasons = append(reasons, "the platform's images are not among the subjects")
	}
	return reasons
}

// outdated are the reasons that the clock gives.
func (c *Certificate) outdated(now time.Time) (reasons []string) {
	if p := c.Predicate; !now.Before(p.ExpiresAt) {
		reasons = append(reasons, fmt.Sprintf("expired at %s, and it is %s: what was proved a quarter ago is proved no more; run ground verify dr again", stamp(p.ExpiresAt), stamp(now)))
	} else if now.Before(p.IssuedAt) {
		reasons = append(reasons, fmt.Sprintf("issued at %s, and this machine's clock says %s: is it right?", stamp(p.IssuedAt), stamp(now)))
	}
	return reasons
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
