package platform

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// object is what stands in the x.yaml of every component.
const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ns}\n"

// project makes a root with components, by name, each with an x.yaml.
func project(t *testing.T, components map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range components {
		dir := filepath.Join(root, "fixtures", "platform", name)
		write(t, filepath.Join(dir, definitionFile), text)
		write(t, filepath.Join(dir, "x.yaml"), object)
	}
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

const plain = "steps: [{manifests: [x.yaml]}]\n"

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		says []string
	}{
		"an unknown key":                   {"nedes: [b]\n" + plain, []string{`unknown key "nedes", did you mean "needs"?`}},
		"an unknown key of a chart":        {"steps: [{chart: {path: p, relaese: r, namespace: n}}]", []string{`"steps[0].chart.relaese", did you mean "release"?`}},
		"no steps":                         {"needs: [b]", []string{"it has no steps"}},
		"nothing":                          {"", []string{"it has no steps"}},
		"a step of neither":                {"steps: [{observers: {namespace: n, selector: s}}]", []string{"steps[0] wants either a chart, a kustomization, manifests or a configMap"}},
		"a step of both":                   {"steps: [{manifests: [x], chart: {path: p, release: r, namespace: n}}]", []string{"steps[0] wants either"}},
		"a chart that is half said":        {"steps: [{manifests: [x.yaml]}, {chart: {path: p, namespace: n}}]", []string{"steps[1].chart wants path, release and namespace"}},
		"a need that there is not":         {"needs: [bb]\n" + plain, []string{"component a: ", `there is no component "bb", did you mean "b"?`, "there are a, b"}},
		"a need of itself":                 {"needs: [a]\n" + plain, []string{"a needs itself: a -> a"}},
		"a namespace's labels as a string": {"namespaces: {x: y}\n" + plain, []string{"want keys with values"}},
		"a manifest that there is not":     {"steps: [{manifests: [x.yaml, y.yaml]}]", []string{`steps[0]: files "y.yaml": there is no such file`}},
		"a pattern that finds nothing":     {"steps: [{manifests: [x.yaml]}, {manifests: ['more/*.yaml']}]", []string{`steps[1]: files "more/*.yaml": there is no such file`}},
		"a pattern that is none":           {"steps: [{manifests: ['[.yaml']}]", []string{"steps[0]: files", "syntax error in pattern"}},
		"values that there are not":        {chartWith("values: [x.yaml, vaules.yaml]"), []string{"steps[0].chart: there is no file vaules.yaml, for any profile"}},
		"patches that there are not":       {chartWith("values: [x.yaml], patches: [ptach.yaml]"), []string{"steps[0].chart: there is no file ptach.yaml, for any profile"}},
		"a chart that there is not":        {chartWith(""), []string{"steps[0].chart: there is no chart in p"}},
		"a kustomization of nothing":       {"steps: [{kustomization: {module: example.org/m, path: p}}]", []string{"steps[0].kustomization wants module, below and path"}},
		"its patches that there are not":   {"steps: [{kustomization: {module: m, below: b, path: p, patches: [ptach.yaml]}}]", []string{"steps[0].kustomization: there is no file ptach.yaml, for any profile"}},
		"a ConfigMap without a name":       {"steps: [{configMap: {namespace: n, files: [x.yaml]}}]", []string{"steps[0].configMap wants namespace, name and files"}},
		"a ConfigMap that is observed":     {"steps: [{configMap: {namespace: n, name: m, files: [x.yaml]}, observers: {namespace: n, selector: s}}]", []string{"steps[0].observers: no controller reports of a ConfigMap"}},
		"a ConfigMap of no file":           {"steps: [{configMap: {namespace: n, name: m, files: [y.yaml]}}]", []string{`steps[0]: files "y.yaml": there is no such file`}},
		"observers by no selector":         {plain[:len(plain)-3] + ", observers: {namespace: n, selector: 'a=(b'}}]", []string{"steps[0].observers: "}},
		"observers of no namespace":        {plain[:len(plain)-3] + ", observers: {selector: a=b}}]", []string{"steps[0].observers wants a namespace and a label selector"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, map[string]string{"a": c.text, "b": plain})
			_, err := load(root)
			for _, want := range c.says {
				require.ErrorContains(t, err, want)
			}
			require.ErrorContains(t, err, "platform: ")
		})
	}
}

func chartWith(more string) string {
	return "steps: [{chart: {path: p, release: r, namespace: n, " + more + "}}]"
}

