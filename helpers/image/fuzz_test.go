package image

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzReadLock(f *testing.F) {
	for _, seed := range []string{"[]", `[{"name":"a","digest":"sha256:x","source":"built"}]`, "{}", "null", `[{"nam":1}]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if lock, err := ReadLock(data); err == nil {
			require.NotNil(t, lock)
		}
	})
}
