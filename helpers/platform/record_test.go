package platform

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRecord(t *testing.T) {
	a, env := on(t, nil)
	i := &installation{env: env, definition: &definition{name: "gatekeeper"}}
	none, err := i.recorded(t.Context())
	require.NoError(t, err)
	require.Equal(t, record{}, none, "what was never installed has no record")

	want := record{Hash: "h", Images: "i", Objects: []reference{
		{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "ns", Name: "d"},
		{Group: "constraints.gatekeeper.sh", Version: "v1beta1", Kind: "K8sX", Name: "x", Observers: &Observers{Namespace: "ns", Selector: "a=b"}},
	}}
	require.NoError(t, i.write(t.Context(), want))
	assert.Equal(t, []string{"PATCH /api/v1/namespaces/proving-ground/configmaps/gatekeeper"}, a.requests,
		"the namespace was made at the start, before a webhook could refuse it")
	got, err := i.recorded(t.Context())
	require.NoError(t, err)
	assert.Equal(t, want, got)

	other, err := (&installation{env: env, definition: &definition{name: "policies"}}).recorded(t.Context())
	require.NoError(t, err)
	assert.Equal(t, record{}, other, "each component has a record of its own")
}

func TestRecordThatCannotBeRead(t *testing.T) {
	const path = "/api/v1/namespaces/proving-ground/configmaps/gatekeeper"
	a, env := on(t, map[string]map[string]any{path: {
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"record": `{"hash": 7`},
	}})
	i := &installation{env: env, definition: &definition{name: "gatekeeper"}}
	got, err := i.recorded(t.Context())
	require.NoError(t, err)
	assert.Equal(t, record{}, got, "one that somebody spoilt counts as none: it is installed again")

	a.refuse = path
	_, err = i.recorded(t.Context())
	assert.ErrorContains(t, err, "record: ", "but a refusal is not taken for no record, which would install over what stands")
}

func TestRecordIsCompared(t *testing.T) {
	is := record{Hash: "h", Images: "i", Objects: []reference{{Kind: "X"}}}
	assert.True(t, is.is(record{Hash: "h", Images: "i"}), "what it made is not compared")
	assert.False(t, is.is(record{Hash: "other", Images: "i"}))
	assert.False(t, is.is(record{Hash: "h", Images: "other"}), "new images under the same names")
	assert.False(t, record{}.is(record{Hash: "h"}))

	r := reference{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "ns", Name: "d"}
	another := r
	another.Version = "v1beta1"
	another.Observers = &Observers{Namespace: "x"}
	assert.True(t, r.same(another), "the same object by another version: to prune it would delete the new one")
	for _, change := range []func(*reference){
		func(r *reference) { r.Group = "" }, func(r *reference) { r.Kind = "DaemonSet" },
		func(r *reference) { r.Namespace = "" }, func(r *reference) { r.Name = "e" },
	} {
		another := r
		change(&another)
		assert.False(t, r.same(another), "%+v", another)
	}
}

func TestPrune(t *testing.T) {
	const below = "/api/v1/namespaces/ns/"
	a, env := on(t, map[string]map[string]any{
		below + "configmaps/old":  {"apiVersion": "v1", "kind": "ConfigMap"},
		below + "configmaps/kept": {"apiVersion": "v1", "kind": "ConfigMap"},
		below + "services/old":    {"apiVersion": "v1", "kind": "Service"},
	})
	i := &installation{env: env, definition: &definition{name: "x"}}
	of := func(kind, name string) reference {
		return reference{Version: "v1", Kind: kind, Namespace: "ns", Name: name}
	}
	before := []reference{
		of("ConfigMap", "old"), of("ConfigMap", "kept"), of("ConfigMap", "gone already"), of("Service", "old"),
		{Group: "gone.example", Version: "v1", Kind: "KindThatIsNoMore", Name: "x"},
	}
	require.NoError(t, i.prune(t.Context(), before, []reference{of("ConfigMap", "kept"), of("ConfigMap", "new")}))
	assert.Equal(t, []string{
		"DELETE " + below + "services/old", "DELETE " + below + "configmaps/gone already", "DELETE " + below + "configmaps/old",
	}, a.requests, "the last made is the first deleted, and what is not there is no error")
	assert.Contains(t, a.objects, below+"configmaps/kept")

	a.refuse = below + "configmaps/kept"
	assert.ErrorContains(t, i.prune(t.Context(), before[1:2], nil), "prune ConfigMap kept: ")
}

