package platform

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proving-ground/proving-ground/helpers/environment"
	"github.com/proving-ground/proving-ground/helpers/image"
	"github.com/proving-ground/proving-ground/helpers/wait"
)

// lookAtOnce bounds the requests by which a component's objects are looked for.
const lookAtOnce = 10

// installation is one component on its way into an environment.
type installation struct {
	env *environment.Environment
	*definition
}

// ensure is quick when the component stands as it is declared: two reads and
// the waits that find all ready.
//
// It gives what stands then, on a cluster of ours.
func (i *installation) ensure(ctx context.Context) (standing, error) {
	if !i.env.Made() {
		return standing{}, i.given(ctx)
	}
	built, err := i.env.Built(ctx, i.name)
	if err != nil {
		return standing{}, err
	}
	want := standing{record: record{Images: imagesHash(built)}, digests: map[string]string{}}
	for _, b := range built {
		want.digests[b.Name] = b.Digest
	}
	if want.Hash, err = i.hash(); err != nil {
		return want, err
	}
	stands, err := i.recorded(ctx)
	if err != nil {
		return want, err
	}
	if stands.is(want.record) && i.whole(ctx, stands.Objects) {
		return want, i.ready(ctx, stands.Objects)
	}
	unlock, err := i.env.Lock(ctx, "install-"+i.name, func() { i.env.Progress(i.name + ": waiting for another process that installs it") })
	if err != nil {
		return want, err
	}
	defer unlock()
	if stands, err = i.recorded(ctx); err != nil {
		return want, err
	}
	if stands.is(want.record) && i.whole(ctx, stands.Objects) {
		return want, i.ready(ctx, stands.Objects)
	}
	return want, i.install(ctx, stands, want.record)
}

// standing is what a component was ensured as: its record, and its images' digests by name.
type standing struct {
	record
	digests map[string]string
}

// whole says that no object of a component was deleted since it was installed.
func (i *installation) whole(ctx context.Context, refs []reference) bool {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookAtOnce)
	for _, r := range refs {
		group.Go(func() error {
			o := &metav1.PartialObjectMetadata{}
			o.SetGroupVersionKind(r.kind())
			if err := i.env.Client().Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: r.Name}, o); err != nil {
				return err
			}
			if o.GetDeletionTimestamp() != nil {
				return fmt.Errorf("%s %s is being deleted", r.Kind, r.Name)
			}
			return nil
		})
	}
	return group.Wait() == nil
}

func (i *installation) install(ctx context.Context, before, want record) error {
	i.env.Progress(i.name + ": installing")
	// That of the record too, before any webhook of the component's can refuse it.
	for _, name := range append([]string{recordNamespace}, slices.Sorted(maps.Keys(i.Namespaces))...) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: i.Namespaces[name]}}
		if err := apply(ctx, i.env, asUnstructured(ns, corev1.SchemeGroupVersion.WithKind("Namespace"))); err != nil {
			return err
		}
	}
	for n, s := range i.Steps {
		objects, err := i.carryOut(ctx, s)
		if err != nil {
			return fmt.Errorf("step %d: %w", n+1, err)
		}
		refs := s.references(objects)
		want.Objects = append(want.Objects, refs...)
		// What is there so far is written down, so that it is pruned even when
		// this ends here and the definition then changes.
		// With the images that the workloads run, so that the next one restarts them.
		if err := i.write(ctx, record{Images: cmp.Or(before.Images, want.Images), Objects: slices.Concat(before.Objects, want.Objects)}); err != nil {
			return err
		}
		if before.Images != "" && before.Images != want.Images {
			if err := i.restart(ctx, refs, want.Images); err != nil {
				return err
			}
		}
		if err := i.ready(ctx, refs); err != nil {
			return err
		}
	}
	if err := i.prune(ctx, before.Objects, want.Objects); err != nil {
		return err
	}
	if err := i.write(ctx, want); err != nil {
		return err
	}
	i.env.Progress(i.name + ": ready")
	return nil
}

func (i *installation) carryOut(ctx context.Context, s step) ([]*unstructured.Unstructured, error) {
	if s.Chart == nil {
		objects, err := i.plain(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if err := apply(ctx, i.env, o); err != nil {
				return nil, err
			}
		}
		return objects, nil
	}
	dir, err := i.chartDir(ctx, s.Chart)
	if err != nil {
		return nil, err
	}
	values, err := i.values(s.Chart.Values, i.env.Profile.ValuesOf())
	if err != nil {
		return nil, err
	}
	p, err := i.patchesOf(s.Chart.Patches, i.env.Profile.ValuesOf())
	if err != nil {
		return nil, err
	}
	// Another component's webhook may refuse all until its pods are ready. That is what has a
	// limit here: an installation that is under way ends by Helm's own.
	var objects []*unstructured.Unstructured
	var failed error
	err = wait.Answers(ctx, webhookTimeout, "release "+s.Chart.Release+" to be installed", func(context.Context) (string, error) {
		objects, failed = installChart(ctx, i.env, dir, s.Chart, values, p)
		if failed != nil && strings.Contains(failed.Error(), failedWebhook) {
			return failed.Error(), nil
		}
		return "", nil
	})
	return objects, cmp.Or(err, failed)
}

// plain are the objects of a step without a chart.
func (i *installation) plain(ctx context.Context, s step) ([]*unstructured.Unstructured, error) {
	if s.Kustomization != nil {
		return i.kustomized(ctx, s.Kustomization)
	}
	if s.ConfigMap != nil {
		return i.configMap(s.ConfigMap)
	}
	return i.manifests(s.Manifests)
}

func (i *installation) chartDir(ctx context.Context, c *chartRef) (string, error) {
	if c.Module == "" {
		return filepath.Join(i.dir, c.Path), nil
	}
	return i.env.Source(ctx, i.name, c.Module, c.Path)
}

// hash is the fingerprint of all that the component is installed from. What
// is of a module is told by the component's go.sum.
func (i *installation) hash() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, i.env.Profile.ValuesOf())
	var paths []string
	for _, s := range i.Steps {
		if c := s.Chart; c != nil {
			paths = append(paths, i.ofProfile(slices.Concat(c.Values, c.Patches), i.env.Profile.ValuesOf())...)
			if c.Module == "" {
				paths = append(paths, filepath.Join(i.dir, c.Path))
			}
		}
		if k := s.Kustomization; k != nil {
			paths = append(paths, i.ofProfile(k.Patches, i.env.Profile.ValuesOf())...)
		}
		files, err := i.files(s.patterns())
		if err != nil {
			return "", err
		}
		paths = append(paths, files...)
	}
	for _, own := range []string{definitionFile, "go.sum"} {
		if file := filepath.Join(i.dir, own); exists(file) {
			paths = append(paths, file)
		}
	}
	for _, path := range paths {
		if err := hashBelow(h, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func hashBelow(h io.Writer, path string) error {
	return filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		fmt.Fprintf(h, "%s %x\n", filepath.Base(file), sha256.Sum256(data))
		return err
	})
}

func imagesHash(built map[string]*image.Built) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(built)) {
		fmt.Fprintln(h, name, built[name].Digest)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