// What is there for one profile alone is there, and a chart of a module is
// looked for when it is installed.
func TestLoadTakes(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		files []string
	}{
		"values of one profile":  {chartWith("values: [values.yaml]"), []string{"values-kind.yaml", "p/Chart.yaml"}},
		"patches of one profile": {chartWith("patches: [patch.yaml]"), []string{"patch-staging.yaml", "p/Chart.yaml"}},
		"values and patches":     {chartWith("values: [x.yaml], patches: [x.yaml]"), []string{"p/Chart.yaml"}},
		"a chart of a module":    {chartWith("module: example.org/m"), nil},
		"manifests by pattern":   {"steps: [{manifests: ['m/*.yaml']}]", []string{"m/a.yaml"}},
		"observers by a set":     {"steps: [{manifests: [x.yaml], observers: {namespace: n, selector: 'a in (b, c)'}}]", nil},
		"a step of each":         {"steps: [{manifests: [x.yaml]}, {chart: {path: p, release: r, namespace: n}}]", []string{"p/Chart.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, map[string]string{"a": c.text})
			for _, file := range c.files {
				write(t, filepath.Join(root, "fixtures", "platform", "a", file), object)
			}
			all, err := load(root)
			require.NoError(t, err)
			assert.NotEmpty(t, all["a"].Steps)
			if len(c.files) > 0 {
				require.NoError(t, os.Remove(filepath.Join(root, "fixtures", "platform", "a", c.files[0])))
				_, err = load(root)
				require.ErrorContains(t, err, "there is no", "it was taken for the sake of %s", c.files[0])
			}
		})
	}
}

func TestLoadSaysAllAtOnceWithTheFile(t *testing.T) {
	root := project(t, map[string]string{"a": "x: 1", "b": "y: 1", "c": plain})
	_, err := load(root)
	require.ErrorContains(t, err, filepath.Join(root, "fixtures", "platform", "a", definitionFile))
	require.ErrorContains(t, err, filepath.Join("b", definitionFile))
	require.NotContains(t, err.Error(), filepath.Join("c", definitionFile))

	_, err = load(t.TempDir())
	require.ErrorContains(t, err, "no component.yaml below")
}

func TestClosure(t *testing.T) {
	all, err := load(project(t, map[string]string{
		"app": "needs: [mesh, policies]\n" + plain, "mesh": "needs: [network]\n" + plain,
		"policies": "needs: [gatekeeper]\n" + plain, "gatekeeper": plain,
		"network": "base: true\n" + plain, "storage": "base: true\n" + plain,
	}))
	require.NoError(t, err)
	for name, c := range map[string]struct{ asked, order []string }{
		"each behind what it needs": {[]string{"app"}, []string{"network", "mesh", "gatekeeper", "policies", "app"}},
		"nothing twice":             {[]string{"mesh", "network", "mesh"}, []string{"network", "mesh"}},
		"none":                      {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			order, err := all.closure(c.asked...)
			require.NoError(t, err)
			var names []string
			for _, d := range order {
				names = append(names, d.name)
			}
			assert.Equal(t, c.order, names)
		})
	}
	assert.Equal(t, []string{"network", "storage"}, all.base())

	all["gatekeeper"].Needs = []string{"app"}
	_, err = all.closure("app")
	require.ErrorContains(t, err, "app needs itself: app -> policies -> gatekeeper -> app")
}

func TestSelect(t *testing.T) {
	root := project(t, map[string]string{"gatekeeper": plain, "policies": "needs: [gatekeeper]\n" + plain})
	for name, c := range map[string]struct {
		names []string
		want  []Component
		err   string
	}{
		"named":      {[]string{"policies"}, []Component{"policies"}, ""},
		"none":       {nil, nil, ""},
		"all":        {[]string{"all"}, []Component{"gatekeeper", "policies"}, ""},
		"misspelt":   {[]string{"gatekeper"}, nil, `there is no component "gatekeper", did you mean "gatekeeper"?; there are gatekeeper, policies`},
		"far away":   {[]string{"x"}, nil, `there is no component "x"; there are`},
		"one of two": {[]string{"policies", "polices"}, nil, `did you mean "policies"?`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Select(root, c.names)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, got)
		})
	}
	assert.Equal(t, "policies", Component("policies").Name())
}

func TestNamespaces(t *testing.T) {
	root := project(t, map[string]string{
		"mesh": "namespaces: {mesh: {}, ingress: {role: ingress}}\n" + plain, "metrics": "namespaces: {mesh: {}, a: {}}\n" + plain, "policies": plain,
	})
	got, err := Namespaces(root)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "ingress", "mesh"}, got)
	_, err = Namespaces(t.TempDir())
	require.ErrorContains(t, err, "no component.yaml below")
}

// The project's own: every file reads, and names only what is there.
func TestProjectsComponents(t *testing.T) {
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	all, err := load(root)
	require.NoError(t, err)
	require.Subset(t, all.names(), []string{"docuthinker", "gatekeeper", "kube-router", "local-path-provisioner", "policies"})
	require.Equal(t, []string{"kube-router", "local-path-provisioner"}, all.base())
	for _, name := range all.names() {
		d := all[name]
		for _, s := range d.Steps {
			_, err := d.files(s.patterns())
			assert.NoError(t, err, name)
			if s.Chart == nil {
				continue
			}
			for _, file := range d.ofProfile(s.Chart.Values, "kind") {
				assert.FileExists(t, file, name)
			}
			if s.Chart.Module == "" {
				assert.FileExists(t, filepath.Join(d.dir, s.Chart.Path, "Chart.yaml"), name)
			}
			assert.Contains(t, d.Namespaces, s.Chart.Namespace, "%s: the namespace of its release is made first", name)
		}
	}
}
