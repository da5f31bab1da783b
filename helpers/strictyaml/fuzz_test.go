package strictyaml

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzUnmarshal(f *testing.F) {
	for _, seed := range []string{"name: a\nin: {n: 1}", "a: &a [*a]", "- 1", "name: a\n---\nname: b", "name: a\nname: b", "\xff", "{name: 1e999}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v struct {
			Name string         `json:"name"`
			In   map[string]int `json:"in"`
		}
		if err := Unmarshal(data, &v); err != nil {
			require.NotEmpty(t, err.Error())
		}
	})
}

func FuzzDidYouMean(f *testing.F) {
	f.Add("polici", "policy")
	f.Fuzz(func(t *testing.T, word, known string) {
		if said := DidYouMean(word, []string{known}); said != "" {
			require.Contains(t, said, "did you mean")
		}
	})
}
