package platform

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

func TestUnknownValues(t *testing.T) {
	const defaults = "replicas: 1\nimage: {repository: x, tag: y}\nresources: {requests: {cpu: 1}}\naudit: {resources: {}, limits: {cpu: 1}}\nnothing:\nlist: [{a: 1}]\n"
	for name, c := range map[string]struct {
		given string
		says  []string // none when all is known
	}{
		"nothing given":                  {"", nil},
		"all known":                      {"replicas: 2\nimage: {tag: z}\naudit: {limits: {cpu: 2}}\n", nil},
		"below resources":                {"resources: {limits: {cpu: 1}}\n", nil},
		"below an empty default":         {"audit: {resources: {anything: {goes: 1}}}\n", nil},
		"below a default of null":        {"nothing: {a: 1}\n", nil},
		"below a default that is a list": {"list: {a: 1}\n", nil},
		"no map where one is":            {"image: x:1\n", nil},
		"in a list":                      {"list: [{b: 1}]\n", nil},
		"for every chart below":          {"global: {a: 1}\nimage: {global: {b: 1}}\n", nil},
		"misspelt":                       {"replcas: 2\n", []string{`the chart has no value "replcas", did you mean "replicas"?`}},
		"misspelt, by its case":          {"Replicas: 2\n", []string{`the chart has no value "Replicas", did you mean "replicas"?`}},
		"far from any":                   {"zzzzzzzzzz: 2\n", []string{`the chart has no value "zzzzzzzzzz"`}},
		"misspelt below":                 {"image: {tga: z}\n", []string{`the chart has no value "image.tga", did you mean "tag"?`}},
		"misspelt two below":             {"audit: {limits: {cpus: 2}}\n", []string{`the chart has no value "audit.limits.cpus", did you mean "cpu"?`}},
		"two at once":                    {"image: {tga: z}\nreplcas: 2\n", []string{`"image.tga"`, `"replcas"`}},
	} {
		t.Run(name, func(t *testing.T) {
			var given, known map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(c.given), &given))
			require.NoError(t, yaml.Unmarshal([]byte(defaults), &known))
			err := unknownValues("", given, known)
			if len(c.says) == 0 {
				require.NoError(t, err)
			}
			for _, want := range c.says {
				require.ErrorContains(t, err, want)
			}
		})
	}
	assert.ErrorContains(t, unknownValues("", map[string]any{"a": 1}, nil), `the chart has no value "a"`, "of a chart without defaults")
}

// Nothing is installed or rendered with a value that the chart would pass over.
func TestChartIsNotLoadedWithUnknownValues(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "Chart.yaml"), "apiVersion: v2\nname: c\nversion: 1.0.0\n")
	write(t, filepath.Join(dir, "values.yaml"), "name: n\n")
	write(t, filepath.Join(dir, "templates", "x.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Values.name }}}\n")
	c := &chartRef{Path: "charts/c", Release: "r", Namespace: "ns"}
	objects, err := renderChart(t.Context(), dir, c, map[string]any{"name": "given"}, "v1.37.2")
	require.NoError(t, err)
	require.Len(t, objects, 1)
	assert.Equal(t, "given", objects[0].GetName())
	for what, load := range map[string]func() error{
		"rendered": func() error {
			_, err := renderChart(t.Context(), dir, c, map[string]any{"nmae": "given"}, "v1.37.2")
			return err
		},
		"installed": func() error {
			a, env := on(t, nil)
			_, err := installChart(t.Context(), env, dir, c, map[string]any{"nmae": "given"}, nil)
			assert.Empty(t, a.requests, "nothing was touched")
			return err
		},
	} {
		require.ErrorContains(t, load(), `chart charts/c: the chart has no value "nmae", did you mean "name"?`, what)
	}
}
