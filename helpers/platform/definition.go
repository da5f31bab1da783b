// Package platform installs components: each is data in a folder of
// fixtures/platform, with its pin, its images, its chart or manifests and its
// values. It knows no component by name.
package platform

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// definitionFile is the name of the file that says how a component is
// installed, in the component's folder. A folder without one holds images only.
const definitionFile = "component.yaml"

// definition is one component.yaml.
type definition struct {
	name       string
	dir        string                       // the folder, absolute
	Base       bool                         `json:"base,omitempty"`       // part of every environment that is made, whatever a suite asks for
	Needs      []string                     `json:"needs,omitempty"`      // components that are ready first
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"` // made first
	Steps      []step                       `json:"steps"`                // each is ready before the next one
}

// step installs a chart or applies a kustomization, manifests or a ConfigMap of files, and waits: for workloads until
// their controllers have rolled out the current generation, for kinds and APIs
// until they are served, for jobs until they are complete.
type step struct {
	Chart         *chartRef         `json:"chart,omitempty"`
	Kustomization *kustomizationRef `json:"kustomization,omitempty"`
	Manifests     []string          `json:"manifests,omitempty"` // glob patterns, relative to the folder
	ConfigMap     *fileMap          `json:"configMap,omitempty"`
	Observers     *Observers        `json:"observers,omitempty"`
}

// fileMap is a ConfigMap of files of the project, each under its own name: for what pods
// read as a file, and proofs do.
type fileMap struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Files     []string `json:"files"` // glob patterns, relative to the folder
}

// patterns are those of the files that a step applies.
func (s step) patterns() []string {
	if s.ConfigMap != nil {
		return s.ConfigMap.Files
	}
	return s.Manifests
}

// chartRef is a chart of a pinned module, or of a folder of the project.
type chartRef struct {
	Module    string   `json:"module,omitempty"` // path of a module in the component's go.mod; empty: the project's
	Path      string   `json:"path"`             // relative to the module or the component's folder
	Release   string   `json:"release"`
	Namespace string   `json:"namespace"`
	Values    []string `json:"values,omitempty"`  // files, relative to the folder, each with the profile's beside it; the later wins
	Patches   []string `json:"patches,omitempty"` // likewise: see patches
}

// Observers are the pods that must each have reported, in an object's
// status.byPod, that they have seen its current generation; for controllers
// that report by pod, as Gatekeeper's do. An object that was applied is in
// force only then.
type Observers struct {
	Namespace string `json:"namespace"`
	Selector  string `json:"selector"`
}

// definitions are the components of a project, by name.
type definitions map[string]*definition

// load reads every component.yaml below root/fixtures/platform, strictly. All
// that is wrong is said at once.
func load(root string) (definitions, error) {
	dir := filepath.Join(root, "fixtures", "platform")
	files, err := filepath.Glob(filepath.Join(dir, "*", definitionFile))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("platform: no %s below %s", definitionFile, dir)
	}
	all := definitions{}
	var errs []error
	for _, file := range files {
		d, err := read(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		all[d.name] = d
	}
	if len(errs) == 0 {
		errs = append(errs, all.check()...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	return all, nil
}

// Namespaces are those that the components of a project make, sorted.
func Namespaces(root string) ([]string, error) {
	all, err := load(root)
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	for _, d := range all {
		for name := range d.Namespaces {
			made[name] = true
		}
	}
	return slices.Sorted(maps.Keys(made)), nil
}

func read(file string) (*definition, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(file)
	d := &definition{name: filepath.Base(dir), dir: dir}
	if err := strictyaml.Unmarshal(data, d); err != nil {
		return nil, err
	}
	if len(d.Steps) == 0 {
		return nil, errors.New("it has no steps")
	}
	for i, s := range d.Steps {
		switch c, k, m := s.Chart, s.Kustomization, s.ConfigMap; {
		case len(slices.DeleteFunc([]bool{c != nil, k != nil, m != nil, len(s.Manifests) > 0}, func(has bool) bool { return !has })) != 1:
			return nil, fmt.Errorf("steps[%d] wants either a chart, a kustomization, manifests or a configMap", i)
		case m != nil && s.Observers != nil:
			return nil, fmt.Errorf("steps[%d].observers: no controller reports of a ConfigMap", i)
		case m != nil && (m.Namespace == "" || m.Name == "" || len(m.Files) == 0):
			return nil, fmt.Errorf("steps[%d].configMap wants namespace, name and files", i)
		case k != nil && (k.Module == "" || k.Below == "" || k.Path == ""):
			return nil, fmt.Errorf("steps[%d].kustomization wants module, below and path", i)
		case k != nil && d.none(k.Patches) != "":
			return nil, fmt.Errorf("steps[%d].kustomization: there is no file %s, for any profile", i, d.none(k.Patches))
		case c != nil && (c.Path == "" || c.Release == "" || c.Namespace == ""):
			return nil, fmt.Errorf("steps[%d].chart wants path, release and namespace", i)
		case c != nil && d.none(slices.Concat(c.Values, c.Patches)) != "":
			return nil, fmt.Errorf("steps[%d].chart: there is no file %s, for any profile", i, d.none(slices.Concat(c.Values, c.Patches)))
		case c != nil && c.Module == "" && !exists(filepath.Join(dir, c.Path, "Chart.yaml")):
			return nil, fmt.Errorf("steps[%d].chart: there is no chart in %s", i, c.Path)
		}
		if _, err := d.files(s.patterns()); err != nil {
			return nil, fmt.Errorf("steps[%d]: %w", i, err)
		}
		if s.Observers != nil {
			if _, err := labels.Parse(s.Observers.Selector); err != nil {
				return nil, fmt.Errorf("steps[%d].observers: %w", i, err)
			}
			if s.Observers.Namespace == "" || s.Observers.Selector == "" {
				return nil, fmt.Errorf("steps[%d].observers wants a namespace and a label selector", i)
			}
		}
	}
	return d, nil
}

func (all definitions) names() []string {
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (all definitions) check() (errs []error) {
	for _, name := range all.names() {
		if _, err := all.closure(name); err != nil {
			errs = append(errs, fmt.Errorf("component %s: %w", name, err))
		}
	}
	return errs
}

// closure is the named components and all that they need, each behind what it
// needs.
func (all definitions) closure(names ...string) ([]*definition, error) {
	var out []*definition
	var trail []string
	var visit func(string) error
	visit = func(name string) error {
		d, ok := all[name]
		switch {
		case !ok:
			return fmt.Errorf("there is no component %q%s; there are %s", name, strictyaml.DidYouMean(name, all.names()), strings.Join(all.names(), ", "))
		case slices.Contains(trail, name):
			return fmt.Errorf("%s needs itself: %s", name, strings.Join(append(trail, name), " -> "))
		case slices.Contains(out, d):
			return nil
		}
		trail = append(trail, name)
		for _, need := range d.Needs {
			if err := visit(need); err != nil {
				return err
			}
		}
		trail = trail[:len(trail)-1]
		out = append(out, d)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// base are the components of every environment that is made.
func (all definitions) base() (names []string) {
	for _, name := range all.names() {
		if all[name].Base {
			names = append(names, name)
		}
	}
	return names
}
