package environment

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// Provider says where an environment's cluster comes from.
type Provider string

// A kind cluster is made by the run on this machine; a given one is named by a
// kubeconfig, and never deleted.
const (
	ProviderKind  Provider = "kind"
	ProviderGiven Provider = "given"
)

// Profile is one file of fixtures/environments: where a run happens, how far
// it may go there, and what is waived.
type Profile struct {
	Name        string             `json:"name"`
	RiskCeiling Risk               `json:"riskCeiling"`
	TimeScale   float64            `json:"timeScale"` // 1 = the platform's own times; 60 = sixty times faster
	Provider    Provider           `json:"provider"`
	KindConfig  string             `json:"kindConfig,omitempty"` // file, relative to the project's root; kind only
	ClusterName string             `json:"clusterName,omitempty"`
	Values      string             `json:"values,omitempty"` // of which profile components have their values; its own when empty
	Waivers     []catalogue.Waiver `json:"waivers,omitempty"`
	Recovery    Recovery           `json:"recovery,omitzero"`
	BlastRadius Radius             `json:"blastRadius,omitzero"`
	Load        Load               `json:"load,omitzero"`
}

// Load is what an environment can bear that is smaller than the platform's own. What a
// proof leaves out for its sake, its observation says.
type Load struct {
	UsersMost map[string]int `json:"usersMost,omitempty"` // users at once, by scenario; those that are not named keep their own number
	RateLeast float64        `json:"rateLeast,omitempty"` // requests a second that must not break the platform; 0: the breakpoint scenario's last
}

func (l Load) validate() error {
	for scenario, most := range l.UsersMost {
		if most < 1 {
			return fmt.Errorf("usersMost of %s is %d; want 1 or more, or none", scenario, most)
		}
	}
	if l.RateLeast < 0 {
		return fmt.Errorf("rateLeast is %g; want 1 or more, or none", l.RateLeast)
	}
	return nil
}

// Recovery is what disaster recovery is to keep to in an environment, and how
// often that is measured. Without it there is nothing that could be certified.
type Recovery struct {
	RTO     metav1.Duration `json:"rto"`     // at most, from the loss to the first verified read
	RPO     metav1.Duration `json:"rpo"`     // at most, from the last acknowledged write to the last recovered one
	Repeats int             `json:"repeats"` // losses by which both are measured
}

var (
	catalogueID = regexp.MustCompile(`^(INF|POL|MSH|CHS|DR|PRF|PIP)-[0-9]{3}$`)
	profileName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// ValuesOf is the profile whose values components have.
func (p *Profile) ValuesOf() string { return cmp.Or(p.Values, p.Name) }

// Allows says whether a specification of risk r may run under this profile. An
// undeclared risk never may.
func (p *Profile) Allows(r Risk) bool { return r >= ReadOnly && r <= p.RiskCeiling }

// Waiver is the waiver of a specification, if this profile has one.
func (p *Profile) Waiver(id string) (catalogue.Waiver, bool) {
	i := slices.IndexFunc(p.Waivers, func(w catalogue.Waiver) bool { return w.ID == id })
	if i < 0 {
		return catalogue.Waiver{}, false
	}
	return p.Waivers[i], true
}

// LoadProfile reads root/fixtures/environments/<name>.yaml strictly: an unknown
// profile, an unknown or doubled key, a value out of range and an expired waiver
// are errors that name the remedy. All that is wrong is said at once.
func LoadProfile(root, name string) (*Profile, error) {
	dir := filepath.Join(root, "fixtures", "environments")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yaml"))
	}
	if !slices.Contains(names, name) {
		if len(names) == 0 {
			return nil, fmt.Errorf("profile %q: no profiles in %s", name, dir)
		}
		return nil, fmt.Errorf("profile %q: there is no such profile%s; there are %s",
			name, strictyaml.DidYouMean(name, names), strings.Join(names, ", "))
	}
	file := filepath.Join(dir, name+".yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	p, err := parseProfile(data, time.Now())
	if err == nil && p.Name != name {
		err = fmt.Errorf("name is %q, but the file is %s.yaml", p.Name, name)
	}
	if err == nil && !slices.Contains(names, p.ValuesOf()) { // else components would have none, and nobody would know
		err = fmt.Errorf("values is %q, and there is no such profile%s", p.Values, strictyaml.DidYouMean(p.Values, names))
	}
	if err == nil && len(p.BlastRadius.Disturbs) > 0 {
		err = p.BlastRadius.known(root)
	}
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", file, err)
	}
	return p, nil
}

// WithTimeScale is the profile with another time scale: for a run in the platform's own
// times on a cluster that is made for faster ones, or the other way round.
func (p *Profile) WithTimeScale(scale float64) (*Profile, error) {
	other := *p
	other.TimeScale = scale
	if err := other.validate(time.Now()); err != nil {
		return nil, err
	}
	return &other, nil
}

