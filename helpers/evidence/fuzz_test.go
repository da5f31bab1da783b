package evidence

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzUnpack(f *testing.F) {
	whole, err := pack(map[string][]byte{"a.jsonl": []byte("{}\n"), "images.lock": []byte("[]")}, time.Unix(0, 0))
	require.NoError(f, err)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := unpack(data)
		if err != nil {
			return
		}
		for name := range files {
			require.Equal(t, filepath.Base(name), name, "no name in a bundle leads out of it")
		}
	})
}
