package report

import (
	"slices"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
)

// Trace links the catalogue and the specifications of this run, both ways.
type Trace struct {
	// Catalogued is the number of clauses in the catalogue; 0 means that there
	// was none to trace to, and then the rest is empty.
	Catalogued int       `json:"catalogued"`
	Areas      []Area    `json:"areas,omitempty"`
	Unproven   []Orphan  `json:"clausesWithoutSpecification,omitempty"`
	Unknown    []Orphan  `json:"specificationsWithoutClause,omitempty"`
	Shared     []Orphan  `json:"clausesOfSeveralSuites,omitempty"`
	Links      []Covered `json:"links,omitempty"` // every clause of the catalogue
}

// Area counts the clauses of one area of the catalogue.
type Area struct {
	Name       string `json:"name"`
	Catalogued int    `json:"catalogued"`
	Specified  int    `json:"specified"` // have a specification in this run
	Proved     int    `json:"proved"`    // in every suite that specifies them
}

// Orphan is an ID that only one side knows, or that several suites claim.
type Orphan struct {
	ID     string   `json:"id"`
	Text   string   `json:"text,omitempty"`
	Suites []string `json:"suites,omitempty"`
	Near   string   `json:"nearest,omitempty"` // the catalogue's nearest IDs
}

// Covered is a clause of the catalogue with the specifications that carry it.
type Covered struct {
	catalogue.Clause
	Specs []Link `json:"specifications,omitempty"`
}

// Link is one specification of a clause.
type Link struct {
	Suite   string `json:"suite"`
	Test    string `json:"test,omitempty"`
	Verdict string `json:"verdict"`
}

func trace(suites []Suite, clauses []catalogue.Clause) Trace {
	t := Trace{Catalogued: len(clauses)}
	specs := map[string][]*Clause{}
	var seen []string
	for i := range suites {
		for j := range suites[i].Clauses {
			c := &suites[i].Clauses[j]
			if specs[c.ID] == nil {
				seen = append(seen, c.ID)
			}
			specs[c.ID] = append(specs[c.ID], c)
		}
	}
	for _, id := range seen {
		if of := specs[id]; len(of) > 1 {
			t.Shared = append(t.Shared, Orphan{ID: id, Text: of[0].Text, Suites: names(of)})
		}
	}
	if len(clauses) == 0 {
		return t
	}
	known := map[string]bool{}
	for _, c := range clauses {
		known[c.ID] = true
		area := t.area(c.Area)
		area.Catalogued++
		link := Covered{Clause: c}
		proved := len(specs[c.ID]) > 0
		for _, s := range specs[c.ID] {
			link.Specs = append(link.Specs, Link{Suite: s.Suite, Test: s.Test, Verdict: string(s.Outcome)})
			proved = proved && s.Outcome == "proved"
			if words(s.Text) == "" {
				s.Text = c.Text
			} else if words(s.Text) != words(c.Text) {
				s.Catalogue = c.Text
			}
		}
		t.Links = append(t.Links, link)
		if len(link.Specs) > 0 {
			area.Specified++
		} else {
			t.Unproven = append(t.Unproven, Orphan{ID: c.ID, Text: c.Text})
		}
		if proved {
			area.Proved++
		}
	}
	for _, id := range seen {
		if !known[id] {
			of := specs[id]
			t.Unknown = append(t.Unknown, Orphan{
				ID: id, Text: of[0].Text, Suites: names(of), Near: catalogue.Catalogue(clauses).Nearest(id),
			})
		}
	}
	return t
}

func (t *Trace) area(name string) *Area {
	i := slices.IndexFunc(t.Areas, func(a Area) bool { return a.Name == name })
	if i < 0 {
		t.Areas = append(t.Areas, Area{Name: name})
		i = len(t.Areas) - 1
	}
	return &t.Areas[i]
}

func names(clauses []*Clause) (suites []string) {
	for _, c := range clauses {
		suites = append(suites, c.Suite)
	}
	return suites
}

// words is a text without what does not change its meaning.
func words(text string) string {
	return strings.ToLower(strings.Trim(strings.Join(strings.Fields(text), " "), ". "))
}
