package platform

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

func TestValues(t *testing.T) {
	d := &definition{name: "x", dir: t.TempDir()}
	for file, text := range map[string]string{
		"values.yaml":      "a: {b: 1, c: 1, d: 1}\nlist: [1, 2]\n",
		"values-kind.yaml": "a: {b: kind}\nlist: [3]\n",
		"more.yaml":        "a: {c: more}\n",
		"broken.yaml":      "a: [",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, file), []byte(text), 0o600))
	}
	for name, c := range map[string]struct {
		files   []string
		profile string
		a       map[string]any
		list    []any
	}{
		"one file":                           {[]string{"values.yaml"}, "staging", map[string]any{"b": 1.0, "c": 1.0, "d": 1.0}, []any{1.0, 2.0}},
		"the profile's over it":              {[]string{"values.yaml"}, "kind", map[string]any{"b": "kind", "c": 1.0, "d": 1.0}, []any{3.0}},
		"the later over the earlier":         {[]string{"values.yaml", "more.yaml"}, "kind", map[string]any{"b": "kind", "c": "more", "d": 1.0}, []any{3.0}},
		"and over the profile's of the last": {[]string{"more.yaml", "values.yaml"}, "kind", map[string]any{"b": "kind", "c": 1.0, "d": 1.0}, []any{3.0}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.values(c.files, c.profile)
			require.NoError(t, err)
			assert.Equal(t, map[string]any{"a": c.a, "list": c.list}, got)
		})
	}
	got, err := d.values(nil, "kind")
	require.NoError(t, err)
	assert.Empty(t, got)
	got, err = d.values([]string{"nowhere.yaml"}, "kind")
	require.NoError(t, err, "it is of another profile; load refuses one that is of none")
	assert.Empty(t, got)
	_, err = d.values([]string{"broken.yaml"}, "kind")
	require.ErrorContains(t, err, "broken.yaml")
}

func TestRenderChart(t *testing.T) {
	root, err := environment.ProjectRoot()
	require.NoError(t, err)
	all, err := load(root)
	require.NoError(t, err)
	d := all["docuthinker"]
	c := d.Steps[0].Chart
	values, err := d.values(c.Values, "kind")
	require.NoError(t, err)

	objects, err := renderChart(t.Context(), filepath.Join(d.dir, c.Path), c, values, "v1.37.2")
	require.NoError(t, err)
	kinds := map[string]int{}
	for _, o := range objects {
		kinds[o.GetKind()]++
	}
	assert.Positive(t, kinds["Deployment"])
	assert.Positive(t, kinds["NetworkPolicy"])

	_, err = renderChart(t.Context(), filepath.Join(d.dir, c.Path), c, map[string]any{"noSuchValue": true}, "v1.37.2")
	require.ErrorContains(t, err, "noSuchValue", "a value that the chart does not know is refused by its schema")
	for in, refused := range map[string]bool{"dev": false, "staging": true, "production": true} {
		none := map[string]any{"environment": in, "frontend": map[string]any{"replicas": 0}, "backend": map[string]any{"replicas": 2}}
		_, err = renderChart(t.Context(), filepath.Join(d.dir, c.Path), c, none, "v1.37.2")
		assert.Equal(t, refused, err != nil, "no frontend in %s: %v", in, err)
	}
	_, err = renderChart(t.Context(), t.TempDir(), c, values, "v1.37.2")
	require.ErrorContains(t, err, "Chart.yaml")
}

func TestHash(t *testing.T) {
	root := project(t, map[string]string{"x": "steps:\n- chart: {path: chart, release: x, namespace: x, values: [values.yaml], patches: [patch.yaml]}\n- manifests: ['*.m.yaml']\n- configMap: {namespace: x, name: x, files: [../../rules/r.yaml]}\n"})
	dir := filepath.Join(root, "fixtures", "platform", "x")
	write := func(file, text string) { write(t, filepath.Join(dir, file), text) }
	const outside = "../../rules/r.yaml"
	of := func(profile string) string {
		all, err := load(root)
		require.NoError(t, err)
		h, err := (&installation{env: &environment.Environment{Profile: &environment.Profile{Name: profile}}, definition: all["x"]}).hash()
		require.NoError(t, err)
		return h
	}
	for _, file := range []string{outside, "values.yaml", "patch.yaml", "a.m.yaml", "chart/Chart.yaml", "chart/templates/x.yaml"} {
		write(file, "a: b")
	}
	seen := map[string]string{of("kind"): "as it was"}
	require.Equal(t, "as it was", seen[of("kind")], "the same files give the same")
	for _, other := range []string{"images.yaml", "values-staging.yaml", "patch-staging.yaml"} {
		write(other, "not looked at")
		require.Equal(t, "as it was", seen[of("kind")], other)
	}
	for _, change := range []string{outside, "values.yaml", "values-kind.yaml", "patch.yaml", "patch-kind.yaml", "a.m.yaml", "b.m.yaml", "chart/templates/x.yaml", "chart/templates/y.yaml", "go.sum"} {
		write(change, "changed")
		h := of("kind")
		assert.Empty(t, seen[h], "a change of %s is one", change)
		seen[h] = change
	}
	assert.Empty(t, seen[of("staging")], "and so is another profile")
}

func TestGetterAsksForNoKubeconfigOfTheUser(t *testing.T) {
	g := &getter{config: &rest.Config{Host: "http://nowhere"}}
	first, err := g.ToRESTConfig()
	require.NoError(t, err)
	first.Host = "http://elsewhere"
	second, err := g.ToRESTConfig()
	require.NoError(t, err)
	assert.Equal(t, "http://nowhere", second.Host, "each caller has a copy")
	raw, err := g.ToRawKubeConfigLoader().RawConfig()
	require.NoError(t, err)
	assert.Empty(t, raw.Clusters)
	one, err := g.ToDiscoveryClient()
	require.NoError(t, err)
	other, err := g.ToDiscoveryClient()
	require.NoError(t, err)
	assert.Same(t, one, other, "discovery is kept")
}