func parseProfile(data []byte, now time.Time) (*Profile, error) {
	p := &Profile{}
	if err := strictyaml.Unmarshal(data, p); err != nil {
		return nil, err
	}
	return p, p.validate(now)
}

func (p *Profile) validate(now time.Time) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !profileName.MatchString(p.Name) {
		bad("name is %q; want lower-case letters, digits and dashes", p.Name)
	}
	if p.RiskCeiling < ReadOnly || p.RiskCeiling > Destructive {
		bad("riskCeiling is missing; want one of %s", strings.Join(riskNames[ReadOnly:], ", "))
	}
	if p.TimeScale < 1 || p.TimeScale > 3600 {
		bad("timeScale is %g; want 1 (the platform's own times) to 3600 (an hour in a second)", p.TimeScale)
	}
	switch p.Provider {
	case ProviderKind:
		if !profileName.MatchString(p.ClusterName) {
			bad("clusterName is %q; want lower-case letters, digits and dashes", p.ClusterName)
		}
		if !filepath.IsLocal(p.KindConfig) {
			bad("kindConfig is %q; want a file inside the project, relative to its root", p.KindConfig)
		}
		if len(p.BlastRadius.Disturbs) > 0 {
			bad("blastRadius.disturbs has no meaning with provider kind, for its cluster is nobody else's; remove it")
		}
	case ProviderGiven:
		if p.KindConfig != "" {
			bad("kindConfig has no meaning with provider given; remove it")
		}
	default:
		bad("provider is %q%s; want kind or given", p.Provider, strictyaml.DidYouMean(string(p.Provider), []string{"kind", "given"}))
	}
	seen := map[string]bool{}
	for i, w := range p.Waivers {
		if err := holds(w, now); err != nil {
			bad("waivers[%d]: %w", i, err)
		}
		if seen[w.ID] {
			bad("waivers[%d]: %s is waived twice", i, w.ID)
		}
		seen[w.ID] = true
	}
	if r := p.Recovery; r != (Recovery{}) && (r.RTO.Duration <= 0 || r.RPO.Duration <= 0 || r.Repeats < 1) {
		bad("recovery is rto %s, rpo %s, repeats %d; want times such as 90s and 1h, and one repeat at least", r.RTO.Duration, r.RPO.Duration, r.Repeats)
	}
	if err := p.BlastRadius.validate(); err != nil {
		bad("blastRadius: %w", err)
	}
	if err := p.Load.validate(); err != nil {
		bad("load: %w", err)
	}
	return errors.Join(errs...)
}

// holds says what is wrong with a waiver at a time, or that it is over.
func holds(w catalogue.Waiver, now time.Time) error {
	if !catalogueID.MatchString(w.ID) {
		return fmt.Errorf("id is %q; want a catalogue ID such as MSH-001", w.ID)
	}
	if err := w.Check(); err != nil {
		return err
	}
	if end, _ := w.End(); !now.Before(end) {
		return fmt.Errorf("%s: the waiver expired on %s; mend what it excuses, or renew it with a reason", w.ID, w.Expires)
	}
	return nil
}

// Risk is how much a specification may harm where it runs. The order is that of
// harm: a profile allows every risk up to its ceiling. The zero value is
// undeclared, and allowed nowhere.
type Risk int

// The four risks, the least harmful first.
const (
	ReadOnly    Risk = iota + 1 // looks only
	Namespaced                  // changes things in namespaces of its own
	Disruptive                  // disturbs others for a while: a node drained, a policy for all
	Destructive                 // may lose what cannot be brought back
)

var riskNames = []string{"undeclared", "read-only", "namespaced", "disruptive", "destructive"}

// String is the name used in profiles and reports.
func (r Risk) String() string {
	if r < 0 || int(r) >= len(riskNames) {
		return fmt.Sprintf("risk(%d)", int(r))
	}
	return riskNames[r]
}

// parseRisk reads a risk's name; the error names the nearest one.
func parseRisk(s string) (Risk, error) {
	if i := slices.Index(riskNames[ReadOnly:], s); i >= 0 {
		return ReadOnly + Risk(i), nil
	}
	return 0, fmt.Errorf("risk %q is unknown%s; want one of %s",
		s, strictyaml.DidYouMean(s, riskNames[ReadOnly:]), strings.Join(riskNames[ReadOnly:], ", "))
}

// UnmarshalJSON reads the name of a risk; numbers are refused.
func (r *Risk) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("a risk is a name such as read-only, not %s", data)
	}
	got, err := parseRisk(s)
	if err != nil {
		return err
	}
	*r = got
	return nil
}

// MarshalJSON writes the name of a risk.
func (r Risk) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }
