package certificate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/proving-ground/proving-ground/helpers/attestation"
	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/journal"
	"github.com/proving-ground/proving-ground/helpers/report"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Gather makes the certificate of a run, not signed yet, from the entries of its
// journal, the number of lines in it that a kill cut short, the catalogue and
// images.lock. Where evidence is missing or speaks against it there is none, and
// the error is a *Refused with every reason. now is the time of issue.
func Gather(entries []journal.Entry, torn int, clauses []catalogue.Clause, lock []byte, now time.Time) (*Certificate, error) {
	r := report.Build(entries, torn, clauses)
	g := gatherer{report: r, suites: map[string]*report.Suite{}}
	c := &Certificate{Predicate: Predicate{
		Run: r.Run, StartedAt: r.Started.Truncate(time.Second), EndedAt: r.Ended.Truncate(time.Second), IssuedAt: now.UTC().Truncate(time.Second),
	}}
	c.Predicate.ExpiresAt = quarter(c.Predicate.EndedAt)
	if torn > 0 {
		g.refuse("the journal has %d torn lines, and nobody knows what they said: run it again", torn)
	}
	if runs := runsOf(entries); len(runs) != 1 {
		g.refuse("the journal is of %d runs (%s), want one", len(runs), strings.Join(runs, ", "))
	}
	g.clauses(&c.Predicate, clauses)
	for _, name := range slices.Sorted(maps.Keys(g.suites)) {
		if s := g.suites[name]; s.Ended && s.Cut != "" { // without an end it may be DR-009's own, which goes by what came before it
			g.refuse("the suite %s did not end well: %s", name, s.Cut)
		}
	}
	g.start(&c.Predicate, entries)
	g.figures(&c.Predicate, entries)
	images := g.environments(&c.Predicate)
	c.Subjects = append(c.Subjects, attestation.Subject{Name: backupSubject(c.Predicate.Backup.Name), SHA256: strings.TrimPrefix(c.Predicate.Backup.Digest, "sha256:")})
	g.subjects(c, images, lock)
	if err := refuse(g.reasons...); err != nil {
		return nil, err
	}
	c.Predicate.Key = attestation.Given // until it is signed; the key says
	if err := refuse(append(c.faults(), c.outdated(now)...)...); err != nil {
		return nil, err
	}
	return c, nil
}

// gatherer keeps every reason against, so that one look tells all of them.
type gatherer struct {
	report  *report.Report
	suites  map[string]*report.Suite // those with a required clause
	reasons []string
}

func (g *gatherer) refuse(format string, args ...any) {
	g.reasons = append(g.reasons, fmt.Sprintf(format, args...))
}

func runsOf(entries []journal.Entry) []string {
	runs := map[string]bool{}
	for _, e := range entries {
		runs[e.Run] = true
	}
	return slices.Sorted(maps.Keys(runs))
}

// clauses takes the verdicts as the report judges them: the worst of several
// counts, and one without a plan or a killed fault is not proved.
func (g *gatherer) clauses(p *Predicate, known catalogue.Catalogue) {
	found := map[string][]report.Clause{}
	for i := range g.report.Suites {
		s := &g.report.Suites[i]
		for _, c := range s.Clauses {
			if slices.Contains(required, c.ID) {
				found[c.ID] = append(found[c.ID], c)
				g.suites[s.Name] = s
			}
		}
	}
	for _, id := range required {
		promised, err := known.Lookup(id)
		if err != nil {
			g.refuse("%s: %v", id, err)
			continue
		}
		switch n := len(found[id]); n {
		case 1:
		case 0:
			g.refuse("%s: the run has no verdict of it: run ground verify dr", id)
			continue
		default:
			g.refuse("%s: %d suites have a verdict of it, want one", id, n)
			continue
		}
		c := found[id][0]
		clause := CertifiedClause{ID: id, Text: promised.Text, Suite: c.Suite, Test: c.Test, Verdict: c.Outcome}
		for _, t := range c.Trials {
			switch {
			case t.Outcome == journal.Killed:
				clause.Killed++
				clause.Faults++
			case t.Outcome == journal.Spared:
				clause.Spared++
			case t.Harmless:
				g.refuse("%s: the harmless change %q came out as %s: %s", id, t.Name, t.Outcome, t.Why)
			default:
				clause.Faults++
				g.refuse("%s: the counter-proof %q came out as %s, want killed: %s", id, t.Name, t.Outcome, t.Why)
			}
		}
		if len(c.Untried) > 0 {
			g.refuse("%s: these counter-proofs were not tried: %s", id, strings.Join(c.Untried, ", "))
		}
		switch {
		case c.Outcome != journal.Proved:
			g.refuse("%s: %s: %s", id, c.Outcome, c.Reason)
		case clause.Killed == 0:
			g.refuse("%s: no counter-proof was killed, so its proof is not known to be able to fail: run with counter-proofs on", id)
		}
		p.Clauses = append(p.Clauses, clause)
	}
}