func TestRestart(t *testing.T) {
	const path = "/apis/apps/v1/namespaces/ns/deployments/d"
	a, env := on(t, map[string]map[string]any{path: {"apiVersion": "apps/v1", "kind": "Deployment"}})
	i := &installation{env: env, definition: &definition{name: "x"}}
	refs := []reference{
		{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "ns", Name: "d"},
		{Group: "apps", Version: "v1", Kind: "ReplicaSet", Namespace: "ns", Name: "of somebody"},
		{Version: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "c"},
	}
	require.NoError(t, i.restart(t.Context(), refs, "digests"))
	assert.Equal(t, []string{"PATCH " + path}, a.requests, "only workloads")
	template := a.objects[path]["spec"].(map[string]any)["template"].(map[string]any)
	assert.Equal(t, map[string]any{"proving-ground.dev/images": "digests"}, template["metadata"].(map[string]any)["annotations"])
}

func TestApplyLeavesTheGivenObjectAlone(t *testing.T) {
	a, env := on(t, nil)
	objects, err := parse([]byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: ns}, data: {a: b}}"))
	require.NoError(t, err)
	given := objects[0].DeepCopy()
	require.NoError(t, apply(t.Context(), env, objects[0]))
	assert.Equal(t, given, objects[0])
	assert.Equal(t, map[string]any{"a": "b"}, a.objects["/api/v1/namespaces/ns/configmaps/c"]["data"])

	a.refuse = "/api/v1/namespaces/ns/configmaps/c"
	assert.ErrorContains(t, apply(t.Context(), env, objects[0]), "waiting for ConfigMap c to be applied: Forbidden")
}

// The API server may not reach a webhook yet whose pods are ready.
func TestApplyAsksAgain(t *testing.T) {
	a, env := on(t, nil)
	a.unready = 2
	objects, err := parse([]byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: ns}}"))
	require.NoError(t, err)
	require.NoError(t, apply(t.Context(), env, objects[0]))
	assert.Len(t, a.requests, 3)
	assert.Contains(t, a.objects, "/api/v1/namespaces/ns/configmaps/c")

	a.unready = 1000
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = apply(ctx, env, objects[0])
	require.ErrorContains(t, err, "(webhookReached) for ConfigMap c to be applied: ")
	require.ErrorContains(t, err, `failed calling webhook "w.example"`)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestWhole(t *testing.T) {
	const below = "/api/v1/namespaces/ns/configmaps/"
	objects := map[string]map[string]any{"/apis/apps/v1/namespaces/ns/deployments/d": {
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
	}}
	refs := []reference{{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "ns", Name: "d"}}
	for n := range 2*lookAtOnce + 1 {
		name := fmt.Sprint("c", n)
		objects[below+name] = map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
		}
		refs = append(refs, reference{Version: "v1", Kind: "ConfigMap", Namespace: "ns", Name: name})
	}
	a, env := on(t, objects)
	i := &installation{env: env, definition: &definition{name: "x"}}
	require.True(t, i.whole(t.Context(), refs))
	require.True(t, i.whole(t.Context(), nil))
	require.Empty(t, a.requests, "it only looks")

	gone := refs[len(refs)-1]
	a.refuse = below + gone.Name
	assert.False(t, i.whole(t.Context(), refs), "what may not be seen is not known to be there")
	a.mu.Lock() // requests that were given up may be under way still
	a.refuse = ""
	delete(a.objects, below+gone.Name)
	a.mu.Unlock()
	assert.False(t, i.whole(t.Context(), refs), "one of many was deleted")
	assert.True(t, i.whole(t.Context(), refs[:len(refs)-1]))
	assert.False(t, i.whole(t.Context(), []reference{{Group: "gone.example", Version: "v1", Kind: "KindThatIsNoMore", Name: "x"}}), "and so was its kind")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	assert.False(t, i.whole(ended, refs[:1]))
}

// What another process puts in a component's place is not what was proved.
func TestStands(t *testing.T) {
	_, env := on(t, map[string]map[string]any{"/api/v1/pods": {"apiVersion": "v1", "kind": "PodList", "items": []any{}}})
	d := &definition{name: "gatekeeper"}
	i := &installation{env: env, definition: d}
	mine := record{Hash: "h", Images: "i"}
	require.NoError(t, i.write(t.Context(), mine))
	require.NoError(t, stand(t.Context(), env, []*definition{d}), "what this process has not ensured it goes by nowhere")
	a, _ := begin(place{env, d.name})
	a.stood = standing{record: mine}
	require.NoError(t, stand(t.Context(), env, []*definition{d}))
	require.NoError(t, i.write(t.Context(), record{Hash: "of another checkout", Images: "i"}))
	require.ErrorContains(t, stand(t.Context(), env, []*definition{d}), "component gatekeeper is not what it was")
}
