package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/spec"
	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

func TestSeccompProfile(t *testing.T) { runMutation(t, "POL-011", "01-seccomp-profile") }

func TestDropCapabilities(t *testing.T) { runMutation(t, "POL-012", "02-drop-capabilities") }

func TestNoPrivilegeEscalation(t *testing.T) { runMutation(t, "POL-013", "03-no-privilege-escalation") }

func TestReadOnlyRootFilesystemDefault(t *testing.T) {
	runMutation(t, "POL-014", "04-read-only-root-filesystem")
}

func TestRunAsNonRoot(t *testing.T) { runMutation(t, "POL-015", "05-run-as-non-root") }

func TestDefaultLimits(t *testing.T) { runMutation(t, "POL-016", "06-default-limits") }

func TestTeamLabel(t *testing.T) { runMutation(t, "POL-017", "07-team-label") }

func TestEnvironmentLabel(t *testing.T) { runMutation(t, "POL-018", "08-environment-label") }

// runMutation proves that a mutation of fixtures/policies/mutations sets its
// default where nothing is said, leaves what is said alone, and does nothing to
// what it has seen before.
func runMutation(t *testing.T, id, folder string) {
	t.Helper()
	spec.Run(t, spec.Specification{
		ID:    id,
		Risk:  spec.Namespaced,
		Needs: []spec.Need{policies},
		Keys:  []string{"mutation/" + folder},
		Prove: func(ctx context.Context, t spec.T, env *environment.Environment) {
			proveMutation(ctx, t, env, folder)
		},
		CounterProofs: mutationFaults(folder),
	})
}

// expected is a folder's expect.yaml: fixtures/policies/README.md.
type expected struct {
	Cases []struct {
		NamespaceLabels map[string]string `json:"namespaceLabels"`
		Unset           []field           `json:"unset"`
		Explicit        []field           `json:"explicit"`
	} `json:"cases"`
}

