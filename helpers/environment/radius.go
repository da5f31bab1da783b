package environment

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
)

// Radius bounds what a run may hit in an environment. The zero value lets no fault of chaos
// happen, and nothing that disturbs others on a given cluster.
type Radius struct {
	PodShare   float64  `json:"podShare"`           // of the pods that a fault is aimed at, 0 to 1
	Nodes      int      `json:"nodes"`              // at once
	Namespaces []string `json:"namespaces"`         // prefixes of their names
	Disturbs   []string `json:"disturbs,omitempty"` // areas of the catalogue and single clauses by which what others use as well may be disturbed; given clusters only
}

// MayDisturb says whether the proof of a clause, or a fault of it, may disturb what others use
// as well: the gateways, the webhook that admits objects, a node. The ceiling says how much that
// may be, and this for which clauses. A cluster that the run makes is nobody else's.
func (p *Profile) MayDisturb(c catalogue.Clause) bool {
	return p.Provider == ProviderKind || slices.Contains(p.BlastRadius.Disturbs, c.Area) || slices.Contains(p.BlastRadius.Disturbs, c.ID)
}

// Hit is what a fault is aimed at.
type Hit struct {
	Namespace string
	Pods      []string // the targets, of which it hits a share
	Share     float64  // 0 to 1
	Nodes     int
}

// Allows says why a fault may not happen, or nil. No targets are an error, for a
// fault of nothing shows nothing.
func (r Radius) Allows(h Hit) error {
	allowed := func(prefix string) bool { return strings.HasPrefix(h.Namespace, prefix) }
	switch {
	case len(h.Pods) == 0:
		return fmt.Errorf("the fault is aimed at no pod of %s", h.Namespace)
	case strings.HasPrefix(h.Namespace, "kube-"), !slices.ContainsFunc(r.Namespaces, allowed):
		return fmt.Errorf("namespace %s may not be hit; the profile's blastRadius allows those that begin with %q", h.Namespace, r.Namespaces)
	case h.Share > r.PodShare:
		return fmt.Errorf("the fault hits %.0f %% of %d pods; the profile's blastRadius allows %.0f %%", 100*h.Share, len(h.Pods), 100*r.PodShare)
	case h.Nodes > r.Nodes:
		return fmt.Errorf("the fault takes %d nodes; the profile's blastRadius allows %d", h.Nodes, r.Nodes)
	}
	return nil
}

func (r Radius) validate() error {
	var errs []error
	if r.PodShare < 0 || r.PodShare > 1 {
		errs = append(errs, fmt.Errorf("podShare is %g; want 0 to 1", r.PodShare))
	}
	if r.Nodes < 0 || r.Nodes > 1 {
		errs = append(errs, fmt.Errorf("nodes is %d; want 0 or 1", r.Nodes))
	}
	for _, n := range r.Namespaces {
		if n == "" || strings.HasPrefix("kube-system", n) || strings.HasPrefix(n, "kube-") {
			errs = append(errs, fmt.Errorf("namespaces has %q; that of the cluster itself is never hit", n))
		}
	}
	return errors.Join(errs...)
}

// known says which names of Disturbs are neither an area nor a clause of the catalogue: a misspelt
// one would leave out what it was to allow.
func (r Radius) known(root string) error {
	clauses, err := catalogue.Find(root)
	if err == nil {
		_, err = catalogue.Catalogue(clauses).Select(r.Disturbs...)
	}
	if err != nil {
		return fmt.Errorf("blastRadius.disturbs: %w", err)
	}
	return nil
}
