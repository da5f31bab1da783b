package environment

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of a given cluster the gate knows what the lock says.
func TestJudged(t *testing.T) {
	e := &Environment{Root: t.TempDir()}
	_, err := e.Judged(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist, "without it nothing was judged")
	write := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(e.Root, "images.lock"), []byte(text), 0o600))
	}
	write(`[{"name": "docker.io/docuthinker/backend:1.0.0", "digest": "sha256:aa", "source": "built"}]`)
	got, err := e.Judged(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"docker.io/docuthinker/backend:1.0.0": "sha256:aa"}, got)
	write("[")
	_, err = e.Judged(t.Context())
	require.ErrorContains(t, err, "images.lock")
}