// start is how the suites of the clauses were started, each of their processes; they must
// agree.
func (g *gatherer) start(p *Predicate, entries []journal.Entry) {
	for _, name := range slices.Sorted(maps.Keys(g.suites)) {
		if g.suites[name].Start == nil {
			g.refuse("the suite %s did not record how it was started", name)
		}
	}
	for _, e := range entries {
		s := e.Start
		if s == nil || g.suites[e.Suite] == nil {
			continue
		}
		if p.Profile != "" && (p.Profile != s.Profile || p.Commit != s.Commit || p.TimeScale != s.TimeScale) {
			g.refuse("processes of the suites %s were started in different ways", strings.Join(slices.Sorted(maps.Keys(g.suites)), ", "))
			return
		}
		p.Profile, p.Commit, p.TimeScale = s.Profile, s.Commit, s.TimeScale
		switch {
		case s.Commit == "":
			g.refuse("the run recorded no commit: run it in a checkout of git")
		case strings.HasSuffix(s.Commit, "-dirty"):
			g.refuse("the run was of %s, which nobody else can look at: commit, then run it again", s.Commit)
		}
	}
}

// environments are those that the suites recorded, and their images.
func (g *gatherer) environments(p *Predicate) map[string]string {
	images := map[string]string{} // name -> digest
	for _, e := range g.report.Environments {
		if !slices.ContainsFunc(e.Suites, func(s string) bool { return g.suites[s] != nil }) {
			continue
		}
		p.Environments = append(p.Environments, Environment{e.Cluster, e.Hash, e.Kubernetes, len(e.Nodes)})
		for _, i := range e.Images {
			if was, ok := images[i.Name]; ok && was != i.Digest {
				g.refuse("the image %s ran as %s and as %s", i.Name, was, i.Digest)
			}
			images[i.Name] = i.Digest
		}
	}
	if len(p.Environments) == 0 {
		g.refuse("the run recorded no environment")
	} else if len(images) == 0 {
		g.refuse("the run recorded no image, so nobody knows what ran")
	}
	return images
}

// subjects holds what ran against images.lock.
func (g *gatherer) subjects(c *Certificate, ran map[string]string, lock []byte) {
	locked, err := image.ReadLock(lock)
	if err != nil {
		g.refuse("%v", err)
		return
	}
	sum := sha256.Sum256(lock)
	c.Subjects = append(c.Subjects, attestation.Subject{Name: lockSubject, SHA256: hex.EncodeToString(sum[:])})
	for _, name := range slices.Sorted(maps.Keys(ran)) {
		switch want, ok := locked[name]; {
		case !ok:
			g.refuse("the image %s ran, and %s does not know it%s: run ground images --build", name, lockSubject,
				strictyaml.DidYouMean(name, slices.Sorted(maps.Keys(locked))))
		case want != ran[name]:
			g.refuse("the image %s ran as %s, and %s says %s", name, ran[name], lockSubject, want)
		}
		c.Subjects = append(c.Subjects, attestation.Subject{Name: name, SHA256: strings.TrimPrefix(ran[name], "sha256:")})
	}
}
