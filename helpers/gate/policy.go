// Package gate decides whether a release may go: a pure function of a policy, of what is to
// be released, and of evidence. docs/gate.md describes the policy.
package gate

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Policy says what a release must have proved.
type Policy struct {
	Name           string             `json:"name"`
	Proved         []string           `json:"proved"`            // areas of the catalogue, such as mesh, or single clauses
	Profiles       []string           `json:"profiles"`          // of the environments whose evidence counts
	Application    []string           `json:"application"`       // repositories of images.lock, such as docker.io/docuthinker/backend, of which a run that counts has had an image
	Freshest       metav1.Duration    `json:"freshest"`          // how old evidence may be: since the end of its run
	KillScoreLeast float64            `json:"killScoreLeast"`    // of every run that counts, between 0 and 1
	Signed         bool               `json:"signed"`            // evidence without a verified signature does not count
	Waivers        []catalogue.Waiver `json:"waivers,omitempty"` // of clauses that need not be proved for a while; a refuted one holds all the same
	MayBeVoid      []VoidFault        `json:"mayBeVoid,omitempty"`
	clauses        []string           // Proved, clause by clause
}

// VoidFault is a fault that some environment whose evidence counts does not let anybody seed:
// void, it does not lower the kill score. Nothing else is excused by it: a run in which it was
// void has not proved its clause, and one that it survived holds the release.
type VoidFault struct {
	ID     string `json:"id"`
	Fault  string `json:"fault"` // its name
	Reason string `json:"reason"`
}

// LoadPolicy reads a policy strictly: an unknown key, area or clause is an error with the
// nearest right name. All that is wrong is said at once.
func LoadPolicy(file string, known catalogue.Catalogue) (*Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var p Policy
	if err := strictyaml.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("policy %s: %w", file, err)
	}
	if err := p.validate(known); err != nil {
		return nil, fmt.Errorf("policy %s: %w", file, err)
	}
	return &p, nil
}

func (p *Policy) validate(known catalogue.Catalogue) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	var err error
	if p.clauses, err = known.Select(p.Proved...); err != nil {
		bad("proved: %w", err)
	}
	if len(p.Proved) == 0 {
		bad("proved is empty: a gate that asks for nothing lets everything through")
	}
	if len(p.Profiles) == 0 {
		bad("profiles is empty: no evidence would count")
	}
	if len(p.Application) == 0 {
		bad("application is empty: nobody would know whether what is to be released ran; want repositories of images.lock, such as docker.io/docuthinker/backend")
	}
	for _, a := range p.Application {
		if repository(a) != a {
			bad("application: %s is one image; want its repository, %s: tag and digest are those of images.lock", a, repository(a))
		}
	}
	if p.Freshest.Duration <= 0 {
		bad("freshest is %s; want a time such as 36h", p.Freshest.Duration)
	}
	if !(p.KillScoreLeast >= 0 && p.KillScoreLeast <= 1) {
		bad("killScoreLeast is %g; want 0 to 1", p.KillScoreLeast)
	}
	excused := map[string]bool{}
	for _, v := range p.MayBeVoid {
		if one := v.ID + " " + v.Fault; excused[one] {
			bad("mayBeVoid: %s %q is named twice", v.ID, v.Fault)
		} else {
			excused[one] = true
		}
		if _, err := known.Lookup(v.ID); err != nil {
			bad("mayBeVoid: %w", err)
		}
		if strings.TrimSpace(v.Fault) == "" || strings.TrimSpace(v.Reason) == "" {
			bad("mayBeVoid: %s has no fault or no reason: name both", v.ID)
		}
	}
	seen := map[string]bool{}
	for _, w := range p.Waivers {
		if !slices.Contains(p.clauses, w.ID) {
			bad("waivers: %s is not asked for%s", w.ID, strictyaml.DidYouMean(w.ID, p.clauses))
		}
		if seen[w.ID] {
			bad("waivers: %s is waived twice", w.ID)
		}
		seen[w.ID] = true
		if err := w.Check(); err != nil {
			bad("waivers: %w", err)
		}
	}
	return errors.Join(errs...)
}
