package filelock

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAcquireTakesTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "lock")
	first, err := Acquire(t.Context(), path, nil)
	require.NoError(t, err)

	_, err = Open(path, syscall.LOCK_EX|syscall.LOCK_NB)
	require.ErrorIs(t, err, ErrBusy)

	waits := make(chan struct{})
	second := make(chan error, 1)
	go func() {
		f, err := Acquire(t.Context(), path, func() { close(waits) })
		if err == nil {
			err = f.Close()
		}
		second <- err
	}()
	<-waits
	require.True(t, Same(first, path))
	require.NoError(t, first.Close())
	require.NoError(t, <-second)
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := Acquire(t.Context(), path, nil)
	require.NoError(t, err)
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Acquire(ctx, path, cancel)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, path)
}
