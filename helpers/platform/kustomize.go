package platform

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomizationRef is a folder with a kustomization.yaml of a pinned module, for what
// has no chart.
type kustomizationRef struct {
	Module  string   `json:"module"`            // path of a module in the component's go.mod
	Below   string   `json:"below"`             // folder of the module that holds all it refers to
	Path    string   `json:"path"`              // relative to that
	Patches []string `json:"patches,omitempty"` // as a chart's: see patches
}

// kustomized gives what a kustomization is of, patched.
func (i *installation) kustomized(ctx context.Context, k *kustomizationRef) ([]*unstructured.Unstructured, error) {
	dir, err := i.env.Source(ctx, i.name, k.Module, k.Below)
	if err != nil {
		return nil, err
	}
	p, err := i.patchesOf(k.Patches, i.env.Profile.ValuesOf())
	if err != nil {
		return nil, err
	}
	return kustomize(filepath.Join(dir, k.Path), p)
}

func kustomize(dir string, p patches) ([]*unstructured.Unstructured, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomization %s: %w", dir, err)
	}
	data, err := built.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("kustomization %s: %w", dir, err)
	}
	objects, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("kustomization %s: %w", dir, err)
	}
	return objects, p.apply(objects)
}
