package journal

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	told, done := make(chan Entry, 10), make(chan error)
	go func() { done <- Follow(ctx, dir, func(e Entry) { told <- e }) }()

	for _, suite := range []string{"policy", "mesh"} {
		w, err := Create(dir, "run", suite, nil)
		require.NoError(t, err)
		for _, id := range []string{"A-1", "A-2"} {
			require.NoError(t, w.Append(Entry{Kind: Planned, ID: id}))
			e := <-told
			require.Equal(t, []string{suite, id}, []string{e.Suite, e.ID}, "told of at once, and once")
		}
		_, err = w.file.WriteString(`{"half": `)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	stop()
	require.NoError(t, <-done)
	require.Empty(t, told, "neither half a line nor anything twice")
}

func TestFollowTellsWhatCameLast(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, "run", "policy", nil)
	require.NoError(t, err)
	require.NoError(t, w.Append(Entry{Kind: RunEnd}))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	count := 0
	require.NoError(t, Follow(ctx, dir, func(Entry) { count++ }))
	require.Equal(t, 1, count)
}