type field struct {
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func proveMutation(ctx context.Context, t spec.T, env *environment.Environment, folder string) {
	want, unset, explicit, err := loadMutation(env, folder)
	if err != nil {
		t.Broken(err)
	}
	for _, c := range want.Cases {
		ns, err := trialNamespace(ctx, env, c.NamespaceLabels)
		if err != nil {
			t.Broken(err)
		}
		admitted, as, changed := map[string]any{}, map[string]int{}, 0
		for _, tried := range []struct {
			what   string
			object *unstructured.Unstructured
			fields []field
		}{{"unset", unset, c.Unset}, {"explicit", explicit, c.Explicit}} {
			o, err := admit(ctx, env.Client(), t.Scope(), tried.object, ns)
			if v, isDenial := judged(err); isDenial == nil && !v.Admitted {
				assert.Fail(t, fmt.Sprintf("%s: the pod was denied: %s", tried.what, v))
				continue
			}
			if err != nil {
				t.Broken(fmt.Errorf("%s: %w", tried.what, err))
			}
			for _, f := range tried.fields {
				got, _ := at(o.Object, f.Path)
				if assert.Equal(t, f.Value, got, "%s: %s", tried.what, f.Path) {
					as[tried.what]++
				}
				admitted[tried.what+" "+f.Path] = got
			}
			change, err := again(ctx, env.Client(), o)
			// A constraint that another proof had off a moment ago is on again.
			if v, isDenial := judged(err); isDenial == nil && !v.Admitted {
				assert.Fail(t, fmt.Sprintf("%s, once more: the pod was denied: %s", tried.what, v))
				continue
			}
			if err != nil {
				t.Broken(fmt.Errorf("%s, once more: %w", tried.what, err))
			}
			if change != "" {
				assert.Fail(t, fmt.Sprintf("a second admission changed %s: %s", tried.what, change))
				changed++
			}
		}
		t.Observe(fmt.Sprintf("in a namespace with %v: %d of %d defaults set, %d of %d explicit values left alone, %d of 2 pods changed by a second admission",
			c.NamespaceLabels, as["unset"], len(c.Unset), as["explicit"], len(c.Explicit), changed), admitted)
	}
}

// loadMutation makes sure that the objects are what expect.yaml says of them as
// written, so that a default is told from what was there before.
func loadMutation(env *environment.Environment, folder string) (*expected, *unstructured.Unstructured, *unstructured.Unstructured, error) {
	data, err := os.ReadFile(filepath.Join(env.Root, "fixtures", "policies", "mutations", folder, "expect.yaml"))
	if err != nil {
		return nil, nil, nil, err
	}
	want := &expected{}
	if err := strictyaml.Unmarshal(data, want); err != nil {
		return nil, nil, nil, fmt.Errorf("%s/expect.yaml: %w", folder, err)
	}
	// Whole numbers as unstructured objects have them.
	if data, err = yaml.YAMLToJSON(data); err != nil {
		return nil, nil, nil, err
	}
	if err := json.Unmarshal(data, want); err != nil {
		return nil, nil, nil, err
	}
	unset, err := read(env, "mutations", folder, "unset.yaml")
	if err != nil {
		return nil, nil, nil, err
	}
	explicit, err := read(env, "mutations", folder, "explicit.yaml")
	if err != nil {
		return nil, nil, nil, err
	}
	if len(want.Cases) == 0 {
		return nil, nil, nil, fmt.Errorf("%s: expect.yaml has no cases, so it would prove nothing", folder)
	}
	for _, c := range want.Cases {
		if len(c.Unset) == 0 || len(c.Explicit) == 0 {
			return nil, nil, nil, fmt.Errorf("%s: expect.yaml has a case without unset or explicit fields", folder)
		}
		for _, f := range c.Unset {
			if got, there := at(unset.Object, f.Path); there {
				return nil, nil, nil, fmt.Errorf("%s: unset.yaml has %s: %v", folder, f.Path, got)
			}
		}
		for _, f := range c.Explicit {
			if got, _ := at(explicit.Object, f.Path); !reflect.DeepEqual(got, f.Value) {
				return nil, nil, nil, fmt.Errorf("%s: explicit.yaml has %s: %v, want %v", folder, f.Path, got, f.Value)
			}
		}
	}
	return want, unset, explicit, nil
}

// admit creates a pod, then adds its ephemeral containers, and returns it as it
// was admitted.
func admit(ctx context.Context, c client.Client, s *environment.Scope, o *unstructured.Unstructured, namespace string) (*unstructured.Unstructured, error) {
	admitted := unnamed(o)
	admitted.SetNamespace(namespace)
	ephemeral, has, err := unstructured.NestedSlice(admitted.Object, "spec", "ephemeralContainers")
	if err != nil {
		return nil, err
	}
	unstructured.RemoveNestedField(admitted.Object, "spec", "ephemeralContainers")
	if err := s.Create(ctx, admitted); err != nil || !has {
		return admitted, err
	}
	return admitted, addEphemeral(ctx, c, admitted, ephemeral)
}

// again submits what was admitted once more, for show only: as another pod and, where
// ephemeral containers were added, as the same update. It returns what either changed.
func again(ctx context.Context, c client.Client, o *unstructured.Unstructured) (change string, err error) {
	fresh := object(podKind, o.GetNamespace(), o.GetName()+"-again")
	fresh.SetLabels(o.GetLabels())
	spec, _, err := unstructured.NestedMap(o.Object, "spec")
	if err != nil {
		return "", err
	}
	delete(spec, "nodeName")
	ephemeral, has, err := unstructured.NestedSlice(spec, "ephemeralContainers")
	if err != nil {
		return "", err
	}
	delete(spec, "ephemeralContainers")
	fresh.Object["spec"] = spec
	second := fresh.DeepCopy()
	if err := c.Create(ctx, second, client.DryRunAll); err != nil {
		return "", err
	}
	if change, err = difference(fresh, second); change != "" || err != nil || !has {
		return change, err
	}
	second = o.DeepCopy()
	if err := addEphemeral(ctx, c, second, ephemeral, client.DryRunAll); err != nil {
		return "", err
	}
	return difference(o, second)
}

// difference is what makes one pod's labels and spec those of another, as a merge patch;
// nothing where they are the same. Left out is what the API server writes itself, and
// annotations: into those a label's mutation writes while its fault has the location miss.
func difference(of, to *unstructured.Unstructured) (string, error) {
	kept := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		k := object(podKind, "", "")
		k.SetLabels(o.GetLabels())
		k.Object["spec"] = o.Object["spec"]
		return k
	}
	patch, err := client.MergeFrom(kept(of)).Data(kept(to))
	if err != nil || string(patch) == "{}" {
		return "", err
	}
	return string(patch), nil
}

