package environment

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ledgerText is all ledgers below a cache directory.
func ledgerText(t *testing.T, cache string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(ledgerDir(cache), "*.ledger"))
	require.NoError(t, err)
	var all strings.Builder
	for _, p := range paths {
		data, err := os.ReadFile(p)
		require.NoError(t, err)
		all.Write(data)
	}
	return all.String()
}

func TestCreateWhoseAnswerWasLost(t *testing.T) {
	h := &hooks{afterCreate: errors.New("connection reset")}
	c := fakeCluster(h)
	s := testEnvironment(t, c).Scope("test")
	require.ErrorContains(t, s.Create(t.Context(), config("x", nil)), "connection reset")
	read(t, c, "x")
	require.NoError(t, s.Close(t.Context()))
	absent(t, c, config("x", nil))
}

func TestRefusedCreateLeavesNothingOpen(t *testing.T) {
	h := &hooks{beforeCreate: apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "x", errors.New("no"))}
	e := testEnvironment(t, fakeCluster(h))
	s := e.Scope("test")
	require.ErrorContains(t, s.Create(t.Context(), config("x", nil)), "forbidden")
	l, err := openLedger(e.cache, e.RunID)
	require.NoError(t, err)
	require.Empty(t, l.outstanding())
}

func TestUpdateConflict(t *testing.T) {
	h := &hooks{}
	c := fakeCluster(h, config("x", map[string]string{"a": "1"}))
	s := testEnvironment(t, c).Scope("test")
	h.beforeUpdate = func() {
		other := read(t, c, "x")
		other.Data["b"] = "theirs"
		require.NoError(t, c.Update(t.Context(), other))
	}
	cm, calls := config("x", nil), 0
	require.NoError(t, s.Update(t.Context(), cm, func() error { calls++; cm.Data["a"] = "2"; return nil }))
	require.Equal(t, 2, calls)
	require.Equal(t, map[string]string{"a": "2", "b": "theirs"}, read(t, c, "x").Data)
	h.beforeUpdate = func() { // and once more while it is restored
		other := read(t, c, "x")
		other.Labels = map[string]string{"l": "theirs"}
		require.NoError(t, c.Update(t.Context(), other))
	}
	require.NoError(t, s.Close(t.Context()))
	require.Equal(t, map[string]string{"a": "1", "b": "theirs"}, read(t, c, "x").Data)
}

func TestMutateThatFailsChangesNothing(t *testing.T) {
	e := testEnvironment(t, fakeCluster(nil, config("x", nil)))
	s := e.Scope("test")
	sorry := errors.New("sorry")
	require.ErrorIs(t, s.Update(t.Context(), config("x", nil), func() error { return sorry }), sorry)
	require.Empty(t, ledgerText(t, e.cache))
	require.NoError(t, s.Close(t.Context()))
}

func TestCloseGoesOnAfterErrorsInReverse(t *testing.T) {
	e := testEnvironment(t, fakeCluster(nil))
	s := e.Scope("root")
	var order []string
	var fail bool
	step := func(name string, bad bool) func(context.Context) error {
		return func(context.Context) error {
			order = append(order, name)
			if bad && fail {
				return errors.New(name + " failed")
			}
			return nil
		}
	}
	fail = true
	require.NoError(t, s.Defer("one", step("one", true)))
	child := s.Child("child")
	require.NoError(t, child.Defer("two", step("two", false)))
	require.NoError(t, child.Defer("three", step("three", true)))
	require.NoError(t, s.Defer("four", func(context.Context) error { order = append(order, "four"); panic("oh") }))
	err := s.Close(t.Context())
	require.Equal(t, []string{"four", "three", "two", "one"}, order)
	for _, want := range []string{"scope root: undo four: panic: oh", "scope root/child: undo three: three failed", "scope root: undo one: one failed"} {
		require.ErrorContains(t, err, want)
	}
	order, fail = nil, false
	require.Error(t, s.Close(t.Context()), "four panics still")
	require.Equal(t, []string{"four", "three", "one"}, order, "only what failed is tried again")
}

func TestWrittenBeforeDone(t *testing.T) {
	h := &hooks{}
	c := fakeCluster(h, config("x", map[string]string{"a": "before"}))
	e := testEnvironment(t, c)
	s := e.Scope("test")
	var then string
	h.beforeUpdate = func() { then = ledgerText(t, e.cache) }
	cm := config("x", nil)
	require.NoError(t, s.Update(t.Context(), cm, func() error { cm.Data["a"] = "after"; return nil }))
	require.Contains(t, then, `"op":"update"`)
	require.Contains(t, then, `"before"`)
	require.NoError(t, s.Close(t.Context()))
	info, err := os.Stat(ledgers.byKey[e.cache+"\x00r1"].path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "snapshots may hold secrets")
}

func TestWhatCannotBeWrittenIsNotDone(t *testing.T) {
	c := fakeCluster(nil)
	e := testEnvironment(t, c)
	s := e.Scope("test")
	l, err := openLedger(e.cache, e.RunID)
	require.NoError(t, err)
	require.NoError(t, l.file.Close())
	require.ErrorContains(t, s.Create(t.Context(), config("x", nil)), "could not be written down")
	absent(t, c, config("x", nil))
}
