package strictyaml

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type inner struct {
	Name  string         `json:"name"`
	Extra map[string]any `json:"extra,omitempty"`
}

type outer struct {
	inner   `json:",inline"`
	Ceiling int              `json:"riskCeiling"`
	List    []inner          `json:"list"`
	ByName  map[string]inner `json:"byName"`
	Pointer *inner           `json:"pointer"`
	Hidden  string           `json:"-"`
}

func TestUnmarshal(t *testing.T) {
	for name, c := range map[string]struct{ yaml, err string }{
		"whole":              {"# c\n---\nriskCeiling: 3\nlist: [{name: a, extra: {any: {thing: 1}}}]\nbyName: {x: {name: b}}\npointer: {name: c}\n", ""},
		"another case":       {"riskceiling: 3\n", `unknown key "riskceiling", did you mean "riskCeiling"?`},
		"in a list":          {"list:\n- nam: x\n", `unknown key "list[0].nam", did you mean "name"?`},
		"in a map":           {"byName: {x: {nmae: b}}\n", `unknown key "byName.x.nmae", did you mean "name"?`},
		"behind a pointer":   {"pointer: {nothingNear: 1}\n", `unknown key "pointer.nothingNear"`},
		"all at once":        {"a1: 1\nb2: 2\n", "unknown key \"a1\"\nunknown key \"b2\""},
		"not for people":     {"Hidden: x\n", `unknown key "Hidden"`},
		"a key twice":        {"riskCeiling: 1\nriskCeiling: 2\n", `key "riskCeiling" already set`},
		"a second document":  {"riskCeiling: 1\n---\nriskCeiling: 2\n", "more than one YAML document"},
		"a wrong type":       {"riskCeiling: much\n", "riskCeiling is a text; want a number"},
		"not YAML":           {"a: [", "line 1: did not find expected"},
		"a list for a value": {"pointer: [1]\n", "pointer is a list; want keys with values"},
	} {
		t.Run(name, func(t *testing.T) {
			var v outer
			err := Unmarshal([]byte(c.yaml), &v)
			if c.err == "" {
				require.NoError(t, err)
				require.Equal(t, 3, v.Ceiling)
				require.Equal(t, "c", v.Pointer.Name)
				return
			}
			require.ErrorContains(t, err, c.err)
		})
	}
}

func TestDidYouMean(t *testing.T) {
	words := []string{"kind", "staging", "production"}
	require.Equal(t, `, did you mean "staging"?`, DidYouMean("stagin", words))
	require.Equal(t, `, did you mean "kind"?`, DidYouMean("KIND", words))
	require.Empty(t, DidYouMean("", words))
	require.Empty(t, DidYouMean("zzzzzzzzzzzz", words))
}
