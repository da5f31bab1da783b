package platform

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// given is a cluster that others made, with what stands in the x.yaml of every
// component.
func given(t *testing.T, root string) *environment.Environment {
	t.Helper()
	_, env := on(t, map[string]map[string]any{"/api/v1/namespaces/ns/configmaps/x": {
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "x", "namespace": "ns", "resourceVersion": "1"},
	}})
	env.Root = root
	return env
}

// manifest puts text into the x.yaml of a component.
func manifest(t *testing.T, root, component, text string) {
	t.Helper()
	write(t, filepath.Join(root, "fixtures", "platform", component, "x.yaml"), text)
}

const broken = "no: object\n"

func TestEnsure(t *testing.T) {
	root := project(t, map[string]string{"app": "needs: [mesh]\n" + plain, "mesh": plain})
	env := given(t, root)
	manifest(t, root, "mesh", broken)

	err := Component("app").Ensure(t.Context(), env)
	require.ErrorContains(t, err, "component mesh: "+filepath.Join(root, "fixtures", "platform", "mesh", "x.yaml")+": document 1 is no object", "what it needs is ensured first, and named")
	require.NotContains(t, err.Error(), "component app")

	manifest(t, root, "mesh", object)
	assert.ErrorContains(t, Component("app").Ensure(t.Context(), env), "component mesh", "a failure is remembered: the next one would wait as long for the same")
	assert.NoError(t, Component("app").Ensure(t.Context(), given(t, root)), "but by its environment")

	err = Component("ap").Ensure(t.Context(), env)
	require.ErrorContains(t, err, `there is no component "ap", did you mean "app"?`)
}

func TestEnsureForgetsWhatOnlyLackedTime(t *testing.T) {
	root := project(t, map[string]string{"app": plain})
	env := given(t, root)
	manifest(t, root, "app", broken)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, Component("app").Ensure(ended, env)) // by its file; whoever had the time would be told
	manifest(t, root, "app", object)
	require.NoError(t, Component("app").Ensure(t.Context(), env))
}

func TestEnsuredOnce(t *testing.T) {
	env := given(t, t.TempDir())
	d := &definition{name: "slow"}
	a := &attempt{done: make(chan struct{})}
	attempts.Lock()
	attempts.at[place{env, d.name}] = a
	attempts.Unlock()

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, ensured(ended, env, d), context.Canceled, "who has no more time does not wait for who installs")
	a.err = os.ErrPermission
	close(a.done)
	require.ErrorIs(t, ensured(t.Context(), env, d), os.ErrPermission, "all get what came of the one attempt")

	forget(env, d.name)
	require.NoError(t, ensured(t.Context(), env, d), "a definition without steps has nothing to wait for")
}

func TestEnsuredAgainWhenAnotherWasCut(t *testing.T) {
	env := given(t, t.TempDir())
	d := &definition{name: "slow"}
	a := &attempt{done: make(chan struct{}), err: context.Canceled, cut: true}
	attempts.Lock()
	attempts.at[place{env, d.name}] = a
	attempts.Unlock()
	got := make(chan error)
	go func() { got <- ensured(t.Context(), env, d) }()
	forget(env, d.name)
	close(a.done)
	require.NoError(t, <-got, "the end of another's context is not ours")
}