var element = regexp.MustCompile(`^([A-Za-z]+)\[name: ([^\]]+)\]$`)

// at finds a field by the grammar of fixtures/policies/README.md.
func at(tree any, path string) (any, bool) {
	for _, part := range strings.Split(path, ".") {
		name, item := part, ""
		if m := element.FindStringSubmatch(part); m != nil {
			name, item = m[1], m[2]
		}
		node, ok := tree.(map[string]any)
		if !ok {
			return nil, false
		}
		if tree, ok = node[name]; !ok {
			return nil, false
		}
		if item == "" {
			continue
		}
		if tree, ok = named(tree, item); !ok {
			return nil, false
		}
	}
	return tree, true
}

func named(list any, name string) (any, bool) {
	items, _ := list.([]any)
	for _, i := range items {
		if m, ok := i.(map[string]any); ok && m["name"] == name {
			return m, true
		}
	}
	return nil, false
}

func mutationFaults(folder string) []spec.Sabotage {
	file := []string{"mutations", folder, "mutation.yaml"}
	const explicit = `^explicit: (spec|metadata)\..*: Not equal`
	unset := `^unset: (spec|metadata)\..*: Not equal`
	if strings.HasPrefix(folder, "08-") { // without its label a pod is one that the policies deny
		unset += `|^unset: the pod was denied`
	}
	faults := []spec.Sabotage{
		fault{name: "a location that misses", kills: unset, file: file, change: missing}.sabotage(),
		fault{name: "a namespace selector that nothing has", kills: unset, file: file, change: set(map[string]any{
			"matchLabels": map[string]any{defaultsLabel: "enable"},
		}, "spec", "match", "namespaceSelector")}.sabotage(),
		fault{name: "a namespace excluded that there is not", harmless: true, file: file, change: idle}.sabotage(),
	}
	if label, is := strings.CutSuffix(folder[len("00-"):], "-label"); is { // AssignMetadata never overwrites
		faults = append(faults, growing(folder, label))
	} else {
		faults = append(faults, fault{name: "explicit values overwritten", kills: explicit, file: file, change: func(o *unstructured.Unstructured) error {
			unstructured.RemoveNestedField(o.Object, "spec", "parameters", "pathTests")
			return nil
		}}.sabotage())
	}
	// The constant of an Assign cannot grow. What else of a pod would is compared by the same lines for all of them.
	if strings.HasPrefix(folder, "01-") {
		faults = append(faults, growing(folder, "version"), lingering(folder))
	}
	return faults
}

// misspelt are the ways by which a location misses what it is meant for, and is
// a location all the same; the API server drops a field that it does not know.
var misspelt = strings.NewReplacer("securityContext", "securityContexts", ".limits.", ".limit.", "metadata.labels.", "metadata.annotations.")

// missing has the mutation write beside its target.
func missing(o *unstructured.Unstructured) error {
	location, _, err := unstructured.NestedString(o.Object, "spec", "location")
	if err != nil {
		return err
	}
	miss := misspelt.Replace(location)
	if miss == location {
		return fmt.Errorf("%s: no way is known to misspell the location %s", o.GetName(), location)
	}
	if err := set(miss, "spec", "location")(o); err != nil {
		return err
	}
	tests, has, err := unstructured.NestedSlice(o.Object, "spec", "parameters", "pathTests")
	if err != nil || !has {
		return err
	}
	for _, test := range tests {
		t := test.(map[string]any)
		t["subPath"] = misspelt.Replace(fmt.Sprint(t["subPath"]))
	}
	return unstructured.SetNestedSlice(o.Object, tests, "spec", "parameters", "pathTests")
}
