package image

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/require"
)

func TestTrim(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	require.NoError(t, err)
	put := func(name, key string, age time.Duration) {
		img, err := random.Image(1<<20, 1)
		require.NoError(t, err)
		b := &Built{Name: name, Key: key}
		require.NoError(t, s.put(img, b))
		b.At = b.At.Add(-age)
		require.NoError(t, writeJSON(s.record(key), b))
	}
	put("r.example/a:1", "present", 3*time.Hour)
	put("r.example/a:1", "older", 2*time.Hour)
	put("r.example/a:1", "old", time.Hour)
	keys := map[string]string{"r.example/a:1": "present"}
	there := func(key string) bool {
		b, err := s.find(key)
		require.NoError(t, err)
		return b != nil
	}

	require.NoError(t, s.trim(keys, 10<<20))
	require.True(t, there("present") && there("older") && there("old"), "below the limit nothing goes")

	require.NoError(t, s.trim(keys, 5<<19)) // room for two of a mebibyte
	require.True(t, there("present"), "what is declared stays, old as it is")
	require.False(t, there("older"), "the oldest goes first")
	require.True(t, there("old"))

	require.NoError(t, s.trim(keys, 1))
	require.True(t, there("present"))
	require.False(t, there("old"))
	blobs, err := os.ReadDir(s.blobs() + "/sha256")
	require.NoError(t, err)
	require.Len(t, blobs, 3, "manifest, configuration and layer of the one that stays")
}
