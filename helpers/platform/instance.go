package platform

import (
	"context"
	"fmt"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// Deploy puts an instance of a component's chart into a namespace of the
// caller's, by server-side apply through the scope, which undoes it, and waits
// until its workloads have rolled out. Called again with other values it changes
// the instance; what those no longer render stays until the scope is closed.
//
// values go over the chart's own; a key that the chart does not have is an
// error. The component itself need not be installed, but its images must be
// there, as they are when the suite names it in For. A component without
// exactly one chart is an error.
func Deploy(ctx context.Context, env *environment.Environment, s *environment.Scope, c Component, namespace string, values map[string]any) error {
	fail := func(err error) error { return fmt.Errorf("instance of %s in %s: %w", c, namespace, err) }
	i, chart, err := onlyChart(env, c, namespace)
	if err != nil {
		return fail(err)
	}
	objects, err := i.instance(ctx, chart, values)
	if err != nil {
		return fail(err)
	}
	for _, o := range objects {
		if err := s.Apply(ctx, o); err != nil {
			return fail(err)
		}
	}
	if err := i.ready(ctx, step{}.references(objects)); err != nil {
		return fail(err)
	}
	return nil
}

// Render gives the objects of such an instance, all in the namespace, and makes none.
func Render(ctx context.Context, env *environment.Environment, c Component, namespace string, values map[string]any) ([]*unstructured.Unstructured, error) {
	i, chart, err := onlyChart(env, c, namespace)
	var objects []*unstructured.Unstructured
	if err == nil {
		objects, err = i.instance(ctx, chart, values)
	}
	if err != nil {
		return nil, fmt.Errorf("instance of %s in %s: %w", c, namespace, err)
	}
	return objects, nil
}

// instance are the objects of a chart with some values, in its namespace.
func (i *installation) instance(ctx context.Context, c *chartRef, values map[string]any) ([]*unstructured.Unstructured, error) {
	dir, err := i.chartDir(ctx, c)
	if err != nil {
		return nil, err
	}
	objects, err := renderChart(ctx, dir, c, values, i.env.Kubernetes)
	if err != nil {
		return nil, err
	}
	return objects, intoNamespace(i.env.Client().RESTMapper(), objects, c.Namespace)
}

// onlyChart is a component that consists of one chart, and that chart for a namespace.
func onlyChart(env *environment.Environment, c Component, namespace string) (*installation, *chartRef, error) {
	all, err := load(env.Root)
	if err != nil {
		return nil, nil, err
	}
	if _, err := all.closure(string(c)); err != nil {
		return nil, nil, err
	}
	i := &installation{env: env, definition: all[string(c)]}
	if len(i.Steps) != 1 || i.Steps[0].Chart == nil {
		return nil, nil, fmt.Errorf("it has %d steps, want one, with a chart", len(i.Steps))
	}
	chart := *i.Steps[0].Chart
	chart.Namespace = namespace
	return i, &chart, nil
}

// Merged is over laid upon base as Helm lays values: maps are merged recursively, lists and
// all else replaced. Neither is changed.
func Merged(base, over map[string]any) map[string]any { return loader.MergeMaps(base, over) }
