package platform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// patches change what a chart or a kustomization renders where it has no value for it,
// before it is installed: partial objects, merged into those of the same kind and name.
// The source itself stays upstream's.
type patches []*unstructured.Unstructured

// patchesOf reads the files that are there for the profile.
func (d *definition) patchesOf(files []string, profile string) (patches, error) {
	var all patches
	for _, path := range d.ofProfile(files, profile) {
		objects, err := ReadObjects(path)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

// Run is Helm's post-renderer. A patch that finds no object is an error.
func (p patches) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	objects, err := parse(rendered.Bytes())
	if err != nil {
		return nil, err
	}
	if err := p.apply(objects); err != nil {
		return nil, err
	}
	out := &bytes.Buffer{}
	for _, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "---\n%s", data)
	}
	return out, nil
}

func (p patches) apply(objects []*unstructured.Unstructured) error {
	found := map[*unstructured.Unstructured]bool{}
	for _, o := range objects {
		for _, patch := range p {
			if patch.GroupVersionKind() == o.GroupVersionKind() && patch.GetName() == o.GetName() {
				if err := merge(o, patch); err != nil {
					return fmt.Errorf("patch of %s %s: %w", o.GetKind(), o.GetName(), err)
				}
				found[patch] = true
			}
		}
	}
	for _, patch := range p {
		if !found[patch] {
			return fmt.Errorf("patch of %s %s: there is no such object in what it patches", patch.GetKind(), patch.GetName())
		}
	}
	return nil
}

// merge knows by the type which lists go by a name.
func merge(o, patch *unstructured.Unstructured) error {
	typed, err := scheme.Scheme.New(o.GroupVersionKind())
	if err != nil {
		return err
	}
	before, err := json.Marshal(o.Object)
	if err != nil {
		return err
	}
	change, err := json.Marshal(patch.Object)
	if err != nil {
		return err
	}
	after, err := strategicpatch.StrategicMergePatch(before, change, typed)
	if err != nil {
		return err
	}
	return o.UnmarshalJSON(after)
}

// ofProfile are the files that are there: each one itself, and the profile's
// beside it, as values.yaml and values-kind.yaml. The later wins.
func (d *definition) ofProfile(files []string, profile string) (paths []string) {
	for _, file := range files {
		path := filepath.Join(d.dir, file)
		ending := filepath.Ext(path)
		for _, p := range []string{path, path[:len(path)-len(ending)] + "-" + profile + ending} {
			if exists(p) {
				paths = append(paths, p)
			}
		}
	}
	return paths
}

// none says which of some files is there for no profile at all.
func (d *definition) none(files []string) string {
	for _, file := range files {
		path := filepath.Join(d.dir, file)
		ending := filepath.Ext(path)
		found, err := filepath.Glob(path[:len(path)-len(ending)] + "-*" + ending)
		if !exists(path) && (err != nil || len(found) == 0) {
			return file
		}
	}
	return ""
}
