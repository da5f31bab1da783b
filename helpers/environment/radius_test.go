package environment

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/catalogue"
)

func TestRadiusAllows(t *testing.T) {
	r := Radius{PodShare: 0.5, Nodes: 1, Namespaces: []string{"chaos-"}}
	pods := []string{"a", "b"}
	for name, c := range map[string]struct {
		radius Radius
		hit    Hit
		want   string // "" for allowed
	}{
		"within":            {r, Hit{"chaos-x", pods, 0.5, 0}, ""},
		"one node":          {r, Hit{"chaos-x", pods, 0.5, 1}, ""},
		"no targets":        {r, Hit{"chaos-x", nil, 0.5, 0}, "aimed at no pod of chaos-x"},
		"too many pods":     {r, Hit{"chaos-x", pods, 0.51, 0}, "hits 51 % of 2 pods"},
		"two nodes":         {r, Hit{"chaos-x", pods, 0.5, 2}, "takes 2 nodes"},
		"another namespace": {r, Hit{"docuthinker-prod", pods, 0.5, 0}, "docuthinker-prod may not be hit"},
		"the cluster's own": {Radius{PodShare: 1, Nodes: 1, Namespaces: []string{"k"}}, Hit{"kube-system", pods, 0.5, 0}, "kube-system may not be hit"},
		"no radius":         {Radius{}, Hit{"chaos-x", pods, 0.5, 0}, "may not be hit"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.radius.Allows(c.hit)
			if c.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestMayDisturb(t *testing.T) {
	gateways := catalogue.Clause{ID: "MSH-007", Area: "mesh"}
	for name, c := range map[string]struct {
		provider Provider
		disturbs []string
		want     bool
	}{
		"nothing named": {ProviderGiven, nil, false},
		"its area":      {ProviderGiven, []string{"policy", "mesh"}, true},
		"itself":        {ProviderGiven, []string{"MSH-007"}, true},
		"others":        {ProviderGiven, []string{"policy", "MSH-008"}, false},
		"of ours":       {ProviderKind, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := Profile{Provider: c.provider, BlastRadius: Radius{Disturbs: c.disturbs}}
			assert.Equal(t, c.want, p.MayDisturb(gateways))
		})
	}
}

// What is to be disturbed is named as the catalogue has it, and on a given cluster alone.
func TestDisturbsIsOfTheCatalogue(t *testing.T) {
	for name, c := range map[string]struct{ disturbs, provider, want string }{
		"areas and clauses": {"[policy, MSH-007]", "given", ""},
		"no such area":      {"[mehs]", "given", `blastRadius.disturbs: there is no area "mehs", did you mean "mesh"?`},
		"no such clause":    {"[MSH-077]", "given", `blastRadius.disturbs: catalogue: no clause "MSH-077"; nearest: MSH-007`},
		"a cluster of ours": {"[mesh]", "kind", "blastRadius.disturbs has no meaning with provider kind"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			of := map[string]string{"kind": "\nkindConfig: k.yaml\nclusterName: c"}[c.provider]
			for file, text := range map[string]string{
				"docs/specifications.md":          "## policy\n| POL-001 | a |\n\n## mesh\n| MSH-007 | b |\n",
				"fixtures/environments/mine.yaml": "name: mine\nriskCeiling: disruptive\ntimeScale: 1\nprovider: " + c.provider + of + "\nblastRadius: {podShare: 0, nodes: 0, namespaces: [], disturbs: " + c.disturbs + "}\n",
			} {
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(root, file), []byte(text), 0o644))
			}
			p, err := LoadProfile(root, "mine")
			if c.want == "" {
				require.NoError(t, err)
				require.Equal(t, []string{"policy", "MSH-007"}, p.BlastRadius.Disturbs)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestRadiusIsValidated(t *testing.T) {
	for name, c := range map[string]struct {
		radius Radius
		want   string
	}{
		"none":                  {Radius{}, ""},
		"usual":                 {Radius{PodShare: 0.5, Nodes: 1, Namespaces: []string{"chaos-"}}, ""},
		"more than all":         {Radius{PodShare: 1.5, Nodes: 1}, "podShare is 1.5"},
		"two nodes":             {Radius{PodShare: 1, Nodes: 2}, "nodes is 2"},
		"every namespace":       {Radius{PodShare: 1, Nodes: 1, Namespaces: []string{""}}, `namespaces has ""`},
		"one of the cluster's":  {Radius{PodShare: 1, Nodes: 1, Namespaces: []string{"kube-system"}}, `namespaces has "kube-system"`},
		"begins as the cluster": {Radius{PodShare: 1, Nodes: 1, Namespaces: []string{"kube"}}, `namespaces has "kube"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.radius.validate()
			if c.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, c.want)
		})
	}
}
