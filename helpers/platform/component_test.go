package platform

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/proving-ground/proving-ground/helpers/environment"
)

// given is a cluster that others made, of which nothing is asked: what these
// components consist of needs no waiting for.
func given(root string) *environment.Environment {
	return &environment.Environment{Root: root, Profile: &environment.Profile{Name: "staging"}, Config: &rest.Config{Host: "http://nowhere"}}
}

func manifest(t *testing.T, root, component string) {
	t.Helper()
	file := filepath.Join(root, "fixtures", "platform", component, "x.yaml")
	require.NoError(t, os.WriteFile(file, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ns}\n"), 0o600))
}

func TestEnsure(t *testing.T) {
	root := project(t, map[string]string{"app": "needs: [mesh]\n" + plain, "mesh": plain})
	env := given(root)
	manifest(t, root, "app")

	err := Component("app").Ensure(t.Context(), env)
	require.ErrorContains(t, err, `component mesh: manifests "x.yaml": there is no such file`, "what it needs is ensured first, and named")
	require.NotContains(t, err.Error(), "component app")

	manifest(t, root, "mesh")
	assert.ErrorContains(t, Component("app").Ensure(t.Context(), env), "component mesh", "a failure is remembered: the next one would wait as long for the same")
	assert.NoError(t, Component("app").Ensure(t.Context(), given(root)), "but by its environment")

	err = Component("ap").Ensure(t.Context(), env)
	require.ErrorContains(t, err, `there is no component "ap", did you mean "app"?`)
}

func TestEnsureForgetsWhatOnlyLackedTime(t *testing.T) {
	root := project(t, map[string]string{"app": plain})
	env := given(root)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = Component("app").Ensure(ended, env) // fails by its missing file; whoever had the time would be told
	manifest(t, root, "app")
	require.NoError(t, Component("app").Ensure(t.Context(), env))
}

func TestEnsuredOnce(t *testing.T) {
	env := given(t.TempDir())
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
	env := given(t.TempDir())
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
