package catalogue

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"## a (x)\n| A-001 | b |", "| A-001…003 | x; y; z |", "| A-009…001 | x |", "| A-001…999999999 | x |", "|", "## "} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		clauses, err := Parse(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, c := range clauses {
			require.False(t, seen[c.ID], "%s is there twice", c.ID)
			seen[c.ID] = true
		}
		require.NotEmpty(t, clauses)
	})
}
