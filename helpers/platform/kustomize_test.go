package platform

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestKustomize(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "base", "kustomization.yaml"), "resources: [deployment.yaml]\nimages: [{name: example.org/a, newTag: main}]\n")
	write(t, filepath.Join(dir, "base", "deployment.yaml"), `
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {template: {spec: {containers: [{name: a, image: "example.org/a:latest", imagePullPolicy: Always}]}}}
`)
	write(t, filepath.Join(dir, "default", "kustomization.yaml"), "namespace: apart\nresources: [../base]\n")
	patch := func(name string) patches {
		objects, err := parse([]byte(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: ` + name + `}, spec: {template: {spec: {containers: [{name: a, image: "example.org/a:1"}]}}}}`))
		require.NoError(t, err)
		return objects
	}

	objects, err := kustomize(filepath.Join(dir, "default"), patch("a"))
	require.NoError(t, err)
	require.Len(t, objects, 1)
	assert.Equal(t, "apart", objects[0].GetNamespace())
	containers, _, err := unstructured.NestedSlice(objects[0].Object, "spec", "template", "spec", "containers")
	require.NoError(t, err)
	assert.Equal(t, []any{map[string]any{"name": "a", "image": "example.org/a:1", "imagePullPolicy": "Always"}}, containers)

	_, err = kustomize(filepath.Join(dir, "default"), patch("b"))
	require.ErrorContains(t, err, "patch of Deployment b: there is no such object")
	_, err = kustomize(filepath.Join(dir, "none"), nil)
	require.ErrorContains(t, err, "kustomization "+filepath.Join(dir, "none"))
}
