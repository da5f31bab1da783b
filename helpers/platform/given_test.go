package platform

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// deployment is one of the API, with its init container and its container.
func deployment(name, first, second string) map[string]any {
	container := func(name, image string) []any { return []any{map[string]any{"name": name, "image": image}} }
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name, "namespace": "ns", "resourceVersion": "1"},
		"spec":     map[string]any{"template": map[string]any{"spec": map[string]any{"initContainers": container("first", first), "containers": container("second", second)}}},
	}
}

// What a given cluster has of a component is told apart: nothing, a part, another version.
func TestWhatIsThereOfAComponent(t *testing.T) {
	const (
		first, second = "docker.io/a/first:1.0", "docker.io/a/second:1.0"
		one           = "/apis/apps/v1/namespaces/ns/deployments/one"
		settings      = "/api/v1/namespaces/ns/configmaps/settings"
	)
	configMap := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "settings", "namespace": "ns", "resourceVersion": "1"}}
	for name, c := range map[string]struct {
		has     map[string]map[string]any
		others  string
		says    string
		nothing bool
	}{
		"nothing": {nil, "", "it is not there: none of its 3 objects is (ConfigMap ns/settings, Deployment ns/one, Unserved ns/x)", true},
		"a part": {
			map[string]map[string]any{one: deployment("one", first, second)},
			"",
			"2 of its 3 objects are not there, the others are: ConfigMap ns/settings, Unserved ns/x", false,
		},
		"a part, of another version": {
			map[string]map[string]any{one: deployment("one", first, "docker.io/a/second:0.9")},
			"Deployment ns/one runs docker.io/a/second:0.9, not docker.io/a/second:1.0",
			"it is there, of another version than is pinned: Deployment ns/one runs docker.io/a/second:0.9, not docker.io/a/second:1.0; 2 of its 3 objects are not there: ConfigMap ns/settings, Unserved ns/x", false,
		},
		"an init container of another version": {
			map[string]map[string]any{one: deployment("one", "docker.io/a/first:2.0", second), settings: configMap},
			"Deployment ns/one runs docker.io/a/first:2.0, not docker.io/a/first:1.0",
			"1 of its 3 objects are not there: Unserved ns/x", false,
		},
		"by the name of another registry": {
			map[string]map[string]any{one: deployment("one", "registry.example.org:5000/mirror/first:1.0@sha256:abc", "registry.example.org:5000/second@sha256:abc"), settings: configMap},
			"",
			"1 of its 3 objects are not there, the others are: Unserved ns/x", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, map[string]string{"app": plain})
			manifest(t, root, "app", `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: ns}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, namespace: ns}
---
apiVersion: example.org/v1
kind: Unserved
metadata: {name: x, namespace: ns}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, namespace: ns}
spec: {template: {spec: {initContainers: [{name: first, image: "`+first+`"}], containers: [{name: second, image: "`+second+`"}]}}}
`)
			_, env := on(t, c.has)
			env.Root = root
			err := Component("app").Ensure(t.Context(), env)
			require.ErrorContains(t, err, "component app: ")
			assert.ErrorContains(t, err, c.says)
			var absent interface{ Absent() string }
			require.Equal(t, c.nothing, errors.As(err, &absent))
			if c.nothing {
				assert.Equal(t, "app", absent.Absent())
			}

			all, err := load(root)
			require.NoError(t, err)
			i := &installation{env: env, definition: all["app"]}
			objects, _, err := i.rendered(t.Context())
			require.NoError(t, err)
			seen, err := i.look(t.Context(), objects)
			require.NoError(t, err)
			assert.Equal(t, c.others, strings.Join(seen.others, "; "))
		})
	}
}

// All that is wrong on a given cluster is said at once.
func TestEveryComponentIsLookedFor(t *testing.T) {
	root := project(t, map[string]string{"app": "needs: [mesh, policies]\n" + plain, "mesh": plain, "policies": plain})
	manifest(t, root, "mesh", strings.Replace(object, "name: x", "name: absent", 1))
	manifest(t, root, "policies", strings.Replace(object, "name: x", "name: also", 1))
	err := Component("app").Ensure(t.Context(), given(t, root))
	require.EqualError(t, err, "component mesh: it is not there: none of its 1 objects is (ConfigMap ns/absent)\ncomponent policies: it is not there: none of its 1 objects is (ConfigMap ns/also)")
}

// An answer that is not about the object says nothing of it.
func TestALookThatIsRefused(t *testing.T) {
	root := project(t, map[string]string{"app": plain})
	a, env := on(t, nil)
	env.Root, a.refuse = root, "/api/v1/namespaces/ns/configmaps/x"
	err := Component("app").Ensure(t.Context(), env)
	require.ErrorContains(t, err, "component app: ConfigMap ns/x: ")
	require.NotContains(t, err.Error(), "not there")
}

func TestSome(t *testing.T) {
	assert.Equal(t, "a, b, c", some([]string{"a", "b", "c"}))
	assert.Equal(t, "a, b, c, and 2 more", some([]string{"a", "b", "c", "d", "e"}))
}
