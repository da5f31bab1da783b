package platform

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// shownMost is how many objects, or workloads, an error names.
const shownMost = 3

// absence is of a component of which a given cluster has nothing.
type absence struct{ component, text string }

func (a *absence) Error() string { return a.text }

// Absent names the component.
func (a *absence) Absent() string { return a.component }

// lookFor is ensure on a given cluster: nothing is installed, so nothing has to wait for what
// it needs, and all that is wrong is said at once.
func lookFor(ctx context.Context, env *environment.Environment, order []*definition) error {
	errs := make([]error, len(order))
	var all sync.WaitGroup
	for n, d := range order {
		all.Go(func() {
			if err := ensured(ctx, env, d); err != nil {
				errs[n] = fmt.Errorf("component %s: %w", d.name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// given makes sure of a component that others installed: that all of it is there is asked once,
// and that it is ready is waited for. One of another version than is pinned is used as it is, and
// told of.
func (i *installation) given(ctx context.Context) error {
	objects, refs, err := i.rendered(ctx)
	if err != nil {
		return err
	}
	seen, err := i.look(ctx, objects)
	if err != nil {
		return err
	}
	if err := seen.err(); err != nil {
		return err
	}
	if len(seen.others) > 0 {
		i.env.Progress(i.name + ": " + seen.version())
	}
	return i.ready(ctx, refs)
}

// found is what a given cluster has of a component.
type found struct {
	component string
	looked    int      // objects that were looked for
	lacking   []string // those that are not there
	others    []string // workloads of another version than is pinned
}

func (i *installation) look(ctx context.Context, objects []*unstructured.Unstructured) (found, error) {
	seen := found{component: i.name}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookAtOnce)
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() == (schema.GroupKind{Kind: "Secret"}) {
			continue // whoever only looks at a given cluster may not read them; what mounts one that lacks does not roll out
		}
		seen.looked++
		group.Go(func() error {
			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(o.GroupVersionKind())
			err := i.env.Client().Get(ctx, client.ObjectKeyFromObject(o), live)
			absent := apierrors.IsNotFound(err) || meta.IsNoMatchError(err) // its kind is not served
			if err != nil && !absent {
				return fmt.Errorf("%s: %w", named(o), err)
			}
			mu.Lock()
			defer mu.Unlock()
			if absent {
				seen.lacking = append(seen.lacking, named(o))
			} else if other := otherVersion(o, live); other != "" {
				seen.others = append(seen.others, other)
			}
			return nil
		})
	}
	err := group.Wait()
	slices.Sort(seen.lacking)
	slices.Sort(seen.others)
	return seen, err
}

func (f found) version() string {
	return "it is there, of another version than is pinned: " + some(f.others)
}

// err is nil when all of it is there, of whatever version.
func (f found) err() error {
	switch lacks := fmt.Sprintf("%d of its %d objects are not there", len(f.lacking), f.looked); {
	case len(f.lacking) == 0:
		return nil
	case len(f.lacking) == f.looked:
		return &absence{f.component, fmt.Sprintf("it is not there: none of its %d objects is (%s)", f.looked, some(f.lacking))}
	case len(f.others) > 0:
		return fmt.Errorf("%s; %s: %s", f.version(), lacks, some(f.lacking))
	default:
		return fmt.Errorf("%s, the others are: %s", lacks, some(f.lacking))
	}
}

func named(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

func some(of []string) string {
	if len(of) <= shownMost {
		return strings.Join(of, ", ")
	}
	return fmt.Sprintf("%s, and %d more", strings.Join(of[:shownMost], ", "), len(of)-shownMost)
}

// otherVersion says how the images of a workload differ from the pinned ones by their tags, or
// nothing: whoever has a registry of their own has the same images by another name.
func otherVersion(pinned, live *unstructured.Unstructured) string {
	runs := statedIn(live)
	for name, want := range statedIn(pinned) {
		if is := runs[name]; is != "" && tagOf(is) != "" && tagOf(want) != "" && tagOf(is) != tagOf(want) {
			return fmt.Sprintf("%s runs %s, not %s", named(live), is, want)
		}
	}
	return ""
}

// statedIn are the images of a workload's pods, by container.
func statedIn(o *unstructured.Unstructured) map[string]string {
	if o.GroupVersionKind().Group != "apps" {
		return nil
	}
	template, _, _ := unstructured.NestedMap(o.Object, "spec", "template")
	var pod corev1.PodTemplateSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, &pod); err != nil {
		return nil
	}
	images := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
	}
	return images
}

// tagOf is an image's tag; none where it goes by its digest alone.
func tagOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag
}

// rendered is what the component consists of, as it would be installed.
func (i *installation) rendered(ctx context.Context) (all []*unstructured.Unstructured, refs []reference, err error) {
	for _, s := range i.Steps {
		var objects []*unstructured.Unstructured
		if s.Chart != nil {
			objects, err = i.chart(ctx, s.Chart)
		} else {
			objects, err = i.plain(ctx, s)
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, objects...)
		refs = append(refs, s.references(objects)...)
	}
	return all, refs, nil
}

func (i *installation) chart(ctx context.Context, c *chartRef) ([]*unstructured.Unstructured, error) {
	dir, err := i.chartDir(ctx, c)
	if err != nil {
		return nil, err
	}
	values, err := i.values(c.Values, i.env.Profile.ValuesOf())
	if err != nil {
		return nil, err
	}
	p, err := i.patchesOf(c.Patches, i.env.Profile.ValuesOf())
	if err != nil {
		return nil, err
	}
	objects, err := renderChart(ctx, dir, c, values, i.env.Kubernetes)
	if err != nil {
		return nil, err
	}
	if err := p.apply(objects); err != nil {
		return nil, err
	}
	for _, o := range objects { // a kind that is not served has no objects there
		err := intoNamespace(i.env.Client().RESTMapper(), []*unstructured.Unstructured{o}, c.Namespace)
		if err != nil && !meta.IsNoMatchError(err) {
			return nil, err
		}
	}
	return objects, nil
}
