package environment

import (
	"testing"

	"github.com/stretchr/testify/assert"
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
		"the cluster's own": {Radius{1, 1, []string{"k"}}, Hit{"kube-system", pods, 0.5, 0}, "kube-system may not be hit"},
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

func TestRadiusIsValidated(t *testing.T) {
	for name, c := range map[string]struct {
		radius Radius
		want   string
	}{
		"none":                  {Radius{}, ""},
		"usual":                 {Radius{0.5, 1, []string{"chaos-"}}, ""},
		"more than all":         {Radius{1.5, 1, nil}, "podShare is 1.5"},
		"two nodes":             {Radius{1, 2, nil}, "nodes is 2"},
		"every namespace":       {Radius{1, 1, []string{""}}, `namespaces has ""`},
		"one of the cluster's":  {Radius{1, 1, []string{"kube-system"}}, `namespaces has "kube-system"`},
		"begins as the cluster": {Radius{1, 1, []string{"kube"}}, `namespaces has "kube"`},
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
