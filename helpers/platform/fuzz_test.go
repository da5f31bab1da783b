package platform

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}", "---\n---\n", "a: &a [*a]", "kind: 1", "{apiVersion: v1, kind: C, metadata: 3}", "- 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := parse(data)
		if err != nil {
			return
		}
		for _, o := range objects {
			require.NotEmpty(t, o.GetKind())
			require.NotEmpty(t, o.GetName()+o.GetGenerateName())
		}
	})
}
