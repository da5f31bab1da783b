package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzRead(f *testing.F) {
	for _, seed := range []string{"", "{}\n", "{\"kind\":\"verdict\"}\n{\"kind", "null\n", "[]\n", "{\"time\":1}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "x.jsonl"), data, 0o600))
		entries, torn, err := Read(dir)
		if err != nil {
			return
		}
		require.Equal(t, bytes.Count(data, []byte("\n")), len(entries), "each whole line is an entry")
		require.LessOrEqual(t, torn, 1)
	})
}
